//! Transaction "take in": the devices of a batch, all of them or none, as they are judged.
//!
//! On a connection of its own, since a million rows take their time.

use std::collections::HashMap;

use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::types::Json;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::ca::KeyOrigin;
use crate::ca::batch::Attributes;
use crate::ca::batch::Created;
use crate::ca::batch::Intake;
use crate::ca::batch::Part;
use crate::ca::batch::TakenRow;
use crate::db::batches;
use crate::db::row::unreadable;
use crate::pki::serial::SerialNumber;

/// Taken rows that are told, at most.
const TAKEN_MAX: usize = 100;

const ADD: &str =
    "INSERT INTO batch_chunk (batch_id, number, first_row, row_count, subjects, public_keys)
    VALUES ($1, $2, $3, $4, $5, $6)";

/// Who holds these devices and keys. Sub-selects, which no join method can turn into a scan.
const HOLDERS: &str = "SELECT r.place, r.device IS NULL AS key, h.serial_number
    FROM UNNEST($1::int[], $2::text[], $3::bytea[]) AS r (place, device, spki_sha256)
    CROSS JOIN LATERAL (SELECT coalesce(
        (SELECT c.serial_number FROM claim c
         WHERE c.live AND c.device = r.device AND c.slot = $4 AND c.supersedes IS NULL),
        (SELECT c.serial_number FROM claim c WHERE c.live AND c.spki_sha256 = r.spki_sha256)
    )) AS h (serial_number)
    WHERE h.serial_number IS NOT NULL ORDER BY r.place LIMIT 100";

/// The compare-and-swap that lets the batch run.
const COMPLETE: &str = "UPDATE batch
    SET device_count = $2, key_origin = $3, state = 'running', moved_at = statement_timestamp()
    WHERE batch_id = $1 AND state = 'awaiting-devices' AND device_count IS NULL";

/// Takes the parts in until their end.
pub(super) async fn take_in(
    connection: &mut PgConnection,
    intake: Intake,
    slot: &str,
    mut parts: mpsc::Receiver<Part>,
) -> Result<Created, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // A row's judgement may have to wait for the row, and for a processor that stations leave.
    sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = '2min'")
        .execute(&mut *transaction)
        .await?;
    let id = match &intake {
        Intake::Create(new) => {
            if !batches::insert(&mut transaction, new).await? {
                transaction.rollback().await?;
                return batches::settled(connection, new).await;
            }
            new.id
        }
        Intake::List(id) => *id,
    };
    let mut taken = Vec::new();
    let mut number = 0;
    let mut rows = 0;
    let mut complete = None;
    while let Some(part) = parts.recv().await {
        match part {
            Part::Chunk {
                first_row,
                devices,
                subjects,
                public_keys,
            } => {
                number += 1;
                rows = first_row - 1 + i32::try_from(devices.len()).unwrap_or(i32::MAX);
                let found = holders(&mut transaction, slot, &devices, public_keys.as_deref());
                for (place, key, serial_number) in found.await? {
                    taken.push(TakenRow {
                        row: first_row + place,
                        key,
                        serial_number,
                    });
                }
                if taken.len() >= TAKEN_MAX {
                    break;
                }
                if taken.is_empty() {
                    let add = sqlx::query(ADD).bind(id).bind(number).bind(first_row);
                    add.bind(i32::try_from(devices.len()).unwrap_or(i32::MAX))
                        .bind(subjects.map(Json::<Vec<Attributes>>))
                        .bind(public_keys)
                        .execute(&mut *transaction)
                        .await?;
                }
            }
            Part::End { key_origin } => complete = Some(key_origin),
        }
    }
    if !taken.is_empty() {
        transaction.rollback().await?;
        taken.truncate(TAKEN_MAX);
        return Ok(Created::Taken(taken));
    }
    let Some(key_origin) = complete else {
        transaction.rollback().await?;
        return Ok(Created::Withdrawn);
    };
    let swapped = swap(&mut transaction, id, rows, key_origin).await?;
    if swapped {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(match batches::show(connection, id).await? {
        Some(batch) if swapped => Created::New(Box::new(batch)),
        Some(batch) => Created::Late(Box::new(batch)),
        None => Created::Unknown,
    })
}

async fn swap(
    connection: &mut PgConnection,
    id: Uuid,
    rows: i32,
    key_origin: KeyOrigin,
) -> Result<bool, sqlx::Error> {
    let swapped = sqlx::query(COMPLETE)
        .bind(id)
        .bind(rows)
        .bind(key_origin.as_str())
        .execute(connection)
        .await?;
    Ok(swapped.rows_affected() == 1)
}

/// Place within the chunk, whether it is the key, and what holds it; a row once.
async fn holders(
    connection: &mut PgConnection,
    slot: &str,
    devices: &[String],
    public_keys: Option<&[Vec<u8>]>,
) -> Result<Vec<(i32, bool, SerialNumber)>, sqlx::Error> {
    let mut places: Vec<i32> = Vec::new();
    let mut names: Vec<Option<&str>> = Vec::new();
    let mut keys: Vec<Option<Vec<u8>>> = Vec::new();
    for (place, device) in (0..).zip(devices) {
        places.push(place);
        names.push(Some(device));
        keys.push(None);
    }
    for (place, key) in (0..).zip(public_keys.unwrap_or_default()) {
        places.push(place);
        names.push(None);
        keys.push(Some(openssl::sha::sha256(key).to_vec()));
    }
    let rows = sqlx::query(HOLDERS)
        .bind(places)
        .bind(names)
        .bind(keys)
        .bind(slot)
        .fetch_all(connection)
        .await?;
    let mut found: HashMap<i32, (bool, SerialNumber)> = HashMap::new();
    for row in &rows {
        let serial = SerialNumber::from_bytes(row.try_get("serial_number")?);
        let serial = serial.ok_or_else(|| unreadable("serial number"))?;
        let place = row.try_get("place")?;
        found.entry(place).or_insert((row.try_get("key")?, serial));
    }
    let mut found: Vec<_> = found
        .into_iter()
        .map(|(place, (key, serial))| (place, key, serial))
        .collect();
    found.sort_unstable_by_key(|(place, ..)| *place);
    Ok(found)
}
