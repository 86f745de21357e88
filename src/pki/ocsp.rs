//! OCSP: requests as they come, and answers, built and linted (RFC 6960; nonces: RFC 9654).

mod responder;

pub use responder::Responder;

use super::certificate::Signature;
use super::certificate::WrongSignature;
use super::certificate::assemble_with;
use super::extension;
use super::issuer::Issuer;
use super::key_policy::SignatureAlgorithm;
use super::lint::LintFault;
use super::revocation::RevocationReason;
use super::serial::SerialNumber;
use super::tbs::Document;
use super::tbs::ToBeSigned;
use super::tbs::sealed::Sealed;
use super::tlv;
use chrono::{DateTime, Utc};
use const_oid::ObjectIdentifier;
use der::Decode;
use der::Encode;
use der::Sequence;
use der::asn1::AnyRef;
use der::asn1::IntRef;
use der::asn1::OctetStringRef;
use openssl::sha;
use spki::AlgorithmIdentifierRef;
use std::sync::Arc;
use x509_cert::ext::Extension;

/// Longest request that is read, in octets.
pub const REQUEST_LENGTH_MAX: usize = 4096;
/// Certificates that one request may ask for.
const ASKED_MAX: usize = 16;
/// Octets of a nonce (RFC 9654 2.1).
const NONCE_LENGTHS: std::ops::RangeInclusive<usize> = 1..=128;

const ID_PKIX_OCSP_BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const ID_PKIX_OCSP_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.2");
const ID_SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const ID_SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");

/// A request for the status of certificates.
#[derive(Debug)]
pub struct OcspRequest {
    /// 1 to 16 of them.
    pub asked: Vec<CertId>,
    /// The nonce extension's value, to be given back as it is.
    nonce: Option<Vec<u8>>,
}

/// Which certificate (RFC 6960 4.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertId {
    der: Vec<u8>,
    sha256: bool,
    issuer_name_hash: Vec<u8>,
    issuer_key_hash: Vec<u8>,
    serial_number: Vec<u8>,
}

/// A request that is none.
#[derive(Debug, thiserror::Error)]
#[error("the OCSP request is malformed: {0}")]
pub struct MalformedRequest(String);

/// Where a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertStatus {
    /// Issued, and not ended.
    Good,
    /// Ended.
    Revoked {
        /// Since when.
        at: DateTime<Utc>,
        /// Why.
        reason: RevocationReason,
    },
    /// The issuer issued no such certificate.
    Unknown,
}

/// An answer without a signature, when there is none to give (RFC 6960 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request is none.
    MalformedRequest = 1,
    /// A neighbour is down.
    TryLater = 3,
    /// The request is about another issuer's certificates.
    Unauthorized = 6,
}

impl Refusal {
    /// DER of the `OCSPResponse`.
    #[must_use]
    pub fn to_der(self) -> Vec<u8> {
        tlv::element(tlv::SEQUENCE, &[tlv::ENUMERATED, 1, self as u8])
    }
}

#[derive(Sequence)]
struct RawRequest<'a> {
    tbs: RawTbsRequest<'a>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    signature: Option<AnyRef<'a>>,
}

#[derive(Sequence)]
struct RawTbsRequest<'a> {
    #[asn1(
        context_specific = "0",
        tag_mode = "EXPLICIT",
        default = "Default::default"
    )]
    version: u8,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    requestor: Option<AnyRef<'a>>,
    list: Vec<RawSingleRequest<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension>>,
}

#[derive(Sequence)]
struct RawSingleRequest<'a> {
    cert_id: AnyRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<AnyRef<'a>>,
}

#[derive(Sequence)]
struct RawCertId<'a> {
    hash_algorithm: AlgorithmIdentifierRef<'a>,
    issuer_name_hash: &'a OctetStringRef,
    issuer_key_hash: &'a OctetStringRef,
    serial_number: IntRef<'a>,
}

