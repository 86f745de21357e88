//! What a new issuer's key signs about itself: a self-signed CA certificate, or the request that
//! goes to an offline root.

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
use der::Decode;
use der::Encode;
use der::asn1::Any;
use der::asn1::SetOfVec;
use x509_cert::attr::Attribute;
use x509_cert::request::CertReqInfo;
use x509_cert::request::ExtensionReq;
use x509_cert::request::Version;

/// A CA certificate, complete but for the signature: CA:TRUE with a path length, keyCertSign and
/// cRLSign.
pub struct TbsCaCertificate {
    der: Vec<u8>,
    /// The key that signs it.
    signer: SubjectPublicKeyInfo,
}

impl TbsCaCertificate {
    /// Self-signed, with only leaves below it. Builds and lints. The signature algorithm follows the
    /// kind of key.
    pub fn build(
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
        serial: SerialNumber,
        validity: Validity,
    ) -> Result<Self, LintFault> {
        Self::below(None, subject, key, serial, validity, 0)
    }

    /// Signed by `above`, within whose validity it must lie; `None`: self-signed. `path_length` is how
    /// many CAs may be between it and a leaf (RFC 5280 4.2.1.9). Builds and lints.
    pub fn below(
        above: Option<&Issuer>,
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
        serial: SerialNumber,
        validity: Validity,
        path_length: u8,
    ) -> Result<Self, LintFault> {
        let name = subject.to_der();
        let own = key.key_identifier();
        let signer = above.map_or(key, |above| &above.public_key);
        let authority = above.map_or(&own[..], |above| &above.key_identifier);
        let der = extension::of_ca(key, authority, path_length)
            .and_then(|extensions| {
                Contents {
                    serial,
                    algorithm: signer.algorithm().signature_algorithm(),
                    issuer: above.map_or(&name, |above| &above.subject_der),
                    validity,
                    subject: &name,
                    key: key.as_der(),
                    extensions,
                }
                .encode()
            })
            .map_err(|error| LintFault::encoding(&error))?;
        lint::ca(&der, key, above, path_length)?;
        Ok(Self {
            der,
            signer: signer.clone(),
        })
    }

    /// DER of the certificate, if the signature verifies under the signer's key.
    pub fn assemble(self, signature: &Signature) -> Result<Vec<u8>, WrongSignature> {
        assemble(&self.der, &self.signer, signature)
    }
}

impl Sealed for TbsCaCertificate {}

impl ToBeSigned for TbsCaCertificate {
    fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.signer.algorithm().signature_algorithm()
    }
}

/// A certification request for a CA certificate, complete but for the signature; it asks for
/// CA:TRUE with pathLen 0, keyCertSign and cRLSign.
pub struct CertificationRequestInfo {
    der: Vec<u8>,
    key: SubjectPublicKeyInfo,
}

impl CertificationRequestInfo {
    /// Builds and reads back.
    pub fn build(subject: &Subject, key: &SubjectPublicKeyInfo) -> Result<Self, LintFault> {
        let der = encode(subject, key).map_err(|error| LintFault::encoding(&error))?;
        lint::ca_request(&der, subject, key)?;
        Ok(Self {
            der,
            key: key.clone(),
        })
    }

    /// DER of the request, if the signature verifies under the key inside.
    pub fn assemble(self, signature: &Signature) -> Result<Vec<u8>, WrongSignature> {
        assemble(&self.der, &self.key, signature)
    }
}

fn encode(subject: &Subject, key: &SubjectPublicKeyInfo) -> der::Result<Vec<u8>> {
    let extensions = Any::encode_from(&ExtensionReq(extension::of_ca_request(0)?))?;
    let request = Attribute {
        oid: const_oid::db::rfc5912::ID_EXTENSION_REQ,
        values: SetOfVec::try_from(vec![extensions])?,
    };
    CertReqInfo {
        version: Version::V1,
        subject: Decode::from_der(&subject.to_der())?,
        public_key: Decode::from_der(key.as_der())?,
        attributes: SetOfVec::try_from(vec![request])?,
    }
    .to_der()
}

impl Sealed for CertificationRequestInfo {}

impl ToBeSigned for CertificationRequestInfo {
    fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm().signature_algorithm()
    }
}
