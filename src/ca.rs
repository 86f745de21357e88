//! The certification authority, and the ports it needs: [`Signer`], [`Ledger`], [`Archive`],
//! [`Clock`], and for what is beside the issuing, [`order::OrderBook`], [`life::LifeBook`],
//! [`station::StationBook`] and [`searches::Searches`].
//!
//! Ports are implemented by the rooms beside this one (`hsm`, `db`) and handed in as `Arc<dyn …>`.

pub mod batch;
pub mod clock;
pub mod crl;
pub mod device_key;
pub mod device_pattern;
pub mod error;
pub mod export;
pub mod floor;
pub mod headquarters;
pub mod issue;
pub mod life;
pub mod line;
pub mod log;
pub mod ocsp;
pub mod order;
pub mod profiles;
pub mod random;
pub mod recover;
pub mod replica;
pub mod report;
pub mod rework;
pub mod rotation;
pub mod searches;
pub mod station;
pub mod ticket;
pub mod verification;

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::pki::{
    certificate::{Signature, SignedCertificate},
    issuer::Issuer,
    name::Subject,
    note::CheckpointToBeSigned,
    report::{ReportKey, ReportToBeSigned},
    serial::SerialNumber,
    tbs::{LeafKind, ToBeSigned},
    validity::Validity,
};

/// What an async port method returns.
pub type PortFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Signs with issuer keys that never leave the HSM.
pub trait Signer: Send + Sync {
    /// Signs the linted bytes with the key of the named issuer, when it is their turn.
    ///
    /// Returns by `deadline` whatever the HSM does. The signature is in X.509 form and not yet verified.
    fn sign<'a>(
        &'a self,
        issuer: &'a str,
        tbs: &'a dyn ToBeSigned,
        turn: Turn,
        deadline: Instant,
    ) -> PortFuture<'a, Result<Signature, SignerFault>>;

    /// Signs a report with the one key that signs reports and nothing else; ECDSA with SHA-256.
    ///
    /// Returns by `deadline` whatever the HSM does. The signature is in X.509 form and not yet verified.
    fn sign_report<'a>(
        &'a self,
        report: &'a ReportToBeSigned,
        deadline: Instant,
    ) -> PortFuture<'a, Result<Signature, SignerFault>>;

    /// Signs a checkpoint with the one key that signs checkpoints and nothing else; ECDSA with
    /// SHA-256.
    ///
    /// Returns by `deadline` whatever the HSM does. The signature is in X.509 form and not yet verified.
    fn sign_checkpoint<'a>(
        &'a self,
        checkpoint: &'a CheckpointToBeSigned,
        deadline: Instant,
    ) -> PortFuture<'a, Result<Signature, SignerFault>>;

    /// How many signatures may wait for the issuer's token, so what it signs in time; at least one.
    fn queue_depth_max(&self, issuer: &str) -> usize;

    /// `Err(reason)` when the named issuer could not sign now. Never blocks.
    fn ready(&self, issuer: &str) -> Result<(), String>;

    /// Tells the signer that a signature it made did not verify: it must prove the key again
    /// before it signs anything else for this issuer.
    fn distrust(&self, issuer: &str);
}

/// Whose signature, and whose row of the ledger, goes first: a batch's waits for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Somebody waits for it.
    Line,
    /// A batch's.
    Batch,
}

/// Why the HSM did not sign. All are the neighbour's fault: 503.
#[derive(Debug, thiserror::Error)]
pub enum SignerFault {
    /// The HSM or its token is down; the text names the PKCS#11 function and return value.
    #[error("the HSM is unavailable: {0}")]
    Unavailable(String),
    /// More requests wait than can be signed in time.
    #[error("the HSM queue is full")]
    Overloaded,
    /// The HSM did not answer by the deadline.
    #[error("the HSM did not answer in time")]
    Deadline,
}

