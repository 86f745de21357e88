//! Which public keys are good enough to certify.

mod rsa;

use der::Decode;
use der::Encode;
use der::Tag;
use der::Tagged;
use der::asn1::AnyRef;
use der::asn1::ObjectIdentifier;
use openssl::bn::BigNumContext;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::ec::EcPoint;
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::pkey::Public;
use openssl::sha;
use openssl::sign::Verifier;
use spki::SubjectPublicKeyInfoRef;
use std::fmt;
use std::sync::LazyLock;
use std::sync::OnceLock;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Kinds of key the factory certifies and signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// EC on NIST P-256
    P256,
    /// EC on NIST P-384
    P384,
    /// RSA, 2048-bit modulus
    Rsa2048,
    /// RSA, 3072-bit modulus
    Rsa3072,
    /// RSA, 4096-bit modulus
    Rsa4096,
}

impl KeyAlgorithm {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::P256,
        Self::P384,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
    ];

    /// `P-256`, `P-384`, `RSA-2048`, `RSA-3072`, `RSA-4096`
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa2048 => "RSA-2048",
            Self::Rsa3072 => "RSA-3072",
            Self::Rsa4096 => "RSA-4096",
        }
    }

    /// The inverse of [`Self::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// How a key of this kind signs certificates.
    #[must_use]
    pub fn signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::P256 | Self::P384 => SignatureAlgorithm::EcdsaWithSha256,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SignatureAlgorithm::Sha256WithRsa,
        }
    }

    /// Longest signature in X.509 form, in octets: an RSA block is as long as the modulus, an
    /// `ECDSA-Sig-Value` holds two integers with a leading zero each.
    #[must_use]
    pub fn signature_length_max(self) -> usize {
        match self {
            Self::P256 => 72,
            Self::P384 => 104,
            Self::Rsa2048 => 256,
            Self::Rsa3072 => 384,
            Self::Rsa4096 => 512,
        }
    }
}

/// How a signature over a certificate is made: SHA-256 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256, parameters absent (RFC 5758)
    EcdsaWithSha256,
    /// sha256WithRSAEncryption, parameters NULL (RFC 4055)
    Sha256WithRsa,
}

impl SignatureAlgorithm {
    /// DER of its `AlgorithmIdentifier`.
    #[must_use]
    pub fn as_der(self) -> &'static [u8] {
        match self {
            Self::EcdsaWithSha256 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            Self::Sha256WithRsa => &[
                0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0,
            ],
        }
    }
}

/// The hashes a signature may be made over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(super) const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }
}

/// Why a public key is refused. Each carries a detail for the station.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// `malformed-csr`: the structure is not what its algorithm prescribes
    #[error("{0}")]
    Malformed(String),
    /// `key-type`
    #[error("{0}")]
    Type(String),
    /// `key-size`
    #[error("{0}")]
    Size(String),
    /// `key-exponent`
    #[error("{0}")]
    Exponent(String),
    /// `key-parameters`: explicit curve, compressed point, point at infinity or off the curve
    #[error("{0}")]
    Parameters(String),
    /// `weak-key`: even modulus, small factor, ROCA, Fermat
    #[error("{0}")]
    Weak(String),
}

impl KeyFault {
    /// The problem's name.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed-csr",
            Self::Type(_) => "key-type",
            Self::Size(_) => "key-size",
            Self::Exponent(_) => "key-exponent",
            Self::Parameters(_) => "key-parameters",
            Self::Weak(_) => "weak-key",
        }
    }
}

/// A public key that passed the key policy, in its exact DER encoding.
#[derive(Clone)]
pub struct SubjectPublicKeyInfo {
    der: Vec<u8>,
    algorithm: KeyAlgorithm,
    key_identifier: [u8; 20],
    /// As OpenSSL has it. An EC key's is made when a signature is verified with it, which for most devices of a batch
    /// nobody does.
    key: OnceLock<PKey<Public>>,
}

