//! Putting back what the journal knows and a database that was restored to an earlier hour does not.
//!
//! As the owner of the schema, who alone may write what is final. Entries come back octet by octet,
//! so that the log goes on as the one that was signed; rows come back as far as entries tell of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::DateTime;
use chrono::Utc;
use serde::Deserialize;
use serde_json::Value;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::error::describe;
use crate::db::row::subject_json;
use crate::pki::certificate::parts_of;
use crate::pki::entry::Entry;
use crate::pki::entry::Issued;
use crate::pki::name::Subject;
use crate::pki::parse_hex;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Entries, by kind, whose rows came back with them.
    pub whole: BTreeMap<String, u64>,
    /// Entries, by kind, that came back without rows: there are none, or the log does not hold them.
    pub entries: BTreeMap<String, u64>,
}

/// Why it did not.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFault {
    /// The database.
    #[error(transparent)]
    Database(#[from] DbFault),
    /// An entry and the database contradict each other.
    #[error("entry {index}: {what}")]
    Entry {
        /// Which.
        index: u64,
        /// How.
        what: String,
    },
}

/// The database, for putting back.
pub struct Restorer {
    connection: PgConnection,
    next: u64,
    restored: Restored,
}

impl Restorer {
    /// Connects as the owner.
    pub async fn connect(config: &DbConfig) -> Result<Self, DbFault> {
        let mut connection = config.session(Purpose::Command)?.connect().await?;
        sqlx::raw_sql("SET certfactory.restoring = 'on'")
            .execute(&mut connection)
            .await?;
        let size: i64 = sqlx::query_scalar("SELECT size FROM log_head")
            .fetch_one(&mut connection)
            .await?;
        Ok(Self {
            connection,
            next: u64::try_from(size).unwrap_or_default(),
            restored: Restored::default(),
        })
    }

    /// Entries in the database's log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.next
    }

    /// The entry at `index`, as the database has it.
    pub async fn leaf(&mut self, index: u64) -> Result<Option<Vec<u8>>, DbFault> {
        let leaf = sqlx::query_scalar("SELECT leaf FROM log_entry WHERE log_index = $1")
            .bind(i64::try_from(index).unwrap_or(i64::MAX))
            .fetch_optional(&mut self.connection)
            .await?;
        Ok(leaf)
    }

    /// Puts back entries that follow on the log's end, in one transaction.
    pub async fn put_back(&mut self, leaves: &[(u64, Bytes)]) -> Result<(), RestoreFault> {
        let begin = sqlx::raw_sql("BEGIN; SELECT size FROM log_head FOR UPDATE");
        begin
            .execute(&mut self.connection)
            .await
            .map_err(DbFault::from)?;
        for (index, leaf) in leaves {
            let fault = |what: String| RestoreFault::Entry {
                index: *index,
                what,
            };
            if *index != self.next {
                return Err(fault(format!("entry {} is not known", self.next)));
            }
            let entry = Entry::parse(leaf).map_err(|e| fault(e.to_string()))?;
            let put = put(&mut self.connection, &entry, leaf).await;
            let whole = put.map_err(|e| fault(describe(&e)))?;
            let kinds = if whole {
                &mut self.restored.whole
            } else {
                &mut self.restored.entries
            };
            *kinds.entry(entry.kind.to_owned()).or_default() += 1;
            self.next += 1;
        }
        let commit = sqlx::raw_sql("COMMIT").execute(&mut self.connection).await;
        commit.map_err(DbFault::from)?;
        Ok(())
    }

    /// What came back.
    pub async fn close(self) -> Result<Restored, DbFault> {
        self.connection.close().await?;
        Ok(self.restored)
    }
}

#[derive(Deserialize)]
struct Life {
    serial_number: String,
    issuer: String,
    by: String,
    reason: Option<String>,
    reason_code: Option<i16>,
    crl_shard: Option<i16>,
    at: DateTime<Utc>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "as entries name them")]
struct Crl {
    issuer: String,
    shard: Option<i16>,
    crl_number: i64,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "as entries name them")]
struct Order {
    order: String,
    profile: String,
    quantity: i64,
    scrap_allowance: i64,
    reworks_max: Option<i64>,
    device_first: Option<String>,
    device_last: Option<String>,
    device_pattern: Option<String>,
    stations: Vec<String>,
    opens_at: Option<DateTime<Utc>>,
    closes_at: Option<DateTime<Utc>>,
    by: String,
}

#[derive(Deserialize)]
struct Closing {
    order: String,
    by: String,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "as entries name them")]
struct Principal {
    principal: String,
    role: String,
    rights: Value,
    disabled: bool,
    by: String,
}

#[derive(Deserialize)]
struct Key {
    principal: String,
    spki_sha256: String,
    dies_at: Option<DateTime<Utc>>,
}

