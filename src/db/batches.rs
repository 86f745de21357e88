//! Batches ([`BatchBook`]): short transactions in a lane of their own, and the intake beside it.
//!
//! [`BatchBook`]: crate::ca::batch::BatchBook

mod book;
mod intake;
mod package;

pub use book::PgBatches;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use crate::ca::KeyOrigin;
use crate::ca::LedgerFault;
use crate::ca::batch::Attributes;
use crate::ca::batch::Batch;
use crate::ca::batch::BatchAct;
use crate::ca::batch::Chunk;
use crate::ca::batch::ChunkOutcome;
use crate::ca::batch::Created;
use crate::ca::batch::Definition;
use crate::ca::batch::DoneChunk;
use crate::ca::batch::NewBatch;
use crate::ca::batch::Packed;
use crate::ca::batch::State;
use crate::db::lane::Job;
use crate::db::row::unreadable;

/// A batch and its counts; a batch has a thousand chunks at most.
macro_rules! states {
    () => {
        "SELECT b.*, c.*, b.state = 'running' AND c.open > 0
                AND greatest(c.done_moved_at, b.moved_at) < statement_timestamp() - interval '1 minute' AS stalled
         FROM batch b CROSS JOIN LATERAL (
            SELECT coalesce(sum(k.issued), 0) AS issued,
                   coalesce(sum(k.row_count - k.issued), 0) AS failed,
                   coalesce(sum(k.row_count) FILTER (WHERE k.begun_at IS NOT NULL), 0) AS begun,
                   coalesce(sum(k.row_count) FILTER (
                       WHERE k.done_at > statement_timestamp() - interval '10 seconds'), 0) AS recent,
                   count(*) FILTER (WHERE k.done_at IS NULL) AS open,
                   max(k.done_at) AS moved_at
            FROM batch_chunk k WHERE k.batch_id = b.batch_id) c (issued, failed, begun, recent, open, done_moved_at)"
    };
}
const STATE: &str = concat!(states!(), " WHERE b.batch_id = $1");
const BY_KEY: &str = concat!(
    states!(),
    " WHERE b.created_by = $1 AND b.idempotency_key = $2"
);
const LIST: &str = concat!(
    states!(),
    " WHERE b.batch_id < $1 ORDER BY b.batch_id DESC LIMIT $2"
);

const CREATE: &str = "INSERT INTO batch (batch_id, definition, created_by, idempotency_key)
    VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";

/// The oldest chunk that nobody works on. Of a cancelled batch those that were begun: their devices
/// may have certificates already.
const LEASE: &str = "UPDATE batch_chunk c
    SET leased_by = $1, lease_until = statement_timestamp() + interval '10 seconds'
    FROM (SELECT k.batch_id, k.number
          FROM batch b CROSS JOIN LATERAL (
              SELECT * FROM batch_chunk o
              WHERE o.batch_id = b.batch_id AND o.done_at IS NULL
                    AND coalesce(o.lease_until < statement_timestamp(), true)
                    AND (b.state = 'running' OR o.begun_at IS NOT NULL)
              ORDER BY o.number LIMIT 1 FOR UPDATE SKIP LOCKED) k
          WHERE b.state IN ('running', 'cancelled') AND b.hindrance IS NULL
          ORDER BY b.batch_id LIMIT 1) n
    WHERE c.batch_id = n.batch_id AND c.number = n.number
    RETURNING c.*";

/// The compare-and-swap after which a device has one key, for ever. Under the batch's lock: what is
/// begun is begun before a cancellation, which then waits for its end, or never.
const BEGIN: &str = "WITH running AS (
        SELECT batch_id FROM batch WHERE batch_id = $1 AND state = 'running' FOR SHARE)
    UPDATE batch_chunk
    SET begun_at = statement_timestamp(), public_keys = $3, envelopes = $4
    WHERE batch_id = (SELECT r.batch_id FROM running r) AND number = $2 AND begun_at IS NULL";
const KEYS: &str = "SELECT public_keys FROM batch_chunk
    WHERE batch_id = $1 AND number = $2 AND begun_at IS NOT NULL";

const KEEP: &str = "UPDATE batch_chunk c SET lease_until = statement_timestamp() + interval '10 seconds'
    FROM UNNEST($2::uuid[], $3::int[]) AS k (batch_id, number)
    WHERE c.batch_id = k.batch_id AND c.number = k.number AND c.leased_by = $1 AND c.done_at IS NULL";
const KEEP_PACKAGE: &str = "UPDATE batch
    SET package_lease_until = statement_timestamp() + interval '10 seconds'
    WHERE batch_id = $2 AND package_leased_by = $1";

const GIVE_UP: &str =
    "UPDATE batch_chunk SET lease_until = NULL WHERE leased_by = $1 AND done_at IS NULL";
