//! Transaction "report": what a closed order came to, at one moment; and the report that is kept.
//!
//! On a connection of its own, for it reads a large order to its end.

use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;

use crate::ca::report::Closing;
use crate::ca::report::Settlement;
use crate::db::orders;
use crate::db::row::unreadable;

const KEPT: &str = "SELECT report FROM order_report WHERE work_order = $1";

/// The look-up of an outcome is lateral and limited, which no join method can turn into a scan.
const LOG: &str = "SELECT statement_timestamp() AS at, (SELECT size FROM log_head) AS size,
        count(*) AS certificates, min(o.log_index) AS first, max(o.log_index) AS last,
        sha256(coalesce(string_agg(o.fingerprint, ''::bytea ORDER BY o.log_index), ''::bytea)) AS digest
    FROM intent i
    CROSS JOIN LATERAL (SELECT log_index, fingerprint FROM outcome o
                        WHERE o.intent_id = i.intent_id AND o.der IS NOT NULL LIMIT 1) o
    WHERE i.work_order = $1";

const OPEN: &str = "SELECT count(*) FROM open_intent o
    WHERE (SELECT i.work_order FROM intent i WHERE i.intent_id = o.intent_id) = $1";

/// The primary key is the compare-and-swap: the first report is the one.
const KEEP: &str =
    "INSERT INTO order_report (work_order, report) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// Where the order is on its way to its report.
pub(super) async fn closing(
    connection: &mut PgConnection,
    name: &str,
) -> Result<Closing, sqlx::Error> {
    // Its counts and its part of the log are of one snapshot.
    let mut snapshot = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let Some(state) = orders::show(&mut snapshot, name).await? else {
        return Ok(Closing::Unknown);
    };
    if let Some(report) = kept(&mut snapshot, name).await? {
        return Ok(Closing::Reported(report));
    }
    if state.closed.is_none() {
        return Ok(Closing::Open);
    }
    let open: i64 = sqlx::query_scalar(OPEN)
        .bind(name)
        .fetch_one(&mut *snapshot)
        .await?;
    if open > 0 {
        return Ok(Closing::InProgress(open));
    }
    let row = sqlx::query(LOG)
        .bind(name)
        .fetch_one(&mut *snapshot)
        .await?;
    let (first, last): (Option<i64>, Option<i64>) = (row.try_get("first")?, row.try_get("last")?);
    let digest: Vec<u8> = row.try_get("digest")?;
    let settlement = Settlement {
        state,
        at: row.try_get("at")?,
        log_size: row.try_get("size")?,
        certificates: row.try_get("certificates")?,
        indices: first.zip(last),
        fingerprints_sha256: digest
            .try_into()
            .map_err(|_| unreadable("digest of an order"))?,
    };
    snapshot.rollback().await?;
    Ok(Closing::Settled(Box::new(settlement)))
}

/// Keeps the report unless there is one; returns the one that is kept.
pub(super) async fn keep(
    connection: &mut PgConnection,
    name: &str,
    report: &str,
) -> Result<String, sqlx::Error> {
    sqlx::query(KEEP)
        .bind(name)
        .bind(report)
        .execute(&mut *connection)
        .await?;
    kept(connection, name)
        .await?
        .ok_or(sqlx::Error::RowNotFound)
}

async fn kept(connection: &mut PgConnection, name: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(KEPT)
        .bind(name)
        .fetch_optional(connection)
        .await
}