impl fmt::Debug for SubjectPublicKeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.algorithm().name(),
            super::hex(&self.sha256())
        )
    }
}

impl SubjectPublicKeyInfo {
    /// Parses strictly and applies the key policy, before any signature by this key is looked at:
    /// under an RSA key with e = 1 anybody's signature verifies.
    pub fn from_der(spki: &[u8]) -> Result<Self, KeyFault> {
        let parsed = SubjectPublicKeyInfoRef::from_der(spki)
            .ok()
            .filter(|parsed| parsed.to_der().is_ok_and(|again| again == spki))
            .ok_or_else(|| malformed("the public key is not a DER SubjectPublicKeyInfo"))?;
        // BIT STRINGs of both kinds of key are whole octets (RFC 5480 2.2, RFC 3279 2.3.1).
        let bits = parsed
            .subject_public_key
            .as_bytes()
            .ok_or_else(|| malformed("the public key's BIT STRING has unused bits"))?;
        let parameters = parsed.algorithm.parameters;
        let (algorithm, key) = match parsed.algorithm.oid {
            EC_PUBLIC_KEY => ec_key(parameters, bits)?,
            RSA_ENCRYPTION => rsa_key(parameters, bits)?,
            other => {
                let detail = format!("keys of algorithm {other} are not certified; use EC or RSA");
                return Err(KeyFault::Type(detail));
            }
        };
        let key_identifier = sha::sha1(bits);
        Ok(Self {
            der: spki.to_vec(),
            algorithm,
            key_identifier,
            key,
        })
    }

    /// The exact DER of the `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// The subjectPublicKey bits, over which OCSP hashes an issuer's key (RFC 6960 4.1.1).
    #[must_use]
    pub fn key_bits(&self) -> &[u8] {
        SubjectPublicKeyInfoRef::from_der(&self.der)
            .ok()
            .and_then(|parsed| parsed.subject_public_key.as_bytes())
            .unwrap_or_default()
    }

    /// Kind of key.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// SHA-256 over the DER.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha::sha256(&self.der)
    }

    /// SHA-1 over the subjectPublicKey bits (RFC 5280 4.2.1.2 method 1).
    #[must_use]
    pub fn key_identifier(&self) -> [u8; 20] {
        self.key_identifier
    }

    /// Verifies a signature in X.509 form (ECDSA: DER `ECDSA-Sig-Value`).
    #[must_use]
    pub fn verifies(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        algorithm == self.algorithm.signature_algorithm()
            && self.verifies_hash(Hash::Sha256, message, signature)
    }

    /// Verifies with the scheme that belongs to the key, over any of the three hashes.
    pub(super) fn verifies_hash(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        match self.algorithm.signature_algorithm() {
            SignatureAlgorithm::EcdsaWithSha256 => self.verifies_ecdsa(hash, message, signature),
            SignatureAlgorithm::Sha256WithRsa => self.verifies_rsa(hash, message, signature),
        }
        .unwrap_or(false)
    }

    fn verifies_ecdsa(
        &self,
        hash: Hash,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, ErrorStack> {
        let parsed = EcdsaSig::from_der(signature)?;
        // OpenSSL reads BER here; two encodings of one signature would be two certificates.
        if parsed.to_der()? != signature {
            return Ok(false);
        }
        let key = self.key()?.ec_key()?;
        match hash {
            Hash::Sha256 => parsed.verify(&sha::sha256(message), &key),
            Hash::Sha384 => parsed.verify(&sha::sha384(message), &key),
            Hash::Sha512 => parsed.verify(&sha::sha512(message), &key),
        }
    }

    fn key(&self) -> Result<&PKey<Public>, ErrorStack> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let group = group_of(self.algorithm).ok_or_else(ErrorStack::get)?;
        let point = ec_point(group, self.key_bits())?;
        let key = PKey::from_ec_key(EcKey::from_public_key(group, &point)?)?;
        Ok(self.key.get_or_init(|| key))
    }

    fn verifies_rsa(
        &self,
        hash: Hash,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, ErrorStack> {
        let digest = match hash {
            Hash::Sha256 => MessageDigest::sha256(),
            Hash::Sha384 => MessageDigest::sha384(),
            Hash::Sha512 => MessageDigest::sha512(),
        };
        Verifier::new(digest, self.key()?)?.verify_oneshot(signature, message)
    }
}

