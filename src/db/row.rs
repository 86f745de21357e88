//! Rows of `intent` and `outcome`, and the values they are.

use std::collections::BTreeMap;

use chrono::DateTime;
use chrono::Utc;
use sqlx::Decode;
use sqlx::Postgres;
use sqlx::Row;
use sqlx::Type;
use sqlx::postgres::PgRow;
use sqlx::types::Json;

use crate::ca::CertificateRecord;
use crate::ca::Intent;
use crate::ca::KeyOrigin;
use crate::ca::Rework;
use crate::ca::Status;
use crate::ca::export::Exported;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;
use crate::pki::validity::Validity;

/// The columns [`intent`] reads, of a table named `i`.
macro_rules! intent_columns {
    () => {
        "i.intent_id, i.kind, i.serial_number, i.issuer, i.profile, i.profile_sha256, i.principal, \
         i.idempotency_key, i.request_sha256, i.work_order, i.device, i.slot, i.subject, \
         i.thing_name, i.spki_sha256, i.key_origin, i.not_before, i.not_after, i.tbs, \
         i.supersedes, i.generation, i.rework_reason, \
         CASE WHEN i.supersedes IS NOT NULL THEN \
             (SELECT c.serial_number FROM claim c WHERE c.intent_id = i.supersedes) END AS superseded"
    };
}
pub(super) use intent_columns;

/// The columns that [`exported`] reads first, of a table named `i`; behind them it reads [`outcome_columns`].
macro_rules! exported_columns {
    () => {
        "i.intent_id, i.kind, i.serial_number, i.issuer, i.profile, i.principal, i.work_order, \
         i.device, i.subject, i.thing_name, i.spki_sha256, i.key_origin, i.not_before, i.not_after, \
         CASE WHEN i.supersedes IS NOT NULL THEN \
             (SELECT c.serial_number FROM claim c WHERE c.intent_id = i.supersedes) END AS superseded"
    };
}
pub(super) use exported_columns;

/// The columns [`certificate`] reads, of a table named `o`, and [`exported`], by their places. A certificate that was superseded is
/// never scrapped as well, so of the kinds of its events the last one in the alphabet, which the
/// index has first, is its status.
macro_rules! outcome_columns {
    () => {
        "o.der, o.fingerprint, o.log_index, o.recorded_at, \
         (SELECT e.kind FROM life_event e WHERE e.intent_id = o.intent_id \
          ORDER BY e.kind DESC LIMIT 1) AS status, \
         (SELECT c.serial_number FROM claim c WHERE c.live AND c.supersedes = o.intent_id) AS successor"
    };
}
pub(super) use outcome_columns;

/// An intent, from [`intent_columns`].
pub(super) fn intent(row: &PgRow) -> Result<Intent, sqlx::Error> {
    Ok(Intent {
        id: row.try_get("intent_id")?,
        kind: LeafKind::from_word(row.try_get("kind")?).ok_or_else(|| unreadable("kind"))?,
        serial_number: serial(row.try_get("serial_number")?)?
            .ok_or_else(|| unreadable("serial number"))?,
        issuer: row.try_get("issuer")?,
        profile: row.try_get("profile")?,
        profile_sha256: row.try_get("profile_sha256")?,
        principal: row.try_get("principal")?,
        idempotency_key: row.try_get("idempotency_key")?,
        request_sha256: row.try_get("request_sha256")?,
        order: row.try_get("work_order")?,
        device: row.try_get("device")?,
        slot: row.try_get("slot")?,
        subject: subject(row.try_get("subject")?)?,
        thing_name: row.try_get("thing_name")?,
        spki_sha256: row.try_get("spki_sha256")?,
        key_origin: key_origin(row.try_get("key_origin")?)?,
        validity: Validity {
            not_before: row.try_get("not_before")?,
            not_after: row.try_get("not_after")?,
        },
        tbs: row.try_get("tbs")?,
        rework: rework(row)?,
    })
}