/// One entry, and the rows that it tells of. Whether there were any.
async fn put(
    connection: &mut PgConnection,
    entry: &Entry<'_>,
    leaf: &[u8],
) -> Result<bool, sqlx::Error> {
    let index = i64::try_from(entry.index).map_err(|e| sqlx::Error::Encode(e.into()))?;
    sqlx::query("INSERT INTO log_entry (log_index, leaf) VALUES ($1, $2)")
        .bind(index)
        .bind(leaf)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE log_head SET size = $1 + 1, at = greatest(at, $2)")
        .bind(index)
        .bind(entry.at)
        .execute(&mut *connection)
        .await?;
    match entry.kind {
        "issued" => {
            let issued = entry.issued().map_err(|e| sqlx::Error::Decode(e.into()))?;
            let der = entry.certificate.unwrap_or_default();
            certificate(connection, index, entry.at, &issued, der).await?;
        }
        "confirmed" | "superseded" | "revoked" | "scrapped" => {
            life(connection, entry.kind, &event(entry)?).await?;
        }
        "abandoned" => return abandoned(connection, entry).await,
        "order-created" => order(connection, entry.at, &event(entry)?).await?,
        "order-closed" => {
            let Closing { order, by } = event(entry)?;
            sqlx::query("UPDATE work_order SET closed_by = $2, closed_at = $3 WHERE name = $1 AND closed_at IS NULL")
                .bind(order)
                .bind(by)
                .bind(entry.at)
                .execute(connection)
                .await?;
        }
        "principal-added" | "principal-rights" | "principal-disabled" | "principal-enabled" => {
            let it: Principal = event(entry)?;
            sqlx::query(
                "INSERT INTO principal (name, role, rights, disabled, created_by) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (name) DO UPDATE SET rights = EXCLUDED.rights, disabled = EXCLUDED.disabled",
            )
            .bind(it.principal)
            .bind(it.role)
            .bind(Json(it.rights))
            .bind(it.disabled)
            .bind(it.by)
            .execute(connection)
            .await?;
        }
        "key-added" | "key-retired" => {
            let it: Key = event(entry)?;
            sqlx::query(
                "INSERT INTO principal_key (spki_sha256, name, dies_at) VALUES ($1, $2, $3)
                 ON CONFLICT (spki_sha256) DO UPDATE SET dies_at = EXCLUDED.dies_at",
            )
            .bind(octets::<32>(&it.spki_sha256)?.to_vec())
            .bind(it.principal)
            .bind(it.dies_at)
            .execute(connection)
            .await?;
        }
        "crl" => {
            let it: Crl = event(entry)?;
            sqlx::query(
                "INSERT INTO crl_floor (issuer, shard, crl_number) VALUES ($1, $2, $3)
                 ON CONFLICT (issuer, shard) DO UPDATE SET crl_number = EXCLUDED.crl_number",
            )
            .bind(it.issuer)
            .bind(it.shard.unwrap_or(-1))
            .bind(it.crl_number)
            .execute(connection)
            .await?;
            return Ok(false);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Claim, intent and outcome. An intent that was open in the backup gets its outcome.
async fn certificate(
    connection: &mut PgConnection,
    index: i64,
    at: DateTime<Utc>,
    issued: &Issued,
    der: &[u8],
) -> Result<(), sqlx::Error> {
    let parts = parts_of(der).map_err(|e| sqlx::Error::Decode(e.into()))?;
    let subject = Subject::new(parts.subject).map_err(|_| {
        sqlx::Error::Decode("its subject is not one that this service gives".into())
    })?;
    let replaced = match &issued.supersedes {
        Some(serial) => Some(intent_of(connection, serial).await?),
        None => None,
    };
    let (serial, spki) = (
        octets::<16>(&issued.serial_number)?,
        octets::<32>(&issued.spki_sha256)?,
    );
    let claimed = sqlx::query(
        "INSERT INTO claim (intent_id, serial_number, spki_sha256, slot, device, principal, supersedes)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (intent_id) DO NOTHING",
    )
    .bind(issued.intent)
    .bind(serial.to_vec())
    .bind(spki.to_vec())
    .bind(&issued.slot)
    .bind(&issued.device)
    .bind(&issued.station)
    .bind(replaced)
    .execute(&mut *connection)
    .await?;
    if claimed.rows_affected() == 1 {
        sqlx::query(
            "INSERT INTO intent (intent_id, kind, serial_number, issuer, profile, profile_sha256, principal,
                 request_sha256, work_order, device, slot, subject, thing_name, spki_sha256, key_origin,
                 not_before, not_after, tbs, supersedes, generation, rework_reason, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::jsonb, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
        )
        .bind(issued.intent)
        .bind(&issued.kind)
        .bind(serial.to_vec())
        .bind(&issued.issuer)
        .bind(&issued.profile)
        .bind(octets::<32>(&issued.profile_sha256)?.to_vec())
        .bind(&issued.station)
        .bind(octets::<32>(&issued.request_sha256)?.to_vec())
        .bind(&issued.order)
        .bind(&issued.device)
        .bind(&issued.slot)
        .bind(subject_json(&subject))
        .bind(&issued.thing_name)
        .bind(spki.to_vec())
        .bind(&issued.key_origin)
        .bind(parts.validity.not_before)
        .bind(parts.validity.not_after)
        .bind(parts.tbs)
        .bind(replaced)
        .bind(issued.generation)
        .bind(&issued.rework_reason)
        .bind(at)
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query(
        "INSERT INTO outcome (intent_id, der, fingerprint, log_index, recorded_at)
         VALUES ($1, $2, sha256($2), $3, $4)",
    )
    .bind(issued.intent)
    .bind(der)
    .bind(index)
    .bind(at)
    .execute(&mut *connection)
    .await?;
    sqlx::query("INSERT INTO certificate_id (fingerprint, intent_id) VALUES (sha256($2), $1)")
        .bind(issued.intent)
        .bind(der)
        .execute(&mut *connection)
        .await?;
    for list in [
        "INSERT INTO unconfirmed (intent_id) VALUES ($1)",
        "DELETE FROM open_intent WHERE intent_id = $1",
    ] {
        sqlx::query(list)
            .bind(issued.intent)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(
        "INSERT INTO late_outcome (intent_id, recorded_at)
         SELECT $1, $2 WHERE $1 < uuid_floor($2 - interval '1 hour')",
    )
    .bind(issued.intent)
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

async fn life(connection: &mut PgConnection, kind: &str, life: &Life) -> Result<(), sqlx::Error> {
    let intent = intent_of(connection, &life.serial_number).await?;
    sqlx::query(
        "INSERT INTO life_event (intent_id, kind, principal, reason, reason_code, issuer, crl_shard, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
    )
    .bind(intent)
    .bind(kind)
    .bind(&life.by)
    .bind(&life.reason)
    .bind(life.reason_code)
    .bind(&life.issuer)
    .bind(life.crl_shard)
    .bind(life.at)
    .execute(connection)
    .await?;
    Ok(())
}

/// An intent that is still open gets its end; of one that is not there, only its entry is.
async fn abandoned(connection: &mut PgConnection, entry: &Entry<'_>) -> Result<bool, sqlx::Error> {
    let event = entry.value();
    let intent = event["intent"]
        .as_str()
        .and_then(|text| text.parse::<Uuid>().ok());
    let reason = event["reason"].as_str().unwrap_or("restored").to_owned();
    let done = sqlx::query(
        "INSERT INTO outcome (intent_id, abandon_reason, recorded_at)
         SELECT i.intent_id, $2, $3 FROM intent i WHERE i.intent_id = $1 ON CONFLICT DO NOTHING",
    )
    .bind(intent)
    .bind(reason)
    .bind(entry.at)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    for free in [
        "UPDATE claim SET live = false WHERE intent_id = $1",
        "DELETE FROM open_intent WHERE intent_id = $1",
        "UPDATE work_order o SET abandoned = o.abandoned + (i.supersedes IS NULL)::int,
             reworked = o.reworked - (i.supersedes IS NOT NULL)::int
         FROM intent i WHERE i.intent_id = $1 AND o.name = i.work_order",
    ] {
        sqlx::query(free)
            .bind(intent)
            .execute(&mut *connection)
            .await?;
    }
    Ok(true)
}

async fn order(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    order: &Order,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO work_order (name, profile, quantity, scrap_allowance, reworks_max, device_first,
             device_last, device_pattern, stations, opens_at, closes_at, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING",
    )
    .bind(&order.order)
    .bind(&order.profile)
    .bind(order.quantity)
    .bind(order.scrap_allowance)
    .bind(order.reworks_max)
    .bind(&order.device_first)
    .bind(&order.device_last)
    .bind(&order.device_pattern)
    .bind(&order.stations)
    .bind(order.opens_at)
    .bind(order.closes_at)
    .bind(&order.by)
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

async fn intent_of(connection: &mut PgConnection, serial: &str) -> Result<Uuid, sqlx::Error> {
    let found: Option<Uuid> =
        sqlx::query_scalar("SELECT intent_id FROM claim WHERE serial_number = $1")
            .bind(octets::<16>(serial)?.to_vec())
            .fetch_optional(connection)
            .await?;
    found.ok_or_else(|| sqlx::Error::Decode(format!("certificate {serial} is not known").into()))
}

fn octets<const N: usize>(hex: &str) -> Result<[u8; N], sqlx::Error> {
    parse_hex(hex).ok_or_else(|| sqlx::Error::Decode(format!("{hex} is not {N} octets").into()))
}

fn event<T: serde::de::DeserializeOwned>(entry: &Entry<'_>) -> Result<T, sqlx::Error> {
    serde_json::from_str(entry.event.get()).map_err(|e| sqlx::Error::Decode(e.into()))
}
