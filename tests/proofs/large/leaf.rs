//! Octets of entries, as the database writes them; [`compare`] asks it.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use certfactory::pki::entry::Entry;
use certfactory::pki::entry::ISSUED;
use chrono::DateTime;
use chrono::Utc;
use sqlx::PgConnection;

use crate::large::plan;
use crate::large::plan::Order;

/// Entries that are held against what the database would write.
const SAMPLE: u64 = 1_000;

/// The event of an order's creation, as the database writes JSON.
pub fn created(order: Order) -> String {
    let stations: Vec<String> = order
        .stations()
        .iter()
        .map(|it| format!("{it:?}"))
        .collect();
    format!(
        r#"{{"order" : "{}", "profile" : "lightbulb", "quantity" : {}, "scrap_allowance" : 0, "reworks_max" : null, "device_first" : null, "device_last" : null, "device_pattern" : null, "stations" : [{}], "opens_at" : null, "closes_at" : null, "by" : "operator"}}"#,
        order.name(),
        plan::QUANTITY,
        stations.join(",")
    )
}

/// The event of its closing.
pub fn closed(order: Order) -> String {
    format!(r#"{{"order" : "{}", "by" : "operator"}}"#, order.name())
}

/// The octets of an entry, as the database's `log_leaf` makes them.
pub fn leaf_of(index: u64, at: i64, kind: &str, event: &str) -> Vec<u8> {
    let mut leaf = Vec::with_capacity(2_048);
    let at = utc(at).format("%Y-%m-%dT%H:%M:%S%.6fZ");
    write!(
        leaf,
        r#"{{"index":{index},"at":"{at}","kind":"{kind}","event":{event}}}"#
    )
    .unwrap();
    leaf
}

/// A time as the database writes it into JSON: no zeros at the end of the fraction.
pub fn json_time(at: i64) -> String {
    let text = utc(at).format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}+00:00")
}

fn utc(at: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at).unwrap()
}

/// Holds entries against the octets that the database would write of their rows. How many, by kind.
pub async fn compare(connection: &mut PgConnection, entries: Range<u64>) -> BTreeMap<String, u64> {
    let step = (entries.end - entries.start).div_ceil(SAMPLE);
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for index in entries.step_by(usize::try_from(step).unwrap()) {
        let index = i64::try_from(index).unwrap();
        let stored = sqlx::query_scalar("SELECT leaf FROM log_entry WHERE log_index = $1");
        let stored: Vec<u8> = stored
            .bind(index)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let entry = Entry::parse(&stored).unwrap();
        let event = entry.value();
        let (query, by) = match entry.kind {
            ISSUED => (ISSUED_LEAF, entry.event.get()),
            "order-created" => (CREATED_LEAF, event["order"].as_str().unwrap()),
            "order-closed" => (CLOSED_LEAF, event["order"].as_str().unwrap()),
            _ => (LIFE_LEAF, event["serial_number"].as_str().unwrap()),
        };
        let written = sqlx::query_scalar(query)
            .bind(index)
            .bind(entry.at)
            .bind(entry.kind);
        let written: Vec<u8> = written.bind(by).fetch_one(&mut *connection).await.unwrap();
        assert!(
            written == stored,
            "{}\nis not what the database writes:\n{}",
            String::from_utf8_lossy(&stored),
            String::from_utf8_lossy(&written)
        );
        *kinds.entry(entry.kind.to_owned()).or_default() += 1;
    }
    kinds
}

const ISSUED_LEAF: &str = "SELECT log_leaf($1, o.recorded_at, $3, $4) || '\\x0a'::bytea || o.der
    FROM outcome o WHERE o.log_index = $1 AND o.der IS NOT NULL AND o.recorded_at = $2";

const LIFE_LEAF: &str = "
    SELECT log_leaf($1, $2, $3, json_build_object(
        'serial_number', encode(c.serial_number, 'hex'), 'device', c.device, 'issuer', e.issuer,
        'by', e.principal, 'reason', e.reason, 'reason_code', e.reason_code, 'crl_shard', e.crl_shard, 'at', e.at)::text)
    FROM claim c JOIN life_event e ON e.intent_id = c.intent_id AND e.kind = $3
    WHERE c.serial_number = decode($4, 'hex') AND e.at <= $2";

const CREATED_LEAF: &str = "
    SELECT log_leaf($1, $2, $3, json_build_object(
        'order', w.name, 'profile', w.profile, 'quantity', w.quantity, 'scrap_allowance', w.scrap_allowance,
        'reworks_max', w.reworks_max, 'device_first', w.device_first, 'device_last', w.device_last,
        'device_pattern', w.device_pattern, 'stations', w.stations, 'opens_at', w.opens_at,
        'closes_at', w.closes_at, 'by', w.created_by)::text)
    FROM work_order w WHERE w.name = $4 AND w.created_at = $2";

const CLOSED_LEAF: &str = "
    SELECT log_leaf($1, $2, $3, json_build_object('order', w.name, 'by', w.closed_by)::text)
    FROM work_order w WHERE w.name = $4 AND w.closed_at = $2";