/// A certificate that is about to be made: everything about it but the signature. Immutable.
#[derive(Clone, Debug)]
pub struct Intent {
    /// UUIDv7, made by the service, so that storing an intent twice is storing it once.
    pub id: Uuid,
    /// What the certificate is for, so by which rules it is linted.
    pub kind: LeafKind,
    /// Unique for ever.
    pub serial_number: SerialNumber,
    /// Issuer's name.
    pub issuer: String,
    /// Profile's name; [`verification::PROFILE`] where there is none.
    pub profile: String,
    /// [`sha256`](crate::pki::profile::Profile::sha256).
    pub profile_sha256: [u8; 32],
    /// Who asked: the principal's name.
    pub principal: String,
    /// 1 to 128 printable ASCII characters.
    pub idempotency_key: Option<String>,
    /// SHA-256 over the canonical request: profile, key, subject, order.
    pub request_sha256: [u8; 32],
    /// Work order, where one was named.
    pub order: Option<String>,
    /// Device identity, unique among live certificates of the slot. A verification certificate,
    /// which belongs to no device, has its serial number here.
    pub device: String,
    /// See [`slot`](crate::pki::profile::Profile::slot).
    pub slot: String,
    /// The whole subject.
    pub subject: Subject,
    /// The thing AWS IoT will make.
    pub thing_name: Option<String>,
    /// SHA-256 over the device's `SubjectPublicKeyInfo`, certified once.
    pub spki_sha256: [u8; 32],
    /// How that key came here.
    pub key_origin: KeyOrigin,
    /// Validity.
    pub validity: Validity,
    /// The exact bytes to sign.
    pub tbs: Vec<u8>,
    /// What it replaces; `None` for the first certificate of a device.
    pub rework: Option<Rework>,
}

/// How the key that is to be certified came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrigin {
    /// In a certification request that it signed.
    Request,
    /// On a list, without a proof that anybody has its private half.
    PublicKey,
    /// It was made here, for a batch, and its private half encrypted to the batch's recipient.
    Made,
}

impl KeyOrigin {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Request, Self::PublicKey, Self::Made];

    /// The word in the ledger and in REST answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "csr",
            Self::PublicKey => "public-key",
            Self::Made => "made",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }
}

/// That a certificate is to replace another one of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rework {
    /// The intent of the one it replaces.
    pub supersedes: Uuid,
    /// The serial number of that one.
    pub superseded: SerialNumber,
    /// How many certificates the device had before: 1 or more.
    pub generation: i16,
    /// Why, in the words of who asked.
    pub reason: String,
}

/// What the ledger says of an intent.
#[derive(Debug)]
pub enum Reservation {
    /// Durable. Serial, device, key and idempotency key are this request's alone.
    Reserved,
    /// Something it claims is taken. At least one entry.
    Taken(Vec<Prior>),
    /// Nothing it claims is taken, but its work order does not take it.
    Barred(order::OrderRefusal),
}

/// An earlier intent that holds what a new one claims.
#[derive(Debug)]
pub struct Prior {
    /// What both claim; one entry a claim.
    pub claim: Claim,
    /// The earlier intent.
    pub intent: Intent,
    /// Its certificate; `None` while the intent is open.
    pub certificate: Option<CertificateRecord>,
}

/// The things that only one intent may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// (principal, idempotency key)
    Idempotency,
    /// (slot, device), of a first certificate
    Device,
    /// the certificate it replaces, of a rework
    Successor,
    /// public key
    PublicKey,
    /// serial number: a broken random source
    SerialNumber,
}

/// A certificate as the ledger holds it.
#[derive(Clone, Debug)]
pub struct CertificateRecord {
    /// The intent it fulfils.
    pub intent: Intent,
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// SHA-256 over `der`: AWS IoT's certificateId.
    pub fingerprint: [u8; 32],
    /// Database time of its recording.
    pub issued_at: DateTime<Utc>,
    /// Gapless position in the log.
    pub log_index: i64,
    /// Where it stands in its life.
    pub status: Status,
    /// The certificate that replaces it, or will once it is confirmed.
    pub successor: Option<SerialNumber>,
}

impl CertificateRecord {
    /// How many certificates the device had before this one.
    #[must_use]
    pub fn generation(&self) -> i16 {
        let rework = self.intent.rework.as_ref();
        rework.map_or(0, |rework| rework.generation)
    }
}

/// Where a certificate stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Issued, and not heard of since.
    Issued,
    /// Read back from its device at the end of the line.
    Confirmed,
    /// Replaced: a later certificate of the device is confirmed.
    Superseded,
    /// Revoked.
    Revoked,
    /// Its device does not exist any more.
    Scrapped,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Issued,
        Self::Confirmed,
        Self::Superseded,
        Self::Revoked,
        Self::Scrapped,
    ];

    /// The word in the ledger, in REST answers and filters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Confirmed => "confirmed",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
            Self::Scrapped => "scrapped",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether the certificate has ended, so is on its issuer's CRL.
    #[must_use]
    pub fn has_ended(self) -> bool {
        match self {
            Self::Issued | Self::Confirmed => false,
            Self::Superseded | Self::Revoked | Self::Scrapped => true,
        }
    }
}