impl OcspRequest {
    /// Reads a request. A signature on it is not looked at: who asks makes no difference.
    pub fn parse(der: &[u8]) -> Result<Self, MalformedRequest> {
        let malformed = |why: &str| MalformedRequest(why.to_owned());
        if der.len() > REQUEST_LENGTH_MAX {
            return Err(malformed("too long"));
        }
        let request = RawRequest::from_der(der).map_err(|e| MalformedRequest(e.to_string()))?;
        if request.tbs.version != 0 {
            return Err(malformed("its version is not v1"));
        }
        if !(1..=ASKED_MAX).contains(&request.tbs.list.len()) {
            return Err(malformed("it asks for none, or for too many"));
        }
        let asked = request
            .tbs
            .list
            .iter()
            .map(|single| CertId::parse(single.cert_id));
        let asked = asked.collect::<der::Result<_>>();
        let mut nonce = None;
        for extension in request.tbs.extensions.unwrap_or_default() {
            if extension.extn_id == ID_PKIX_OCSP_NONCE {
                let value = extension.extn_value.as_bytes();
                let inside = <&OctetStringRef>::from_der(value);
                if !inside.is_ok_and(|inside| NONCE_LENGTHS.contains(&inside.as_bytes().len())) {
                    return Err(malformed("its nonce has not 1 to 128 octets (RFC 9654)"));
                }
                nonce = Some(value.to_vec());
            } else if extension.critical {
                return Err(malformed("a critical extension is not known"));
            }
        }
        Ok(Self {
            asked: asked.map_err(|e| MalformedRequest(e.to_string()))?,
            nonce,
        })
    }

    /// Whether the answer must be one of its own.
    #[must_use]
    pub fn has_nonce(&self) -> bool {
        self.nonce.is_some()
    }
}

impl CertId {
    fn parse(any: AnyRef<'_>) -> der::Result<Self> {
        let der = any.to_der()?;
        let RawCertId {
            hash_algorithm,
            issuer_name_hash,
            issuer_key_hash,
            serial_number,
        } = RawCertId::from_der(&der)?;
        let sha256 = match hash_algorithm.oid {
            ID_SHA_1 => false,
            ID_SHA_256 => true,
            _ => {
                return Err(der::ErrorKind::OidUnknown {
                    oid: hash_algorithm.oid,
                }
                .into());
            }
        };
        Ok(Self {
            sha256,
            issuer_name_hash: issuer_name_hash.as_bytes().to_vec(),
            issuer_key_hash: issuer_key_hash.as_bytes().to_vec(),
            serial_number: serial_number.as_bytes().to_vec(),
            der,
        })
    }

    /// Whether it names this issuer, by name and key.
    #[must_use]
    pub fn is_of(&self, issuer: &Issuer) -> bool {
        let key = issuer.public_key.key_bits();
        if self.sha256 {
            self.issuer_name_hash == sha::sha256(&issuer.subject_der)
                && self.issuer_key_hash == sha::sha256(key)
        } else {
            self.issuer_name_hash == sha::sha1(&issuer.subject_der)
                && self.issuer_key_hash == sha::sha1(key)
        }
    }

    /// The serial number; `None` when it is none that we give.
    #[must_use]
    pub fn serial_number(&self) -> Option<SerialNumber> {
        let octets = self.serial_number.as_slice().try_into().ok()?;
        SerialNumber::from_bytes(octets)
    }
}

/// From when to when an answer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When it was true; whole seconds count.
    pub this_update: DateTime<Utc>,
    /// By when there will be another.
    pub next_update: DateTime<Utc>,
}

/// An answer, complete but for the signature.
pub struct TbsResponseData {
    der: Vec<u8>,
    responder: Arc<Responder>,
}

impl TbsResponseData {
    /// Builds and lints the answer to a request: `statuses` in the order of what was asked.
    pub fn build(
        responder: &Arc<Responder>,
        request: &OcspRequest,
        statuses: &[CertStatus],
        window: Window,
    ) -> Result<Self, LintFault> {
        let der = encode(responder, request, statuses, window)
            .map_err(|error| LintFault::encoding(&error))?;
        lint(&der, responder, request)?;
        Ok(Self {
            der,
            responder: Arc::clone(responder),
        })
    }

    /// DER of the `OCSPResponse`, if the signature verifies under the responder's key.
    pub fn assemble(self, signature: &Signature) -> Result<Vec<u8>, WrongSignature> {
        let certificates = tlv::element(
            tlv::CONTEXT_0,
            &tlv::element(tlv::SEQUENCE, &self.responder.certificate),
        );
        let basic = assemble_with(
            &self.der,
            &self.responder.public_key,
            signature,
            &certificates,
        )?;
        let oid = tlv::element(tlv::OBJECT_IDENTIFIER, ID_PKIX_OCSP_BASIC.as_bytes());
        let octets = tlv::element(tlv::OCTET_STRING, &basic);
        let bytes = tlv::element(tlv::SEQUENCE, &[oid, octets].concat());
        let successful = [tlv::ENUMERATED, 1, 0];
        let bytes = tlv::element(tlv::CONTEXT_0, &bytes);
        Ok(tlv::element(
            tlv::SEQUENCE,
            &[&successful[..], &bytes].concat(),
        ))
    }
}

impl Sealed for TbsResponseData {}

