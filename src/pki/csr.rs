//! `CertificationRequest`: strict DER, key policy, proof of possession (RFC 2986).

use super::Violation;
use super::extension;
use super::key_policy::Hash;
use super::key_policy::KeyFault;
use super::key_policy::SignatureAlgorithm;
use super::key_policy::SubjectPublicKeyInfo;
use super::name;
use super::name::AttributeType;
use super::pem;
use const_oid::db::rfc5912::ID_EXTENSION_REQ;
use der::Decode;
use der::Encode;
use der::Header;
use der::Reader;
use der::SliceReader;
use der::Tag;
use der::Tagged;
use der::asn1::AnyRef;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use x509_cert::request::CertReq;
use x509_cert::request::ExtensionReq;

/// A request that is well-formed, has a good key, and was signed by it.
pub struct CertificationRequest {
    /// Subject attributes as asked for, each once and well-formed; empty for an empty subject.
    pub subject: BTreeMap<AttributeType, String>,
    /// The key to certify.
    pub public_key: SubjectPublicKeyInfo,
    /// Requested extensions that any device profile gives anyway (keyUsage digitalSignature,
    /// extKeyUsage clientAuth, basicConstraints without cA) are dropped here;
    /// what is left asks for more: dotted OID and reason each.
    pub excess_extensions: Vec<Violation>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrFault {
    /// `malformed-csr`
    #[error("{0}")]
    Malformed(String),
    /// `private-key-submitted`
    #[error("the body holds a private key")]
    PrivateKeySubmitted,
    /// `csr-attribute-not-allowed`
    #[error("{0}")]
    AttributeNotAllowed(String),
    /// `csr-signature-algorithm`
    #[error("{0}")]
    SignatureAlgorithm(String),
    /// `csr-signature-invalid`
    #[error("the request's signature does not verify under its own key")]
    SignatureInvalid,
    /// key-… and weak-key
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// `subject-invalid`
    #[error("the request's subject is invalid")]
    Subject(Vec<Violation>),
}

impl CsrFault {
    /// The problem's name.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed-csr",
            Self::PrivateKeySubmitted => "private-key-submitted",
            Self::AttributeNotAllowed(_) => "csr-attribute-not-allowed",
            Self::SignatureAlgorithm(_) => "csr-signature-algorithm",
            Self::SignatureInvalid => "csr-signature-invalid",
            Self::Key(fault) => fault.slug(),
            Self::Subject(_) => "subject-invalid",
        }
    }
}

impl CertificationRequest {
    /// What stands for a request where its key was judged before, or made by us: it asks for nothing.
    #[must_use]
    pub fn stand_in(public_key: SubjectPublicKeyInfo) -> Self {
        Self {
            subject: BTreeMap::new(),
            public_key,
            excess_extensions: Vec::new(),
        }
    }

    /// Longest input in octets, PEM or DER. Twice [`Self::DER_LENGTH_MAX`], so that a request is
    /// judged alike in both forms.
    pub const LENGTH_MAX: usize = 2 * Self::DER_LENGTH_MAX;

    /// Longest request in octets, once it is DER.
    pub const DER_LENGTH_MAX: usize = 16 * 1024;

    /// Parses PEM or DER.
    ///
    /// No parser alone is strict enough: OpenSSL takes BER and trailing octets, `x509-cert` takes
    /// an unsorted SET. So the request is parsed by `x509-cert`, encoded again and compared; the
    /// key is judged before the signature, because under an RSA key with e = 1 anybody's signature
    /// verifies; and OpenSSL sees only a point or a modulus and a signature.
    pub fn parse(input: &[u8]) -> Result<Self, CsrFault> {
        let der = der_of(input)?;
        if holds_private_key(&der) {
            return Err(CsrFault::PrivateKeySubmitted);
        }
        if der.len() > Self::DER_LENGTH_MAX {
            return Err(too_long(Self::DER_LENGTH_MAX));
        }
        let request = strict_request(&der)?;
        let requested = requested_extensions(&request)?;
        let excess_extensions = extension::excess(&requested.0).map_err(CsrFault::Malformed)?;
        let public_key = request.info.public_key.to_der().map_err(malformed_der)?;
        let public_key = SubjectPublicKeyInfo::from_der(&public_key)?;
        check_signature(&request, signed_part(&der)?, &public_key)?;
        let subject = name::attributes_of(&request.info.subject).map_err(CsrFault::Subject)?;
        Ok(Self {
            subject,
            public_key,
            excess_extensions,
        })
    }
}

