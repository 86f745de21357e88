//! [`PgBatches`]: the book, on connections of its own.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use prometheus::IntGauge;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::batch::Batch;
use crate::ca::batch::BatchAct;
use crate::ca::batch::BatchBook;
use crate::ca::batch::Chunk;
use crate::ca::batch::ChunkOutcome;
use crate::ca::batch::Created;
use crate::ca::batch::DoneChunk;
use crate::ca::batch::Intake;
use crate::ca::batch::NewBatch;
use crate::ca::batch::Part;
use crate::db::batches::BatchAnswer;
use crate::db::batches::BatchJob;
use crate::db::batches::intake;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::lane::Job;
use crate::db::lane::Lane;
use crate::db::ledger::aside;
use crate::db::ledger::mixed_up;
use crate::db::session::Session;
use crate::db::vitals::Vitals;
use crate::metrics::LedgerMetrics;

/// Longest wait for an answer. A chunk's outcome or a batch's end may have a long queue before it.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The book of batches in PostgreSQL. Heals by itself, as the ledger does; when it is down, issuing
/// goes on.
pub struct PgBatches {
    lane: Lane<BatchJob>,
    aside: Session,
}

impl PgBatches {
    /// Starts its lane on the current Tokio runtime. Fails only when the URL is none.
    pub fn start(config: &DbConfig, metrics: &Arc<LedgerMetrics>) -> Result<Self, DbFault> {
        // The gauge of the ledger says whether the line could issue: this is beside it.
        let up = IntGauge::new("batches_up", "Whether the book of batches answers.")
            .map_err(|error| DbFault::Unavailable(error.to_string()))?;
        let vitals = Arc::new(Vitals::new(&[BatchJob::LANE], up));
        let session = config.session(Purpose::Ledger(BatchJob::LANE))?;
        Ok(Self {
            lane: Lane::start(session, vitals, Arc::clone(metrics)),
            aside: config.session(Purpose::Aside)?,
        })
    }

    async fn ask(&self, job: BatchJob) -> Result<BatchAnswer, LedgerFault> {
        self.lane.submit(job, Instant::now() + ANSWER_MAX).await
    }

    async fn batches(&self, job: BatchJob) -> Result<Vec<Batch>, LedgerFault> {
        match self.ask(job).await? {
            BatchAnswer::Batches(found) => Ok(found),
            _ => Err(mixed_up()),
        }
    }

    async fn one(&self, job: BatchJob) -> Result<Option<Batch>, LedgerFault> {
        Ok(self.batches(job).await?.pop())
    }

    async fn done(&self, job: BatchJob) -> Result<(), LedgerFault> {
        self.ask(job).await.map(|_| ())
    }
}

impl BatchBook for PgBatches {
    fn create(&self, batch: NewBatch) -> PortFuture<'_, Result<Created, LedgerFault>> {
        Box::pin(async move {
            match self.ask(BatchJob::Create(batch)).await? {
                BatchAnswer::Created(created) => Ok(created),
                _ => Err(mixed_up()),
            }
        })
    }

    fn take_in(
        &self,
        intake: Intake,
        slot: String,
        parts: mpsc::Receiver<Part>,
    ) -> PortFuture<'_, Result<Created, LedgerFault>> {
        aside(self.aside.clone(), move |mut connection| async move {
            let taken = intake::take_in(&mut connection, intake, &slot, parts).await;
            (connection, taken)
        })
    }

    fn show(&self, id: Uuid) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>> {
        Box::pin(self.one(BatchJob::Show(id)))
    }

    fn find(&self, by: String, key: String) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>> {
        Box::pin(self.one(BatchJob::Find(by, key)))
    }

    fn list(
        &self,
        before: Option<Uuid>,
        limit: i64,
    ) -> PortFuture<'_, Result<Vec<Batch>, LedgerFault>> {
        Box::pin(self.batches(BatchJob::List(before, limit)))
    }

    fn act(&self, id: Uuid, act: BatchAct) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>> {
        Box::pin(self.one(BatchJob::Act(id, act)))
    }

    fn lease(&self, instance: u8) -> PortFuture<'_, Result<Option<(Batch, Chunk)>, LedgerFault>> {
        Box::pin(async move {
            match self.ask(BatchJob::Lease(instance.into())).await? {
                BatchAnswer::Leased(leased) => Ok(leased.map(|leased| *leased)),
                _ => Err(mixed_up()),
            }
        })
    }

    fn begin(
        &self,
        id: Uuid,
        number: i32,
        public_keys: Vec<Vec<u8>>,
        envelopes: Vec<Vec<u8>>,
    ) -> PortFuture<'_, Result<Option<Vec<Vec<u8>>>, LedgerFault>> {
        Box::pin(async move {
            let job = BatchJob::Begin(id, number, public_keys, envelopes);
            match self.ask(job).await? {
                BatchAnswer::Keys(keys) => Ok(keys),
                _ => Err(mixed_up()),
            }
        })
    }

    fn keep(
        &self,
        instance: u8,
        chunks: Vec<(Uuid, i32)>,
        package: Option<Uuid>,
    ) -> PortFuture<'_, Result<(), LedgerFault>> {
        Box::pin(self.done(BatchJob::Keep(instance.into(), chunks, package)))
    }

    fn give_up(&self, instance: u8) -> PortFuture<'_, Result<(), LedgerFault>> {
        Box::pin(self.done(BatchJob::GiveUp(instance.into())))
    }

    fn release(
        &self,
        instance: u8,
        id: Uuid,
        number: i32,
        seconds: i32,
    ) -> PortFuture<'_, Result<(), LedgerFault>> {
        Box::pin(self.done(BatchJob::Release(instance.into(), id, number, seconds)))
    }

    fn complete(
        &self,
        id: Uuid,
        number: i32,
        outcome: ChunkOutcome,
    ) -> PortFuture<'_, Result<(), LedgerFault>> {
        Box::pin(self.done(BatchJob::Complete(id, number, outcome)))
    }

    fn lease_package(
        &self,
        instance: u8,
        lacking: Vec<Uuid>,
    ) -> PortFuture<'_, Result<Option<Batch>, LedgerFault>> {
        Box::pin(self.one(BatchJob::LeasePackage(instance.into(), lacking)))
    }

    fn done_chunk(
        &self,
        id: Uuid,
        number: i32,
    ) -> PortFuture<'_, Result<Option<DoneChunk>, LedgerFault>> {
        Box::pin(async move {
            match self.ask(BatchJob::DoneChunk(id, number)).await? {
                BatchAnswer::DoneChunk(chunk) => Ok(chunk.map(|chunk| *chunk)),
                _ => Err(mixed_up()),
            }
        })
    }

    fn expired(&self, days: i32) -> PortFuture<'_, Result<Vec<Uuid>, LedgerFault>> {
        Box::pin(async move {
            match self.ask(BatchJob::Expired(days)).await? {
                BatchAnswer::Expired(expired) => Ok(expired),
                _ => Err(mixed_up()),
            }
        })
    }
}
