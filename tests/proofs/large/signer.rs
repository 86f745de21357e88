//! The world's keys, in sessions of our own.
//!
//! SoftHSM reads a token object's file again at each signature; a copy of the key that belongs to
//! the session is only in memory, and signs a third faster. It cannot leave the module either.

use std::collections::BTreeMap;
use std::sync::Mutex;

use certfactory::app::token_configs;
use certfactory::config::Config;
use certfactory::pki::key_policy::SignatureAlgorithm;
use cryptoki::context::CInitializeArgs;
use cryptoki::context::CInitializeFlags;
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::object::ObjectClass;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;
use openssl::sha::sha256;
use secrecy::ExposeSecret;

/// What stands before a SHA-256 digest in an RSA signature (RFC 8017, 9.2, note 1).
const SHA256_DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];

/// The world's token, logged in.
pub struct Token {
    module: Pkcs11,
    slot: Slot,
    keys: BTreeMap<String, (ObjectHandle, SignatureAlgorithm)>,
    /// Holds the login, and the copies of the keys.
    _master: Mutex<Session>,
}

/// A session to sign in: one a thread.
pub struct Signer<'a> {
    token: &'a Token,
    session: Session,
}

impl Token {
    pub fn open(config: &Config) -> Self {
        let [token] = &token_configs(config)[..] else {
            panic!("a development world has one token");
        };
        let module = Pkcs11::new(&token.module).unwrap();
        module
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .unwrap();
        let slots = module.get_slots_with_initialized_token().unwrap();
        let slot = slots.into_iter().find(|slot| {
            let info = module.get_token_info(*slot).unwrap();
            info.label() == token.token_label
        });
        let slot = slot.expect("SOFTHSM2_CONF is not that of the world: source .dev/env");
        let master = module.open_ro_session(slot).unwrap();
        let pin = AuthPin::new(token.pin.expose_secret().into());
        master.login(UserType::User, Some(&pin)).unwrap();
        let find = |label: &str| {
            let template = [
                Attribute::Class(ObjectClass::PRIVATE_KEY),
                Attribute::Label(label.as_bytes().to_vec()),
            ];
            let found = master.find_objects(&template).unwrap();
            let [key] = found[..] else {
                panic!("the token has no key `{label}`, or several");
            };
            let ours = [Attribute::Token(false)];
            master.copy_object(key, &ours).unwrap_or(key)
        };
        let keys = token.keys.iter();
        let keys = keys.map(|key| (key.issuer.clone(), (find(&key.label), key.algorithm)));
        Self {
            keys: keys.collect(),
            module,
            slot,
            _master: Mutex::new(master),
        }
    }

    pub fn signer(&self) -> Signer<'_> {
        Signer {
            token: self,
            session: self.module.open_ro_session(self.slot).unwrap(),
        }
    }
}

impl Signer<'_> {
    /// A signature in X.509 form, by the key of this issuer.
    pub fn sign(&self, issuer: &str, message: &[u8]) -> Vec<u8> {
        let (key, algorithm) = self.token.keys[issuer];
        let digest = sha256(message);
        match algorithm {
            SignatureAlgorithm::EcdsaWithSha256 => {
                let raw = self.session.sign(&Mechanism::Ecdsa, key, &digest).unwrap();
                let (r, s) = raw.split_at(raw.len() / 2);
                let number = |octets| BigNum::from_slice(octets).unwrap();
                let signature = EcdsaSig::from_private_components(number(r), number(s)).unwrap();
                signature.to_der().unwrap()
            }
            SignatureAlgorithm::Sha256WithRsa => {
                let info = [&SHA256_DIGEST_INFO[..], &digest].concat();
                self.session.sign(&Mechanism::RsaPkcs, key, &info).unwrap()
            }
        }
    }
}
