//! What can be searched for, and certificates to search for.

use certfactory::pki::hex;
use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::TimeDelta;
use chrono::Utc;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

/// From the certificate a search is made after to the ends of its window.
const WINDOW: TimeDelta = TimeDelta::hours(12);

/// A condition of a search: what it is called, and what it asks after a certificate that exists.
pub struct Filter {
    pub name: &'static str,
    /// Parameters and their values. None: it does not apply to this certificate.
    pub query: fn(&Sample) -> Option<String>,
    /// The same in SQL; of what one certificate has at most, nothing: its first page is its last.
    pub sql: Option<fn(&Sample) -> String>,
}

/// A certificate that exists.
pub struct Sample {
    cn: String,
    device: String,
    device_serial: Option<String>,
    serial_number: String,
    fingerprint: String,
    spki: String,
    profile: String,
    issuer: String,
    station: String,
    order: Option<String>,
    batch: Option<Uuid>,
    at: DateTime<Utc>,
}

const NEVER_LIVED: &str = "NOT EXISTS (SELECT FROM life_event e WHERE e.intent_id = o.intent_id)";
const ONLY_CONFIRMED: &str =
    "EXISTS (SELECT FROM life_event e WHERE e.intent_id = o.intent_id) AND NOT EXISTS
    (SELECT FROM life_event e WHERE e.intent_id = o.intent_id AND e.kind <> 'confirmed')";

pub const FILTERS: &[Filter] = &[
    key("cn", |it| Some(format!("cn={}", it.cn))),
    key("device", |it| Some(format!("device={}", it.device))),
    key("device_serial", |it| {
        Some(format!("device_serial={}", it.device_serial.as_ref()?))
    }),
    key("serial_number", |it| {
        Some(format!("serial_number={}", it.serial_number))
    }),
    key("fingerprint", |it| {
        Some(format!("fingerprint={}", it.fingerprint))
    }),
    key("spki", |it| Some(format!("spki={}", it.spki))),
    many(
        "profile",
        |it| Some(format!("profile={}", it.profile)),
        |it| format!("i.profile = '{}'", it.profile),
    ),
    many(
        "profile=workshop",
        |_| Some("profile=workshop".into()),
        |_| "i.profile = 'workshop'".into(),
    ),
    many(
        "issuer",
        |it| Some(format!("issuer={}", it.issuer)),
        |it| format!("i.issuer = '{}'", it.issuer),
    ),
    many(
        "issuer=line-rsa",
        |_| Some("issuer=line-rsa".into()),
        |_| "i.issuer = 'line-rsa'".into(),
    ),
    many(
        "station",
        |it| Some(format!("station={}", it.station)),
        |it| format!("i.principal = '{}'", it.station),
    ),
    many(
        "order",
        |it| Some(format!("order={}", it.order.as_ref()?)),
        |it| {
            format!(
                "i.work_order = '{}'",
                it.order.as_deref().unwrap_or_default()
            )
        },
    ),
    many(
        "batch",
        |it| Some(format!("batch={}", it.batch?)),
        |it| {
            format!(
                "o.intent_id IN (SELECT unnest(k.intent_ids) FROM batch_chunk k WHERE k.batch_id = '{}')",
                it.batch.unwrap_or_default()
            )
        },
    ),
    many(
        "status=issued",
        |_| Some("status=issued".into()),
        |_| NEVER_LIVED.into(),
    ),
    many(
        "status=confirmed",
        |_| Some("status=confirmed".into()),
        |_| ONLY_CONFIRMED.into(),
    ),
    many(
        "status=superseded",
        |_| Some("status=superseded".into()),
        |_| ended("superseded"),
    ),
    many(
        "status=revoked",
        |_| Some("status=revoked".into()),
        |_| ended("revoked"),
    ),
    many(
        "status=scrapped",
        |_| Some("status=scrapped".into()),
        |_| ended("scrapped"),
    ),
    many(
        "issued_after",
        |it| Some(format!("issued_after={}", time(it.at))),
        |it| format!("o.recorded_at >= '{}'", time(it.at)),
    ),
    many(
        "issued_before",
        |it| Some(format!("issued_before={}", time(it.at))),
        |it| format!("o.recorded_at < '{}'", time(it.at)),
    ),
    many(
        "issued window",
        |it| {
            Some(format!(
                "issued_after={}&issued_before={}",
                time(it.at - WINDOW),
                time(it.at + WINDOW)
            ))
        },
        |it| {
            format!(
                "o.recorded_at >= '{}' AND o.recorded_at < '{}'",
                time(it.at - WINDOW),
                time(it.at + WINDOW)
            )
        },
    ),
];

const fn key(name: &'static str, query: fn(&Sample) -> Option<String>) -> Filter {
    Filter {
        name,
        query,
        sql: None,
    }
}

const fn many(
    name: &'static str,
    query: fn(&Sample) -> Option<String>,
    sql: fn(&Sample) -> String,
) -> Filter {
    Filter {
        name,
        query,
        sql: Some(sql),
    }
}

fn ended(kind: &str) -> String {
    format!(
        "o.intent_id IN (SELECT e.intent_id FROM life_event e WHERE e.kind <> 'confirmed' AND e.kind = '{kind}')"
    )
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Whether two filters are of one parameter; of times, the window stands for both.
pub fn excludes(one: &str, other: &str) -> bool {
    let parameter = |name: &str| {
        let end = name.find(['=', '_', ' ']).unwrap_or(name.len());
        match &name[..end] {
            "issued" => "issued".to_owned(),
            _ => name.split('=').next().unwrap().to_owned(),
        }
    };
    parameter(one) == parameter(other)
}

/// Certificates from all over the log.
pub async fn samples(database: &mut PgConnection, count: usize) -> Vec<Sample> {
    const READ: &str = "
        SELECT i.subject ->> 'CN', i.device, i.subject ->> 'serialNumber', i.serial_number, o.fingerprint,
               i.spki_sha256, i.profile, i.issuer, i.principal, i.work_order,
               (SELECT b.batch_id FROM batch b ORDER BY b.batch_id DESC LIMIT 1), o.recorded_at
        FROM outcome o JOIN intent i ON i.intent_id = o.intent_id
        WHERE o.der IS NOT NULL AND o.log_index = $1 AND i.kind = 'device'";
    let size: i64 = sqlx::query_scalar("SELECT size FROM log_head")
        .fetch_one(&mut *database)
        .await
        .unwrap();
    let mut samples = Vec::new();
    // About half of the entries are certificates'.
    for _ in 0..count * 20 {
        let mut random = [0; 8];
        openssl::rand::rand_bytes(&mut random).unwrap();
        let index = i64::from_ne_bytes(random).rem_euclid(size);
        let row = sqlx::query(READ)
            .bind(index)
            .fetch_optional(&mut *database)
            .await;
        samples.extend(row.unwrap().as_ref().map(sample));
        if samples.len() == count {
            break;
        }
    }
    assert!(!samples.is_empty(), "the ledger has no certificates");
    samples
}

fn sample(row: &PgRow) -> Sample {
    let digest = |n: usize| hex(&row.get::<Vec<u8>, _>(n));
    Sample {
        cn: row.get(0),
        device: row.get(1),
        device_serial: row.get(2),
        serial_number: digest(3),
        fingerprint: digest(4),
        spki: digest(5),
        profile: row.get(6),
        issuer: row.get(7),
        station: row.get(8),
        order: row.get(9),
        batch: row.get(10),
        at: row.get(11),
    }
}
