//! The batch runner: chunks are leased, worked on and completed, by as many replicas as there are.
//!
//! Its work runs on threads of low priority, and takes little while the line is at work. A lease
//! saves work; that a row has one key and one certificate is the book's and the ledger's doing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::time::Instant;

use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::batch::Batch;
use crate::ca::batch::BatchAct;
use crate::ca::batch::CHUNKS;
use crate::ca::batch::Chunk;
use crate::ca::batch::ChunkOutcome;
use crate::ca::batch::State;
use crate::ca::batch::run::Stop;
use crate::ca::batch::step_back;
use crate::metrics::BatchMetrics;
use crate::pki::serial::InstanceByte;

/// How long nothing is looked for when there was nothing.
const IDLE: Duration = Duration::from_millis(200);
/// How long a neighbour that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// How often leases are kept; they last three times as long.
const KEEP_EVERY: Duration = Duration::from_secs(3);
/// How often it is looked for keys whose time is up, and for files of batches that are over.
const TIDY_EVERY: Duration = Duration::from_mins(1);
/// How long the runner may take to come to a rest at shutdown.
const REST_MAX: Duration = Duration::from_secs(3);

/// What the gauge of batches tells apart.
const STATES: [&str; 4] = ["running", "paused", "hindered", "stalled"];

/// Works on batches, in this replica.
pub struct BatchRunner {
    /// The certification authority.
    pub ca: Arc<Ca>,
    /// Where packages are made.
    pub directory: PathBuf,
    /// The site's name, as packages bear it.
    pub site: String,
    /// Days for which keys are kept after a batch's end.
    pub retention_days: u16,
    /// What it counts.
    pub metrics: BatchMetrics,
    /// What this replica holds leases of.
    pub held: Mutex<Held>,
    /// Set at shutdown.
    pub stopping: AtomicBool,
}

/// What a replica holds leases of.
#[derive(Default)]
pub struct Held {
    pub(super) chunks: BTreeSet<(Uuid, i32)>,
    pub(super) package: Option<Uuid>,
}

/// A runner at work.
pub struct Running {
    runner: Arc<BatchRunner>,
    runtime: Runtime,
}

impl BatchRunner {
    /// Starts it, on threads of its own.
    pub fn start(self) -> std::io::Result<Running> {
        std::fs::create_dir_all(&self.directory)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("batches")
            .on_thread_start(step_back)
            .enable_all()
            .build()?;
        let runner = Arc::new(self);
        runtime.spawn(Arc::clone(&runner).begin());
        Ok(Running { runner, runtime })
    }

