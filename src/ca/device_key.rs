//! Private keys that the service makes for devices, and seals to a recipient at once.
//!
//! A private key is never outside a buffer of fixed length that is overwritten when it is dropped:
//! a buffer that grows leaves what it held behind. No type that holds one can be printed.

mod ec;
mod rsa;
mod text;

use std::io;

use openssl::ec::EcKey;
use openssl::error::ErrorStack;
use openssl::rand;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::pki::envelope::Recipient;
use crate::pki::envelope::SealEntropy;
use crate::pki::envelope::SealFault;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::key_policy::KeyFault;
use crate::pki::key_policy::SubjectPublicKeyInfo;

/// Kinds of key that the service makes for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// EC on NIST P-256
    P256,
    /// EC on NIST P-384
    P384,
    /// RSA, 2048-bit modulus
    Rsa2048,
    /// RSA, 3072-bit modulus
    Rsa3072,
}

impl KeyType {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::P256, Self::P384, Self::Rsa2048, Self::Rsa3072];

    /// `p256`, `p384`, `rsa2048`, `rsa3072`
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// What the key policy calls it.
    #[must_use]
    pub fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::P256 => KeyAlgorithm::P256,
            Self::P384 => KeyAlgorithm::P384,
            Self::Rsa2048 => KeyAlgorithm::Rsa2048,
            Self::Rsa3072 => KeyAlgorithm::Rsa3072,
        }
    }
}

/// How many keys lie in one envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvelopeForm {
    /// All of them.
    Chunk,
    /// One.
    Device,
}

impl EnvelopeForm {
    /// Every form.
    pub const ALL: [Self; 2] = [Self::Chunk, Self::Device];

    /// `chunk`, `device`
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Device => "device",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.as_str() == word)
    }
}

/// Keys of which only the public halves can still be read here.
pub struct SealedKeys {
    /// One a device, in the order of the devices.
    pub public_keys: Vec<SubjectPublicKeyInfo>,
    /// DER of CMS `ContentInfo`: one in all, or one a device in the order of the devices.
    pub envelopes: Vec<Vec<u8>>,
}

