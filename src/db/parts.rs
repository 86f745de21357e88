//! Parts of the log, as its owner takes them out and brings them back. A part is a partition of
//! `log_entry`; its hashes, in `log_tile`, stay where they are.

use std::time::Duration;

use chrono::DateTime;
use chrono::Utc;
use sqlx::AssertSqlSafe;
use sqlx::PgConnection;

use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::pki::entry::Entry;

/// How often it is tried to take the log from those who are just reading it, and how long each time.
const TRIES_MAX: u32 = 30;
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Whole partitions of `log_entry` but the default one, by their upper bounds.
const PARTS: &str = r"
    SELECT c.relname::text,
           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint AS next_index
    FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
    WHERE h.inhparent = 'log_entry'::regclass AND c.relname <> 'log_entry_default'
    ORDER BY next_index";

/// A partition of the log that is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    table: String,
    /// Place of its first entry.
    pub first: u64,
    /// Place after its last.
    pub next: u64,
    /// Time of its last entry.
    pub newest: DateTime<Utc>,
}

/// The log, for its owner.
pub struct Parts {
    connection: PgConnection,
}

impl Parts {
    /// Connects as the owner.
    pub async fn connect(owner: &DbConfig) -> Result<Self, DbFault> {
        let connection = owner.session(Purpose::Command)?.connect().await?;
        Ok(Self { connection })
    }

    /// The full parts of which every entry is of before `before` and in the signed tree of `proved`
    /// entries, the oldest first.
    pub async fn older_than(
        &mut self,
        before: DateTime<Utc>,
        proved: u64,
    ) -> Result<Vec<Part>, DbFault> {
        let tables: Vec<(String, i64)> = sqlx::query_as(PARTS)
            .fetch_all(&mut self.connection)
            .await?;
        let mut parts = Vec::new();
        for (table, next) in tables {
            let next = next.unsigned_abs();
            if next > proved {
                break;
            }
            let ends = format!(
                "SELECT (SELECT min(log_index) FROM {table}),
                        (SELECT leaf FROM {table} ORDER BY log_index DESC LIMIT 1)"
            );
            let (first, last): (Option<i64>, Option<Vec<u8>>) = sqlx::query_as(AssertSqlSafe(ends))
                .fetch_one(&mut self.connection)
                .await?;
            let (Some(first), Some(last)) = (first, last) else {
                continue;
            };
            // What is no entry is not taken out: the check of the archive names it.
            let Ok(last) = Entry::parse(&last) else { break };
            if last.at >= before {
                break;
            }
            parts.push(Part {
                table,
                first: first.unsigned_abs(),
                next,
                newest: last.at,
            });
        }
        Ok(parts)
    }

    /// Takes a part out, and tells the log so, in one transaction. What it holds must be safe
    /// elsewhere. Waits for those who are reading the log, half a minute at most.
    pub async fn take_out(&mut self, part: &Part) -> Result<(), DbFault> {
        // The head's lock first, as everybody who appends has it.
        let statements = format!(
            "BEGIN;
             SET LOCAL lock_timeout = '1s';
             SELECT log_append('archived', json_build_object('first', {first}, 'last', {next} - 1, 'by', session_user));
             ALTER TABLE log_entry DETACH PARTITION {table};
             DROP TABLE {table};
             INSERT INTO archived_part (first_index, next_index, newest) VALUES ({first}, {next}, '{newest}');
             COMMIT",
            table = part.table,
            first = part.first,
            next = part.next,
            newest = part.newest.to_rfc3339(),
        );
        self.patiently(&statements).await
    }

    /// Begins to bring back an archived part, given by its first place and the place after its last.
    pub async fn bring_back(&mut self, (first, next): (u64, u64)) -> Result<Return<'_>, DbFault> {
        let table = format!("log_entry_from_{first}");
        self.raw(&format!(
            "BEGIN;
             CREATE TABLE {table} (LIKE log_entry INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS);
             COMMENT ON TABLE {table} IS 'Partition of log_entry.'"
        ))
        .await?;
        Ok(Return {
            parts: self,
            table,
            first,
            next,
            at: first,
        })
    }

    async fn patiently(&mut self, statements: &str) -> Result<(), DbFault> {
        for tries in 1.. {
            let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
                .execute(&mut self.connection)
                .await;
            let Err(error) = done else { return Ok(()) };
            self.raw("ROLLBACK").await?;
            // lock_not_available, deadlock_detected
            let busy = matches!(&error, sqlx::Error::Database(error)
                if matches!(error.code().as_deref(), Some("55P03" | "40P01")));
            if !busy || tries >= TRIES_MAX {
                return Err(error.into());
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        Ok(())
    }

    async fn raw(&mut self, statements: &str) -> Result<(), DbFault> {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }
}

/// A part on its way back: one transaction, which [`Return::finish`] commits.
pub struct Return<'a> {
    parts: &'a mut Parts,
    table: String,
    first: u64,
    next: u64,
    at: u64,
}

impl Return<'_> {
    /// The entries that follow, held against the tree already.
    pub async fn add(&mut self, leaves: &[Vec<u8>]) -> Result<(), DbFault> {
        let insert = format!(
            "INSERT INTO {} (log_index, leaf)
             SELECT $1 + n.ordinal - 1, n.leaf FROM UNNEST($2::bytea[]) WITH ORDINALITY AS n (leaf, ordinal)",
            self.table
        );
        sqlx::query(AssertSqlSafe(insert))
            .bind(place(self.at))
            .bind(leaves)
            .execute(&mut self.parts.connection)
            .await?;
        self.at += u64::try_from(leaves.len()).unwrap_or_default();
        Ok(())
    }

    /// Puts the part in its place and tells the log so. The constraints of the log's table refuse a
    /// part that has entries of other places.
    pub async fn finish(self) -> Result<(), DbFault> {
        let Self {
            parts,
            table,
            first,
            next,
            ..
        } = self;
        // The bounds are those of before; the very first part had no lower one.
        let low = match first {
            0 => "MINVALUE".to_owned(),
            _ => first.to_string(),
        };
        parts
            .raw(&format!(
                "ALTER TABLE log_entry ATTACH PARTITION {table} FOR VALUES FROM ({low}) TO ({next});
                 DELETE FROM archived_part WHERE first_index = {first};
                 SELECT log_append('brought-back', json_build_object('first', {first}, 'last', {next} - 1, 'by', session_user));
                 COMMIT"
            ))
            .await
    }
}

fn place(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}
