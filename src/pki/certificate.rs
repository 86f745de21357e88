//! `SignedCertificate`: assembled, and verified against the issuer's key.

use super::Violation;
use super::issuer::Issuer;
use super::key_policy::SubjectPublicKeyInfo;
use super::lint;
use super::name;
use super::name::AttributeType;
use super::pem;
use super::tbs::LeafKind;
use super::tbs::TbsCertificate;
use super::tlv;
use super::validity::Validity;
use der::Decode;
use der::Encode;
use openssl::sha;
use std::collections::BTreeMap;
use x509_cert::Certificate;

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

/// Why a certificate's subject cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SubjectFault {
    /// Neither PEM nor DER of a certificate.
    #[error("no certificate: {0}")]
    Malformed(String),
    /// The subject is not one that this service gives.
    #[error("the certificate's subject is not one that this service would give")]
    Subject(Vec<Violation>),
}

/// The subject attributes of any certificate, PEM (the first of several) or DER; nothing else of
/// it is looked at.
pub fn subject_of(certificate: &[u8]) -> Result<BTreeMap<AttributeType, String>, SubjectFault> {
    let malformed = |why: String| SubjectFault::Malformed(why);
    let der = match std::str::from_utf8(certificate) {
        Ok(text) if text.trim_start().starts_with("-----BEGIN") => {
            let blocks = pem::blocks(text).map_err(|fault| malformed(fault.to_string()))?;
            let mut certificates = blocks.into_iter();
            let found = certificates.find(|block| block.label == "CERTIFICATE");
            let missing = || malformed("no CERTIFICATE block".to_owned());
            found.ok_or_else(missing)?.der
        }
        _ => certificate.to_owned(),
    };
    let certificate = Certificate::from_der(&der).map_err(|fault| malformed(fault.to_string()))?;
    name::attributes_of(certificate.tbs_certificate().subject()).map_err(SubjectFault::Subject)
}

/// What the ledger keeps of a certificate beside its DER.
#[derive(Clone, Debug)]
pub struct CertificateParts {
    /// DER of the `TBSCertificate`.
    pub tbs: Vec<u8>,
    /// Subject attributes.
    pub subject: BTreeMap<AttributeType, String>,
    /// Validity.
    pub validity: Validity,
}

/// Takes a certificate of this service apart again. Its signature is not looked at.
pub fn parts_of(der: &[u8]) -> Result<CertificateParts, SubjectFault> {
    let malformed = |fault: der::Error| SubjectFault::Malformed(fault.to_string());
    let certificate = Certificate::from_der(der).map_err(malformed)?;
    let tbs = certificate.tbs_certificate();
    let validity = Validity::from_x509(tbs.validity());
    Ok(CertificateParts {
        tbs: tbs.to_der().map_err(malformed)?,
        subject: name::attributes_of(tbs.subject()).map_err(SubjectFault::Subject)?,
        validity: validity
            .ok_or_else(|| SubjectFault::Malformed("its validity is no time".to_owned()))?,
    })
}

/// What a certificate says, whose signature verified under its issuer's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCertificate {
    /// The serial number's octets.
    pub serial_number: Vec<u8>,
    /// Subject attributes.
    pub subject: BTreeMap<AttributeType, String>,
    /// SHA-256 over its `SubjectPublicKeyInfo`.
    pub spki_sha256: [u8; 32],
}

/// Why a certificate is not its issuer's.
#[derive(Debug, thiserror::Error)]
pub enum VerifyFault {
    /// It is no certificate, or not in DER.
    #[error("it is not the DER of a certificate")]
    Malformed,
    /// It names another issuer.
    #[error("it names another issuer than {0}")]
    Issuer(String),
    /// The two algorithms differ (RFC 5280 4.1.1.2), or the signature is another's.
    #[error("its signature does not verify under the key of {0}")]
    Signature(String),
    /// The subject is not one that this service gives.
    #[error("its subject is not one that this service would give")]
    Subject,
    /// It breaks a rule that certificates of its kind are linted by before they are signed.
    #[error("it breaks {}", .0.join(", "))]
    Lint(Vec<String>),
}

impl VerifiedCertificate {
    /// Reads strict DER and verifies it under the issuer's key. Validity is not looked at.
    pub fn read(der: &[u8], issuer: &Issuer) -> Result<Self, VerifyFault> {
        Self::read_signed(der, issuer).map(|(read, _)| read)
    }

    /// The same, and lints it as one of its kind.
    pub fn read_linted(kind: LeafKind, der: &[u8], issuer: &Issuer) -> Result<Self, VerifyFault> {
        let (read, signed) = Self::read_signed(der, issuer)?;
        lint::leaf_certificate(kind, &signed, issuer, None)
            .map_err(|fault| VerifyFault::Lint(fault.0))?;
        Ok(read)
    }

    /// What it says, and the octets that are signed.
    fn read_signed(der: &[u8], issuer: &Issuer) -> Result<(Self, Vec<u8>), VerifyFault> {
        let malformed = |_| VerifyFault::Malformed;
        let certificate = Certificate::from_der(der).map_err(malformed)?;
        if certificate.to_der().map_err(malformed)? != der {
            return Err(VerifyFault::Malformed);
        }
        let tbs = certificate.tbs_certificate();
        if tbs.issuer().to_der().map_err(malformed)? != issuer.subject_der {
            return Err(VerifyFault::Issuer(issuer.subject.clone()));
        }
        let algorithm = issuer.signature_algorithm;
        let named = certificate.signature_algorithm();
        let signed = tbs.to_der().map_err(malformed)?;
        let signature = certificate.signature().as_bytes().unwrap_or_default();
        if named != tbs.signature()
            || named.to_der().map_err(malformed)? != algorithm.as_der()
            || !issuer.public_key.verifies(algorithm, &signed, signature)
        {
            return Err(VerifyFault::Signature(issuer.subject.clone()));
        }
        let spki = tbs.subject_public_key_info().to_der().map_err(malformed)?;
        let read = Self {
            serial_number: tbs.serial_number().as_bytes().to_vec(),
            subject: name::attributes_of(tbs.subject()).map_err(|_| VerifyFault::Subject)?,
            spki_sha256: sha::sha256(&spki),
        };
        Ok((read, signed))
    }
}

/// `SIGNED{}` of X.509: the octets, the algorithm of the key, the signature, once it verified.
/// Certificates and requests share the form (RFC 5280 4.1, RFC 2986 4.2).
pub(super) fn assemble(
    to_be_signed: &[u8],
    key: &SubjectPublicKeyInfo,
    signature: &Signature,
) -> Result<Vec<u8>, WrongSignature> {
    assemble_with(to_be_signed, key, signature, &[])
}

/// The same, with more fields behind the signature.
pub(super) fn assemble_with(
    to_be_signed: &[u8],
    key: &SubjectPublicKeyInfo,
    Signature(signature): &Signature,
    more: &[u8],
) -> Result<Vec<u8>, WrongSignature> {
    let algorithm = key.algorithm().signature_algorithm();
    if !key.verifies(algorithm, to_be_signed, signature) {
        return Err(WrongSignature);
    }
    // A BIT STRING's first octet counts its unused bits: none.
    let bits = tlv::element(tlv::BIT_STRING, &[&[0][..], signature].concat());
    Ok(tlv::element(
        tlv::SEQUENCE,
        &[to_be_signed, algorithm.as_der(), &bits, more].concat(),
    ))
}
