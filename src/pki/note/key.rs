//! The keys of signed notes (C2SP signed-note, "Signature types"): the public ones that notes are
//! verified with, and a cosigner's private one.

use super::Checkpoint;
use super::Note;
use super::NoteFault;
use super::SignatureLine;
use super::from_base64;
use super::is_key_name;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::pkey::Public;
use openssl::sha::sha256;
use openssl::sign::Signer;
use openssl::sign::Verifier;

/// The latest time of a cosignature (tlog-cosignature, "Format"): 2^63 - 1.
const SECONDS_MAX: u64 = u64::MAX / 2;

/// Octets of a P-256 `SubjectPublicKeyInfo` with a named curve and an uncompressed point
/// (RFC 5480, 2): the one encoding that everybody computes the same key id from.
const P256_SPKI_LENGTH: usize = 91;

/// A public key that is trusted under a name, for one type of signatures.
#[derive(Clone, Debug)]
pub struct VerifierKey {
    name: String,
    signature_type: SignatureType,
    key: PKey<Public>,
    /// The key as its type encodes it: 32 octets of Ed25519, or a DER `SubjectPublicKeyInfo`.
    encoded: Vec<u8>,
    key_id: [u8; 4],
}

/// What a signature says that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// When the cosigner says it signed, in seconds since the Epoch (tlog-cosignature, "Format");
    /// `None` for the other types, which say nothing of a time.
    pub timestamp: Option<u64>,
}

impl VerifierKey {
    /// The key of a log from its PEM (`SubjectPublicKeyInfo`): Ed25519 (0x01) or P-256 (0x02).
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, String> {
        let key = public_key(pem)?;
        let signature_type = match key.id() {
            Id::EC => SignatureType::Ecdsa,
            _ => SignatureType::Ed25519,
        };
        Self::new(name, signature_type, key)
    }

    /// The key of a cosigner from its PEM (`SubjectPublicKeyInfo`): Ed25519 (0x04).
    pub fn cosigner_from_pem(name: &str, pem: &[u8]) -> Result<Self, String> {
        Self::new(name, SignatureType::Cosignature, public_key(pem)?)
    }

    /// The key whose [`vkey`](Self::vkey) this is. Its key id must be the right one.
    pub fn from_vkey(vkey: &str) -> Result<Self, String> {
        let fault =
            || "must be a name, a key id and a key in base64, a plus between two".to_owned();
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(_), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(fault());
        };
        let octets = from_base64(encoded).ok_or_else(fault)?;
        let (octet, encoded) = octets.split_first().ok_or_else(fault)?;
        let signature_type = SignatureType::ALL
            .into_iter()
            .find(|known| known.octet() == *octet)
            .ok_or("must be a key of type 1, 2 or 4")?;
        let key = match signature_type {
            SignatureType::Ecdsa => PKey::public_key_from_der(encoded),
            _ => PKey::public_key_from_raw_bytes(encoded, Id::ED25519),
        };
        let key = key.map_err(|_| "the key in it is none of its type".to_owned())?;
        let key = Self::new(name, signature_type, key)?;
        // A wrong key id, and every other spelling.
        if key.vkey() != vkey {
            return Err(format!("is not what this key is: {}", key.vkey()));
        }
        Ok(key)
    }

    fn new(name: &str, signature_type: SignatureType, key: PKey<Public>) -> Result<Self, String> {
        if !is_key_name(name) {
            return Err("a key's name is not empty, and has neither spaces nor a plus".to_owned());
        }
        let encoded = encode(signature_type, &key)?;
        // signed-note, "Signatures"; for 0x02 see "Signature types".
        let [a, b, c, d, ..] = match signature_type {
            SignatureType::Ecdsa => sha256(&encoded),
            SignatureType::Ed25519 | SignatureType::Cosignature => {
                let octet = [b'\n', signature_type.octet()];
                sha256(&[name.as_bytes(), &octet, &encoded].concat())
            }
        };
        Ok(Self {
            name: name.to_owned(),
            signature_type,
            key,
            encoded,
            key_id: [a, b, c, d],
        })
    }

    /// Itself in one line: name, key id, type and key (signed-note 1.0.0, "Verifier keys").
    #[must_use]
    pub fn vkey(&self) -> String {
        let key_id = u32::from_be_bytes(self.key_id);
        let key = [&[self.signature_type.octet()], &self.encoded[..]].concat();
        format!("{}+{key_id:08x}+{}", self.name, STANDARD.encode(key))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What tells it from other keys of its name (signed-note, "Signatures").
    #[must_use]
    pub fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// Verifies the signature of this key. If the note has several, each must verify (signed-note,
    /// "Signatures"), and the latest time is told. Cosignatures are those of checkpoints only.
    pub fn verify(&self, note: &Note) -> Result<Verified, NoteFault> {
        let mine = |line: &&SignatureLine| line.name == self.name && line.key_id == self.key_id;
        let mut latest = None;
        for line in note.signatures.iter().filter(mine) {
            latest = latest.max(Some(self.verify_one(&note.text, &line.signature)?));
        }
        let timestamp = latest.ok_or(NoteFault::NotSigned)?;
        Ok(Verified { timestamp })
    }

    fn verify_one(&self, text: &str, signature: &[u8]) -> Result<Option<u64>, NoteFault> {
        if self.signature_type != SignatureType::Cosignature {
            let good = self.verifies(text.as_bytes(), signature).unwrap_or(false);
            return good.then_some(None).ok_or(NoteFault::BadSignature);
        }
        Checkpoint::parse(text)?;
        let (timestamp, signature) = signature
            .split_first_chunk()
            .ok_or(NoteFault::BadSignature)?;
        let timestamp = u64::from_be_bytes(*timestamp);
        let message = cosigned_message(text, timestamp);
        let good = timestamp <= SECONDS_MAX
            && self
                .verifies(message.as_bytes(), signature)
                .unwrap_or(false);
        good.then_some(Some(timestamp))
            .ok_or(NoteFault::BadSignature)
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        let mut verifier = match self.signature_type {
            SignatureType::Ecdsa => Verifier::new(MessageDigest::sha256(), &self.key)?,
            _ => Verifier::new_without_digest(&self.key)?,
        };
        verifier.verify_oneshot(signature, message)
    }
}

