//! A content that one recipient alone can read: CMS `AuthEnvelopedData` (RFC 5083) under
//! AES-256-GCM (RFC 5084), its key agreed with an ephemeral EC key (RFC 5753).
//!
//! Composed here, not by OpenSSL's CMS: that copies the plaintext into buffers which nobody
//! clears, and derives the key with SHA-1. Every secret here lies in a buffer of fixed length that
//! is overwritten when it is dropped.

mod curve;
#[cfg(test)]
pub(crate) mod fixture;
mod recipient;

pub use recipient::RecipientFault;
pub use recipient::RecipientReason;

use super::tlv;
use const_oid::ObjectIdentifier;
use curve::Curve;
use openssl::bn::BigNumContext;
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::cipher_ctx::CipherCtxFlags;
use openssl::derive::Deriver;
use openssl::ec::EcGroup;
use openssl::ec::EcGroupRef;
use openssl::ec::EcKey;
use openssl::ec::PointConversionForm;
use openssl::error::ErrorStack;
use openssl::md_ctx::MdCtx;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::pkey::Public;
use zeroize::Zeroizing;

/// Longest content that is sealed, in octets.
pub const CONTENT_LENGTH_MAX: usize = 64 << 20;

/// `id-ct-authEnvelopedData` (RFC 5083 2)
const AUTH_ENVELOPED_DATA: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.23");
/// `id-data` (RFC 5652 4)
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
/// `id-aes256-GCM` (RFC 5084 1.5)
const AES256_GCM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.46");
/// `id-aes256-wrap` (RFC 3565 2.3.2)
const AES256_WRAP: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.45");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Octets of the message authentication code.
const MAC_LENGTH: usize = 16;
/// The same as an OCTET STRING.
const MAC_ELEMENT_LENGTH: usize = 2 + MAC_LENGTH;
/// Octets of a wrapped content key (RFC 3394 2.2.1).
const WRAPPED_LENGTH: usize = 40;
/// Octets of the longest shared secret, of P-521.
const SHARED_LENGTH_MAX: usize = 66;
/// Octets of the longest digest.
const DIGEST_LENGTH_MAX: usize = 64;

/// Who can open an envelope: a certificate whose key agrees on keys, checked by [`Self::parse`].
pub struct Recipient {
    der: Vec<u8>,
    sha256: [u8; 32],
    subject: String,
    curve: Curve,
    group: EcGroup,
    key: PKey<Public>,
    /// DER of `IssuerAndSerialNumber` (RFC 5652 10.2.4).
    issuer_and_serial_number: Vec<u8>,
}

/// What makes one envelope unlike every other; used for one and gone.
pub struct SealEntropy {
    /// An EC key on [`Recipient::group`].
    pub ephemeral: EcKey<Private>,
    /// Of AES-256-GCM. In a box, so that handing it on leaves no copy behind.
    pub content_key: Box<Zeroizing<[u8; 32]>>,
    /// Of AES-256-GCM.
    pub nonce: [u8; 12],
}

/// Why a content was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealFault {
    /// Beyond [`CONTENT_LENGTH_MAX`].
    #[error("a content of {0} octets is too long for one envelope")]
    TooLong(usize),
    /// No memory, or the ephemeral key is on another curve.
    #[error("OpenSSL cannot seal an envelope: {0}")]
    OpenSsl(#[from] ErrorStack),
}

impl Recipient {
    /// DER of the certificate.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 over the certificate's DER: its fingerprint.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// RFC 4514 text of the certificate's subject, for people.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The curve on which [`SealEntropy::ephemeral`] must be.
    #[must_use]
    pub fn group(&self) -> &EcGroupRef {
        &self.group
    }

    /// DER of a `ContentInfo` that only the owner of the recipient's key can open.
    pub fn seal(&self, content: &[u8], entropy: SealEntropy) -> Result<Vec<u8>, SealFault> {
        if content.len() > CONTENT_LENGTH_MAX {
            return Err(SealFault::TooLong(content.len()));
        }
        let SealEntropy {
            ephemeral,
            content_key,
            nonce,
        } = entropy;
        let originator = ephemeral.public_key().to_bytes(
            &self.group,
            PointConversionForm::UNCOMPRESSED,
            &mut *BigNumContext::new()?,
        )?;
        let wrapped_key = self.wrap(&content_key, ephemeral)?;
        let recipient_infos = self.recipient_infos(&originator, &wrapped_key);
        let front = before_content(&recipient_infos, &nonce, content.len());
        let mut envelope = vec![0; front.len() + content.len() + MAC_ELEMENT_LENGTH];
        let (before, rest) = envelope.split_at_mut(front.len());
        let (encrypted, code) = rest.split_at_mut(content.len());
        before.copy_from_slice(&front);
        let mac = encrypt(content, &content_key, &nonce, encrypted)?;
        code.copy_from_slice(&tlv::element(tlv::OCTET_STRING, &mac));
        Ok(envelope)
    }

