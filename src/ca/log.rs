//! The log: what is told to it, how far it is kept and proved, and the port to where it is.
//!
//! The database writes an entry in the transaction of what it tells ([`crate::pki::entry`]). What
//! follows here comes after: [`LogWatch`] is how far the journal and the signed tree have come, and
//! whether anything may still be issued.

pub mod fresh;
pub mod seen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use chrono::DateTime;
use chrono::Utc;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::sync::watch;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::Intent;
use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::pki::entry::Issued;
use crate::pki::hex;
use crate::pki::merkle::Hash;
use crate::pki::merkle::consistency_nodes;
use crate::pki::merkle::consistency_proof;
use crate::pki::merkle::inclusion_nodes;
use crate::pki::merkle::inclusion_proof;
use crate::pki::merkle::leaf_hash;
use crate::pki::serial::InstanceByte;
use crate::pki::tile::TileSet;
use crate::pki::tile::tiles_for;

/// Events that may wait to be told; more are counted and not told.
const TELLING_MAX: usize = 1_000;
/// How long an event is tried to be told, and how often.
const TELL_MAX: Duration = Duration::from_mins(1);
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// How long a service that stops waits to have told so.
const STOPPED_MAX: Duration = Duration::from_secs(1);

/// The log and its tree, in the database.
pub trait LogBook: Send + Sync {
    /// Where the log ends.
    fn head(&self) -> PortFuture<'_, Result<LogHead, LedgerFault>>;

    /// Leaves from the index `from` on, in order and without gaps, at most `limit`.
    fn leaves(&self, from: u64, limit: u32) -> PortFuture<'_, Result<Vec<Bytes>, LedgerFault>>;

    /// The archived part of the log that `index` is in: its first place, and the place after its
    /// last. `None`: it is in none.
    fn archived(&self, index: u64) -> PortFuture<'_, Result<Option<(u64, u64)>, LedgerFault>>;

    /// The newest checkpoint; `None` before the first.
    fn checkpoint(&self) -> PortFuture<'_, Result<Option<StoredCheckpoint>, LedgerFault>>;

    /// Those of the tiles, by level and index, that exist; each as far as it has grown.
    fn tiles(&self, ids: Vec<(u8, u64)>) -> PortFuture<'_, Result<Vec<StoredTile>, LedgerFault>>;

    /// Stores tiles and a checkpoint larger than all others, both or neither. `false` when another
    /// replica was faster.
    fn store(
        &self,
        tiles: Vec<StoredTile>,
        checkpoint: Option<NewCheckpoint>,
    ) -> PortFuture<'_, Result<bool, LedgerFault>>;

    /// Keeps what a witness co-signed.
    fn store_cosignature(
        &self,
        size: u64,
        witness: String,
        line: String,
    ) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// Database time at which a witness last co-signed; `None`: none ever did.
    fn acknowledged(&self) -> PortFuture<'_, Result<Option<DateTime<Utc>>, LedgerFault>>;

    /// Appends entries for what has no row of its own.
    fn note(&self, note: Note) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// Makes partitions ahead, of ledger and log, where they are not there yet. How many it made.
    fn make_partitions(&self) -> PortFuture<'_, Result<u32, LedgerFault>>;

    /// Refuses every further entry, by whichever replica, until a person has looked.
    fn halt(&self, reason: String) -> PortFuture<'_, Result<(), LedgerFault>>;
}

/// Where the log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// Entries in it.
    pub size: u64,
    /// Why nothing is appended; `None`: entries are.
    pub halted: Option<String>,
}

/// A checkpoint as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Entries of the tree.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// The signed note, with the log's signature.
    pub note: String,
    /// Signature lines of witnesses.
    pub cosignatures: Vec<String>,
    /// Database time of its storing.
    pub created_at: DateTime<Utc>,
}

impl StoredCheckpoint {
    /// The note with all signatures.
    #[must_use]
    pub fn cosigned(&self) -> String {
        let mut note = self.note.clone();
        for line in &self.cosignatures {
            note.push_str(line);
            note.push('\n');
        }
        note
    }
}

/// A tile of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTile {
    /// Level.
    pub level: u8,
    /// Place within the level.
    pub index: u64,
    /// 1 to 256 hashes.
    pub hashes: Vec<Hash>,
}

