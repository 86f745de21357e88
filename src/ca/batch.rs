//! Batches: the devices of a run, made ahead of it, a chunk of rows at a time.
//!
//! A chunk's keys are fixed before anything is intended with them, by a compare-and-swap in the
//! [`BatchBook`]; from then on the chunk is a list of requests that may be repeated: the spine
//! answers each of them for ever with the same certificate. So whatever dies, another replica
//! goes on from the chunk, and no device gets a second key. [`intake`] lets a batch in, whole or
//! not at all; [`run`] brings one chunk to its end.

pub mod intake;
pub mod list;
pub mod pattern;
pub mod run;
pub mod twins;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::ca::KeyOrigin;
use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::batch::pattern::Pattern;
use crate::ca::device_key::EnvelopeForm;
use crate::ca::device_key::KeyType;
use crate::pki::serial::SerialNumber;

/// Rows of a chunk: what one envelope holds, and what is repeated after a crash.
pub const CHUNK_ROWS: u32 = 1_000;
/// Chunks a replica works on at once: while one's keys are made, or its last rows wait, another one is signed.
pub const CHUNKS: usize = 3;
/// Most rows of a chunk on their way at once: enough for large transactions of the ledger. Where the queue of the HSM
/// is shorter, as many as that holds.
pub const WIDTH_MAX: usize = 256;
/// When one row is given up for this time, since the queues before it are long: those of three chunks wait for an HSM that
/// signs for the line first. For as long its intent is nobody else's.
pub const ROW_MAX: Duration = Duration::from_mins(5);
/// How much below the rest of the service a batch's threads are: stations go first.
const NICE: i32 = 10;

/// Puts the calling thread below the rest of the service, where the system lets it.
pub fn step_back() {
    let _ = rustix::process::nice(NICE);
}

/// What was ordered, as it was accepted. Never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Profile's name.
    pub profile: String,
    /// Work order that the devices are booked on.
    pub order: Option<String>,
    /// The devices; `None`: a list of them is uploaded.
    pub devices: Option<Pattern>,
    /// Keys to be made; `None`: the devices have theirs.
    pub keys: Option<KeyOrder>,
    /// Certificate files of the package.
    pub forms: Forms,
    /// Columns of the package's table; empty: the usual ones.
    pub columns: Vec<String>,
}

/// Keys that are to be made here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOrder {
    /// Their kind.
    pub kind: KeyType,
    /// The certificate of who may read them, PEM.
    pub recipient: String,
    /// SHA-256 over that certificate, hexadecimal.
    pub recipient_sha256: String,
    /// What one envelope holds.
    pub envelope: EnvelopeForm,
}

/// Certificate files of a package, at least one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forms {
    /// `.pem`
    pub pem: bool,
    /// `.der`
    pub der: bool,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its list has not come yet.
    AwaitingDevices,
    /// Chunks are worked on.
    Running,
    /// No chunk is begun until it is resumed.
    Paused,
    /// All rows have their outcome and the package is closed. For ever.
    Done,
    /// No chunk is begun any more, for ever; what was begun comes to its end.
    Cancelled,
}

impl State {
    const ALL: [Self; 5] = [
        Self::AwaitingDevices,
        Self::Running,
        Self::Paused,
        Self::Done,
        Self::Cancelled,
    ];

    /// The word in the ledger and in REST answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingDevices => "awaiting-devices",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// A batch and how far it is. All counts are of one moment.
#[derive(Clone, Debug)]
pub struct Batch {
    /// UUIDv7.
    pub id: Uuid,
    /// What was ordered.
    pub definition: Definition,
    /// Who created it, and when (database time).
    pub created: (String, DateTime<Utc>),
    /// Where it stands.
    pub state: State,
    /// Why it is paused or was cancelled.
    pub reason: Option<String>,
    /// What holds it up until it passes by itself.
    pub hindrance: Option<String>,
    /// The last fault of a neighbour that it met.
    pub last_error: Option<String>,
    /// Where its keys come from; `None` until its devices are known.
    pub key_origin: Option<KeyOrigin>,
    /// Its devices; 0 until they are known.
    pub device_count: i64,
    /// Rows with a certificate, of chunks that are done.
    pub issued: i64,
    /// Rows that got none, of chunks that are done.
    pub failed: i64,
    /// Rows of chunks that were begun.
    pub begun: i64,
    /// Rows that were done within the last ten seconds.
    pub recent: i64,
    /// Whether it runs and has come nowhere for a minute.
    pub stalled: bool,
    /// When it ended (database time).
    pub finished_at: Option<DateTime<Utc>>,
    /// Its package, once it is closed.
    pub package: Option<Packed>,
    /// Who had its keys destroyed, and when (database time).
    pub keys_destroyed: Option<(String, DateTime<Utc>)>,
}

/// A closed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Octets.
    pub length: i64,
    /// SHA-256 over all of it.
    pub sha256: [u8; 32],
}