type Key = (KeyAlgorithm, OnceLock<PKey<Public>>);

/// RFC 5480: a named curve and an uncompressed point on it.
fn ec_key(parameters: Option<AnyRef<'_>>, bits: &[u8]) -> Result<Key, KeyFault> {
    let parameters = parameters.ok_or_else(|| malformed("the EC key names no curve"))?;
    // specifiedCurve lets a sender choose the generator (CVE-2020-0601); RFC 5480 2.1.1 forbids it.
    if parameters.tag() == Tag::Sequence {
        let detail = "the EC key carries explicit curve parameters; name the curve";
        return Err(KeyFault::Parameters(detail.to_owned()));
    }
    let curve: ObjectIdentifier = parameters
        .decode_as()
        .map_err(|_| malformed("the EC key's parameters are not the name of a curve"))?;
    let (algorithm, coordinate_length) = match curve {
        SECP256R1 => (KeyAlgorithm::P256, 32),
        SECP384R1 => (KeyAlgorithm::P384, 48),
        other => {
            let detail = format!("EC keys on curve {other} are not certified; use P-256 or P-384");
            return Err(KeyFault::Type(detail));
        }
    };
    // SEC 1 2.3.3: the first octet says the form.
    let form = match bits.first() {
        Some(4) if bits.len() == 1 + 2 * coordinate_length => None,
        Some(0) => Some("is the point at infinity"),
        Some(2 | 3) => Some("is in compressed form; send it uncompressed"),
        Some(6 | 7) => Some("is in hybrid form; send it uncompressed"),
        _ => Some("is not an uncompressed point of its curve"),
    };
    if let Some(form) = form {
        return Err(KeyFault::Parameters(format!("the EC public key {form}")));
    }
    let group =
        group_of(algorithm).ok_or_else(|| malformed("the EC key's curve is not available"))?;
    ec_point(group, bits).map_err(|_| {
        KeyFault::Parameters("the EC public key is not a point on its curve".to_owned())
    })?;
    Ok((algorithm, OnceLock::new()))
}

/// Groups are made once: making one costs more than verifying a signature.
static P256: LazyLock<Option<EcGroup>> =
    LazyLock::new(|| EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).ok());
static P384: LazyLock<Option<EcGroup>> =
    LazyLock::new(|| EcGroup::from_curve_name(Nid::SECP384R1).ok());

fn group_of(algorithm: KeyAlgorithm) -> Option<&'static EcGroup> {
    match algorithm {
        KeyAlgorithm::P256 => P256.as_ref(),
        KeyAlgorithm::P384 => P384.as_ref(),
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => None,
    }
}

/// An error when the point is off the curve or a coordinate is not below p, which OpenSSL checks as
/// it reads the point. Both curves have cofactor 1, so every such point has the right order.
fn ec_point(group: &EcGroup, bits: &[u8]) -> Result<EcPoint, ErrorStack> {
    let mut context = BigNumContext::new()?;
    EcPoint::from_bytes(group, bits, &mut context)
}

/// RFC 3279 2.3.1: parameters NULL, an `RSAPublicKey` inside.
fn rsa_key(parameters: Option<AnyRef<'_>>, bits: &[u8]) -> Result<Key, KeyFault> {
    if parameters != Some(AnyRef::NULL) {
        return Err(malformed("the RSA key's parameters are not NULL"));
    }
    let (algorithm, key) = rsa::check(bits)?;
    Ok((algorithm, OnceLock::from(key)))
}

