//! [`PgLog`]: the log and its tree, on connections of their own.

pub mod rows;

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use chrono::DateTime;
use chrono::Utc;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::log::LogBook;
use crate::ca::log::LogHead;
use crate::ca::log::NewCheckpoint;
use crate::ca::log::Note;
use crate::ca::log::StoredCheckpoint;
use crate::ca::log::StoredTile;
use crate::ca::searches::AsOf;
use crate::db::archive::PgArchive;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::lane::Job;
use crate::db::lane::Lane;
use crate::db::ledger::mixed_up;
use crate::db::row::signed;
use crate::db::row::unreadable;
use crate::db::row::unsigned;
use crate::db::session::Admission;
use crate::db::session::fence_select;
use crate::db::standby::Reading;
use crate::db::standby::Standby;
use crate::db::vitals::Vitals;
use crate::metrics::LedgerMetrics;
use crate::telemetry::heed_database_warnings;

/// Longest wait for a note; nobody waits for it but the log.
const NOTE_MAX: Duration = Duration::from_secs(30);

const HEAD: &str = "SELECT size, halted FROM log_head";

const LEAVES: &str = "SELECT log_index, leaf FROM log_entry WHERE log_index >= $1
    ORDER BY log_index LIMIT $2";

/// The same, with the fence in one: where there is an entry the transaction's commit waits, and that comes
/// after those that wrote what it read.
const LEAVES_FENCED: &str = concat!(
    "SELECT log_index, leaf, (",
    fence_select!(),
    ") AS fence FROM log_entry WHERE log_index >= $1 ORDER BY log_index LIMIT $2"
);

const ARCHIVED: &str = "SELECT first_index, next_index FROM archived_part
    WHERE first_index <= $1 AND next_index > $1";

const CHECKPOINT: &str = "SELECT c.size, c.root, c.note, c.created_at,
        array(SELECT s.line FROM cosignature s WHERE s.size = c.size ORDER BY s.witness) AS cosignatures
    FROM checkpoint c ORDER BY c.size DESC LIMIT 1";

const TILES: &str = "SELECT t.level, t.tile_index, t.hashes
    FROM UNNEST($1::smallint[], $2::bigint[]) AS n (level, tile_index)
    CROSS JOIN LATERAL (SELECT * FROM log_tile t
        WHERE t.level = n.level AND t.tile_index = n.tile_index LIMIT 1) t";

const STORE: &str = "SELECT store_checkpoint($1, $2, $3, $4, $5, $6)";

const STORE_COSIGNATURE: &str = "SELECT store_cosignature($1, $2, $3)";

const MAKE_PARTITIONS: &str = "SELECT make_partitions()";

const NOTE: &str = "SELECT log_note($1, $2)";

/// The log in PostgreSQL.
pub struct PgLog {
    reader: PgArchive,
    /// Where entries are read for readers; `None`: where everything is.
    entries: Option<Reading>,
    /// `None`: for readers.
    notes: Option<Lane<Note>>,
    /// `None`: for readers, who are shown what is there.
    admission: Option<Admission>,
}

impl PgLog {
    /// Connects when first used, on the current Tokio runtime. Fails only when the URL is none.
    pub fn start(config: &DbConfig, metrics: &Arc<LedgerMetrics>) -> Result<Self, DbFault> {
        let own = DbConfig {
            archive_connections_max: 3,
            ..config.clone()
        };
        let session = config.session(Purpose::Ledger(Note::LANE))?;
        // Of its own: what the log is not told keeps nothing else from working.
        let vitals = Arc::new(Vitals::new(&[Note::LANE], metrics.notes_up.clone()));
        Ok(Self {
            reader: PgArchive::for_purpose(&own, Purpose::Log)?.counted("log", metrics),
            entries: None,
            admission: session.admission.clone(),
            notes: Some(Lane::start(session, vitals, Arc::clone(metrics))),
        })
    }

    /// The same log on connections of their own, for whoever asks from outside: however many ask,
    /// the journal is kept. Takes no notes.
    ///
    /// Entries, which never change, are read on the standby where there is one; what is not there yet, and
    /// all of which a proof is made, on the primary.
    pub fn for_readers(config: &DbConfig, standby: Option<&Arc<Standby>>) -> Result<Self, DbFault> {
        let own = DbConfig {
            archive_connections_max: 2,
            ..config.clone()
        };
        let reading = Reading::for_purpose(&own, standby, Purpose::LogReading)?;
        Ok(Self {
            reader: reading.primary(),
            entries: Some(reading),
            notes: None,
            admission: None,
        })
    }