const GIVE_UP_PACKAGES: &str =
    "UPDATE batch SET package_lease_until = NULL WHERE package_leased_by = $1";

/// Nobody's: who kept it may be about to do so once more.
const RELEASE: &str = "UPDATE batch_chunk
    SET leased_by = NULL, lease_until = statement_timestamp() + make_interval(secs => $3)
    WHERE batch_id = $1 AND number = $2 AND leased_by = $4 AND done_at IS NULL";

const COMPLETE: &str = "UPDATE batch_chunk
    SET intent_ids = $3, failures = $4, issued = $5, done_at = statement_timestamp(), lease_until = NULL
    WHERE batch_id = $1 AND number = $2 AND done_at IS NULL";

/// The oldest batch whose package nobody makes. Of a cancelled one: when what was begun has ended.
const LEASE_PACKAGE: &str = "UPDATE batch b
    SET package_leased_by = $1, package_lease_until = statement_timestamp() + interval '10 seconds'
    WHERE b.batch_id = (SELECT w.batch_id FROM batch w
        WHERE w.package_sha256 IS NULL AND w.keys_destroyed_at IS NULL
              AND NOT (w.batch_id = ANY($2) AND w.hindrance IS NOT NULL)
              AND coalesce(w.package_lease_until < statement_timestamp() OR w.package_leased_by = $1, true)
              AND (w.state = 'running' OR w.state = 'cancelled'
                   AND EXISTS (SELECT FROM batch_chunk k WHERE k.batch_id = w.batch_id AND k.done_at IS NOT NULL)
                   AND NOT EXISTS (SELECT FROM batch_chunk k WHERE k.batch_id = w.batch_id
                                   AND k.begun_at IS NOT NULL AND k.done_at IS NULL))
        ORDER BY w.batch_id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING b.batch_id";

const EXPIRED: &str = "SELECT batch_id FROM batch
    WHERE keys_destroyed_at IS NULL AND finished_at < statement_timestamp() - make_interval(days => $1)
    LIMIT 100";

/// One question to the book.
pub(super) enum BatchJob {
    Create(NewBatch),
    Show(Uuid),
    Find(String, String),
    List(Option<Uuid>, i64),
    Act(Uuid, BatchAct),
    Lease(i16),
    Begin(Uuid, i32, Vec<Vec<u8>>, Vec<Vec<u8>>),
    Keep(i16, Vec<(Uuid, i32)>, Option<Uuid>),
    GiveUp(i16),
    Release(i16, Uuid, i32, i32),
    Complete(Uuid, i32, ChunkOutcome),
    LeasePackage(i16, Vec<Uuid>),
    DoneChunk(Uuid, i32),
    Expired(i32),
}

/// The answer to some of them.
pub(super) enum BatchAnswer {
    Created(Created),
    Batches(Vec<Batch>),
    Leased(Option<Box<(Batch, Chunk)>>),
    Keys(Option<Vec<Vec<u8>>>),
    DoneChunk(Option<Box<DoneChunk>>),
    Expired(Vec<Uuid>),
    Done,
}

impl Job for BatchJob {
    type Answer = BatchAnswer;
    const LANE: &'static str = "batches";
    /// Each is a transaction of its own.
    const BATCH_MAX: usize = 1;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<BatchAnswer, LedgerFault>>, sqlx::Error> {
        if jobs.is_empty() {
            // Asks for the right to change a batch; none has this id.
            act(connection, Uuid::nil(), &BatchAct::Resume).await?;
        }
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(Ok(job.answer(connection).await?));
        }
        Ok(answers)
    }
}