fn malformed(detail: &str) -> KeyFault {
    KeyFault::Malformed(detail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::rsa::Rsa;

    fn p256_spki() -> Vec<u8> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = EcKey::generate(&group).unwrap();
        PKey::from_ec_key(key).unwrap().public_key_to_der().unwrap()
    }

    fn slug(spki: &[u8]) -> &'static str {
        SubjectPublicKeyInfo::from_der(spki).map_or_else(|fault| fault.slug(), |_| "good")
    }

    #[test]
    fn other_curves_and_algorithms_are_of_the_wrong_type() {
        for nid in [Nid::SECP256K1, Nid::SECP224R1, Nid::SECP521R1] {
            let group = EcGroup::from_curve_name(nid).unwrap();
            let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
            assert_eq!(
                slug(&key.public_key_to_der().unwrap()),
                "key-type",
                "{nid:?}"
            );
        }
        let key = PKey::generate_ed25519().unwrap();
        assert_eq!(slug(&key.public_key_to_der().unwrap()), "key-type");
    }

    #[test]
    fn the_encoding_must_be_the_one_its_algorithm_prescribes() {
        let good = p256_spki();
        assert_eq!(slug(&good), "good");
        let mut trailing = good.clone();
        trailing.push(0);
        let mut unused_bits = good.clone();
        unused_bits[25] = 1;
        // id-ecPublicKey with NULL in place of the curve
        let null = [
            &[0x30, 79, 0x30, 11][..],
            &good[4..13],
            &[5, 0],
            &good[23..],
        ]
        .concat();
        // rsaEncryption without its NULL
        let rsa = Rsa::generate(2048).unwrap().public_key_to_der().unwrap();
        let length = u8::try_from(rsa.len() - 6 - 256).unwrap();
        let absent = [
            &[0x30, 0x82, 1, length][..],
            &[0x30, 11],
            &rsa[6..17],
            &rsa[19..],
        ]
        .concat();
        for (wrong, what) in [
            (trailing, "trailing"),
            (unused_bits, "unused"),
            (null, "NULL"),
            (absent, "absent"),
        ] {
            assert_eq!(slug(&wrong), "malformed-csr", "{what}");
        }
    }

    #[test]
    fn a_point_must_be_uncompressed_and_on_its_curve() {
        let good = p256_spki();
        for form in [6, 7, 1, 5] {
            let mut wrong = good.clone();
            wrong[26] = form;
            assert_eq!(slug(&wrong), "key-parameters", "form {form}");
        }
        let mut beyond_p = good.clone();
        beyond_p[27..59].fill(0xff);
        assert_eq!(slug(&beyond_p), "key-parameters");
        let mut off_curve = good;
        off_curve[90] ^= 1;
        assert_eq!(slug(&off_curve), "key-parameters");
    }

    #[test]
    fn an_ecdsa_signature_has_one_encoding() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let private = EcKey::generate(&group).unwrap();
        let spki = PKey::from_ec_key(private.clone())
            .unwrap()
            .public_key_to_der()
            .unwrap();
        let key = SubjectPublicKeyInfo::from_der(&spki).unwrap();
        let signature = EcdsaSig::sign(&sha::sha256(b"text"), &private)
            .unwrap()
            .to_der()
            .unwrap();
        let ecdsa = SignatureAlgorithm::EcdsaWithSha256;
        assert!(key.verifies(ecdsa, b"text", &signature));
        assert!(!key.verifies(ecdsa, b"Text", &signature));
        assert!(!key.verifies(SignatureAlgorithm::Sha256WithRsa, b"text", &signature));
        let long_form = [&[0x30, 0x81][..], &signature[1..]].concat();
        assert!(!key.verifies(ecdsa, b"text", &long_form));
        let trailing = [&signature[..], &[0]].concat();
        assert!(!key.verifies(ecdsa, b"text", &trailing));
    }

    #[test]
    fn names_lead_back() {
        for algorithm in KeyAlgorithm::ALL {
            assert_eq!(KeyAlgorithm::from_name(algorithm.name()), Some(algorithm));
        }
        assert_eq!(KeyAlgorithm::from_name("P-521"), None);
    }
}