/// Why keys were not made. None of it is the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum KeyMakingFault {
    /// No memory, or no random octets.
    #[error("OpenSSL cannot make a key: {0}")]
    OpenSsl(#[from] ErrorStack),
    /// Made against the key policy.
    #[error("a key that was made is against the key policy: {0}")]
    Policy(#[from] KeyFault),
    /// The encoded private key does not belong to the encoded public key.
    #[error("the two halves of a key that was made do not belong together")]
    Pairwise,
    /// The encoding is not as long as it must be.
    #[error("a key that was made is not as long in its encoding as it must be")]
    Length,
    /// The keys cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealFault),
    /// No thread to make RSA keys on.
    #[error("no thread to make a key on: {0}")]
    Thread(#[source] io::Error),
    /// A thread that made RSA keys panicked.
    #[error("a thread that made keys panicked")]
    Panic,
}

/// A new key for each device, sealed to the recipient; the private halves are nowhere else.
///
/// An envelope's content is text: for each device a line `# <n> <device>`, n from 1 in each
/// envelope, and the key as a PEM block (RFC 7468 10).
pub fn make_sealed(
    key_type: KeyType,
    devices: &[String],
    recipient: &Recipient,
    form: EnvelopeForm,
) -> Result<SealedKeys, KeyMakingFault> {
    let pairs = match key_type {
        KeyType::P256 => ec::make(&ec::P256, devices.len()),
        KeyType::P384 => ec::make(&ec::P384, devices.len()),
        KeyType::Rsa2048 => rsa::make(2048, devices.len()),
        KeyType::Rsa3072 => rsa::make(3072, devices.len()),
    }?;
    let in_one = match form {
        EnvelopeForm::Chunk => devices.len().max(1),
        EnvelopeForm::Device => 1,
    };
    let envelopes = devices
        .chunks(in_one)
        .zip(pairs.chunks(in_one))
        .map(|(devices, pairs)| {
            let content = text::of(devices, pairs)?;
            Ok(recipient.seal(&content, entropy(recipient)?)?)
        })
        .collect::<Result<_, KeyMakingFault>>()?;
    Ok(SealedKeys {
        public_keys: pairs.into_iter().map(|pair| pair.public_key).collect(),
        envelopes,
    })
}

/// A secret on the heap: it cannot grow, and moving it copies nothing but its address.
type Secret = Zeroizing<Box<[u8]>>;

/// A key that was just made, checked.
struct KeyPair {
    /// DER of `PrivateKeyInfo` (RFC 5208 5), which is `OneAsymmetricKey` version 1 (RFC 5958 2).
    private_key: Secret,
    public_key: SubjectPublicKeyInfo,
}

/// The parts one after the other.
fn secret_of(parts: &[&[u8]]) -> Secret {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut secret = Zeroizing::new(vec![0; length].into_boxed_slice());
    let mut rest = &mut secret[..];
    for part in parts {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    secret
}

fn entropy(recipient: &Recipient) -> Result<SealEntropy, ErrorStack> {
    let mut content_key = Box::new(Zeroizing::new([0; 32]));
    let mut nonce = [0; 12];
    rand::rand_priv_bytes(&mut content_key[..])?;
    rand::rand_bytes(&mut nonce)?;
    Ok(SealEntropy {
        ephemeral: EcKey::generate(recipient.group())?,
        content_key,
        nonce,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::envelope::fixture;
    use crate::pki::envelope::fixture::Owner;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use std::collections::HashSet;

    fn owner() -> (Owner, Recipient) {
        let owner = Owner::on(Nid::X9_62_PRIME256V1);
        let recipient = Recipient::parse(&owner.pem(), fixture::now()).ok().unwrap();
        (owner, recipient)
    }

    fn devices(count: usize) -> Vec<String> {
        (1..=count).map(|n| format!("lamp-{n:06}")).collect()
    }

    /// The content holds these devices with the private halves of these keys, and nothing else.
    fn assert_holds(content: &[u8], devices: &[String], public_keys: &[SubjectPublicKeyInfo]) {
        let mut rest = std::str::from_utf8(content).unwrap();
        for (n, (device, public_key)) in (1..).zip(devices.iter().zip(public_keys)) {
            rest = rest.strip_prefix(&format!("# {n} {device}\n")).unwrap();
            let end = "-----END PRIVATE KEY-----\n";
            let (block, behind) = rest.split_at(rest.find(end).unwrap() + end.len());
            rest = behind;
            let mut lines = block.lines().rev().skip(1);
            assert!(lines.next().unwrap().len() <= 64);
            assert!(lines.all(|line| line.len() == 64 || line.starts_with("-----BEGIN ")));
            let key = PKey::private_key_from_pem(block.as_bytes()).unwrap();
            assert_eq!(key.public_key_to_der().unwrap(), public_key.as_der());
            let encoded = crate::pki::pem::blocks(block).unwrap();
            assert_eq!(encoded[0].der, key.private_key_to_pkcs8().unwrap());
        }
        assert_eq!(rest, "");
    }

    fn assert_distinct(public_keys: &[SubjectPublicKeyInfo]) {
        let distinct: HashSet<_> = public_keys
            .iter()
            .map(SubjectPublicKeyInfo::as_der)
            .collect();
        assert_eq!(distinct.len(), public_keys.len());
    }

    #[test]
    fn the_recipient_opens_the_keys_of_a_chunk() {
        let (owner, recipient) = owner();
        for (key_type, count) in [
            (KeyType::P256, 120),
            (KeyType::P384, 11),
            (KeyType::Rsa2048, 2),
            (KeyType::Rsa3072, 1),
        ] {
            let devices = devices(count);
            let sealed = make_sealed(key_type, &devices, &recipient, EnvelopeForm::Chunk).unwrap();
            assert_eq!(sealed.public_keys.len(), count);
            assert_eq!(sealed.envelopes.len(), 1);
            for public_key in &sealed.public_keys {
                assert_eq!(public_key.algorithm(), key_type.algorithm());
            }
            assert_distinct(&sealed.public_keys);
            let content = owner.open(&sealed.envelopes[0]).unwrap();
            assert_holds(&content, &devices, &sealed.public_keys);
        }
    }

    #[test]
    fn each_device_can_have_its_envelope() {
        let (owner, recipient) = owner();
        let devices = devices(3);
        let form = EnvelopeForm::Device;
        let sealed = make_sealed(KeyType::P256, &devices, &recipient, form).unwrap();
        assert_eq!(sealed.envelopes.len(), 3);
        assert_distinct(&sealed.public_keys);
        for (at, envelope) in sealed.envelopes.iter().enumerate() {
            let content = owner.open(envelope).unwrap();
            assert_holds(&content, &devices[at..=at], &sealed.public_keys[at..=at]);
        }
        let none = make_sealed(KeyType::P256, &[], &recipient, EnvelopeForm::Chunk).unwrap();
        assert!(none.envelopes.is_empty());
    }

    #[test]
    fn an_identity_cannot_begin_a_line() {
        let (owner, recipient) = owner();
        let device = vec!["a\n-----BEGIN é".to_owned()];
        let form = EnvelopeForm::Device;
        let sealed = make_sealed(KeyType::P256, &device, &recipient, form).unwrap();
        let content = owner.open(&sealed.envelopes[0]).unwrap();
        let printed = ["a?-----BEGIN ?".to_owned()];
        assert_holds(&content, &printed, &sealed.public_keys);
    }

    #[test]
    fn words_lead_back() {
        for key_type in KeyType::ALL {
            assert_eq!(KeyType::from_word(key_type.as_str()), Some(key_type));
        }
        assert_eq!(KeyType::from_word("P256"), None);
    }
}
