//! Who answers for an issuer: a certificate of the issuer's that may do nothing else.

use crate::pki::extension;
use crate::pki::issuer::Issuer;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::pem;
use crate::pki::validity::Validity;
use const_oid::AssociatedOid;
use der::Decode;
use der::Encode;
use openssl::x509::X509;
use x509_cert::Certificate;
use x509_cert::ext::pkix::ExtendedKeyUsage;

/// A delegated responder (RFC 6960 4.2.2.2).
pub struct Responder {
    /// Name of the issuer that it answers for.
    pub issuer: String,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Its key.
    pub public_key: SubjectPublicKeyInfo,
    /// Its certificate's validity.
    pub validity: Validity,
}

/// Why a certificate is not one of a responder.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResponderFault(pub String);

impl Responder {
    /// `pem`: one certificate, signed by this issuer, with id-kp-OCSPSigning and
    /// id-pkix-ocsp-nocheck. Whether it is valid now is not asked here.
    pub fn parse(issuer: &Issuer, pem: &str) -> Result<Self, ResponderFault> {
        let fault = |why: &str| ResponderFault(format!("OCSP responder of {}: {why}", issuer.name));
        let blocks = pem::blocks(pem).map_err(|error| fault(&error.to_string()))?;
        let [block] = <[_; 1]>::try_from(blocks).map_err(|_| fault("not one certificate"))?;
        let certificate =
            Certificate::from_der(&block.der).map_err(|error| fault(&error.to_string()))?;
        let tbs = certificate.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der();
        let public_key = spki
            .map_err(|error| fault(&error.to_string()))
            .and_then(|spki| {
                SubjectPublicKeyInfo::from_der(&spki).map_err(|error| fault(&error.to_string()))
            })?;
        let signed = X509::from_der(&block.der).and_then(|responder| {
            let ca = X509::from_der(&issuer.certificate)?;
            responder.verify(&*ca.public_key()?)
        });
        if !signed.unwrap_or(false)
            || tbs.issuer().to_der().ok().as_ref() != Some(&issuer.subject_der)
        {
            return Err(fault("the issuer did not sign it"));
        }
        let extensions = tbs.extensions().map(Vec::as_slice).unwrap_or_default();
        let purposes = extensions
            .iter()
            .find(|e| e.extn_id == ExtendedKeyUsage::OID);
        let purposes = purposes.and_then(|e| extension::strict::<ExtendedKeyUsage>(e).ok());
        if purposes.is_none_or(|p| p.0 != [extension::ID_KP_OCSP_SIGNING]) {
            return Err(fault("its extKeyUsage is not OCSPSigning alone"));
        }
        if !extensions
            .iter()
            .any(|e| e.extn_id == extension::ID_PKIX_OCSP_NOCHECK)
        {
            return Err(fault("it lacks id-pkix-ocsp-nocheck"));
        }
        Ok(Self {
            issuer: issuer.name.clone(),
            public_key,
            validity: Validity::from_x509(tbs.validity())
                .ok_or_else(|| fault("its validity cannot be read"))?,
            certificate: block.der,
        })
    }

    /// The name by which a signer knows its key; no issuer has one like it.
    #[must_use]
    pub fn key_name(&self) -> String {
        format!("{}/ocsp", self.issuer)
    }
}