/// The durable record of what was intended and what was issued.
pub trait Ledger: Send + Sync {
    /// Makes the intent durable, or says what it collides with. Safe to repeat with the same intent.
    /// It is taken for an orphan when it is still open after the time that its turn may take.
    fn reserve(
        &self,
        intent: Intent,
        turn: Turn,
        deadline: Instant,
    ) -> PortFuture<'_, Result<Reservation, LedgerFault>>;

    /// Makes the certificate durable and gives it its place in the log. The first one recorded
    /// for an intent wins: the answer holds the winner's bytes, which may be another replica's.
    fn record(
        &self,
        intent: Intent,
        certificate: SignedCertificate,
        turn: Turn,
        deadline: Instant,
    ) -> PortFuture<'_, Result<CertificateRecord, LedgerFault>>;

    /// What became of an intent; `None` while it is open.
    fn outcome(&self, intent: Uuid) -> PortFuture<'_, Result<Option<Outcome>, LedgerFault>>;

    /// Takes over up to `limit` open intents whose maker's lease has run out `late_seconds` ago or more,
    /// [`recover::VERY_LATE_SECONDS`] where their issuer is none of `issuers`, and leases them (database
    /// time). Taking over saves work, it is not what keeps a certificate single.
    fn take_over(
        &self,
        limit: i64,
        late_seconds: i32,
        issuers: Vec<String>,
    ) -> PortFuture<'_, Result<Vec<Intent>, LedgerFault>>;

    /// Gives up an open intent for ever: its serial is burned, its device and key are free again.
    /// Has no effect on one that has an outcome.
    fn abandon(&self, intent: Uuid, reason: String) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// `Err(reason)` when nothing could be recorded now. Never blocks.
    fn ready(&self) -> Result<(), String>;
}

/// The end of an intent.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time, and almost always the large one"
)]
pub enum Outcome {
    /// A certificate.
    Issued(CertificateRecord),
    /// None, ever.
    Abandoned,
}

/// Why the database did not do it. All are the neighbour's fault: 503.
#[derive(Debug, thiserror::Error)]
pub enum LedgerFault {
    /// The database is down, read-only, or refuses.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// More work waits than can be stored in time.
    #[error("the ledger queue is full")]
    Overloaded,
    /// The database did not answer by the deadline; the outcome is unknown and is settled later.
    #[error("the database did not answer in time")]
    Deadline,
}

/// Reads the ledger as it is, on the primary and on connections of its own: reading never slows issuing.
///
/// What people look through is read by [`searches::Searches`].
pub trait Archive: Send + Sync {
    /// One certificate, of whatever kind.
    fn certificate(
        &self,
        serial_number: SerialNumber,
    ) -> PortFuture<'_, Result<Option<CertificateRecord>, LedgerFault>>;

    /// One page, newest first.
    fn search(
        &self,
        filter: SearchFilter,
        limit: i64,
        cursor: Option<Uuid>,
    ) -> PortFuture<'_, Result<Page, LedgerFault>>;

    /// What time the database has.
    fn time(&self) -> PortFuture<'_, Result<DatabaseTime, LedgerFault>>;

    /// All principals that have a key, one entry a key.
    fn principals(&self) -> PortFuture<'_, Result<Vec<Principal>, LedgerFault>>;
}

/// The database's time.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseTime {
    /// Of its clock.
    pub now: DateTime<Utc>,
    /// When the ledger's newest outcome was recorded; `None` while there is none.
    pub newest_record: Option<DateTime<Utc>>,
}

/// Which kinds of certificate a search finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindFilter {
    /// One.
    Only(LeafKind),
    /// All: the whole log.
    Any,
}

impl Default for KindFilter {
    /// Devices: what is none turns up where it was asked for, and nowhere else.
    fn default() -> Self {
        Self::Only(LeafKind::Device)
    }
}

