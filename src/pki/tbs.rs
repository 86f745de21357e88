//! `TbsCertificate`: built and linted; the only thing a signer accepts.

mod ca;
#[cfg(test)]
pub(super) mod fixture;
mod responder;

pub use ca::CertificationRequestInfo;
pub use ca::TbsCaCertificate;
pub use responder::TbsResponderCertificate;

use super::extension;
use super::issuer::Issuer;
use super::key_policy::SignatureAlgorithm;
use super::key_policy::SubjectPublicKeyInfo;
use super::lint;
use super::lint::LintFault;
use super::lint::TbsFault;
use super::name::Subject;
use super::serial::SerialNumber;
use super::validity::Validity;
use super::verification::RegistrationCode;
use der::Decode;
use der::Encode;
use der::Sequence;
use der::asn1::AnyRef;
use der::asn1::IntRef;
use std::sync::Arc;
use x509_cert::certificate::Version;
use x509_cert::ext::Extension;

pub(super) mod sealed {
    pub trait Sealed {}
}

/// What a signature is for, as the HSM's metrics count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// A certificate, or the request for one.
    Certificate,
    /// A certificate revocation list.
    Crl,
    /// The answer of an OCSP responder.
    Ocsp,
}

/// Bytes that were linted and may be signed. Sealed: only this crate's linting constructors make one.
pub trait ToBeSigned: sealed::Sealed + Send + Sync {
    /// The exact bytes to sign.
    fn to_be_signed(&self) -> &[u8];
    /// Algorithm named inside those bytes.
    fn signature_algorithm(&self) -> SignatureAlgorithm;
    /// What they are.
    fn document(&self) -> Document {
        Document::Certificate
    }
}

/// What a leaf is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeafKind {
    /// A device's identity: a TLS client.
    Device,
    /// Proof to AWS IoT that the CA's key is ours; see [`super::verification`].
    Verification,
    /// What a station or a person connects to this service with: a TLS client.
    Station,
}

impl LeafKind {
    /// The word in the ledger, in REST answers and filters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Verification => "verification",
            Self::Station => "station",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Device, Self::Verification, Self::Station]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// A leaf, complete but for the signature.
pub struct TbsCertificate {
    der: Vec<u8>,
    issuer: Arc<Issuer>,
}

impl TbsCertificate {
    /// Builds and lints a device certificate. `certificate_length_max` bounds the finished certificate, in octets, with
    /// the longest signature that the issuer's key can make.
    pub fn build(
        issuer: &Arc<Issuer>,
        serial: SerialNumber,
        validity: Validity,
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
        certificate_length_max: usize,
    ) -> Result<Self, TbsFault> {
        let tbs = Self::leaf(LeafKind::Device, issuer, serial, validity, subject, key)?;
        lint::length(
            tbs.der.len(),
            issuer.public_key.algorithm(),
            certificate_length_max,
        )?;
        Ok(tbs)
    }

    /// Builds and lints a verification certificate. `key` should be one whose private half is
    /// nowhere.
    pub fn verification(
        issuer: &Arc<Issuer>,
        serial: SerialNumber,
        validity: Validity,
        code: &RegistrationCode,
        key: &SubjectPublicKeyInfo,
    ) -> Result<Self, LintFault> {
        let kind = LeafKind::Verification;
        Self::leaf(kind, issuer, serial, validity, code.subject(), key)
    }

    /// Builds and lints a client certificate for this service.
    pub fn station(
        issuer: &Arc<Issuer>,
        serial: SerialNumber,
        validity: Validity,
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
    ) -> Result<Self, LintFault> {
        Self::leaf(LeafKind::Station, issuer, serial, validity, subject, key)
    }

    fn leaf(
        kind: LeafKind,
        issuer: &Arc<Issuer>,
        serial: SerialNumber,
        validity: Validity,
        subject: &Subject,
        key: &SubjectPublicKeyInfo,
    ) -> Result<Self, LintFault> {
        let crl_url = issuer.crl_url_of(&serial);
        let der = extension::of_leaf(kind, key, &issuer.key_identifier, crl_url.as_deref())
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
        lint::leaf_certificate(kind, &der, issuer, Some(key))?;
        Ok(Self {
            der,
            issuer: Arc::clone(issuer),
        })
    }

    /// The bytes of an earlier intent, from the ledger; lints again by the rules of its kind,
    /// changes nothing.
    pub fn reopen(kind: LeafKind, der: Vec<u8>, issuer: &Arc<Issuer>) -> Result<Self, LintFault> {
        lint::leaf_certificate(kind, &der, issuer, None)?;
        Ok(Self {
            der,
            issuer: Arc::clone(issuer),
        })
    }

    /// The issuer it was built for.
    #[must_use]
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, Arc<Issuer>) {
        (self.der, self.issuer)
    }
}

impl sealed::Sealed for TbsCertificate {}

impl ToBeSigned for TbsCertificate {
    fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.issuer.signature_algorithm
    }
}

/// What goes into a `TBSCertificate`; names and keys as the exact DER they came in.
struct Contents<'a> {
    serial: SerialNumber,
    algorithm: SignatureAlgorithm,
    issuer: &'a [u8],
    validity: Validity,
    subject: &'a [u8],
    key: &'a [u8],
    extensions: Vec<Extension>,
}

impl Contents<'_> {
    fn encode(self) -> der::Result<Vec<u8>> {
        TbsCertificateSequence {
            version: Version::V3,
            serial_number: IntRef::new(self.serial.as_bytes())?,
            signature: AnyRef::from_der(self.algorithm.as_der())?,
            issuer: AnyRef::from_der(self.issuer)?,
            validity: self.validity.to_x509()?,
            subject: AnyRef::from_der(self.subject)?,
            subject_public_key_info: AnyRef::from_der(self.key)?,
            extensions: self.extensions,
        }
        .to_der()
    }
}

/// RFC 5280 4.1, without the unique identifiers, which CAs must not use (4.1.2.8). `x509-cert`
/// keeps its own type's fields to itself and would encode the names anew.
#[derive(Sequence)]
struct TbsCertificateSequence<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: Version,
    serial_number: IntRef<'a>,
    signature: AnyRef<'a>,
    issuer: AnyRef<'a>,
    validity: x509_cert::time::Validity,
    subject: AnyRef<'a>,
    subject_public_key_info: AnyRef<'a>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

#[cfg(test)]
mod tests;
