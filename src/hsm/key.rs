//! An issuer's key in a token: found, compared with the certificate, and put to the proof before it signs.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cryptoki::{
    mechanism::MechanismType,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::Session,
};
use openssl::{
    pkey::{PKey, Public},
    sha::sha256,
};
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::hsm::KeyConfig;
use crate::hsm::encoding;
use crate::hsm::error::{Action, HsmFault};
use crate::hsm::method::Method;
use crate::hsm::module::lock;
use crate::metrics::HsmMetrics;
use crate::pki::hex;
use crate::pki::tbs::Document;

/// One issuer's key.
pub(crate) struct Key {
    /// What the configuration says of it.
    pub(crate) config: KeyConfig,
    token_label: String,
    expected: Result<PKey<Public>, String>,
    state: Mutex<KeyState>,
    challenges: AtomicU64,
    born: Instant,
    /// Milliseconds after `born`.
    last_success: AtomicU64,
    sign_seconds: Histogram,
    up: IntGauge,
    calls: [IntCounter; 7],
}

/// How far a key is to be trusted.
#[derive(Clone, Debug)]
pub(crate) enum KeyState {
    /// Not yet, or no longer; to be looked at at once.
    Unproved(String),
    /// It is the certificate's key and signs.
    Proved(Proof),
    /// Looked at and refused; looked at again now and then, for it may be put right.
    Refused(String),
}

/// Where a proved key is, and how it signs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    handle: ObjectHandle,
    method: Method,
    generation: u64,
}

/// What an examination of a key found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Proved,
    Missing,
    Refused,
}

/// Why a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Certificate,
    Challenge,
    Probe,
    Report,
    Checkpoint,
    Crl,
    Ocsp,
}

impl From<Document> for Purpose {
    fn from(document: Document) -> Self {
        match document {
            Document::Certificate => Self::Certificate,
            Document::Crl => Self::Crl,
            Document::Ocsp => Self::Ocsp,
        }
    }
}

impl Key {
    /// A key nobody has looked at.
    pub(crate) fn new(config: KeyConfig, token_label: &str, metrics: &HsmMetrics) -> Self {
        let up = metrics.up.with_label_values(&[&config.issuer]);
        up.set(0);
        Self {
            expected: PKey::public_key_from_der(&config.spki_der).map_err(|error| {
                format!(
                    "the public key of issuer {} cannot be read: {error}",
                    config.issuer
                )
            }),
            token_label: token_label.to_owned(),
            state: Mutex::new(KeyState::Unproved("the HSM is being opened".to_owned())),
            challenges: AtomicU64::new(0),
            born: Instant::now(),
            last_success: AtomicU64::new(0),
            sign_seconds: metrics.sign_seconds.with_label_values(&[&config.issuer]),
            up,
            calls: [
                "certificate",
                "challenge",
                "probe",
                "report",
                "checkpoint",
                "crl",
                "ocsp",
            ]
            .map(|purpose| metrics.calls.with_label_values(&[purpose])),
            config,
        }
    }

    /// `Err(reason)` unless the key has proved itself.
    pub(crate) fn ready(&self) -> Result<(), String> {
        match &*lock(&self.state) {
            KeyState::Proved(_) => Ok(()),
            KeyState::Unproved(reason) | KeyState::Refused(reason) => Err(reason.clone()),
        }
    }

    /// The state now.
    pub(crate) fn state(&self) -> KeyState {
        lock(&self.state).clone()
    }

    /// The proof, if it was given in this opening of the token: older handles may name other keys.
    pub(crate) fn proof(&self, generation: u64) -> Result<Proof, String> {
        match &*lock(&self.state) {
            KeyState::Proved(proof) if proof.generation == generation => Ok(*proof),
            KeyState::Proved(_) => Err("the token was opened anew".to_owned()),
            KeyState::Unproved(reason) | KeyState::Refused(reason) => Err(reason.clone()),
        }
    }

    /// It must prove itself again before it signs.
    pub(crate) fn distrust(&self, reason: String) {
        *lock(&self.state) = KeyState::Unproved(reason);
    }

    /// Publishes whether the issuer can sign.
    pub(crate) fn show(&self, ready: bool) {
        self.up.set(i64::from(ready));
    }

