//! Making tokens and keys, for `issuer init` and `ceremony`: by hand, never on the way of a request.

use std::path::Path;

use cryptoki::{
    context::Pkcs11,
    mechanism::Mechanism,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
};
use openssl::nid::Nid;
use secrecy::SecretString;

use crate::hsm::TokenConfig;
use crate::hsm::encoding;
use crate::hsm::error::HsmFault;
use crate::hsm::key::{find_private_key, template};
use crate::hsm::method::Method;
use crate::hsm::module::{InUse, Module, OpenSession};
use crate::hsm::token::open_by_hand;
use crate::pki::certificate::Signature;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::tbs::ToBeSigned;

/// 65537, big endian (FIPS 186-5, A.1.1).
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];

/// An open token in which keys are made, and sign certificates of CAs.
pub struct KeyCeremony {
    session: OpenSession,
    slot: Slot,
    token_label: String,
}

impl KeyCeremony {
    /// Opens a read-write session and logs in as the user. Uses nothing of the configuration but where
    /// the token is, whether its module may be re-initialised before it is open, and its PIN, which is not offered
    /// again when it was refused. While the ceremony lasts the module is not re-initialised.
    pub fn open(config: &TokenConfig) -> Result<Self, HsmFault> {
        let (session, slot) = open_by_hand(config, InUse::into_read_write_session)?;
        Ok(Self {
            session,
            slot,
            token_label: config.token_label.clone(),
        })
    }

    /// Makes a key pair inside the token and returns its DER `SubjectPublicKeyInfo`.
    ///
    /// The private key can sign and nothing else, is sensitive and cannot be extracted. Refuses when the
    /// token holds a key with this label: two would be told apart by luck.
    pub fn generate(
        &self,
        label: &str,
        id: &[u8],
        algorithm: KeyAlgorithm,
    ) -> Result<Vec<u8>, HsmFault> {
        let session = self.session.session()?;
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            if !session
                .find_objects(&template(class, label, None))?
                .is_empty()
            {
                return Err(HsmFault::Ceremony(format!(
                    "token {} already holds a key labelled {label}",
                    self.token_label
                )));
            }
        }
        let (mechanism, kind) = kind(algorithm)?;
        let public = [
            vec![
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Label(label.into()),
                Attribute::Id(id.to_vec()),
                Attribute::Verify(true),
            ],
            kind,
        ]
        .concat();
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Label(label.into()),
            Attribute::Id(id.to_vec()),
            Attribute::Sign(true),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ];
        let (public, _) = session.generate_key_pair(&mechanism, &public, &private)?;
        spki(session, public, algorithm)
    }

    /// Signs linted bytes with the key of that label: the issuer's own certificate, or its request to an offline root.
    pub fn sign(&self, label: &str, tbs: &dyn ToBeSigned) -> Result<Signature, HsmFault> {
        let session = self.session.session()?;
        let offered = self.session.pkcs11().get_mechanism_list(self.slot)?;
        let key = find_private_key(session, &self.token_label, label, None)?;
        Method::choose(tbs.signature_algorithm(), &offered)?
            .sign(session, key, tbs.to_be_signed())
            .map(Signature)
    }
}

/// Makes a token in the first slot that has an uninitialised one, as `SoftHSM` always does, and sets its user PIN.
/// Refuses when a token with this label exists.
pub fn init_token(
    module: &Path,
    label: &str,
    so_pin: &SecretString,
    user_pin: &SecretString,
) -> Result<(), HsmFault> {
    let place = Module::at(module).open()?;
    let pkcs11 = place.pkcs11();
    if slot_labelled(pkcs11, label)?.is_some() {
        return Err(HsmFault::Ceremony(format!(
            "there is a token labelled {label} already"
        )));
    }
    let mut free = None;
    for slot in pkcs11.get_slots_with_token()? {
        if free.is_none() && !pkcs11.get_token_info(slot)?.token_initialized() {
            free = Some(slot);
        }
    }
    let free = free.ok_or_else(|| {
        HsmFault::Ceremony(format!("{} shows no uninitialised token", module.display()))
    })?;
    pkcs11.init_token(free, so_pin, label)?;
    // the slot may have got another number
    let slot = slot_labelled(pkcs11, label)?.unwrap_or(free);
    let session = place.into_read_write_session(slot)?;
    session.session()?.login(UserType::So, Some(so_pin))?;
    session.session()?.init_pin(user_pin)?;
    Ok(())
}

fn slot_labelled(pkcs11: &Pkcs11, label: &str) -> Result<Option<Slot>, HsmFault> {
    for slot in pkcs11.get_slots_with_token()? {
        let info = pkcs11.get_token_info(slot)?;
        if info.token_initialized() && info.label().trim_end() == label {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

/// How a key is made, and what in the public template says which.
fn kind(algorithm: KeyAlgorithm) -> Result<(Mechanism<'static>, Vec<Attribute>), HsmFault> {
    let rsa = |bits: u32| {
        let bits = Attribute::ModulusBits(u64::from(bits).into());
        (
            Mechanism::RsaPkcsKeyPairGen,
            vec![bits, Attribute::PublicExponent(PUBLIC_EXPONENT.to_vec())],
        )
    };
    Ok(match algorithm {
        KeyAlgorithm::Rsa2048 => rsa(2048),
        KeyAlgorithm::Rsa3072 => rsa(3072),
        KeyAlgorithm::Rsa4096 => rsa(4096),
        KeyAlgorithm::P256 => (
            Mechanism::EccKeyPairGen,
            vec![Attribute::EcParams(named_curve(Nid::X9_62_PRIME256V1)?)],
        ),
        KeyAlgorithm::P384 => (
            Mechanism::EccKeyPairGen,
            vec![Attribute::EcParams(named_curve(Nid::SECP384R1)?)],
        ),
    })
}

/// `CKA_EC_PARAMS`: the curve's OBJECT IDENTIFIER, DER (PKCS#11 v3.0, 2.3.3).
fn named_curve(curve: Nid) -> Result<Vec<u8>, HsmFault> {
    use der::Encode;
    let oid = match curve {
        Nid::SECP384R1 => const_oid::db::rfc5912::SECP_384_R_1,
        _ => const_oid::db::rfc5912::SECP_256_R_1,
    };
    oid.to_der()
        .map_err(|error| HsmFault::Ceremony(error.to_string()))
}

fn spki(
    session: &Session,
    public: ObjectHandle,
    algorithm: KeyAlgorithm,
) -> Result<Vec<u8>, HsmFault> {
    let wanted = [
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    let (mut point, mut modulus, mut exponent) = (None, None, None);
    for attribute in session.get_attributes(public, &wanted)? {
        match attribute {
            Attribute::EcPoint(value) => point = Some(value),
            Attribute::Modulus(value) => modulus = Some(value),
            Attribute::PublicExponent(value) => exponent = Some(value),
            _ => {}
        }
    }
    let der = match (algorithm, point, modulus, exponent) {
        (KeyAlgorithm::P256, Some(point), ..) => encoding::ec_spki(Nid::X9_62_PRIME256V1, &point),
        (KeyAlgorithm::P384, Some(point), ..) => encoding::ec_spki(Nid::SECP384R1, &point),
        (_, _, Some(modulus), Some(exponent)) => encoding::rsa_spki(&modulus, &exponent),
        _ => {
            return Err(HsmFault::Ceremony(
                "the token does not show the public key it has just made".to_owned(),
            ));
        }
    };
    der.map_err(|error| {
        HsmFault::Ceremony(format!(
            "the token made a public key that cannot be read: {error}"
        ))
    })
}