/// The DER inside the input. A SEQUENCE's first octet is `0`, which begins no PEM.
fn der_of(input: &[u8]) -> Result<Cow<'_, [u8]>, CsrFault> {
    // Before any other judgement: a private key outside its device is an incident, whatever else
    // the body holds.
    if names_private_key(input) {
        return Err(CsrFault::PrivateKeySubmitted);
    }
    if input.first() == Some(&0x30) {
        return Ok(Cow::Borrowed(input));
    }
    if input.len() > CertificationRequest::LENGTH_MAX {
        return Err(too_long(CertificationRequest::LENGTH_MAX));
    }
    let text = std::str::from_utf8(input)
        .map_err(|_| malformed("the request is neither DER nor PEM text"))?;
    let blocks = pem::blocks(text).map_err(|fault| CsrFault::Malformed(fault.to_string()))?;
    if blocks.iter().any(|block| holds_private_key(&block.der)) {
        return Err(CsrFault::PrivateKeySubmitted);
    }
    let mut blocks = blocks.into_iter();
    match (blocks.next(), blocks.next()) {
        // The second label is what Netscape's tools and Java's keytool write (RFC 7468 7).
        (
            Some(pem::Block {
                label: "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST",
                der,
            }),
            None,
        ) => Ok(Cow::Owned(der)),
        (Some(_), None) => Err(malformed(
            "the PEM block is not labelled CERTIFICATE REQUEST",
        )),
        (Some(_), Some(_)) => Err(malformed("the text holds more than one PEM block")),
        (None, _) => Err(malformed("the request is empty")),
    }
}

/// Whether a PEM boundary anywhere in the body names a private key: PKCS#8, encrypted or not, and
/// the older RSA, EC, DSA, OpenSSH and PGP labels.
fn names_private_key(input: &[u8]) -> bool {
    const MARK: &[u8] = b"-----BEGIN ";
    const LABEL_LENGTH_MAX: usize = 64;
    input
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| window.eq_ignore_ascii_case(MARK))
        .any(|(start, _)| {
            input
                .iter()
                .skip(start)
                .take(MARK.len() + LABEL_LENGTH_MAX)
                .take_while(|octet| **octet != b'\n')
                .copied()
                .collect::<Vec<_>>()
                .to_ascii_uppercase()
                .windows(b"PRIVATE KEY".len())
                .any(|window| window == b"PRIVATE KEY")
        })
}

/// Whether DER has the outline of a private key: PKCS#8 (RFC 5958), the same encrypted, SEC 1
/// (RFC 5915), PKCS#1 (RFC 8017) or OpenSSL's DSA. Certificates and requests begin otherwise.
#[must_use]
pub fn holds_private_key(der: &[u8]) -> bool {
    let Ok(outer) = SliceReader::new(der).and_then(|mut reader| AnyRef::decode(&mut reader)) else {
        return false;
    };
    let Ok(mut fields) = SliceReader::new(outer.value()) else {
        return false;
    };
    let mut next = || AnyRef::decode(&mut fields).ok();
    let (first, second, third) = (next(), next(), next());
    let tag = |field: Option<AnyRef<'_>>| field.map(|field| field.tag());
    outer.tag() == Tag::Sequence
        && matches!(
            (tag(first), tag(second), tag(third)),
            (Some(Tag::Integer), Some(Tag::OctetString), _)
                | (Some(Tag::Integer), Some(Tag::Integer), Some(Tag::Integer))
                | (
                    Some(Tag::Integer),
                    Some(Tag::Sequence),
                    Some(Tag::OctetString)
                )
                | (Some(Tag::Sequence), Some(Tag::OctetString), None)
        )
}

/// DER, and no other octets than its own encoding.
fn strict_request(der: &[u8]) -> Result<CertReq, CsrFault> {
    // The version is an enumeration with the one value 0, so any other ends here too.
    let request = CertReq::from_der(der).map_err(malformed_der)?;
    if request.to_der().map_err(malformed_der)? != der {
        return Err(malformed(
            "the request is not in DER: its own encoding differs",
        ));
    }
    Ok(request)
}