/// Everything given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchFilter {
    /// What the certificate is for.
    pub kind: KindFilter,
    /// Subject CN.
    pub cn: Option<String>,
    /// Device identity.
    pub device: Option<String>,
    /// Subject serialNumber.
    pub device_serial: Option<String>,
    /// Site that made it.
    pub site: Option<String>,
    /// Certificate serial number.
    pub serial_number: Option<SerialNumber>,
    /// SHA-256 over the certificate.
    pub fingerprint: Option<[u8; 32]>,
    /// SHA-256 over the public key.
    pub spki: Option<[u8; 32]>,
    /// Profile's name.
    pub profile: Option<String>,
    /// Issuer's name.
    pub issuer: Option<String>,
    /// Principal's name.
    pub station: Option<String>,
    /// Work order.
    pub order: Option<String>,
    /// Batch: its chunks that are done.
    pub batch: Option<Uuid>,
    /// Status.
    pub status: Option<Status>,
    /// `issued_at` at or after.
    pub issued_after: Option<DateTime<Utc>>,
    /// `issued_at` before.
    pub issued_before: Option<DateTime<Utc>>,
}

/// One page of a search.
#[derive(Debug)]
pub struct Page<T = CertificateRecord> {
    /// Newest first.
    pub items: Vec<T>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Uuid>,
}

/// Somebody who may use the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Unique name, `[A-Za-z0-9._-]{1,64}`.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// A disabled principal may do nothing.
    pub disabled: bool,
    /// SHA-256 over the `SubjectPublicKeyInfo` of the client certificate they presented.
    pub spki_sha256: [u8; 32],
    /// What they may do of what their role may.
    pub rights: station::Rights,
}

/// What a principal may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Issues, and reads its own.
    Station,
    /// Issues, reads everything, runs orders, batches, revocations.
    Operator,
    /// Reads everything and nothing else.
    Auditor,
    /// Runs stations, profiles, issuers.
    Administrator,
}

impl Role {
    /// The word in the table, in messages and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Station => "station",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Administrator => "administrator",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::Station,
            Self::Operator,
            Self::Auditor,
            Self::Administrator,
        ]
        .into_iter()
        .find(|role| role.as_str() == word)
    }
}

/// The time of day, and chance: arguments, so that tests can turn them.
pub trait Clock: Send + Sync {
    /// Now, to the second or finer.
    fn now(&self) -> DateTime<Utc>;
}

/// The certification authority: who it is, and its neighbours.
pub struct Ca {
    /// By name.
    pub issuers: HashMap<String, Arc<Issuer>>,
    /// Those in force.
    pub profiles: profiles::Profiles,
    /// Who this is among the replicas: the first octet of serial numbers made here, and what it does first.
    pub replica: Arc<replica::Replica>,
    /// The HSM.
    pub signer: Arc<dyn Signer>,
    /// The database, for writing.
    pub ledger: Arc<dyn Ledger>,
    /// The work orders.
    pub orders: Arc<dyn order::OrderBook>,
    /// Which tickets bring them.
    pub tickets: ticket::TicketTrust,
    /// What signs their reports; `None`: there are none.
    pub report_key: Option<ReportKey>,
    /// What happens to issued certificates.
    pub lives: Arc<dyn life::LifeBook>,
    /// The stations and people.
    pub station_book: Arc<dyn station::StationBook>,
    /// What those with a daily cap had today.
    pub daily_caps: station::DailyCaps,
    /// How their client certificates are issued; `None`: not here.
    pub stations: Option<station::StationIssuing>,
    /// The database, for reading what must be as it is.
    pub archive: Arc<dyn Archive>,
    /// The same for looking through, maybe on a standby.
    pub searches: Arc<dyn searches::Searches>,
    /// Whether the line is at work, for whom batches wait.
    pub line: line::Line,
    /// The batches.
    pub batches: Arc<dyn batch::BatchBook>,
    /// The log and its tree.
    pub log_book: Arc<dyn log::LogBook>,
    /// The same for readers from outside, on connections of their own.
    pub log_shelf: Arc<dyn log::LogBook>,
    /// How far they are kept and proved.
    pub log: Arc<log::LogWatch>,
    /// How the line does, for people.
    pub floor: Arc<floor::Floor>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whether it can be trusted.
    pub clock_watch: clock::ClockWatch,
    /// Whether random numbers can be.
    pub random_watch: random::RandomWatch,
    /// What it counts.
    pub metrics: Arc<crate::metrics::IssuanceMetrics>,
}
