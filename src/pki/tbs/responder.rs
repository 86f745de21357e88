//! The certificate of an OCSP responder, which the issuer signs once a year or so.

use super::Contents;
use super::ToBeSigned;
use super::sealed::Sealed;
use crate::pki::certificate::Signature;
use crate::pki::certificate::WrongSignature;
use crate::pki::certificate::assemble;
use crate::pki::extension;
use crate::pki::issuer::Issuer;
use crate::pki::key_policy::SignatureAlgorithm;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::lint;
use crate::pki::lint::LintFault;
use crate::pki::name::Subject;
use crate::pki::serial::SerialNumber;
use crate::pki::validity::Validity;

/// An OCSP responder's certificate, complete but for the signature: id-kp-OCSPSigning and nocheck.
pub struct TbsResponderCertificate<'a> {
    der: Vec<u8>,
    issuer: &'a Issuer,
}

impl<'a> TbsResponderCertificate<'a> {
    /// Builds and lints.
    pub fn build(
        issuer: &'a Issuer,
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
        serial: SerialNumber,
        validity: Validity,
    ) -> Result<Self, LintFault> {
        let der = extension::of_responder(key, &issuer.key_identifier)
            .and_then(|extensions| {
                Contents {
                    serial,
                    algorithm: issuer.signature_algorithm,
                    issuer: &issuer.subject_der,
                    validity,
                    subject: &subject.to_der(),
                    key: key.as_der(),
                    extensions,
                }
                .encode()
            })
            .map_err(|error| LintFault::encoding(&error))?;
        lint::responder_certificate(&der, issuer, key)?;
        Ok(Self { der, issuer })
    }

    /// DER of the certificate, if the signature verifies under the issuer's key.
    pub fn assemble(self, signature: &Signature) -> Result<Vec<u8>, WrongSignature> {
        assemble(&self.der, &self.issuer.public_key, signature)
    }
}

impl Sealed for TbsResponderCertificate<'_> {}

impl ToBeSigned for TbsResponderCertificate<'_> {
    fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.issuer.signature_algorithm
    }
}