    async fn begin(self: Arc<Self>) {
        // What an earlier process of this replica held is free at once.
        if let Some(instance) = self.instance() {
            while self.ca.batches.give_up(instance).await.is_err() {
                if self.is_stopping() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
        for _ in 0..CHUNKS {
            tokio::spawn(Arc::clone(&self).work());
        }
        tokio::spawn(Arc::clone(&self).pack());
        tokio::spawn(Arc::clone(&self).tidy());
        self.keep().await;
    }

    /// Under what name leases are taken; `None` while this replica has no instance octet.
    pub(super) fn instance(&self) -> Option<u8> {
        self.ca.replica.octet().ok().map(InstanceByte::get)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn hold(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        let chunks = i64::try_from(held.chunks.len()).unwrap_or(i64::MAX);
        self.metrics.chunks.set(chunks);
    }

    async fn work(self: Arc<Self>) {
        while !self.is_stopping() {
            let Some(instance) = self.instance() else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let ready = self.ca.ledger.ready().is_ok();
            match self.ca.batches.lease(instance).await {
                Ok(Some((batch, chunk))) if ready => self.chunk(instance, batch, chunk).await,
                Ok(Some((batch, chunk))) => {
                    self.release(instance, (batch.id, chunk.number), 0).await;
                    tokio::time::sleep(RETRY).await;
                }
                Ok(None) => tokio::time::sleep(IDLE).await,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    async fn chunk(&self, instance: u8, batch: Batch, chunk: Chunk) {
        let key = (batch.id, chunk.number);
        self.hold(|held| {
            held.chunks.insert(key);
        });
        let (id, number) = key;
        let (released_for, pause) = match self.ca.run_chunk(&batch, &chunk).await {
            Ok(outcome) => {
                self.complete(key, outcome).await;
                (None, Duration::ZERO)
            }
            Err(Stop::Later(reason)) => {
                tracing::warn!(batch = %id, chunk = number, reason, "a chunk waits");
                self.ca.batches.act(id, BatchAct::Note(reason)).await.ok();
                (Some(1), RETRY)
            }
            Err(Stop::NotBegun) => (Some(0), Duration::ZERO),
            Err(Stop::Pause(reason)) => {
                tracing::error!(batch = %id, chunk = number, reason, "a batch is paused");
                self.ca.batches.act(id, BatchAct::Pause(reason)).await.ok();
                (Some(1), Duration::ZERO)
            }
        };
        // Before another may have it: what is held is kept.
        self.hold(|held| {
            held.chunks.remove(&key);
        });
        if let Some(seconds) = released_for {
            self.release(instance, key, seconds).await;
        }
        tokio::time::sleep(pause).await;
    }

    async fn release(&self, instance: u8, (id, number): (Uuid, i32), seconds: i32) {
        let released = self.ca.batches.release(instance, id, number, seconds);
        released.await.ok();
    }

    /// Until the book has it, or another replica's: they are the same.
    async fn complete(&self, (id, number): (Uuid, i32), outcome: ChunkOutcome) {
        let issued = outcome.intents.iter().flatten().count();
        let rows = [("issued", issued), ("failed", outcome.failures.len())];
        loop {
            let kept = self.ca.batches.complete(id, number, outcome.clone()).await;
            match kept {
                Ok(()) => break,
                Err(fault) if self.is_stopping() => {
                    tracing::warn!(batch = %id, chunk = number, %fault, "a chunk's outcome is left to be found again");
                    return;
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
        for (outcome, count) in rows {
            let counter = self.metrics.rows.with_label_values(&[outcome]);
            counter.inc_by(u64::try_from(count).unwrap_or_default());
        }
    }

    /// Keeps the leases, and says how batches stand.
    async fn keep(&self) {
        while !self.is_stopping() {
            let (chunks, package) = {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                (held.chunks.iter().copied().collect(), held.package)
            };
            // What is leased under an octet that is gone runs out, and is leased again.
            if let Some(instance) = self.instance() {
                let kept = self.ca.batches.keep(instance, chunks, package);
                kept.await.ok();
            }
            if let Ok(newest) = self.ca.batches.list(None, 100).await {
                self.count(&newest);
            }
            tokio::time::sleep(KEEP_EVERY).await;
        }
    }

    fn count(&self, batches: &[Batch]) {
        let mut counts = [0; 4];
        for batch in batches {
            let states = [
                batch.state == State::Running,
                batch.state == State::Paused,
                batch.hindrance.is_some(),
                batch.stalled,
            ];
            for (count, is) in counts.iter_mut().zip(states) {
                *count += i64::from(is);
            }
        }
        for (state, count) in STATES.into_iter().zip(counts) {
            self.metrics.batches.with_label_values(&[state]).set(count);
        }
    }

    /// Destroys keys whose time is up, and files of batches whose keys are destroyed.
    async fn tidy(self: Arc<Self>) {
        while !self.is_stopping() {
            let days = self.retention_days.into();
            for id in self.ca.batches.expired(days).await.unwrap_or_default() {
                let act = BatchAct::DestroyKeys("retention".to_owned());
                if self.ca.batches.act(id, act).await.is_ok() {
                    tracing::info!(batch = %id, "the keys of a batch are destroyed: their time is up");
                }
            }
            for (id, path) in self.files() {
                let batch = self.ca.batches.show(id).await;
                if let Ok(Some(batch)) = batch
                    && batch.keys_destroyed.is_some()
                {
                    std::fs::remove_file(path).ok();
                }
            }
            tokio::time::sleep(TIDY_EVERY).await;
        }
    }

    /// The packages that lie here, by their batches.
    fn files(&self) -> Vec<(Uuid, PathBuf)> {
        let Ok(directory) = std::fs::read_dir(&self.directory) else {
            return Vec::new();
        };
        let paths = directory.flatten().map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|it| it == "tar"))
            .filter_map(|path| {
                let id = Uuid::parse_str(path.file_stem()?.to_str()?).ok()?;
                Some((id, path))
            })
            .collect()
    }
}

impl Running {
    /// Lets what is in work come to its end, for a while; what is left is found again by whoever
    /// comes next.
    pub async fn stop(self) {
        self.runner.stopping.store(true, Ordering::Relaxed);
        let start = Instant::now();
        let rests = || {
            let held = self
                .runner
                .held
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            held.chunks.is_empty()
        };
        while !rests() && start.elapsed() < REST_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.runtime.shutdown_background();
    }
}