impl BatchJob {
    async fn answer(&self, connection: &mut PgConnection) -> Result<BatchAnswer, sqlx::Error> {
        Ok(match self {
            Self::Create(batch) => BatchAnswer::Created(create(connection, batch).await?),
            Self::Show(id) => {
                BatchAnswer::Batches(show(connection, *id).await?.into_iter().collect())
            }
            Self::Find(by, key) => {
                let rows = sqlx::query(BY_KEY).bind(by).bind(key);
                let rows = rows.fetch_all(connection).await?;
                BatchAnswer::Batches(rows.iter().map(batch).collect::<Result<_, _>>()?)
            }
            Self::List(before, limit) => {
                BatchAnswer::Batches(list(connection, *before, *limit).await?)
            }
            Self::Act(id, what) => {
                act(connection, *id, what).await?;
                BatchAnswer::Batches(show(connection, *id).await?.into_iter().collect())
            }
            Self::Lease(instance) => {
                BatchAnswer::Leased(lease(connection, *instance).await?.map(Box::new))
            }
            Self::Begin(id, number, public_keys, envelopes) => {
                let swap = sqlx::query(BEGIN).bind(id).bind(number).bind(public_keys);
                let envelopes = Some(envelopes).filter(|envelopes| !envelopes.is_empty());
                swap.bind(envelopes).execute(&mut *connection).await?;
                let keys = sqlx::query_scalar(KEYS).bind(id).bind(number);
                BatchAnswer::Keys(keys.fetch_optional(connection).await?)
            }
            Self::Keep(instance, chunks, package) => {
                let (ids, numbers): (Vec<Uuid>, Vec<i32>) = chunks.iter().copied().unzip();
                let keep = sqlx::query(KEEP).bind(instance).bind(ids).bind(numbers);
                keep.execute(&mut *connection).await?;
                let keep = sqlx::query(KEEP_PACKAGE).bind(instance).bind(package);
                keep.execute(connection).await?;
                BatchAnswer::Done
            }
            Self::GiveUp(instance) => {
                for statement in [GIVE_UP, GIVE_UP_PACKAGES] {
                    let give_up = sqlx::query(statement).bind(instance);
                    give_up.execute(&mut *connection).await?;
                }
                BatchAnswer::Done
            }
            Self::Release(instance, id, number, seconds) => {
                let release = sqlx::query(RELEASE).bind(id).bind(number);
                let release = release.bind(f64::from(*seconds)).bind(instance);
                release.execute(connection).await?;
                BatchAnswer::Done
            }
            Self::Complete(id, number, outcome) => {
                let issued = outcome.intents.iter().flatten().count();
                sqlx::query(COMPLETE)
                    .bind(id)
                    .bind(number)
                    .bind(&outcome.intents)
                    .bind(Json(&outcome.failures))
                    .bind(i32::try_from(issued).unwrap_or(i32::MAX))
                    .execute(connection)
                    .await?;
                BatchAnswer::Done
            }
            Self::LeasePackage(instance, lacking) => {
                let lease = sqlx::query_scalar(LEASE_PACKAGE)
                    .bind(instance)
                    .bind(lacking);
                let id: Option<Uuid> = lease.fetch_optional(&mut *connection).await?;
                let found = match id {
                    Some(id) => show(connection, id).await?,
                    None => None,
                };
                BatchAnswer::Batches(found.into_iter().collect())
            }
            Self::DoneChunk(id, number) => {
                let chunk = package::chunk(connection, *id, *number).await?;
                BatchAnswer::DoneChunk(chunk.map(Box::new))
            }
            Self::Expired(days) => {
                let expired = sqlx::query_scalar(EXPIRED).bind(days);
                BatchAnswer::Expired(expired.fetch_all(connection).await?)
            }
        })
    }
}

async fn create(connection: &mut PgConnection, new: &NewBatch) -> Result<Created, sqlx::Error> {
    insert(connection, new).await?;
    settled(connection, new).await
}

/// Whether the row is new.
async fn insert(connection: &mut PgConnection, new: &NewBatch) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query(CREATE)
        .bind(new.id)
        .bind(Json(&new.definition))
        .bind(&new.by)
        .bind(&new.idempotency_key)
        .execute(connection)
        .await?;
    Ok(inserted.rows_affected() == 1)
}

/// What holds the id or the idempotency key of a batch that was to be created.
async fn settled(connection: &mut PgConnection, new: &NewBatch) -> Result<Created, sqlx::Error> {
    if let Some(batch) = show(connection, new.id).await? {
        return Ok(Created::New(Box::new(batch)));
    }
    let row = sqlx::query(BY_KEY)
        .bind(&new.by)
        .bind(&new.idempotency_key)
        .fetch_one(connection)
        .await?;
    let batch = batch(&row)?;
    Ok(if batch.definition == new.definition {
        Created::Same(Box::new(batch))
    } else {
        Created::KeyReused
    })
}

async fn show(connection: &mut PgConnection, id: Uuid) -> Result<Option<Batch>, sqlx::Error> {
    let row = sqlx::query(STATE)
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(batch).transpose()
}