    /// The content key, wrapped (RFC 3394) under the key that `ephemeral` and the recipient agree on.
    fn wrap(
        &self,
        content_key: &[u8; 32],
        ephemeral: EcKey<Private>,
    ) -> Result<[u8; WRAPPED_LENGTH], ErrorStack> {
        let ephemeral = PKey::from_ec_key(ephemeral)?;
        let mut shared = Zeroizing::new([0; SHARED_LENGTH_MAX]);
        let mut deriver = Deriver::new(&ephemeral)?;
        deriver.set_peer(&self.key)?;
        // Z is the x-coordinate, as long as the field (SEC 1 3.3.1).
        let length = deriver.derive(&mut shared[..self.curve.coordinate_length()])?;

        // X9.63 KDF (SEC 1 3.6.1): one digest is enough for 32 octets, so the counter is 1.
        let mut digest = Zeroizing::new([0; DIGEST_LENGTH_MAX]);
        let mut hash = MdCtx::new()?;
        hash.digest_init(self.curve.digest())?;
        hash.digest_update(&shared[..length])?;
        hash.digest_update(&1_u32.to_be_bytes())?;
        hash.digest_update(&shared_info())?;
        hash.digest_final(&mut digest[..])?;

        let mut wrapped = [0; WRAPPED_LENGTH];
        let mut cipher = CipherCtx::new()?;
        cipher.set_flags(CipherCtxFlags::FLAG_WRAP_ALLOW);
        cipher.encrypt_init(Some(Cipher::aes_256_wrap()), Some(&digest[..32]), None)?;
        cipher.cipher_update(content_key, Some(&mut wrapped))?;
        Ok(wrapped)
    }

    /// RFC 5652 6.2.2 with the choices of RFC 5753 3.1.1: one `KeyAgreeRecipientInfo`.
    fn recipient_infos(&self, originator: &[u8], wrapped_key: &[u8]) -> Vec<u8> {
        // A BIT STRING's first octet counts its unused bits: none.
        let bits = tlv::element(tlv::BIT_STRING, &[&[0], originator].concat());
        // Parameters absent: the curve is the recipient's (RFC 5753 3.1.1).
        let originator_key = [sequence(&[&oid(&EC_PUBLIC_KEY)]), bits].concat();
        let originator = tlv::element(
            tlv::CONTEXT_0,
            &tlv::element(tlv::CONTEXT_1, &originator_key),
        );
        let key_encryption = sequence(&[&oid(&self.curve.scheme()), &key_wrap()]);
        let encrypted_key = sequence(&[
            &self.issuer_and_serial_number,
            &tlv::element(tlv::OCTET_STRING, wrapped_key),
        ]);
        let key_agree = [
            integer(3),
            originator,
            key_encryption,
            sequence(&[&encrypted_key]),
        ];
        tlv::element(tlv::SET, &tlv::element(tlv::CONTEXT_1, &key_agree.concat()))
    }
}

/// Fills `encrypted`, which is as long as `content`, and returns the code. There are no
/// authenticated attributes, so nothing else goes into it (RFC 5083 2.2).
fn encrypt(
    content: &[u8],
    key: &[u8; 32],
    nonce: &[u8; 12],
    encrypted: &mut [u8],
) -> Result<[u8; MAC_LENGTH], ErrorStack> {
    let mut cipher = CipherCtx::new()?;
    cipher.encrypt_init(Some(Cipher::aes_256_gcm()), Some(key), Some(nonce))?;
    cipher.cipher_update(content, Some(encrypted))?;
    cipher.cipher_final(&mut [])?;
    let mut mac = [0; MAC_LENGTH];
    cipher.tag(&mut mac)?;
    Ok(mac)
}