    /// How long no signature has succeeded.
    pub(crate) fn idle(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(
            self.last_success.load(Ordering::Relaxed),
        ))
    }

    /// One signature in X.509 form.
    pub(crate) fn sign(
        &self,
        session: &Session,
        proof: &Proof,
        message: &[u8],
        purpose: Purpose,
    ) -> Result<Vec<u8>, HsmFault> {
        if let Some(calls) = self.calls.get(purpose as usize) {
            calls.inc();
        }
        let timer = self.sign_seconds.start_timer();
        let signature = proof.method.sign(session, proof.handle, message)?;
        drop(timer);
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_success.store(now, Ordering::Relaxed);
        Ok(signature)
    }

    /// True when the signature is the issuer's.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.expected
            .as_ref()
            .is_ok_and(|key| encoding::verifies(key, &sha256(message), signature))
    }

    /// A message nobody signed before, and nobody could take for a certificate.
    pub(crate) fn challenge(&self) -> Vec<u8> {
        let count = self.challenges.fetch_add(1, Ordering::Relaxed);
        format!(
            "certfactory proves the key of issuer {}, {count}",
            self.config.issuer
        )
        .into_bytes()
    }

    /// Finds the key, compares it with the issuer's certificate, lets it sign a challenge.
    ///
    /// Keeps the outcome as the key's state. Fails only with what concerns the whole token; a key
    /// that is missing or wrong stops its own issuer and nobody else's.
    pub(crate) fn prove(
        &self,
        session: &Session,
        mechanisms: &[MechanismType],
        generation: u64,
    ) -> Result<Finding, HsmFault> {
        let (finding, state) = match self.examine(session, mechanisms, generation) {
            Ok(proof) => (Finding::Proved, KeyState::Proved(proof)),
            Err(fault @ HsmFault::KeyMissing(_)) => {
                (Finding::Missing, KeyState::Refused(fault.to_string()))
            }
            Err(fault @ HsmFault::KeyRefused(_)) => {
                (Finding::Refused, KeyState::Refused(fault.to_string()))
            }
            Err(fault) if fault.action() == Action::Fault => {
                let reason = format!(
                    "key {} in token {}: {fault}",
                    self.config.label, self.token_label
                );
                (Finding::Refused, KeyState::Refused(reason))
            }
            Err(fault) => {
                *lock(&self.state) = KeyState::Unproved(fault.to_string());
                return Err(fault);
            }
        };
        match (&state, self.state()) {
            (KeyState::Refused(new), KeyState::Refused(old)) if *new == old => {}
            (KeyState::Refused(reason), _) => {
                tracing::error!(issuer = %self.config.issuer, %reason, "issuer key refused");
            }
            _ => {
                tracing::info!(issuer = %self.config.issuer, token = %self.token_label, "issuer key proved");
            }
        }
        *lock(&self.state) = state;
        Ok(finding)
    }

    fn examine(
        &self,
        session: &Session,
        mechanisms: &[MechanismType],
        generation: u64,
    ) -> Result<Proof, HsmFault> {
        let expected = self
            .expected
            .as_ref()
            .map_err(|reason| HsmFault::KeyRefused(reason.clone()))?;
        let method = Method::choose(self.config.algorithm, mechanisms)?;
        let handle = find_private_key(
            session,
            &self.token_label,
            &self.config.label,
            self.config.id.as_deref(),
        )?;
        if !public_half_fits(session, handle, &self.config, expected)? {
            return Err(self.wrong_key("its public key differs"));
        }
        let proof = Proof {
            handle,
            method,
            generation,
        };
        let message = self.challenge();
        let signature = self.sign(session, &proof, &message, Purpose::Challenge)?;
        if self.verifies(&message, &signature) {
            Ok(proof)
        } else {
            Err(self.wrong_key("its signature does not verify"))
        }
    }

    fn wrong_key(&self, evidence: &str) -> HsmFault {
        HsmFault::KeyRefused(format!(
            "the key labelled {} in token {} is not the key of issuer {}'s certificate: {evidence}",
            self.config.label, self.token_label, self.config.issuer
        ))
    }
}

/// The one private key with this label, and this id if one is given.
pub(crate) fn find_private_key(
    session: &Session,
    token_label: &str,
    label: &str,
    id: Option<&[u8]>,
) -> Result<ObjectHandle, HsmFault> {
    let found = session.find_objects(&template(ObjectClass::PRIVATE_KEY, label, id))?;
    let named = || match id {
        Some(id) => format!("labelled {label} with id {}", hex(id)),
        None => format!("labelled {label}"),
    };
    match found.as_slice() {
        [only] => Ok(*only),
        [] => Err(HsmFault::KeyMissing(format!(
            "token {token_label} holds no private key {}",
            named()
        ))),
        several => Err(HsmFault::KeyRefused(format!(
            "token {token_label} holds {} private keys {}; an id would tell them apart",
            several.len(),
            named()
        ))),
    }
}

/// What finds an object.
pub(crate) fn template(class: ObjectClass, label: &str, id: Option<&[u8]>) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Class(class),
        Attribute::Label(label.into()),
    ];
    template.extend(id.map(|id| Attribute::Id(id.to_vec())));
    template
}

/// False when a public half can be read, with the private key or beside it, and none is the expected one.
fn public_half_fits(
    session: &Session,
    private: ObjectHandle,
    config: &KeyConfig,
    expected: &PKey<Public>,
) -> Result<bool, HsmFault> {
    let beside = session.find_objects(&template(
        ObjectClass::PUBLIC_KEY,
        &config.label,
        config.id.as_deref(),
    ))?;
    let mut fits = None;
    for object in beside.into_iter().chain([private]) {
        // tokens differ in what they let one read; what stays hidden the challenge will show
        let Ok(attributes) =
            session.get_attributes(object, &[AttributeType::Modulus, AttributeType::EcPoint])
        else {
            continue;
        };
        for attribute in attributes {
            if let Attribute::Modulus(value) | Attribute::EcPoint(value) = attribute
                && !value.is_empty()
            {
                fits = Some(fits.unwrap_or(false) || encoding::is_public_part_of(expected, &value));
            }
        }
    }
    Ok(fits.unwrap_or(true))
}
