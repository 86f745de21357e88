//! Rows of `intent` and `outcome`, and the values they are.

use std::collections::BTreeMap;

use chrono::DateTime;
use chrono::Utc;
use sqlx::Row;
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

/// The columns that [`exported`] reads of a table named `i`; it reads [`outcome_columns`], too.
macro_rules! exported_columns {
    () => {
        "i.intent_id, i.kind, i.serial_number, i.issuer, i.profile, i.principal, i.work_order, \
         i.device, i.subject, i.thing_name, i.spki_sha256, i.key_origin, i.not_before, i.not_after, \
         CASE WHEN i.supersedes IS NOT NULL THEN \
             (SELECT c.serial_number FROM claim c WHERE c.intent_id = i.supersedes) END AS superseded"
    };
}
pub(super) use exported_columns;

/// The columns [`certificate`] reads, of a table named `o`. A certificate that was superseded is
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
        kind: kind(row)?,
        serial_number: serial(row, "serial_number")?.ok_or_else(|| unreadable("serial number"))?,
        issuer: row.try_get("issuer")?,
        profile: row.try_get("profile")?,
        profile_sha256: row.try_get("profile_sha256")?,
        principal: row.try_get("principal")?,
        idempotency_key: row.try_get("idempotency_key")?,
        request_sha256: row.try_get("request_sha256")?,
        order: row.try_get("work_order")?,
        device: row.try_get("device")?,
        slot: row.try_get("slot")?,
        subject: subject(row)?,
        thing_name: row.try_get("thing_name")?,
        spki_sha256: row.try_get("spki_sha256")?,
        key_origin: key_origin(row)?,
        validity: validity(row)?,
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
        successor: serial(row, "successor")?,
    }))
}

/// A certificate for those outside.
pub(super) fn exported(row: &PgRow) -> Result<Exported, sqlx::Error> {
    Ok(Exported {
        id: row.try_get("intent_id")?,
        kind: kind(row)?,
        serial_number: serial(row, "serial_number")?.ok_or_else(|| unreadable("serial number"))?,
        issuer: row.try_get("issuer")?,
        profile: row.try_get("profile")?,
        principal: row.try_get("principal")?,
        order: row.try_get("work_order")?,
        device: row.try_get("device")?,
        subject: subject(row)?,
        thing_name: row.try_get("thing_name")?,
        spki_sha256: row.try_get("spki_sha256")?,
        key_origin: key_origin(row)?,
        validity: validity(row)?,
        superseded: serial(row, "superseded")?,
        der: row.try_get("der")?,
        fingerprint: row.try_get("fingerprint")?,
        issued_at: row.try_get("recorded_at")?,
        log_index: row.try_get("log_index")?,
        status: status(row.try_get("status")?)?,
        successor: serial(row, "successor")?,
    })
}

fn key_origin(row: &PgRow) -> Result<KeyOrigin, sqlx::Error> {
    KeyOrigin::from_word(row.try_get("key_origin")?).ok_or_else(|| unreadable("key origin"))
}

fn validity(row: &PgRow) -> Result<Validity, sqlx::Error> {
    Ok(Validity {
        not_before: row.try_get("not_before")?,
        not_after: row.try_get("not_after")?,
    })
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
        superseded: serial(row, "superseded")?.ok_or_else(|| unreadable("superseded serial"))?,
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

fn subject(row: &PgRow) -> Result<Subject, sqlx::Error> {
    let Json(values): Json<BTreeMap<&str, String>> = row.try_get("subject")?;
    let mut subject = BTreeMap::new();
    for (name, value) in values {
        let kind = AttributeType::from_short_name(name)
            .ok_or_else(|| unreadable(&format!("subject attribute {name}")))?;
        subject.insert(kind, value);
    }
    Subject::new(subject).map_err(|violations| unreadable(&format!("subject: {violations:?}")))
}

fn kind(row: &PgRow) -> Result<LeafKind, sqlx::Error> {
    LeafKind::from_word(row.try_get("kind")?).ok_or_else(|| unreadable("kind"))
}

fn serial(row: &PgRow, column: &str) -> Result<Option<SerialNumber>, sqlx::Error> {
    let octets: Option<[u8; 16]> = row.try_get(column)?;
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
