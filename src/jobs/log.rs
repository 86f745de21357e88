//! The log's follower: what was appended goes into the journal, into the tree, and into signed
//! checkpoints.
//!
//! Every replica follows the whole log and has its own tree of it, so each holds the others'
//! checkpoints against its own: the tree of one that does not sign grows from checkpoint to checkpoint. One
//! has the duty to sign ([`Duty::Checkpoints`]); another that works does it when it is overdue. Whose
//! checkpoint counts is settled by the book's compare-and-swap. What does not fit halts the log, for all
//! replicas, until a person has looked.

pub mod outside;
pub mod start;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::ca::Ca;
use crate::ca::LedgerFault;
use crate::ca::log::LogPart;
use crate::ca::log::NewCheckpoint;
use crate::ca::log::StoredCheckpoint;
use crate::ca::log::StoredTile;
use crate::ca::log::fresh::FreshEntries;
use crate::ca::log::seen::SeenLog;
use crate::ca::replica::Duty;
use crate::jobs::log::tree::Tree;
use crate::journal::APPEND_LENGTH_MAX;
use crate::journal::Entry;
use crate::journal::Journal;
use crate::metrics::LogMetrics;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::merkle::leaf_hash;
use crate::pki::note::Checkpoint;
use crate::pki::note::CheckpointToBeSigned;
use crate::pki::note::VerifierKey;

/// How often it is looked for news that nobody told: another replica's.
const POLL: Duration = Duration::from_millis(250);
/// Leaves read at a time.
const LEAVES: u32 = 2_000;
/// Tiles that wait to be stored with a checkpoint; more are stored without one.
const TILES_WAITING_MAX: usize = 1_000;
/// A replica that has not the duty signs when nobody has, for so many times as long as a checkpoint takes.
const LATE: u32 = 4;
/// Leaves beyond the tree of a replica that does not sign, at most: 32 MiB.
const AHEAD_MAX: u64 = 1 << 20;
/// Longest wait for a signature.
const SIGN_MAX: Duration = Duration::from_secs(5);

/// How the log is signed.
#[derive(Clone)]
pub struct LogSigning {
    /// The log's name: the checkpoint's first line.
    pub origin: String,
    /// The public half of its key.
    pub key: VerifierKey,
    /// How often a checkpoint is made when there is news.
    pub every: Duration,
    /// A file that always holds the newest checkpoint; `None`: there is none.
    pub file: Option<PathBuf>,
}

/// Follows the log, in this replica.
pub struct Follower {
    /// The certification authority.
    pub ca: Arc<Ca>,
    /// How it is signed; `None`: it is not.
    pub signing: Option<LogSigning>,
    /// The second copy; `None`: there is none.
    pub journal: Option<Arc<Journal>>,
    /// What this replica was told with the answers to its own recordings.
    pub fresh: Arc<FreshEntries>,
    /// Told how far it has seen the log.
    pub seen: Arc<SeenLog>,
    /// What it counts.
    pub metrics: Arc<LogMetrics>,
}

/// Where the follower stands.
struct Position {
    /// Entries before it are in the journal.
    kept: u64,
    tree: Option<Tree>,
    /// A checkpoint that another replica signed, not yet compared.
    foreign: Option<StoredCheckpoint>,
    signing: Option<JoinHandle<Signed>>,
    signed_at: Instant,
    /// Since when there is more than is signed; `None`: there is not.
    unsigned_since: Option<Instant>,
    /// When the database was last asked.
    read_at: Option<Instant>,
}

/// What came of an attempt to sign.
enum Signed {
    /// The newest checkpoint.
    Newest(Box<StoredCheckpoint>),
    /// Tiles were stored, and nothing was signed.
    Tiles,
    /// Nobody has signed anything yet, and this replica is not the one to do it.
    Nothing,
    Failed(String),
}

