//! `SignedCertificate`: assembled, and verified against the issuer's key.

use super::key_policy::SubjectPublicKeyInfo;
use super::tbs::TbsCertificate;
use super::tlv;
use openssl::sha;

/// A signature in X.509 form (ECDSA: DER `ECDSA-Sig-Value`; RSA: the block).
#[derive(Clone, Debug)]
pub struct Signature(pub Vec<u8>);

/// A certificate whose signature verified under its issuer's key.
pub struct SignedCertificate {
    der: Vec<u8>,
    sha256: [u8; 32],
}

/// The HSM returned a signature that does not verify.
#[derive(Debug, thiserror::Error)]
#[error("the HSM's signature does not verify under the issuer's key")]
pub struct WrongSignature;

impl SignedCertificate {
    /// Verifies, then assembles; consumes the to-be-signed certificate.
    pub fn assemble(tbs: TbsCertificate, signature: &Signature) -> Result<Self, WrongSignature> {
        let (tbs, issuer) = tbs.into_parts();
        let der = assemble(&tbs, &issuer.public_key, signature)?;
        let sha256 = sha::sha256(&der);
        Ok(Self { der, sha256 })
    }

    /// DER.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 over the DER: AWS IoT's `certificateId`.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}

/// `SIGNED{}` of X.509: the octets, the algorithm of the key, the signature, once it verified.
/// Certificates and requests share the form (RFC 5280 4.1, RFC 2986 4.2).
pub(super) fn assemble(
    to_be_signed: &[u8],
    key: &SubjectPublicKeyInfo,
    Signature(signature): &Signature,
) -> Result<Vec<u8>, WrongSignature> {
    let algorithm = key.algorithm().signature_algorithm();
    if !key.verifies(algorithm, to_be_signed, signature) {
        return Err(WrongSignature);
    }
    // A BIT STRING's first octet counts its unused bits: none.
    let bits = tlv::element(tlv::BIT_STRING, &[&[0][..], signature].concat());
    Ok(tlv::element(
        tlv::SEQUENCE,
        &[to_be_signed, algorithm.as_der(), &bits].concat(),
    ))
}