/// A page of batches, newest first.
pub(super) async fn list(
    connection: &mut PgConnection,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Batch>, sqlx::Error> {
    let rows = sqlx::query(LIST)
        .bind(before.unwrap_or(Uuid::max()))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(batch).collect()
}

async fn lease(
    connection: &mut PgConnection,
    instance: i16,
) -> Result<Option<(Batch, Chunk)>, sqlx::Error> {
    let row = sqlx::query(LEASE)
        .bind(instance)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let subjects: Option<Json<Vec<Attributes>>> = row.try_get("subjects")?;
    let public_keys: Option<Vec<Vec<u8>>> = row.try_get("public_keys")?;
    let begun_at: Option<DateTime<Utc>> = row.try_get("begun_at")?;
    let chunk = Chunk {
        number: row.try_get("number")?,
        first_row: row.try_get("first_row")?,
        row_count: row.try_get("row_count")?,
        subjects: subjects.map(|Json(subjects)| subjects),
        public_keys: public_keys.unwrap_or_default(),
        begun: begun_at.is_some(),
    };
    let batch = show(connection, row.try_get("batch_id")?).await?;
    Ok(batch.map(|batch| (batch, chunk)))
}

/// A compare-and-swap by the state.
async fn act(connection: &mut PgConnection, id: Uuid, act: &BatchAct) -> Result<(), sqlx::Error> {
    let query = match act {
        BatchAct::Pause(reason) => sqlx::query(
            "UPDATE batch SET state = 'paused', reason = $2, moved_at = statement_timestamp()
             WHERE batch_id = $1 AND state = 'running'",
        )
        .bind(id)
        .bind(reason),
        BatchAct::Resume => sqlx::query(
            "UPDATE batch SET state = 'running', reason = NULL, hindrance = NULL,
                    moved_at = statement_timestamp()
             WHERE batch_id = $1 AND state = 'paused'",
        )
        .bind(id),
        BatchAct::Cancel(reason) => sqlx::query(
            "UPDATE batch SET state = 'cancelled', reason = $2, hindrance = NULL,
                    moved_at = statement_timestamp(), finished_at = statement_timestamp()
             WHERE batch_id = $1 AND state IN ('awaiting-devices', 'running', 'paused')",
        )
        .bind(id)
        .bind(reason),
        BatchAct::DestroyKeys(by) => sqlx::query(
            "WITH marked AS (
                UPDATE batch SET keys_destroyed_by = $2, keys_destroyed_at = statement_timestamp()
                WHERE batch_id = $1 AND finished_at IS NOT NULL AND keys_destroyed_at IS NULL
                RETURNING batch_id
             )
             UPDATE batch_chunk SET envelopes = NULL
             WHERE batch_id IN (SELECT m.batch_id FROM marked m)",
        )
        .bind(id)
        .bind(by),
        BatchAct::Hinder(hindrance) => sqlx::query(
            "UPDATE batch SET hindrance = $2
             WHERE batch_id = $1 AND state IN ('running', 'cancelled')
                   AND hindrance IS DISTINCT FROM $2",
        )
        .bind(id)
        .bind(hindrance),
        BatchAct::Note(error) => {
            sqlx::query("UPDATE batch SET last_error = $2 WHERE batch_id = $1")
                .bind(id)
                .bind(error)
        }
        BatchAct::Close(packed) => sqlx::query(
            "UPDATE batch SET package_length = $2, package_sha256 = $3, hindrance = NULL,
                    state = CASE state WHEN 'cancelled' THEN state ELSE 'done' END,
                    finished_at = coalesce(finished_at, statement_timestamp()),
                    moved_at = statement_timestamp()
             WHERE batch_id = $1 AND state IN ('running', 'paused', 'cancelled')
                   AND package_sha256 IS NULL",
        )
        .bind(id)
        .bind(packed.length)
        .bind(&packed.sha256[..]),
    };
    query.execute(connection).await?;
    Ok(())
}

fn batch(row: &PgRow) -> Result<Batch, sqlx::Error> {
    let Json(definition): Json<Definition> = row.try_get("definition")?;
    let state = State::from_word(row.try_get("state")?).ok_or_else(|| unreadable("state"))?;
    let origin: Option<&str> = row.try_get("key_origin")?;
    let origin = origin.map(|word| KeyOrigin::from_word(word).ok_or_else(|| unreadable("origin")));
    let length: Option<i64> = row.try_get("package_length")?;
    let sha256: Option<[u8; 32]> = row.try_get("package_sha256")?;
    let device_count: Option<i32> = row.try_get("device_count")?;
    let destroyed_by: Option<String> = row.try_get("keys_destroyed_by")?;
    let destroyed_at: Option<DateTime<Utc>> = row.try_get("keys_destroyed_at")?;
    Ok(Batch {
        id: row.try_get("batch_id")?,
        definition,
        created: (row.try_get("created_by")?, row.try_get("created_at")?),
        state,
        reason: row.try_get("reason")?,
        hindrance: row.try_get("hindrance")?,
        last_error: row.try_get("last_error")?,
        key_origin: origin.transpose()?,
        device_count: device_count.unwrap_or_default().into(),
        issued: row.try_get("issued")?,
        failed: row.try_get("failed")?,
        begun: row.try_get("begun")?,
        recent: row.try_get("recent")?,
        stalled: row.try_get("stalled")?,
        finished_at: row.try_get("finished_at")?,
        package: length
            .zip(sha256)
            .map(|(length, sha256)| Packed { length, sha256 }),
        keys_destroyed: destroyed_by.zip(destroyed_at),
    })
}