/// A chunk, leased.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// From 1.
    pub number: i32,
    /// Counted from 1 through the batch.
    pub first_row: i32,
    /// Its rows.
    pub row_count: i32,
    /// Subject attributes of each row; `None`: the pattern says them.
    pub subjects: Option<Vec<Attributes>>,
    /// `SubjectPublicKeyInfo` of each row, DER; empty until they are made.
    pub public_keys: Vec<Vec<u8>>,
    /// Whether its keys are fixed.
    pub begun: bool,
}

/// Subject attributes by short name.
pub type Attributes = std::collections::BTreeMap<String, String>;

/// A row that got no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFailure {
    /// Counted from 1 through the batch.
    pub row: u32,
    /// Device identity.
    pub device: String,
    /// The problem's slug.
    pub problem: String,
    /// What is wrong.
    pub detail: String,
    /// The certificate that stands in the way.
    pub serial_number: Option<String>,
}

/// How a chunk ended.
#[derive(Clone, Debug)]
pub struct ChunkOutcome {
    /// Intent of each row's certificate.
    pub intents: Vec<Option<Uuid>>,
    /// The other rows.
    pub failures: Vec<RowFailure>,
}

/// A chunk that is done, with all that its part of the package is made of.
#[derive(Clone, Debug)]
pub struct DoneChunk {
    /// From 1.
    pub number: i32,
    /// Its certificates by row.
    pub certificates: Vec<(i32, CertifiedRow)>,
    /// The other rows.
    pub failures: Vec<RowFailure>,
    /// Envelopes, in the order of the rows.
    pub envelopes: Vec<Vec<u8>>,
    /// Its first row and its rows.
    pub rows: (i32, i32),
}

/// What the ledger holds of a row's certificate, as far as a package needs it.
#[derive(Clone, Debug)]
pub struct CertifiedRow {
    /// Device identity.
    pub device: String,
    /// Subject attributes by short name.
    pub subject: Attributes,
    /// Serial number.
    pub serial_number: SerialNumber,
    /// SHA-256 over the public key.
    pub spki_sha256: [u8; 32],
    /// The thing AWS IoT will make.
    pub thing_name: Option<String>,
    /// Issuer's name.
    pub issuer: String,
    /// Last valid second.
    pub not_after: DateTime<Utc>,
    /// SHA-256 over the certificate.
    pub fingerprint: [u8; 32],
    /// The certificate, DER.
    pub der: Vec<u8>,
}

/// A batch that is new.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// UUIDv7.
    pub id: Uuid,
    /// What is ordered.
    pub definition: Definition,
    /// Who orders it.
    pub by: String,
    /// 1 to 128 printable ASCII characters.
    pub idempotency_key: Option<String>,
}

/// What came of creating a batch.
#[derive(Debug)]
pub enum Created {
    /// It is new.
    New(Box<Batch>),
    /// The same batch was created under this idempotency key before.
    Same(Box<Batch>),
    /// The idempotency key was used for another batch.
    KeyReused,
    /// These rows, of the first that are, claim what is taken. Nothing was kept.
    Taken(Vec<TakenRow>),
    /// The intake ended early. Nothing was kept.
    Withdrawn,
    /// It has its devices, or takes none any more.
    Late(Box<Batch>),
    /// There is no such batch.
    Unknown,
}

/// A row whose device or key has a certificate.
#[derive(Clone, Debug)]
pub struct TakenRow {
    /// Counted from 1 through the batch.
    pub row: i32,
    /// Whether it is the key, and not the device.
    pub key: bool,
    /// The certificate or intent that holds it.
    pub serial_number: SerialNumber,
}