/// The intent's certificate, from [`outcome_columns`]; `None` when it is open or was abandoned.
pub(super) fn certificate(
    intent: Intent,
    row: &PgRow,
) -> Result<Option<CertificateRecord>, sqlx::Error> {
    let Some(der) = row.try_get("der")? else {
        return Ok(None);
    };
    Ok(Some(CertificateRecord {
        intent,
        der,
        fingerprint: row.try_get("fingerprint")?,
        issued_at: row.try_get::<DateTime<Utc>, _>("recorded_at")?,
        log_index: row.try_get("log_index")?,
        status: status(row.try_get("status")?)?,
        successor: serial(row.try_get("successor")?)?,
    }))
}

/// A certificate for those outside, from [`exported_columns`] and [`outcome_columns`], which follow on `before`
/// other columns. By their places: looking for twenty names is dear where there are millions of rows.
pub(super) fn exported(row: &PgRow, before: usize) -> Result<Exported, sqlx::Error> {
    let mut cells = Cells { row, next: before };
    // As the columns stand.
    Ok(Exported {
        id: cells.next()?,
        kind: LeafKind::from_word(cells.next()?).ok_or_else(|| unreadable("kind"))?,
        serial_number: serial(cells.next()?)?.ok_or_else(|| unreadable("serial number"))?,
        issuer: cells.next()?,
        profile: cells.next()?,
        principal: cells.next()?,
        order: cells.next()?,
        device: cells.next()?,
        subject: subject(cells.next()?)?,
        thing_name: cells.next()?,
        spki_sha256: cells.next()?,
        key_origin: key_origin(cells.next()?)?,
        validity: Validity {
            not_before: cells.next()?,
            not_after: cells.next()?,
        },
        superseded: serial(cells.next()?)?,
        der: cells.next()?,
        fingerprint: cells.next()?,
        log_index: cells.next()?,
        issued_at: cells.next()?,
        status: status(cells.next()?)?,
        successor: serial(cells.next()?)?,
    })
}

/// A row's columns, one after the other.
struct Cells<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Cells<'r> {
    fn next<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> Result<T, sqlx::Error> {
        let cell = self.row.try_get(self.next)?;
        self.next += 1;
        Ok(cell)
    }
}

fn key_origin(word: &str) -> Result<KeyOrigin, sqlx::Error> {
    KeyOrigin::from_word(word).ok_or_else(|| unreadable("key origin"))
}

fn status(word: Option<&str>) -> Result<Status, sqlx::Error> {
    word.map_or(Some(Status::Issued), Status::from_word)
        .ok_or_else(|| unreadable("status"))
}

fn rework(row: &PgRow) -> Result<Option<Rework>, sqlx::Error> {
    let Some(supersedes) = row.try_get("supersedes")? else {
        return Ok(None);
    };
    Ok(Some(Rework {
        supersedes,
        superseded: serial(row.try_get("superseded")?)?
            .ok_or_else(|| unreadable("superseded serial"))?,
        generation: row.try_get("generation")?,
        reason: row.try_get("rework_reason")?,
    }))
}

/// A subject as `subject` holds it: short names to values.
pub(super) fn subject_json(subject: &Subject) -> String {
    let values: serde_json::Map<String, serde_json::Value> = subject
        .iter()
        .map(|(kind, value)| (kind.short_name().to_owned(), value.into()))
        .collect();
    serde_json::Value::Object(values).to_string()
}

fn subject(Json(values): Json<BTreeMap<AttributeType, String>>) -> Result<Subject, sqlx::Error> {
    Subject::new(values).map_err(|violations| unreadable(&format!("subject: {violations:?}")))
}

fn serial(octets: Option<[u8; 16]>) -> Result<Option<SerialNumber>, sqlx::Error> {
    let read = |octets| SerialNumber::from_bytes(octets).ok_or_else(|| unreadable("serial number"));
    octets.map(read).transpose()
}

pub(super) fn unreadable(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("the ledger holds an unreadable {what}").into())
}

/// A number of ours, as the database takes it.
pub(super) fn signed(number: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(number).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The inverse of [`signed`].
pub(super) fn unsigned(number: i64) -> Result<u64, sqlx::Error> {
    u64::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()))
}