/// A checkpoint to store.
#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    /// Entries of the tree.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// The signed note.
    pub note: String,
}

/// What has no row of its own, for the log.
#[derive(Clone, Debug)]
pub struct Note {
    /// Its kind.
    pub kind: NoteKind,
    /// What it tells: an object.
    pub event: Value,
}

/// The kinds of [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// Somebody known asked for what they do not get.
    Refused,
    /// Rows left the house.
    Exported,
    /// A batch's package left the house.
    Delivered,
    /// A service started: its version, binary and configuration.
    Started,
    /// It took a configuration into use while it ran.
    Configured,
    /// It stopped.
    Stopped,
    /// An issuer's key can or cannot sign.
    Hsm,
    /// The clock is or is not trusted.
    Clock,
    /// A witness co-signed again after a pause, or refused.
    Acknowledged,
}

impl NoteKind {
    /// The word in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Exported => "exported",
            Self::Delivered => "delivered",
            Self::Started => "started",
            Self::Configured => "configured",
            Self::Stopped => "stopped",
            Self::Hsm => "hsm",
            Self::Clock => "clock",
            Self::Acknowledged => "acknowledged",
        }
    }
}

/// How far the log is kept and proved, and what stands against issuing.
pub struct LogWatch {
    /// A journal is configured: nothing is released before it is in there.
    pub journaled: bool,
    kept: watch::Sender<u64>,
    proved: watch::Sender<u64>,
    /// Somebody waits, or has waited, for an entry before this one.
    wanted: AtomicU64,
    faults: Mutex<Faults>,
    /// Witnesses that refuse, and why.
    witnesses: Mutex<BTreeMap<String, String>>,
    news: Notify,
    telling: AtomicUsize,
}

/// Each `None` while all is well.
#[derive(Default)]
struct Faults {
    journal: Option<String>,
    tree: Option<String>,
    outside: Option<String>,
}

/// What can stand against issuing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPart {
    /// The second copy.
    Journal,
    /// The tree and its checkpoints.
    Tree,
    /// The witnesses.
    Outside,
}

impl LogWatch {
    /// Nothing is kept or proved yet.
    #[must_use]
    pub fn new(journaled: bool) -> Self {
        Self {
            journaled,
            kept: watch::Sender::new(0),
            proved: watch::Sender::new(0),
            wanted: AtomicU64::new(0),
            faults: Mutex::default(),
            witnesses: Mutex::default(),
            news: Notify::new(),
            telling: AtomicUsize::new(0),
        }
    }