/// A piece of what a batch is for, on its way into the book.
#[derive(Debug)]
pub enum Part {
    /// The rows of one chunk.
    Chunk {
        /// Counted from 1 through the batch.
        first_row: i32,
        /// Device identity of each row.
        devices: Vec<String>,
        /// Subject attributes of each row; `None`: the pattern says them.
        subjects: Option<Vec<Attributes>>,
        /// `SubjectPublicKeyInfo` of each row, DER; `None`: they are made here.
        public_keys: Option<Vec<Vec<u8>>>,
    },
    /// That was all, and all of it is good. Without it nothing is kept.
    End {
        /// Where the keys come from.
        key_origin: KeyOrigin,
    },
}

/// For whom devices come into the book.
#[derive(Clone, Debug)]
pub enum Intake {
    /// A batch that is created with its devices.
    Create(Box<NewBatch>),
    /// The list of one that awaits it, by its id.
    List(Uuid),
}

/// What somebody does to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchAct {
    /// No chunk is begun until it is resumed. The reason, for people.
    Pause(String),
    /// Goes on.
    Resume,
    /// No chunk is begun any more. The reason, for people.
    Cancel(String),
    /// Its envelopes are deleted. Who wants it.
    DestroyKeys(String),
    /// What holds it up, or that nothing does any more.
    Hinder(Option<String>),
    /// A neighbour's fault that it met and that passes.
    Note(String),
    /// Its package is closed, and it is done unless it was cancelled.
    Close(Packed),
}

/// The book of batches. Everything in it is safe to repeat.
pub trait BatchBook: Send + Sync {
    /// Creates a batch that awaits its list.
    fn create(&self, batch: NewBatch) -> PortFuture<'_, Result<Created, LedgerFault>>;

    /// Takes the devices of a batch whose slot is `slot`, all of them or none.
    fn take_in(
        &self,
        intake: Intake,
        slot: String,
        parts: mpsc::Receiver<Part>,
    ) -> PortFuture<'_, Result<Created, LedgerFault>>;

    /// One batch.
    fn show(&self, id: Uuid) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>>;

    /// The batch of this principal with this idempotency key.
    fn find(&self, by: String, key: String) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>>;

    /// At most `limit` batches, newest first, from the first one older than `before`.
    fn list(
        &self,
        before: Option<Uuid>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<Batch>, LedgerFault>>;

    /// Does it where the batch's state allows, and says how it stands; `None`: there is none.
    fn act(&self, id: Uuid, act: BatchAct) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>>;

    /// Leases the next chunk to be worked on, to the replica of this instance octet.
    fn lease(&self, instance: u8) -> PortFuture<'_, Result<Option<(Batch, Chunk)>, LedgerFault>>;

    /// Fixes a chunk's keys while its batch runs, unless they are fixed; answers with those that
    /// are. `None`: the batch was paused or cancelled before.
    fn begin(
        &self,
        id: Uuid,
        number: i32,
        public_keys: Vec<Vec<u8>>,
        envelopes: Vec<Vec<u8>>,
    ) -> PortFuture<'_, Result<Option<Vec<Vec<u8>>>, LedgerFault>>;

    /// Keeps the leases of chunks and packages that this replica works on.
    fn keep(
        &self,
        instance: u8,
        chunks: Vec<(Uuid, i32)>,
        package: Option<Uuid>,
    ) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// Gives up all leases of this replica: an earlier process left them.
    fn give_up(&self, instance: u8) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// Lets another take the chunk, from `seconds` on, if this replica has its lease.
    fn release(
        &self,
        instance: u8,
        id: Uuid,
        number: i32,
        seconds: i32,
    ) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// Keeps a chunk's outcome, unless it has one.
    fn complete(
        &self,
        id: Uuid,
        number: i32,
        outcome: ChunkOutcome,
    ) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// Leases a batch whose package is to be made; none of those that are held up and lack room here.
    fn lease_package(
        &self,
        instance: u8,
        lacking: Vec<Uuid>,
    ) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>>;

    /// A chunk that is done; `None` while it is not.
    fn done_chunk(
        &self,
        id: Uuid,
        number: i32,
    ) -> PortFuture<'_, Result<Option<DoneChunk>, LedgerFault>>;

    /// Batches whose keys are kept for so many days since their end, or longer.
    fn expired(&self, days: i32) -> PortFuture<'_, Result<Vec<Uuid>, LedgerFault>>;
}

impl Batch {
    /// Chunks of it.
    #[must_use]
    pub fn chunk_count(&self) -> i64 {
        let rows = i64::from(CHUNK_ROWS);
        (self.device_count + rows - 1) / rows
    }

    /// Rows without an outcome.
    #[must_use]
    pub fn remaining(&self) -> i64 {
        self.device_count - self.issued - self.failed
    }
}