/// The private key of a cosigner, in software.
pub struct Cosigner {
    key: PKey<Private>,
    verifier: VerifierKey,
}

impl Cosigner {
    /// From the PEM of an Ed25519 private key that is not encrypted (RFC 8410, 7).
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, String> {
        // With a passphrase, though it is empty, OpenSSL asks for none on the terminal.
        let key = PKey::private_key_from_pem_passphrase(pem, b"")
            .map_err(|_| "is no private key in PEM without encryption".to_owned())?;
        let public = key
            .raw_public_key()
            .and_then(|octets| PKey::public_key_from_raw_bytes(&octets, Id::ED25519))
            .map_err(|_| "must be an Ed25519 key".to_owned())?;
        let verifier = VerifierKey::new(name, SignatureType::Cosignature, public)?;
        Ok(Self { key, verifier })
    }

    /// What its signatures are verified with.
    #[must_use]
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Its signature of a checkpoint at a time in seconds since the Epoch (tlog-cosignature,
    /// "Format"). The caller has seen the checkpoint's consistency proof. After 2^63 - 1 seconds,
    /// or over what is no checkpoint, it is one that nobody accepts.
    pub fn cosign(&self, checkpoint_text: &str, seconds: u64) -> Result<SignatureLine, ErrorStack> {
        let message = cosigned_message(checkpoint_text, seconds);
        let signature =
            Signer::new_without_digest(&self.key)?.sign_oneshot_to_vec(message.as_bytes())?;
        Ok(SignatureLine {
            name: self.verifier.name.clone(),
            key_id: self.verifier.key_id,
            signature: [&seconds.to_be_bytes()[..], &signature].concat(),
        })
    }
}

/// What a key signs, and how (signed-note, "Signature types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignatureType {
    /// Ed25519 over the text.
    Ed25519,
    /// ECDSA with P-256 and SHA-256 over the text, the signature in DER.
    Ecdsa,
    /// Ed25519 over the text of a checkpoint and a time (tlog-cosignature, "Format").
    Cosignature,
}

impl SignatureType {
    const ALL: [Self; 3] = [Self::Ed25519, Self::Ecdsa, Self::Cosignature];

    fn octet(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Ecdsa => 0x02,
            Self::Cosignature => 0x04,
        }
    }
}

/// What a cosigner signs (tlog-cosignature, "Ed25519 signed message").
fn cosigned_message(checkpoint_text: &str, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{checkpoint_text}")
}

fn public_key(pem: &[u8]) -> Result<PKey<Public>, String> {
    PKey::public_key_from_pem(pem).map_err(|_| "is no public key in PEM".to_owned())
}

/// The public key as its signature type encodes it; not every key is one of every type.
fn encode(signature_type: SignatureType, key: &PKey<Public>) -> Result<Vec<u8>, String> {
    let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
    let encoded = match (signature_type, key.id(), curve) {
        (SignatureType::Ecdsa, Id::EC, Some(Nid::X9_62_PRIME256V1)) => key
            .public_key_to_der()
            .ok()
            .filter(|der| der.len() == P256_SPKI_LENGTH),
        (SignatureType::Ed25519 | SignatureType::Cosignature, Id::ED25519, _) => {
            key.raw_public_key().ok()
        }
        _ => None,
    };
    encoded.ok_or_else(|| match signature_type {
        SignatureType::Cosignature => "must be an Ed25519 key".to_owned(),
        _ => "must be an Ed25519 key, or a P-256 key with a named curve and an uncompressed point"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests;
