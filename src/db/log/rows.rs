//! Rows as an audit compares them with their entries: read on a connection of its own, as they are.

use std::collections::BTreeMap;

use chrono::DateTime;
use chrono::Utc;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::pki::hex;

/// Kinds of entries that tell of a row of `life_event`.
pub const LIFE_KINDS: [&str; 4] = ["confirmed", "superseded", "revoked", "scrapped"];

/// A certificate's row, and that of its intent.
#[derive(Debug)]
#[expect(missing_docs, reason = "the columns, under their names")]
pub struct IssuedRow {
    pub intent: Uuid,
    pub kind: String,
    pub serial_number: Vec<u8>,
    pub issuer: String,
    pub profile: String,
    pub profile_sha256: Vec<u8>,
    pub device: String,
    pub slot: String,
    pub thing_name: Option<String>,
    pub spki_sha256: Vec<u8>,
    pub principal: String,
    pub work_order: Option<String>,
    pub request_sha256: Vec<u8>,
    pub der: Vec<u8>,
    pub fingerprint: Vec<u8>,
    pub recorded_at: DateTime<Utc>,
    /// Its claim is there, is live and holds the same serial number, key and device.
    pub claimed: bool,
}

const ISSUED: &str = "
    SELECT o.log_index, o.der, o.fingerprint, o.recorded_at, i.intent_id, i.kind, i.serial_number,
           i.issuer, i.profile, i.profile_sha256, i.device, i.slot, i.thing_name, i.spki_sha256,
           i.principal, i.work_order, i.request_sha256,
           coalesce((SELECT c.live AND c.serial_number = i.serial_number AND c.spki_sha256 = i.spki_sha256
                            AND c.device = i.device AND c.slot = i.slot
                     FROM claim c WHERE c.intent_id = o.intent_id), false) AS claimed
    FROM outcome o JOIN intent i ON i.intent_id = o.intent_id
    WHERE o.log_index >= $1 AND o.log_index < $2 ORDER BY o.log_index";

const BEYOND: &str = "
    SELECT (SELECT encode(i.serial_number, 'hex') FROM intent i WHERE i.intent_id = o.intent_id)
    FROM outcome o WHERE o.log_index >= $1 ORDER BY o.log_index LIMIT 100";

const ARCHIVED: &str =
    "SELECT first_index, next_index, newest FROM archived_part ORDER BY first_index";

const LIVES: &str = "
    SELECT e.kind, e.principal, e.reason, e.reason_code, c.serial_number, e.at
    FROM life_event e JOIN claim c ON c.intent_id = e.intent_id";

async fn connect(config: &DbConfig) -> Result<PgConnection, DbFault> {
    let session = config.session(Purpose::Command)?;
    Ok(session.connect().await?)
}

/// Certificates whose place in the log is at or after `from` and before `to`, by their place.
pub async fn issued(
    config: &DbConfig,
    from: u64,
    to: u64,
) -> Result<BTreeMap<u64, IssuedRow>, DbFault> {
    let mut connection = connect(config).await?;
    let rows = sqlx::query(ISSUED)
        .bind(place(from))
        .bind(place(to))
        .fetch_all(&mut connection)
        .await?;
    let mut found = BTreeMap::new();
    for row in &rows {
        let index: i64 = row.try_get("log_index")?;
        found.insert(u64::try_from(index).unwrap_or_default(), issued_row(row)?);
    }
    Ok(found)
}

/// Serial numbers of certificates whose place is beyond the log's end, a hundred at most.
pub async fn beyond(config: &DbConfig, size: u64) -> Result<Vec<String>, DbFault> {
    let mut connection = connect(config).await?;
    Ok(sqlx::query_scalar(BEYOND)
        .bind(place(size))
        .fetch_all(&mut connection)
        .await?)
}

/// A part of the log whose entries are archived.
#[derive(Clone, Debug)]
pub struct ArchivedPart {
    /// Place of its first entry.
    pub first: u64,
    /// Place after its last.
    pub next: u64,
    /// Time of its last.
    pub newest: DateTime<Utc>,
}

/// The archived parts, from the log's beginning on.
pub async fn archived(config: &DbConfig) -> Result<Vec<ArchivedPart>, DbFault> {
    let mut connection = connect(config).await?;
    let rows: Vec<(i64, i64, DateTime<Utc>)> =
        sqlx::query_as(ARCHIVED).fetch_all(&mut connection).await?;
    let part = |(first, next, newest): (i64, i64, _)| ArchivedPart {
        first: first.unsigned_abs(),
        next: next.unsigned_abs(),
        newest,
    };
    Ok(rows.into_iter().map(part).collect())
}

/// What happened to certificates, as [`life_text`] writes it, and when.
pub async fn lives(config: &DbConfig) -> Result<Vec<(String, DateTime<Utc>)>, DbFault> {
    let mut connection = connect(config).await?;
    let rows = sqlx::query(LIVES).fetch_all(&mut connection).await?;
    let text = |row: &PgRow| -> Result<_, sqlx::Error> {
        let code: Option<i16> = row.try_get("reason_code")?;
        let serial: Vec<u8> = row.try_get("serial_number")?;
        let reason: Option<&str> = row.try_get("reason")?;
        let text = life_text(
            row.try_get("kind")?,
            &hex(&serial),
            row.try_get("principal")?,
            reason.unwrap_or_default(),
            code.map(i64::from),
        );
        Ok((text, row.try_get("at")?))
    };
    Ok(rows.iter().map(text).collect::<Result<_, _>>()?)
}

/// An event in one line.
#[must_use]
pub fn life_text(
    kind: &str,
    serial_number: &str,
    by: &str,
    reason: &str,
    code: Option<i64>,
) -> String {
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    format!("{serial_number} {kind} by {by}{code} {reason}")
        .trim_end()
        .to_owned()
}

fn place(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

fn issued_row(row: &PgRow) -> Result<IssuedRow, sqlx::Error> {
    Ok(IssuedRow {
        intent: row.try_get("intent_id")?,
        kind: row.try_get("kind")?,
        serial_number: row.try_get("serial_number")?,
        issuer: row.try_get("issuer")?,
        profile: row.try_get("profile")?,
        profile_sha256: row.try_get("profile_sha256")?,
        device: row.try_get("device")?,
        slot: row.try_get("slot")?,
        thing_name: row.try_get("thing_name")?,
        spki_sha256: row.try_get("spki_sha256")?,
        principal: row.try_get("principal")?,
        work_order: row.try_get("work_order")?,
        request_sha256: row.try_get("request_sha256")?,
        der: row.try_get("der")?,
        fingerprint: row.try_get("fingerprint")?,
        recorded_at: row.try_get("recorded_at")?,
        claimed: row.try_get("claimed")?,
    })
}