impl Follower {
    /// Follows for ever. Begins where the start's checks ended.
    pub fn start(self, started: start::Started) -> JoinHandle<()> {
        let mut position = Position {
            kept: started.kept,
            tree: started.tree,
            foreign: None,
            signing: None,
            signed_at: Instant::now(),
            unsigned_since: None,
            read_at: None,
        };
        tokio::spawn(async move {
            loop {
                let outcome = self.follow(&mut position).await;
                if let Err(fault) = outcome {
                    tracing::debug!(%fault, "the log is not followed");
                    tokio::time::sleep(POLL).await;
                }
                self.sign_when_due(&mut position).await;
                let watch = &self.ca.log;
                tokio::select! {
                    () = watch.woken() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        })
    }

    /// Takes up everything that is new.
    async fn follow(&self, position: &mut Position) -> Result<(), LedgerFault> {
        loop {
            let size = position.tree.as_ref().map(Tree::known);
            let from = match (size, self.journal.is_some()) {
                (Some(size), true) => size.min(position.kept),
                (Some(size), false) => size,
                (None, true) => position.kept,
                (None, false) => return Ok(()),
            };
            let leaves = self.leaves(position, from).await?;
            let count = leaves.len();
            let entries: Vec<Entry> = (from..)
                .zip(leaves)
                .map(|(index, leaf)| Entry { index, leaf })
                .collect();
            // Before any of them is kept: from then on no database without them is written to.
            if let Some(last) = entries.last() {
                self.seen.follow(last.index, &last.leaf);
            }
            self.grow(position, &entries).await;
            let kept = self.keep(position, entries).await;
            let full = count >= usize::try_from(LEAVES).unwrap_or(usize::MAX);
            let next = from + u64::try_from(count).unwrap_or_default();
            // What the journal did not take is tried again, but not at once. What comes after a gap
            // in what this replica was told is waited for, too.
            if !kept || count == 0 || !full && next >= self.ca.log.wanted() {
                return Ok(());
            }
        }
    }

    /// What is new from `from` on. The database is asked for what somebody waits for and this replica
    /// was not told, and else now and then.
    async fn leaves(&self, position: &mut Position, from: u64) -> Result<Vec<Bytes>, LedgerFault> {
        let fresh = self.fresh.take(from, LEAVES);
        let asked = |at: Instant| at.elapsed() < POLL;
        if !fresh.is_empty() || from >= self.ca.log.wanted() && position.read_at.is_some_and(asked)
        {
            return Ok(fresh);
        }
        let leaves = self.ca.log_book.leaves(from, LEAVES).await?;
        position.read_at = Some(Instant::now());
        self.fresh
            .known_before(from + u64::try_from(leaves.len()).unwrap_or_default());
        Ok(leaves)
    }

    /// The entries' hashes, into the tree.
    async fn grow(&self, position: &mut Position, entries: &[Entry]) {
        let Some(tree) = &mut position.tree else {
            return;
        };
        for entry in entries {
            if entry.index >= tree.known() {
                tree.push(leaf_hash(&entry.leaf));
            }
        }
        if tree.known() - tree.size() > AHEAD_MAX {
            tree.grow_to(u64::MAX);
        }
        self.metrics.size.set(gauge(tree.known()));
        self.compare(position).await;
    }

    /// Holds a checkpoint that another replica signed against the tree, once its entries are known.
    async fn compare(&self, position: &mut Position) {
        let Some(tree) = &mut position.tree else {
            return;
        };
        let Some(foreign) = position.foreign.take_if(|it| it.size <= tree.known()) else {
            return;
        };
        tree.grow_to(foreign.size);
        // One that is smaller than the tree came too late to be compared; the next ones are.
        if foreign.size == tree.size() && foreign.root != tree.root() {
            self.halt(format!(
                "the checkpoint of {} entries has another root than this replica's tree",
                foreign.size
            ))
            .await;
        }
        tree.stored_to(foreign.size);
    }

    /// The entries, into the journal. Whether it took them all.
    async fn keep(&self, position: &mut Position, mut entries: Vec<Entry>) -> bool {
        let Some(journal) = &self.journal else {
            return true;
        };
        entries.retain(|entry| entry.index >= position.kept);
        while !entries.is_empty() {
            let rest = entries.split_off(fitting(&entries));
            let next = entries
                .last()
                .map_or(position.kept, |entry| entry.index + 1);
            // Until a disk that hangs answers again, nothing is signed that could not be released.
            let hangs = |reason| {
                let reason = format!("the journal: {reason}");
                self.ca.log.set_fault(LogPart::Journal, Some(reason));
            };
            if let Err(fault) = journal.append_telling(entries, hangs).await {
                let reason = format!("the journal: {fault}");
                self.ca.log.set_fault(LogPart::Journal, Some(reason));
                return false;
            }
            position.kept = next;
            self.ca.log.set_kept(next);
            self.ca.log.set_fault(LogPart::Journal, None);
            entries = rest;
        }
        true
    }

    /// Stops every replica's log.
    async fn halt(&self, reason: String) {
        let tree = LogPart::Tree;
        self.ca.log.set_fault(tree, Some(reason.clone()));
        while let Err(fault) = self.ca.log_book.halt(reason.clone()).await {
            tracing::error!(%fault, reason, "the log cannot be halted yet");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Begins to sign a checkpoint when there is news and it is time, and takes up what came of
    /// the last attempt. Signing is a task of its own: the journal does not wait for the HSM.
    async fn sign_when_due(&self, position: &mut Position) {
        let Some(signing) = &self.signing else { return };
        let Some(tree) = &mut position.tree else {
            return;
        };
        if let Some(task) = position.signing.take_if(|task| task.is_finished()) {
            match task.await {
                Ok(Signed::Newest(newest)) => {
                    let since = &mut position.unsigned_since;
                    self.publish(signing, since, &newest).await;
                    position.foreign = Some(*newest);
                    self.compare(position).await;
                }
                Ok(Signed::Tiles) => tree.stored(),
                Ok(Signed::Nothing) => {}
                Ok(Signed::Failed(reason)) => {
                    self.metrics.checkpoints_failed.inc();
                    tracing::warn!(reason, "no checkpoint");
                }
                Err(panicked) => tracing::error!(%panicked, "no checkpoint"),
            }
        }
        let Some(tree) = &mut position.tree else {
            return;
        };
        if tree.known() <= self.ca.log.proved() {
            position.unsigned_since = None;
            return;
        }
        let unsigned_for = position.unsigned_since.get_or_insert_with(Instant::now);
        let overdue = unsigned_for.elapsed() >= signing.every * LATE;
        let due = position.signed_at.elapsed() >= signing.every;
        if position.signing.is_some() || !due {
            return;
        }
        position.signed_at = Instant::now();
        let replica = &self.ca.replica;
        let signs = replica.part.works() && (overdue || replica.has(Duty::Checkpoints));
        if signs {
            tree.grow_to(u64::MAX);
        }
        let (tiles, waiting) = tree.unstored();
        let attempt = Attempt {
            ca: Arc::clone(&self.ca),
            signing: signing.clone(),
            signs,
            size: tree.size(),
            root: tree.root(),
            tiles,
            without: waiting > TILES_WAITING_MAX,
        };
        position.signing = Some(tokio::spawn(attempt.run()));
    }

    /// A checkpoint that is stored becomes known.
    async fn publish(
        &self,
        signing: &LogSigning,
        unsigned_since: &mut Option<Instant>,
        newest: &StoredCheckpoint,
    ) {
        if newest.size <= self.ca.log.proved() {
            return;
        }
        *unsigned_since = None;
        self.ca.log.set_proved(newest.size);
        self.metrics.checkpoint_size.set(gauge(newest.size));
        self.metrics
            .checkpoint_at
            .set(newest.created_at.timestamp());
        if let Some(path) = signing.file.clone() {
            let note = newest.note.clone();
            let written = tokio::task::spawn_blocking(move || start::write_file(&path, &note));
            if let Ok(Err(fault)) = written.await {
                tracing::error!(%fault, "the checkpoint's file cannot be written");
            }
        }
    }
}

/// One attempt to sign and store, or to learn what another replica signed.
struct Attempt {
    ca: Arc<Ca>,
    signing: LogSigning,
    /// Whether it signs.
    signs: bool,
    size: u64,
    root: [u8; 32],
    tiles: Vec<StoredTile>,
    /// Stores the tiles when there is no signature to be had.
    without: bool,
}

impl Attempt {
    async fn run(self) -> Signed {
        let reason = match self.newest().await {
            Ok(Some(newest)) if self.signs || !self.without => {
                return Signed::Newest(Box::new(newest));
            }
            Ok(_) => None,
            Err(reason) => Some(reason),
        };
        if !self.without {
            return reason.map_or(Signed::Nothing, Signed::Failed);
        }
        match self.ca.log_book.store(self.tiles, None).await {
            Ok(_) => Signed::Tiles,
            Err(fault) => {
                let reason = reason.unwrap_or_else(|| "nobody signs".to_owned());
                Signed::Failed(format!("{reason}; {fault}"))
            }
        }
    }

    /// The newest checkpoint: another replica's, or the one that is signed now.
    async fn newest(&self) -> Result<Option<StoredCheckpoint>, String> {
        let book = &self.ca.log_book;
        let newest = book.checkpoint().await.map_err(|e| e.to_string())?;
        if !self.signs || newest.as_ref().is_some_and(|it| it.size >= self.size) {
            return Ok(newest);
        }
        let unsigned = CheckpointToBeSigned::build(&Checkpoint {
            origin: self.signing.origin.clone(),
            size: self.size,
            root: self.root,
            extensions: Vec::new(),
        });
        let signature = self
            .ca
            .signer
            .sign_checkpoint(&unsigned, Instant::now() + SIGN_MAX)
            .await
            .map_err(|e| e.to_string())?;
        let Some(note) = unsigned.seal(signature.0, &self.signing.key) else {
            self.ca.signer.distrust(LOG_KEY_NAME);
            return Err("the log key made a signature that does not verify".to_owned());
        };
        let checkpoint = NewCheckpoint {
            size: self.size,
            root: self.root,
            note: note.to_string(),
        };
        let stored = book.store(self.tiles.clone(), Some(checkpoint)).await;
        stored.map_err(|e| e.to_string())?;
        let newest = book.checkpoint().await.map_err(|e| e.to_string())?;
        let newest = newest.ok_or_else(|| "a checkpoint that was stored is gone".to_owned())?;
        Ok(Some(newest))
    }
}

/// How many entries the journal takes at once; at least one.
fn fitting(entries: &[Entry]) -> usize {
    let mut room = APPEND_LENGTH_MAX;
    let fits = |entry: &&Entry| {
        room = room.saturating_sub(entry.leaf.len());
        room > 0
    };
    entries.iter().take_while(fits).count().max(1)
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