/// All octets before the encrypted content; only the code follows that. Lengths are known before
/// it is there, so that it is written where it stays.
fn before_content(recipient_infos: &[u8], nonce: &[u8; 12], content_length: usize) -> Vec<u8> {
    // GCMParameters (RFC 5084 3.2): nonce, and the code's length since it is not the default.
    let parameters = sequence(&[&tlv::element(tlv::OCTET_STRING, nonce), &integer(16)]);
    let encrypted_content_info = [
        oid(&DATA),
        sequence(&[&oid(&AES256_GCM), &parameters]),
        tlv::head(tlv::CONTEXT_0_PRIMITIVE, content_length),
    ]
    .concat();
    let body = [
        &integer(0),
        recipient_infos,
        &tlv::head(tlv::SEQUENCE, encrypted_content_info.len() + content_length),
        &encrypted_content_info,
    ]
    .concat();
    let body_length = body.len() + content_length + MAC_ELEMENT_LENGTH;
    let auth_enveloped_data = tlv::head(tlv::SEQUENCE, body_length);
    let data_length = auth_enveloped_data.len() + body_length;
    let content_type = oid(&AUTH_ENVELOPED_DATA);
    let explicit = tlv::head(tlv::CONTEXT_0, data_length);
    let content_info = tlv::head(
        tlv::SEQUENCE,
        content_type.len() + explicit.len() + data_length,
    );
    [
        content_info,
        content_type,
        explicit,
        auth_enveloped_data,
        body,
    ]
    .concat()
}

/// ECC-CMS-SharedInfo (RFC 5753 7.2): the key wrap, and the length of its key in bits.
fn shared_info() -> Vec<u8> {
    let bits = tlv::element(tlv::OCTET_STRING, &256_u32.to_be_bytes());
    sequence(&[&key_wrap(), &tlv::element(tlv::CONTEXT_2, &bits)])
}

/// Parameters absent (RFC 3565 2.3.2).
fn key_wrap() -> Vec<u8> {
    sequence(&[&oid(&AES256_WRAP)])
}

fn oid(oid: &ObjectIdentifier) -> Vec<u8> {
    tlv::element(tlv::OBJECT_IDENTIFIER, oid.as_bytes())
}

/// Of one octet, below 128.
fn integer(value: u8) -> Vec<u8> {
    tlv::element(tlv::INTEGER, &[value])
}

fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    tlv::element(tlv::SEQUENCE, &elements.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::nid::Nid;
    use openssl::rand::rand_bytes;

    fn entropy(group: &EcGroupRef) -> SealEntropy {
        let mut content_key = Box::new(Zeroizing::new([0; 32]));
        let mut nonce = [0; 12];
        rand_bytes(&mut content_key[..]).unwrap();
        rand_bytes(&mut nonce).unwrap();
        SealEntropy {
            ephemeral: EcKey::generate(group).unwrap(),
            content_key,
            nonce,
        }
    }

    #[test]
    fn openssl_opens_what_is_sealed_to_each_curve() {
        let mut long = vec![0; 200_000];
        rand_bytes(&mut long).unwrap();
        for curve in Curve::ALL {
            let owner = fixture::Owner::on(curve.nid());
            let recipient = Recipient::parse(&owner.pem(), fixture::now()).ok().unwrap();
            for content in [&b""[..], b"content", &long[..100], &long[..200], &long] {
                let sealed = recipient.seal(content, entropy(recipient.group())).unwrap();
                let opened = owner.open(&sealed);
                assert!(opened.as_deref() == Some(content), "{curve:?}");
            }
        }
    }

    #[test]
    fn one_octet_changed_is_refused() {
        let owner = fixture::Owner::on(Nid::X9_62_PRIME256V1);
        let recipient = Recipient::parse(&owner.pem(), fixture::now()).ok().unwrap();
        let content = [7; 1000];
        let sealed = recipient
            .seal(&content, entropy(recipient.group()))
            .unwrap();
        assert!(owner.open(&sealed).is_some());
        // In the encrypted content, in the code behind it.
        for from_end in [500, 1] {
            let mut changed = sealed.clone();
            let place = changed.len() - from_end;
            changed[place] ^= 1;
            assert_eq!(owner.open(&changed), None, "{from_end} from the end");
        }
        let other = fixture::Owner::on(Nid::X9_62_PRIME256V1);
        assert_eq!(other.open(&sealed), None);
    }

    #[test]
    fn a_key_of_another_curve_seals_nothing() {
        let owner = fixture::Owner::on(Nid::X9_62_PRIME256V1);
        let recipient = Recipient::parse(&owner.pem(), fixture::now()).ok().unwrap();
        let group = EcGroup::from_curve_name(Nid::SECP384R1).unwrap();
        let fault = recipient.seal(b"content", entropy(&group)).unwrap_err();
        assert!(matches!(fault, SealFault::OpenSsl(_)));
        let long = vec![0; CONTENT_LENGTH_MAX + 1];
        let fault = recipient.seal(&long, entropy(recipient.group()));
        assert!(matches!(fault, Err(SealFault::TooLong(_))));
    }
}