    /// The entry at `index` is in the log, and somebody waits for it.
    fn want(&self, index: u64) {
        self.wanted.fetch_max(index + 1, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// Entries before it are known to be in the log.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Returns when there is something new, or has been since the last time.
    pub async fn woken(&self) {
        self.news.notified().await;
    }

    /// All entries before `size` are in the journal.
    pub fn set_kept(&self, size: u64) {
        self.kept.send_replace(size);
    }

    /// All entries before `size` are in a signed tree.
    pub fn set_proved(&self, size: u64) {
        self.proved
            .send_if_modified(|proved| std::mem::replace(proved, (*proved).max(size)) < size);
    }

    /// Entries that a signed tree is known to hold.
    #[must_use]
    pub fn proved(&self) -> u64 {
        *self.proved.borrow()
    }

    /// Says what stands against issuing, or with `None` that it does no longer.
    pub fn set_fault(&self, part: LogPart, reason: Option<String>) {
        let mut faults = self.faults();
        let fault = match part {
            LogPart::Journal => &mut faults.journal,
            LogPart::Tree => &mut faults.tree,
            LogPart::Outside => &mut faults.outside,
        };
        if *fault == reason {
            return;
        }
        if let Some(reason) = &reason {
            tracing::error!(?part, reason, "nothing is issued");
        } else {
            tracing::info!(?part, "works again");
        }
        *fault = reason;
    }

    /// What stands against issuing in this part.
    #[must_use]
    pub fn fault(&self, part: LogPart) -> Option<String> {
        let faults = self.faults();
        match part {
            LogPart::Journal => faults.journal.clone(),
            LogPart::Tree => faults.tree.clone(),
            LogPart::Outside => faults.outside.clone(),
        }
    }

    /// `Err(reason)` when nothing may be issued.
    pub fn ready(&self) -> Result<(), String> {
        let faults = self.faults();
        let Faults {
            journal,
            tree,
            outside,
        } = &*faults;
        match [journal, tree, outside].into_iter().flatten().next() {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// Says that a witness refuses to co-sign, or with `None` that it does no longer.
    pub fn set_witness(&self, name: &str, refuses: Option<String>) {
        let mut witnesses = self
            .witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match refuses {
            Some(reason) => witnesses.insert(name.to_owned(), reason),
            None => witnesses.remove(name),
        };
    }

    /// Witnesses that refuse to co-sign, and why: they have seen another log than ours.
    #[must_use]
    pub fn refusing_witnesses(&self) -> BTreeMap<String, String> {
        let witnesses = self.witnesses.lock();
        witnesses.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the entry at `index` may be released: it is in the journal, where there is one.
    pub async fn kept(&self, index: u64, deadline: Instant) -> Result<(), String> {
        if !self.journaled {
            return Ok(());
        }
        self.want(index);
        if reached(&self.kept, index, deadline).await {
            return Ok(());
        }
        self.ready()?;
        Err("the journal does not keep up".to_owned())
    }

    /// Waits until the entry at `index` is in a signed tree; `false` when it is not by `deadline`.
    pub async fn is_proved(&self, index: u64, deadline: Instant) -> bool {
        self.want(index);
        reached(&self.proved, index, deadline).await
    }
}

async fn reached(size: &watch::Sender<u64>, index: u64, deadline: Instant) -> bool {
    let mut size = size.subscribe();
    let wait = size.wait_for(|size| *size > index);
    let waited = tokio::time::timeout_at(deadline.into(), wait).await;
    waited.is_ok_and(|size| size.is_ok())
}

/// That an entry is in a signed tree.
#[derive(Clone, Debug)]
pub struct Inclusion {
    /// Its index.
    pub log_index: u64,
    /// Its octets.
    pub leaf: Bytes,
    /// From the leaf to the root (RFC 9162, 2.1.3).
    pub proof: Vec<Hash>,
    /// The tree.
    pub checkpoint: StoredCheckpoint,
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// There is no such entry, or no such tree.
    #[error("{0}")]
    NotFound(String),
    /// No signed tree holds it yet.
    #[error("entry {0} is in no signed tree yet")]
    NotYet(u64),
    /// Its octets are in an archive.
    #[error("entries {0} to {1} of the log are archived")]
    Archived(u64, u64),
    /// The database did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    /// The database holds a tree that does not fit its own checkpoint.
    #[error("{0}")]
    Broken(String),
}

impl Ca {
    /// That the entry at `index` is in the newest signed tree.
    pub async fn inclusion(&self, index: u64) -> Result<Inclusion, ProofError> {
        let checkpoint = self.log_shelf.checkpoint().await?;
        let Some(checkpoint) = checkpoint.filter(|it| it.size > index) else {
            let head = self.log_shelf.head().await?;
            return Err(if index < head.size {
                ProofError::NotYet(index)
            } else {
                ProofError::NotFound(format!("the log has {} entries", head.size))
            });
        };
        let leaf = self.entries(index, 1).await?.pop();
        let leaf = leaf.ok_or_else(|| ProofError::Broken(format!("entry {index} is gone")))?;
        let tiles = self
            .tile_set(&inclusion_nodes(index, checkpoint.size))
            .await?;
        let proof = inclusion_proof(&tiles, index, checkpoint.size)
            .map_err(|missing| ProofError::Broken(missing.to_string()))?;
        let good = crate::pki::merkle::verify_inclusion(
            index,
            checkpoint.size,
            &leaf_hash(&leaf),
            &proof,
            &checkpoint.root,
        );
        if !good {
            let what = format!("entry {index} does not fit the tree of the last checkpoint");
            return Err(ProofError::Broken(what));
        }
        Ok(Inclusion {
            log_index: index,
            leaf,
            proof,
            checkpoint,
        })
    }

    /// Entries from the index `first` on, for readers.
    pub async fn entries(&self, first: u64, count: u32) -> Result<Vec<Bytes>, ProofError> {
        let found = self.log_shelf.leaves(first, count).await;
        if found.as_ref().is_ok_and(|leaves| !leaves.is_empty()) {
            return Ok(found?);
        }
        match self.log_shelf.archived(first).await? {
            Some((first, next)) => Err(ProofError::Archived(first, next.saturating_sub(1))),
            None => Ok(found?),
        }
    }

    /// That the tree of `new` entries begins with the tree of `old` entries (RFC 9162, 2.1.4).
    pub async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, ProofError> {
        let proved = self.log_shelf.checkpoint().await?.map_or(0, |it| it.size);
        if old > new || new > proved {
            return Err(ProofError::NotFound(format!(
                "the newest signed tree has {proved} entries, and `from` is not above `to`"
            )));
        }
        let tiles = self.tile_set(&consistency_nodes(old, new)).await?;
        consistency_proof(&tiles, old, new)
            .map_err(|missing| ProofError::Broken(missing.to_string()))
    }

    async fn tile_set(&self, nodes: &[(u8, u64)]) -> Result<TileSet, LedgerFault> {
        let ids = tiles_for(nodes).into_iter().collect();
        let mut tiles = TileSet::default();
        for tile in self.log_shelf.tiles(ids).await? {
            tiles.insert(tile.level, tile.index, tile.hashes);
        }
        Ok(tiles)
    }

    /// Tells the log, in its own time: nobody waits for it. While the database is away it is tried
    /// again for a while; what then is still not told is counted.
    pub fn tell(&self, kind: NoteKind, event: Value) {
        let (book, log) = (Arc::clone(&self.log_book), Arc::clone(&self.log));
        let lost = self.metrics.notes_lost.clone();
        if log.telling.fetch_add(1, Ordering::Relaxed) >= TELLING_MAX {
            log.telling.fetch_sub(1, Ordering::Relaxed);
            lost.inc();
            return;
        }
        tokio::spawn(async move {
            let until = Instant::now() + TELL_MAX;
            let note = Note { kind, event };
            while let Err(fault) = book.note(note.clone()).await {
                if Instant::now() >= until {
                    lost.inc();
                    tracing::warn!(kind = kind.as_str(), %fault, "not told to the log");
                    break;
                }
                tokio::time::sleep(TELL_AGAIN).await;
            }
            log.telling.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Tells the log that this service stops, and waits a moment for it.
    pub async fn tell_stopped(&self) {
        let event =
            serde_json::json!({ "instance": self.replica.octet().ok().map(InstanceByte::get) });
        let note = Note {
            kind: NoteKind::Stopped,
            event,
        };
        let told = tokio::time::timeout(STOPPED_MAX, self.log_book.note(note));
        told.await.ok();
    }

    /// `record` may leave the house: it is in the journal, where there is one.
    pub(super) async fn may_leave(
        &self,
        record: &CertificateRecord,
        deadline: Instant,
    ) -> Result<(), String> {
        let index = u64::try_from(record.log_index).unwrap_or_default();
        self.log.kept(index, deadline).await
    }
}

/// What the log tells of a certificate beside itself.
#[must_use]
pub fn issued(intent: &Intent) -> Issued {
    let rework = intent.rework.as_ref();
    let sha256 = |key: &String| hex(&openssl::sha::sha256(key.as_bytes()));
    Issued {
        intent: intent.id,
        kind: intent.kind.as_str().to_owned(),
        serial_number: intent.serial_number.to_hex(),
        issuer: intent.issuer.clone(),
        profile: intent.profile.clone(),
        profile_sha256: hex(&intent.profile_sha256),
        device: intent.device.clone(),
        slot: intent.slot.clone(),
        thing_name: intent.thing_name.clone(),
        spki_sha256: hex(&intent.spki_sha256),
        key_origin: intent.key_origin.as_str().to_owned(),
        station: intent.principal.clone(),
        order: intent.order.clone(),
        request_sha256: hex(&intent.request_sha256),
        idempotency_key_sha256: intent.idempotency_key.as_ref().map(sha256),
        supersedes: rework.map(|it| it.superseded.to_hex()),
        generation: rework.map_or(0, |it| it.generation),
        rework_reason: rework.map(|it| it.reason.clone()),
    }
}