impl ToBeSigned for TbsResponseData {
    fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.responder.public_key.algorithm().signature_algorithm()
    }

    fn document(&self) -> Document {
        Document::Ocsp
    }
}

fn encode(
    responder: &Responder,
    request: &OcspRequest,
    statuses: &[CertStatus],
    window: Window,
) -> der::Result<Vec<u8>> {
    let this_update = time(window.this_update)?;
    let next_update = tlv::element(tlv::CONTEXT_0, &time(window.next_update)?);
    let mut responses = Vec::new();
    for (asked, status) in request.asked.iter().zip(statuses) {
        let status = match status {
            CertStatus::Good => vec![0x80, 0],
            CertStatus::Revoked { at, reason } => revoked(*at, *reason)?,
            CertStatus::Unknown => vec![0x82, 0],
        };
        let single = [&asked.der, &status, &this_update, &next_update].map(Vec::as_slice);
        responses.extend(tlv::element(tlv::SEQUENCE, &single.concat()));
    }
    let key_hash = tlv::element(tlv::OCTET_STRING, &responder.public_key.key_identifier());
    let mut fields = [
        tlv::element(0xa2, &key_hash),
        // producedAt: the statuses were read for this answer.
        this_update,
        tlv::element(tlv::SEQUENCE, &responses),
    ]
    .concat();
    if let Some(nonce) = &request.nonce {
        let extensions = vec![extension::raw(ID_PKIX_OCSP_NONCE, false, nonce.clone())?];
        fields.extend(tlv::element(0xa1, &extensions.to_der()?));
    }
    Ok(tlv::element(tlv::SEQUENCE, &fields))
}

fn revoked(at: DateTime<Utc>, reason: RevocationReason) -> der::Result<Vec<u8>> {
    let mut info = time(at)?;
    if reason != RevocationReason::Unspecified {
        info.extend([0xa0, 3, tlv::ENUMERATED, 1, reason.code()]);
    }
    Ok(tlv::element(0xa1, &info))
}

/// `GeneralizedTime`, in whole seconds.
fn time(time: DateTime<Utc>) -> der::Result<Vec<u8>> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| der::ErrorKind::DateTime)?;
    let seconds = std::time::Duration::from_secs(seconds);
    der::asn1::GeneralizedTime::from_unix_duration(seconds)?.to_der()
}

#[derive(Sequence)]
struct ReadResponseData<'a> {
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT")]
    responder: &'a OctetStringRef,
    produced_at: der::asn1::GeneralizedTime,
    responses: Vec<ReadSingleResponse<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension>>,
}

#[derive(Sequence)]
struct ReadSingleResponse<'a> {
    cert_id: AnyRef<'a>,
    status: AnyRef<'a>,
    this_update: der::asn1::GeneralizedTime,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    next_update: der::asn1::GeneralizedTime,
}

/// The bytes, parsed anew: they say what the request asks, by this responder, in an order of time.
fn lint(der: &[u8], responder: &Responder, request: &OcspRequest) -> Result<(), LintFault> {
    let data = ReadResponseData::from_der(der).map_err(|error| LintFault::encoding(&error))?;
    let extensions = data.extensions.as_deref().unwrap_or_default();
    let nonce = extensions.first().map(|nonce| nonce.extn_value.as_bytes());
    let asked = data.responses.len() == request.asked.len()
        && data
            .responses
            .iter()
            .zip(&request.asked)
            .all(|(single, asked)| single.cert_id.to_der().is_ok_and(|der| der == asked.der));
    let timely = data.responses.iter().all(|single| {
        let [this, produced, next] = [&single.this_update, &data.produced_at, &single.next_update]
            .map(der::asn1::GeneralizedTime::to_unix_duration);
        this <= produced && produced < next
    });
    let rules = [
        ("X.690 DER", data.to_der().is_ok_and(|again| again == der)),
        (
            "RFC 6960 4.2.2.3 responderID",
            data.responder.as_bytes() == responder.public_key.key_identifier(),
        ),
        ("RFC 6960 4.2.1 one response for each certificate", asked),
        (
            "RFC 6960 4.2.2.1 thisUpdate, producedAt, nextUpdate",
            timely,
        ),
        (
            "RFC 9654 2.1 the request's nonce and nothing else",
            nonce == request.nonce.as_deref() && extensions.len() <= 1,
        ),
    ];
    let broken: Vec<String> = rules
        .iter()
        .filter(|(_, holds)| !holds)
        .map(|(rule, _)| (*rule).to_owned())
        .collect();
    if broken.is_empty() {
        Ok(())
    } else {
        Err(LintFault(broken))
    }
}

#[cfg(test)]
mod tests;