    /// The same, counted as `pool` when no connection becomes free in time.
    #[must_use]
    pub fn counted(self, pool: &str, metrics: &LedgerMetrics) -> Self {
        Self {
            reader: self.reader.counted(pool, metrics),
            ..self
        }
    }
}

impl LogBook for PgLog {
    fn head(&self) -> PortFuture<'_, Result<LogHead, LedgerFault>> {
        self.reader.ask(|connection| {
            Box::pin(async move {
                let row = sqlx::query(HEAD).fetch_one(connection).await?;
                Ok(LogHead {
                    size: unsigned(row.try_get("size")?)?,
                    halted: row.try_get("halted")?,
                })
            })
        })
    }

    fn leaves(&self, from: u64, limit: u32) -> PortFuture<'_, Result<Vec<Bytes>, LedgerFault>> {
        let admission = self.admission.clone();
        Box::pin(async move {
            if let Some(entries) = &self.entries {
                let asked = entries.ask(None, move |connection| {
                    Box::pin(leaves(connection, LEAVES, from, limit))
                });
                let AsOf { found, moment } = asked.await?;
                let whole = u32::try_from(found.len()) == Ok(limit);
                if whole || moment.time.is_none() {
                    return Ok(found);
                }
            }
            let asked = self.reader.ask(move |connection| {
                let admission = admission.clone();
                Box::pin(async move {
                    let Some(admission) = admission else {
                        return leaves(connection, LEAVES, from, limit).await;
                    };
                    // What the journal and the tree take is never taken back.
                    heed_database_warnings(async |warned| {
                        let found = leaves(&mut *connection, LEAVES_FENCED, from, limit).await?;
                        if !found.is_empty() {
                            admission.confirm(connection, warned).await?;
                        }
                        Ok(found)
                    })
                    .await
                })
            });
            asked.await
        })
    }

    fn archived(&self, index: u64) -> PortFuture<'_, Result<Option<(u64, u64)>, LedgerFault>> {
        self.reader.ask(move |connection| {
            Box::pin(async move {
                let row: Option<(i64, i64)> = sqlx::query_as(ARCHIVED)
                    .bind(signed(index)?)
                    .fetch_optional(connection)
                    .await?;
                row.map(|(first, next)| Ok((unsigned(first)?, unsigned(next)?)))
                    .transpose()
            })
        })
    }

    fn checkpoint(&self) -> PortFuture<'_, Result<Option<StoredCheckpoint>, LedgerFault>> {
        self.reader.ask(|connection| {
            Box::pin(async move {
                let row = sqlx::query(CHECKPOINT).fetch_optional(connection).await?;
                row.as_ref().map(checkpoint).transpose()
            })
        })
    }

    fn tiles(&self, ids: Vec<(u8, u64)>) -> PortFuture<'_, Result<Vec<StoredTile>, LedgerFault>> {
        self.reader.ask(move |connection| {
            let ids = ids.clone();
            Box::pin(async move {
                let (levels, indexes) = columns(ids.iter().copied())?;
                let rows = sqlx::query(TILES)
                    .bind(levels)
                    .bind(indexes)
                    .fetch_all(connection)
                    .await?;
                rows.iter().map(tile).collect()
            })
        })
    }

    fn store(
        &self,
        tiles: Vec<StoredTile>,
        checkpoint: Option<NewCheckpoint>,
    ) -> PortFuture<'_, Result<bool, LedgerFault>> {
        self.reader.ask(move |connection| {
            let (tiles, checkpoint) = (tiles.clone(), checkpoint.clone());
            Box::pin(async move {
                let (levels, indexes) = columns(tiles.iter().map(|it| (it.level, it.index)))?;
                let size = checkpoint.as_ref().map(|it| signed(it.size)).transpose()?;
                sqlx::query_scalar(STORE)
                    .bind(size)
                    .bind(checkpoint.as_ref().map(|it| it.root.to_vec()))
                    .bind(checkpoint.as_ref().map(|it| it.note.clone()))
                    .bind(levels)
                    .bind(indexes)
                    .bind(
                        tiles
                            .iter()
                            .map(|it| it.hashes.concat())
                            .collect::<Vec<_>>(),
                    )
                    .fetch_one(connection)
                    .await
            })
        })
    }

    fn store_cosignature(
        &self,
        size: u64,
        witness: String,
        line: String,
    ) -> PortFuture<'_, Result<(), LedgerFault>> {
        self.reader.ask(move |connection| {
            let (witness, line) = (witness.clone(), line.clone());
            Box::pin(async move {
                sqlx::query(STORE_COSIGNATURE)
                    .bind(signed(size)?)
                    .bind(witness)
                    .bind(line)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
    }

    fn acknowledged(&self) -> PortFuture<'_, Result<Option<DateTime<Utc>>, LedgerFault>> {
        self.reader.ask(|connection| {
            Box::pin(async move {
                sqlx::query_scalar("SELECT max(at) FROM cosignature")
                    .fetch_one(connection)
                    .await
            })
        })
    }

    fn note(&self, note: Note) -> PortFuture<'_, Result<(), LedgerFault>> {
        Box::pin(async move {
            match &self.notes {
                Some(notes) => notes.submit(note, Instant::now() + NOTE_MAX).await,
                None => Err(mixed_up()),
            }
        })
    }

    fn make_partitions(&self) -> PortFuture<'_, Result<u32, LedgerFault>> {
        self.reader.ask(|connection| {
            Box::pin(async move {
                let made: i32 = sqlx::query_scalar(MAKE_PARTITIONS)
                    .fetch_one(connection)
                    .await?;
                Ok(made.unsigned_abs())
            })
        })
    }

    fn halt(&self, reason: String) -> PortFuture<'_, Result<(), LedgerFault>> {
        self.reader.ask(move |connection| {
            let reason = reason.clone();
            Box::pin(async move {
                sqlx::query("SELECT log_halt($1)")
                    .bind(reason)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
    }
}

async fn leaves(
    connection: &mut PgConnection,
    select: &'static str,
    from: u64,
    limit: u32,
) -> Result<Vec<Bytes>, sqlx::Error> {
    let rows = sqlx::query(select)
        .bind(signed(from)?)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    let mut leaves = Vec::with_capacity(rows.len());
    for (row, expected) in rows.iter().zip(from..) {
        let index = unsigned(row.try_get("log_index")?)?;
        if index != expected {
            let gap = format!("the log has no entry {expected}, but one of index {index}");
            return Err(sqlx::Error::Decode(gap.into()));
        }
        let leaf: &[u8] = row.try_get("leaf")?;
        leaves.push(Bytes::copy_from_slice(leaf));
    }
    Ok(leaves)
}

/// A note may be told twice, when the reply to the first time was lost: each has an id of its own.
impl Job for Note {
    type Answer = ();
    const LANE: &'static str = "notes";
    const BATCH_MAX: usize = 256;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<(), LedgerFault>>, sqlx::Error> {
        let kinds: Vec<&str> = jobs.iter().map(|note| note.kind.as_str()).collect();
        let events: Vec<String> = jobs.iter().map(|note| note.event.to_string()).collect();
        sqlx::query(NOTE)
            .bind(kinds)
            .bind(events)
            .execute(connection)
            .await?;
        Ok(jobs.iter().map(|_| Ok(())).collect())
    }
}

fn checkpoint(row: &PgRow) -> Result<StoredCheckpoint, sqlx::Error> {
    Ok(StoredCheckpoint {
        size: unsigned(row.try_get("size")?)?,
        root: row.try_get("root")?,
        note: row.try_get("note")?,
        cosignatures: row.try_get("cosignatures")?,
        created_at: row.try_get("created_at")?,
    })
}

fn tile(row: &PgRow) -> Result<StoredTile, sqlx::Error> {
    let level: i16 = row.try_get("level")?;
    let octets: &[u8] = row.try_get("hashes")?;
    let (hashes, rest) = octets.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(unreadable("tile"));
    }
    Ok(StoredTile {
        level: u8::try_from(level).map_err(|_| unreadable("tile"))?,
        index: unsigned(row.try_get("tile_index")?)?,
        hashes: hashes.to_vec(),
    })
}

/// Levels and indexes of tiles, as the database takes them.
fn columns(ids: impl Iterator<Item = (u8, u64)>) -> Result<(Vec<i16>, Vec<i64>), sqlx::Error> {
    let pairs = ids.map(|(level, index)| Ok((i16::from(level), signed(index)?)));
    let pairs: Vec<(i16, i64)> = pairs.collect::<Result<_, sqlx::Error>>()?;
    Ok(pairs.into_iter().unzip())
}
