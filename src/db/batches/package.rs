//! What a chunk's part of the package is made of.

use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use crate::ca::batch::Attributes;
use crate::ca::batch::CertifiedRow;
use crate::ca::batch::DoneChunk;
use crate::ca::batch::RowFailure;
use crate::db::row::unreadable;
use crate::pki::serial::SerialNumber;

const CHUNK: &str = "SELECT number, first_row, row_count, envelopes, failures, intent_ids
    FROM batch_chunk WHERE batch_id = $1 AND number = $2 AND done_at IS NOT NULL";

/// By row. Look-ups of one row each, which no join method can turn into a scan.
const CERTIFICATES: &str = "SELECT r.place, i.device, i.subject, i.serial_number, i.spki_sha256,
        i.thing_name, i.issuer, i.not_after, o.fingerprint, o.der
    FROM UNNEST($1::uuid[]) WITH ORDINALITY AS r (intent_id, place)
    CROSS JOIN LATERAL (SELECT * FROM intent i WHERE i.intent_id = r.intent_id LIMIT 1) AS i
    CROSS JOIN LATERAL (SELECT * FROM outcome o WHERE o.intent_id = r.intent_id LIMIT 1) AS o
    ORDER BY r.place";

/// The chunk, once it is done.
pub(super) async fn chunk(
    connection: &mut PgConnection,
    id: Uuid,
    number: i32,
) -> Result<Option<DoneChunk>, sqlx::Error> {
    let row = sqlx::query(CHUNK)
        .bind(id)
        .bind(number)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let first_row: i32 = row.try_get("first_row")?;
    let intents: Vec<Option<Uuid>> = row.try_get("intent_ids")?;
    let envelopes: Option<Vec<Vec<u8>>> = row.try_get("envelopes")?;
    let Json(failures): Json<Vec<RowFailure>> = row.try_get("failures")?;
    let rows = sqlx::query(CERTIFICATES)
        .bind(intents)
        .fetch_all(connection)
        .await?;
    let certificates = rows.iter().map(|row| {
        let place: i64 = row.try_get("place")?;
        let place = i32::try_from(place).map_err(|_| unreadable("place"))?;
        Ok((first_row + place - 1, certificate(row)?))
    });
    Ok(Some(DoneChunk {
        number,
        certificates: certificates.collect::<Result<_, sqlx::Error>>()?,
        failures,
        envelopes: envelopes.unwrap_or_default(),
        rows: (first_row, row.try_get("row_count")?),
    }))
}

fn certificate(row: &PgRow) -> Result<CertifiedRow, sqlx::Error> {
    let Json(subject): Json<Attributes> = row.try_get("subject")?;
    let serial = SerialNumber::from_bytes(row.try_get("serial_number")?);
    Ok(CertifiedRow {
        device: row.try_get("device")?,
        subject,
        serial_number: serial.ok_or_else(|| unreadable("serial number"))?,
        spki_sha256: row.try_get("spki_sha256")?,
        thing_name: row.try_get("thing_name")?,
        issuer: row.try_get("issuer")?,
        not_after: row.try_get("not_after")?,
        fingerprint: row.try_get("fingerprint")?,
        der: row.try_get("der")?,
    })
}
