//! The HSM, by PKCS#11: [`Hsm`] implements [`Signer`] with keys that never leave their tokens.
//!
//! One operating-system thread a session, warm handles, two queues in front: what somebody waits
//! for, in a bounded one, goes before what batches want. Around them one supervisor a module,
//! which brings everything back without a restart: a lost session, a lost login, a token that was
//! away, a module that must be finalised. [`error`] is the table of what helps against what. No
//! key signs before it has proved, by a signature, to be the key of its issuer's certificate; it
//! proves that again after every opening of its token.
//!
//! What cannot be healed from outside stays outside: a call that hangs inside the module costs its
//! session until it returns, its callers get [`SignerFault::Deadline`], and later ones are refused
//! at once. No thread is ever started in its place.

pub mod benchmark;
pub mod ceremony;
mod desk;
mod encoding;
pub mod error;
mod key;
mod method;
mod module;
mod pool;
mod supervisor;
mod token;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use secrecy::SecretString;
use tokio::sync::oneshot;

use crate::ca::PortFuture;
use crate::ca::Signer;
use crate::ca::SignerFault;
use crate::ca::Turn;
use crate::hsm::key::Key;
use crate::hsm::key::Purpose;
use crate::hsm::pool::Job;
use crate::hsm::supervisor::Supervisor;
use crate::hsm::token::Token;
use crate::metrics::HsmMetrics;
use crate::pki::certificate::Signature;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::key_policy::SignatureAlgorithm;
use crate::pki::note::CheckpointToBeSigned;
use crate::pki::report::KEY_NAME;
use crate::pki::report::ReportToBeSigned;
use crate::pki::tbs::ToBeSigned;

/// A call inside the module for longer than this takes the token down, unless configured otherwise.
pub const HUNG_AFTER_MS: u64 = 2_000;

/// How long [`Hsm::shutdown`] waits for calls that are under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);

/// How often [`Hsm::wait_ready`] looks.
const READY_POLL: Duration = Duration::from_millis(20);

/// One token and the keys in it.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// Name in logs.
    pub name: String,
    /// The maker's PKCS#11 library.
    pub module: PathBuf,
    /// `CK_TOKEN_INFO.label`.
    pub token_label: String,
    /// `CK_TOKEN_INFO.serialNumber`, where several tokens bear the label.
    pub token_serial: Option<String>,
    /// The user PIN. A refused one is never tried again by this process.
    pub pin: SecretString,
    /// Sessions to sign in, one thread each; at least 1. One more is kept for the login.
    pub sessions: usize,
    /// Signatures that may wait, and as many of batches beside them; at least 1.
    pub queue_depth_max: usize,
    /// A call that has not returned after so many milliseconds takes the token down; see [`HUNG_AFTER_MS`].
    pub hung_after_ms: u64,
    /// Whether recovery may go as far as `C_Finalize`; false when something else in the process uses the module.
    pub recover_module: bool,
    /// Keys to sign with.
    pub keys: Vec<KeyConfig>,
}

/// One issuer's key.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// Name of the issuer.
    pub issuer: String,
    /// `CKA_LABEL`.
    pub label: String,
    /// `CKA_ID`, where several keys bear the label.
    pub id: Option<Vec<u8>>,
    /// DER `SubjectPublicKeyInfo` of the issuer's certificate: the only key that may answer.
    pub spki_der: Vec<u8>,
    /// How it signs.
    pub algorithm: SignatureAlgorithm,
}

/// All tokens of the factory.
pub struct Hsm {
    tokens: Vec<(Arc<Supervisor>, Arc<Token>)>,
    issuers: HashMap<String, (Arc<Token>, Arc<Key>)>,
    ended: AtomicBool,
}

impl Hsm {
    /// Starts the threads and returns at once: until a key has proved itself, [`Signer::ready`] says why not.
    #[must_use]
    pub fn start(configs: Vec<TokenConfig>, metrics: &Arc<HsmMetrics>) -> Arc<Self> {
        let mut tokens = Vec::new();
        let mut issuers = HashMap::new();
        for config in configs {
            let supervisor = Supervisor::of(&config.module);
            let token = Arc::new(Token::new(config, metrics, supervisor.waker()));
            for key in &token.keys {
                issuers.insert(
                    key.config.issuer.clone(),
                    (Arc::clone(&token), Arc::clone(key)),
                );
            }
            start_workers(&token);
            supervisor.adopt(Arc::clone(&token));
            tokens.push((supervisor, token));
        }
        Arc::new(Self {
            tokens,
            issuers,
            ended: AtomicBool::new(false),
        })
    }

    /// Waits until every key has proved itself, or `timeout` has passed; then says what each lacks.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), String> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut reasons: Vec<String> = self
                .issuers
                .keys()
                .filter_map(|issuer| self.ready(issuer).err())
                .collect();
            if reasons.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                reasons.sort();
                reasons.dedup();
                return Err(reasons.join("; "));
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Has the issuer's key sign a challenge, in the queue among the certificates, and verifies it.
    /// For whoever wants to know whether the factory can sign, and not what it remembers of that.
    pub async fn challenge(&self, issuer: &str, deadline: Instant) -> Result<(), SignerFault> {
        let (_, key) = self.find(issuer)?;
        let message = key.challenge();
        let (purpose, turn) = (Purpose::Challenge, Turn::Line);
        let signature = self
            .sign_message(issuer, message.clone(), purpose, turn, deadline)
            .await?;
        if key.verifies(&message, &signature) {
            return Ok(());
        }
        self.distrust(issuer);
        Err(SignerFault::Unavailable(format!(
            "the key of issuer {issuer} made a signature that does not verify"
        )))
    }