/// The extensions of the one attribute that is taken, extensionRequest (RFC 2985 5.4.2).
fn requested_extensions(request: &CertReq) -> Result<ExtensionReq, CsrFault> {
    let attributes = &request.info.attributes;
    // What is no attribute at all comes before what is not allowed as one.
    if attributes
        .iter()
        .any(|attribute| attribute.values.is_empty())
    {
        return Err(malformed("an attribute has no value"));
    }
    if let Some(other) = attributes
        .iter()
        .find(|attribute| attribute.oid != ID_EXTENSION_REQ)
    {
        let detail = format!(
            "attribute {} is not taken; extensionRequest alone is",
            other.oid
        );
        return Err(CsrFault::AttributeNotAllowed(detail));
    }
    let mut values = attributes
        .iter()
        .flat_map(|attribute| attribute.values.iter());
    let Some(value) = values.next() else {
        return Ok(ExtensionReq::default());
    };
    if values.next().is_some() {
        return Err(malformed("extensionRequest appears more than once"));
    }
    let encoded = value.to_der().map_err(malformed_der)?;
    let extensions = ExtensionReq::from_der(&encoded).map_err(malformed_der)?;
    if extensions.to_der().map_err(malformed_der)? != encoded || extensions.0.is_empty() {
        return Err(malformed(
            "extensionRequest is not a DER sequence of extensions",
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = extensions
        .0
        .iter()
        .find(|extension| !seen.insert(extension.extn_id))
    {
        let detail = format!("extension {} is requested twice", twice.extn_id);
        return Err(CsrFault::Malformed(detail));
    }
    Ok(extensions)
}

/// The octets that were signed: the first element inside the outer SEQUENCE.
fn signed_part(der: &[u8]) -> Result<&[u8], CsrFault> {
    let mut reader = SliceReader::new(der).map_err(malformed_der)?;
    Header::decode(&mut reader).map_err(malformed_der)?;
    reader.tlv_bytes().map_err(malformed_der)
}

/// Proof of possession: by an allowed algorithm, which fits the key, over exactly these octets.
fn check_signature(
    request: &CertReq,
    signed: &[u8],
    key: &SubjectPublicKeyInfo,
) -> Result<(), CsrFault> {
    let identifier = request.algorithm.to_der().map_err(malformed_der)?;
    let scheme = key.algorithm().signature_algorithm();
    let named = Hash::ALL
        .into_iter()
        .find(|hash| algorithm_identifier(scheme, *hash) == identifier);
    let Some(named) = named else {
        let detail = format!(
            "the signature algorithm {} is not taken from a key of kind {}; sign with SHA-256, \
             SHA-384 or SHA-512, parameters as the algorithm prescribes",
            request.algorithm.oid,
            key.algorithm().name()
        );
        return Err(CsrFault::SignatureAlgorithm(detail));
    };
    // A signature is whole octets; unused bits belong to no algorithm.
    let signature = request
        .signature
        .as_bytes()
        .ok_or(CsrFault::SignatureInvalid)?;
    if key.verifies_hash(named, signed, signature) {
        return Ok(());
    }
    // A good signature under a wrong name is the name's fault, and that says what to repair.
    let actual = Hash::ALL
        .into_iter()
        .find(|hash| *hash != named && key.verifies_hash(*hash, signed, signature));
    match actual {
        Some(actual) => Err(CsrFault::SignatureAlgorithm(format!(
            "the request names {} but was signed over {}",
            named.name(),
            actual.name()
        ))),
        None => Err(CsrFault::SignatureInvalid),
    }
}

/// The one encoding of each allowed `AlgorithmIdentifier`: ECDSA without parameters (RFC 5758 3.2),
/// RSA with NULL (RFC 4055 5).
fn algorithm_identifier(scheme: SignatureAlgorithm, hash: Hash) -> Vec<u8> {
    // Within each family the hashes are consecutive arcs after SHA-256's own.
    let step = match hash {
        Hash::Sha256 => 0,
        Hash::Sha384 => 1,
        Hash::Sha512 => 2,
    };
    let arc = match scheme {
        SignatureAlgorithm::EcdsaWithSha256 => 11,
        SignatureAlgorithm::Sha256WithRsa => 12,
    };
    let mut der = scheme.as_der().to_vec();
    if let Some(octet) = der.get_mut(arc) {
        *octet += step;
    }
    der
}

fn malformed(detail: &str) -> CsrFault {
    CsrFault::Malformed(detail.to_owned())
}

fn malformed_der(error: der::Error) -> CsrFault {
    CsrFault::Malformed(format!(
        "the request is not a DER CertificationRequest: {error}"
    ))
}

fn too_long(length_max: usize) -> CsrFault {
    CsrFault::Malformed(format!("the request is longer than {length_max} octets"))
}

#[cfg(test)]
mod tests;