    /// Publishes which tokens and keys can sign now. Never blocks: their supervisors do so too, but may hang
    /// inside a module.
    pub fn show(&self) {
        for (_, token) in &self.tokens {
            token.show();
        }
    }

    /// Refuses new work, lets calls under way finish, logs out by closing every session, and finalises
    /// modules nobody uses any more. Blocks for two seconds at most, and once; a call that hangs is left behind.
    pub fn shutdown(&self) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        for (supervisor, token) in &self.tokens {
            token.end();
            supervisor.dismiss(token);
        }
        let deadline = Instant::now() + SHUTDOWN_PATIENCE;
        for (_, token) in &self.tokens {
            if !token.wait_released(deadline.saturating_duration_since(Instant::now())) {
                tracing::warn!(hsm = %token.config.name, "a PKCS#11 call is still under way at shutdown");
            }
        }
    }

    async fn sign_message(
        &self,
        issuer: &str,
        message: Vec<u8>,
        purpose: Purpose,
        turn: Turn,
        deadline: Instant,
    ) -> Result<Vec<u8>, SignerFault> {
        self.ready(issuer).map_err(SignerFault::Unavailable)?;
        let (token, key) = self.find(issuer)?;
        let (reply, answer) = oneshot::channel();
        token.submit(Job {
            key: Arc::clone(key),
            message,
            purpose,
            turn,
            queued_at: Instant::now(),
            deadline,
            reply: Some(reply),
            recovered: false,
        })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(SignerFault::Unavailable(
                "the HSM adapter is shut down".to_owned(),
            )),
            Err(_) => Err(SignerFault::Deadline),
        }
    }

    fn find(&self, issuer: &str) -> Result<&(Arc<Token>, Arc<Key>), SignerFault> {
        self.issuers.get(issuer).ok_or_else(|| {
            SignerFault::Unavailable(format!("no HSM is configured for issuer {issuer}"))
        })
    }
}

impl Signer for Hsm {
    fn sign<'a>(
        &'a self,
        issuer: &'a str,
        tbs: &'a dyn ToBeSigned,
        turn: Turn,
        deadline: Instant,
    ) -> PortFuture<'a, Result<Signature, SignerFault>> {
        Box::pin(async move {
            if [KEY_NAME, LOG_KEY_NAME].contains(&issuer) {
                return Err(SignerFault::Unavailable(format!(
                    "the {issuer} key signs no certificates"
                )));
            }
            let (_, key) = self.find(issuer)?;
            if tbs.signature_algorithm() != key.config.algorithm {
                return Err(SignerFault::Unavailable(format!(
                    "the key of issuer {issuer} does not make signatures of the algorithm named in the certificate"
                )));
            }
            let message = tbs.to_be_signed().to_vec();
            let purpose = tbs.document().into();
            self.sign_message(issuer, message, purpose, turn, deadline)
                .await
                .map(Signature)
        })
    }

    fn sign_report<'a>(
        &'a self,
        report: &'a ReportToBeSigned,
        deadline: Instant,
    ) -> PortFuture<'a, Result<Signature, SignerFault>> {
        Box::pin(async move {
            let message = report.to_be_signed().to_vec();
            self.sign_message(KEY_NAME, message, Purpose::Report, Turn::Line, deadline)
                .await
                .map(Signature)
        })
    }

    fn sign_checkpoint<'a>(
        &'a self,
        checkpoint: &'a CheckpointToBeSigned,
        deadline: Instant,
    ) -> PortFuture<'a, Result<Signature, SignerFault>> {
        Box::pin(async move {
            let message = checkpoint.to_be_signed().to_vec();
            self.sign_message(
                LOG_KEY_NAME,
                message,
                Purpose::Checkpoint,
                Turn::Line,
                deadline,
            )
            .await
            .map(Signature)
        })
    }

    fn queue_depth_max(&self, issuer: &str) -> usize {
        self.find(issuer)
            .map_or(1, |(token, _)| token.config.queue_depth_max.max(1))
    }

    fn ready(&self, issuer: &str) -> Result<(), String> {
        let (token, key) = self.find(issuer).map_err(|fault| fault.to_string())?;
        token.ready()?;
        key.ready()
    }

    fn distrust(&self, issuer: &str) {
        if let Ok((token, key)) = self.find(issuer) {
            key.distrust(format!(
                "the key of issuer {issuer} made a signature that does not verify"
            ));
            token.wake_supervisor();
        }
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// One thread a session, for the life of the adapter: none is ever added or replaced.
fn start_workers(token: &Arc<Token>) {
    for index in 0..token.config.sessions.max(1) {
        let worker = Arc::clone(token);
        token.worker_begins();
        let started = std::thread::Builder::new()
            .name(format!("hsm-session-{index}"))
            .spawn(move || {
                // a panic ends one worker, not the count of them
                let _leave = Leave(&worker);
                pool::work(&worker, index);
            });
        if let Err(error) = started {
            token.worker_ends();
            tracing::error!(hsm = %token.config.name, %error, "cannot start a thread for an HSM session");
        }
    }
}

struct Leave<'a>(&'a Arc<Token>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.worker_ends();
    }
}
