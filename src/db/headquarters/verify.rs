//! Holds a plant's rows against its log, and its log against its checkpoints. One round is one transaction
//! that holds the row of the plant's progress: two head offices on one database do not do it twice.

use std::collections::BTreeMap;

use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::types::Json;

use crate::ca::LedgerFault;
use crate::ca::headquarters::compare;
use crate::ca::headquarters::compare::CertificateRow;
use crate::db::headquarters::PgPlants;
use crate::db::row::signed;
use crate::db::row::unreadable;
use crate::db::row::unsigned;
use crate::pki::entry::Entry;
use crate::pki::hex;
use crate::pki::merkle::Hash;
use crate::pki::merkle::RightEdge;
use crate::pki::merkle::leaf_hash;
use crate::pki::note::Checkpoint;
use crate::pki::note::Note;
use crate::pki::note::VerifierKey;

/// Rows of a kind in a round.
const ROWS: i64 = 2_000;
/// Entries that are hashed in a round.
const ENTRIES: u64 = 20_000;
/// Checkpoints that are looked at in a round: each costs two questions and a signature.
const CHECKPOINTS_MAX: u32 = 500;

/// Where the plant's first copy is complete: until then rows come table by table.
const BEGIN: &str = "
    SELECT g.certificates_arrival, g.events_arrival, g.tree_size, g.tree_peaks, g.disagrees, p.log_key,
           EXISTS (SELECT FROM pg_subscription s WHERE s.subname = 'certfactory_' || replace(p.site, '-', '_'))
           AND NOT EXISTS (SELECT FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid
                           WHERE s.subname = 'certfactory_' || replace(p.site, '-', '_') AND r.srsubstate <> 'r') AS whole
    FROM plant_progress g JOIN plant p ON p.site = g.site
    WHERE g.site = $1 FOR NO KEY UPDATE OF g SKIP LOCKED";

/// An intent by the names that its fields have in the log; and which other plants have its serial number, or a
/// device with its key: no constraint spans plants.
const CERTIFICATES: &str = "
    SELECT o.arrival, o.intent_id::text AS key, o.der, o.fingerprint, o.log_index, o.recorded_at, l.leaf,
           CASE WHEN i.intent_id IS NOT NULL THEN jsonb_build_object(
               'intent', i.intent_id, 'kind', i.kind, 'serial_number', encode(i.serial_number, 'hex'), 'issuer', i.issuer,
               'profile', i.profile, 'profile_sha256', encode(i.profile_sha256, 'hex'), 'device', i.device, 'slot', i.slot,
               'thing_name', i.thing_name, 'spki_sha256', encode(i.spki_sha256, 'hex'), 'key_origin', i.key_origin,
               'station', i.principal, 'order', i.work_order, 'request_sha256', encode(i.request_sha256, 'hex'),
               'supersedes', encode((SELECT p.serial_number FROM intent p
                                     WHERE p.site = i.site AND p.intent_id = i.supersedes), 'hex'),
               'generation', i.generation, 'rework_reason', i.rework_reason) END AS fields,
           ARRAY(SELECT 'serial_number: plant ' || x.site || ' has it, too' FROM intent x
                 WHERE x.serial_number = i.serial_number AND x.site <> $1)
           || ARRAY(SELECT 'spki_sha256: plant ' || x.site || ' certified it, too' FROM intent x
                    WHERE x.spki_sha256 = i.spki_sha256 AND x.site <> $1 AND x.kind = 'device' AND i.kind = 'device')
               AS elsewhere
    FROM (SELECT * FROM outcome o WHERE o.site = $1 AND o.arrival > $2 ORDER BY o.arrival LIMIT $3) o
    LEFT JOIN intent i ON i.site = $1 AND i.intent_id = o.intent_id
    LEFT JOIN log_entry l ON l.site = $1 AND l.log_index = o.log_index
    ORDER BY o.arrival";

const EVENTS: &str = "
    SELECT e.arrival, e.intent_id || ' ' || e.kind AS key, l.log_index, l.leaf,
           jsonb_build_object('serial_number', encode(i.serial_number, 'hex'), 'device', i.device, 'issuer', e.issuer,
               'by', e.principal, 'reason', e.reason, 'reason_code', e.reason_code, 'crl_shard', e.crl_shard,
               'at', e.at) AS fields
    FROM (SELECT * FROM life_event e WHERE e.site = $1 AND e.arrival > $2 ORDER BY e.arrival LIMIT $3) e
    LEFT JOIN intent i ON i.site = $1 AND i.intent_id = e.intent_id
    LEFT JOIN LATERAL (SELECT l.log_index, l.leaf FROM log_entry l
        WHERE l.site = $1 AND l.about = encode(i.serial_number, 'hex') AND l.told = e.kind
        ORDER BY l.log_index LIMIT 1) l ON true
    ORDER BY e.arrival";

/// Orders as they stand, beside what the log last said of each part of them; and where it said something of
/// a part that the row has not.
const ORDERS: &str = "
    SELECT w.name AS key, l.log_index, l.leaf, said.fields
    FROM work_order w
    CROSS JOIN LATERAL (VALUES
        (ARRAY['order-created', 'order-changed'], true, jsonb_build_object(
            'order', w.name, 'profile', w.profile, 'quantity', w.quantity, 'scrap_allowance', w.scrap_allowance,
            'reworks_max', w.reworks_max, 'stations', w.stations)),
        (ARRAY['order-created'], true, jsonb_build_object(
            'device_first', w.device_first, 'device_last', w.device_last, 'device_pattern', w.device_pattern,
            'opens_at', w.opens_at, 'closes_at', w.closes_at, 'by', w.created_by)),
        (ARRAY['order-closed'], w.closed_at IS NOT NULL, jsonb_build_object('by', w.closed_by)),
        (ARRAY['order-devices'], w.device_count IS NOT NULL, jsonb_build_object(
            'device_count', w.device_count, 'device_list_sha256', encode(w.device_list_sha256, 'hex')))
    ) said (kinds, needed, fields)
    LEFT JOIN LATERAL (SELECT l.log_index, l.leaf FROM log_entry l
        WHERE l.site = $1 AND l.about = w.name AND l.told = ANY (said.kinds)
        ORDER BY l.log_index DESC LIMIT 1) l ON true
    WHERE w.site = $1 AND (said.needed OR l.leaf IS NOT NULL)";

const CHECKPOINTS: &str = "SELECT size, note, root, created_at FROM checkpoint
    WHERE site = $1 AND size > $2 ORDER BY size LIMIT 1";

const LEAVES: &str = "SELECT log_index, leaf FROM log_entry
    WHERE site = $1 AND log_index >= $2 AND log_index < $3 ORDER BY log_index";

const FOUND: &str =
    "INSERT INTO finding AS f (site, table_name, row_key, held_to, difference) VALUES ($1, $2, $3, 'log', $4)
    ON CONFLICT (site, table_name, row_key, held_to) DO UPDATE
    SET difference = EXCLUDED.difference, found_at = clock_timestamp(), ended_at = NULL
    WHERE f.difference <> EXCLUDED.difference OR f.ended_at IS NOT NULL";

const RIGHT_AGAIN: &str = "UPDATE finding SET ended_at = clock_timestamp()
    WHERE site = $1 AND table_name = $2 AND held_to = 'log' AND ended_at IS NULL AND row_key <> ALL ($3)";

const END: &str = "UPDATE plant_progress
    SET certificates_arrival = $2, certificates = certificates + $3, events_arrival = $4, events = events + $5
    WHERE site = $1";

const WITNESSED: &str = "UPDATE plant_progress SET tree_size = $2, tree_peaks = $3,
        checkpoint_size = coalesce($4, checkpoint_size), checkpoint_at = coalesce($5, checkpoint_at),
        disagrees = $6
    WHERE site = $1";

/// Checkpoints that are looked at stay as at the plant: the newest, and the last of each hour.
const FORGET: &str = "DELETE FROM checkpoint c WHERE c.site = $1 AND c.size < $2
    AND EXISTS (SELECT FROM checkpoint n WHERE n.site = $1 AND n.size > c.size AND n.size <= $2
                AND date_trunc('hour', n.created_at) = date_trunc('hour', c.created_at))";

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Whether there is more to do at once.
    pub more: bool,
    /// Rows and checkpoints that were newly found not to agree.
    pub found: u64,
}

impl PgPlants {
    /// One round for one plant: rows that came are held against the log, the log against the next
    /// checkpoint. `orders`: work orders, too, each of them.
    pub async fn verify(&self, site: &str, orders: bool) -> Result<Round, LedgerFault> {
        let site = site.to_owned();
        self.keeper
            .ask(move |connection| {
                let site = site.clone();
                Box::pin(async move { round(connection, &site, orders).await })
            })
            .await
    }
}

async fn round(
    connection: &mut PgConnection,
    site: &str,
    orders: bool,
) -> Result<Round, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let connection = &mut *transaction;
    let begin = sqlx::query(BEGIN)
        .bind(site)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(begin) = begin else {
        // Another head office is at it, or the plant was removed.
        return Ok(Round::default());
    };
    if !begin.try_get::<bool, _>("whole")? {
        return Ok(Round::default());
    }
    let mut round = Round::default();
    let from = begin.try_get("certificates_arrival")?;
    let certificates = check_certificates(connection, site, from, &mut round).await?;
    let from = begin.try_get("events_arrival")?;
    let events = check_events(connection, site, from, &mut round).await?;
    if orders {
        check_orders(connection, site, &mut round).await?;
    }
    if certificates.count + events.count > 0 {
        sqlx::query(END)
            .bind(site)
            .bind(certificates.arrival)
            .bind(certificates.issued)
            .bind(events.arrival)
            .bind(events.issued)
            .execute(&mut *connection)
            .await?;
    }
    round.more |= certificates.count == ROWS || events.count == ROWS;
    let log_key: Option<String> = begin.try_get("log_key")?;
    if let Some(log_key) = log_key
        && !begin.try_get::<bool, _>("disagrees")?
    {
        let key = VerifierKey::from_vkey(&log_key).map_err(|fault| unreadable(&fault))?;
        let tree_size = unsigned(begin.try_get("tree_size")?)?;
        let edge = edge(tree_size, begin.try_get("tree_peaks")?)?;
        witness(connection, site, &key, edge, &mut round).await?;
    }
    transaction.commit().await?;
    Ok(round)
}

/// How far a kind of rows was looked at.
struct Looked {
    arrival: i64,
    /// Rows.
    count: i64,
    /// Those that count.
    issued: i64,
}

async fn check_certificates(
    connection: &mut PgConnection,
    site: &str,
    from: i64,
    round: &mut Round,
) -> Result<Looked, sqlx::Error> {
    let rows = sqlx::query(CERTIFICATES)
        .bind(site)
        .bind(from)
        .bind(ROWS)
        .fetch_all(&mut *connection)
        .await?;
    let mut looked = Looked {
        arrival: from,
        count: signed(rows.len() as u64)?,
        issued: 0,
    };
    for row in &rows {
        looked.arrival = row.try_get("arrival")?;
        let Some(der) = row.try_get::<Option<Vec<u8>>, _>("der")? else {
            continue;
        };
        looked.issued += 1;
        let fields: Option<Json<serde_json::Map<_, _>>> = row.try_get("fields")?;
        let certificate = CertificateRow {
            fields: fields.map(|Json(fields)| fields),
            der,
            fingerprint: row
                .try_get::<Option<_>, _>("fingerprint")?
                .unwrap_or_default(),
            log_index: row.try_get::<Option<_>, _>("log_index")?.unwrap_or(-1),
            recorded_at: row.try_get("recorded_at")?,
            leaf: row.try_get("leaf")?,
        };
        let mut wrong = compare::certificate(&certificate);
        wrong.extend(row.try_get::<Vec<String>, _>("elsewhere")?);
        if !wrong.is_empty() {
            let key: &str = row.try_get("key")?;
            found(connection, site, "outcome", key, &wrong, round).await?;
        }
    }
    Ok(looked)
}

async fn check_events(
    connection: &mut PgConnection,
    site: &str,
    from: i64,
    round: &mut Round,
) -> Result<Looked, sqlx::Error> {
    let rows = sqlx::query(EVENTS)
        .bind(site)
        .bind(from)
        .bind(ROWS)
        .fetch_all(&mut *connection)
        .await?;
    let count = signed(rows.len() as u64)?;
    let mut looked = Looked {
        arrival: from,
        count,
        issued: count,
    };
    for row in &rows {
        looked.arrival = row.try_get("arrival")?;
        let wrong = told_otherwise(row)?;
        if !wrong.is_empty() {
            let key: &str = row.try_get("key")?;
            found(connection, site, "life_event", key, &wrong, round).await?;
        }
    }
    Ok(looked)
}

async fn check_orders(
    connection: &mut PgConnection,
    site: &str,
    round: &mut Round,
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(ORDERS)
        .bind(site)
        .fetch_all(&mut *connection)
        .await?;
    let mut differing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &rows {
        let wrong = told_otherwise(row)?;
        if !wrong.is_empty() {
            differing
                .entry(row.try_get("key")?)
                .or_default()
                .extend(wrong);
        }
    }
    for (key, wrong) in &differing {
        found(connection, site, "work_order", key, wrong, round).await?;
    }
    sqlx::query(RIGHT_AGAIN)
        .bind(site)
        .bind("work_order")
        .bind(differing.into_keys().collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// What a row says otherwise than the entry beside it.
fn told_otherwise(row: &sqlx::postgres::PgRow) -> Result<Vec<String>, sqlx::Error> {
    let Json(fields): Json<serde_json::Map<_, _>> = row.try_get("fields")?;
    let leaf: Option<&[u8]> = row.try_get("leaf")?;
    let place: Option<i64> = row.try_get("log_index")?;
    let (Some(leaf), Some(place)) = (leaf, place) else {
        return Ok(vec!["the log has no entry of it".to_owned()]);
    };
    Ok(match Entry::parse(leaf) {
        Ok(entry) => compare::against(&fields, &entry.value(), place),
        Err(fault) => vec![format!("entry {place}: {fault}")],
    })
}

async fn found(
    connection: &mut PgConnection,
    site: &str,
    table: &str,
    key: &str,
    wrong: &[String],
    round: &mut Round,
) -> Result<(), sqlx::Error> {
    let difference = wrong.join("; ");
    let told = sqlx::query(FOUND)
        .bind(site)
        .bind(table)
        .bind(key)
        .bind(&difference)
        .execute(connection)
        .await?;
    round.found += told.rows_affected();
    Ok(())
}

/// The next checkpoint, held against the tree of the entries that are here.
async fn witness(
    connection: &mut PgConnection,
    site: &str,
    key: &VerifierKey,
    mut edge: RightEdge,
    round: &mut Round,
) -> Result<(), sqlx::Error> {
    // The newest that can be reached in this round, of those that came.
    let mut last = None;
    let mut disagrees = None;
    let begun = edge.size();
    for looked in 0.. {
        if edge.size() >= begun + ENTRIES || looked == CHECKPOINTS_MAX {
            round.more = true;
            break;
        }
        let row = sqlx::query(CHECKPOINTS)
            .bind(site)
            .bind(signed(edge.size())?)
            .fetch_optional(&mut *connection)
            .await?;
        let Some(row) = row else {
            break;
        };
        let covered = unsigned(row.try_get("size")?)?;
        if let Err(why) = signed_by(key, row.try_get("note")?, covered) {
            disagrees = Some((covered, why));
            break;
        }
        if !grow(connection, site, &mut edge, covered, begun + ENTRIES).await? {
            let next = edge.size();
            if next < begun + ENTRIES {
                let why = format!("its entry {next} is not here, and a checkpoint of {covered} is");
                disagrees = Some((covered, why));
            }
            round.more = true;
            break;
        }
        let root = edge.root();
        let told: Vec<u8> = row.try_get("root")?;
        let note = checkpoint(row.try_get("note")?);
        if note.map(|note| note.root) != Some(root) || told != root {
            let why = format!("the entries here have the root {}", hex(&root));
            disagrees = Some((covered, why));
            break;
        }
        last = Some((signed(covered)?, row.try_get("created_at")?));
    }
    if edge.size() == begun && disagrees.is_none() {
        return Ok(());
    }
    if let Some((covered, why)) = &disagrees {
        let key = covered.to_string();
        found(
            connection,
            site,
            "checkpoint",
            &key,
            std::slice::from_ref(why),
            round,
        )
        .await?;
    }
    let last: Option<(i64, chrono::DateTime<chrono::Utc>)> = last;
    sqlx::query(WITNESSED)
        .bind(site)
        .bind(signed(edge.size())?)
        .bind(edge.peaks().concat())
        .bind(last.map(|(covered, _)| covered))
        .bind(last.map(|(_, at)| at))
        .bind(disagrees.is_some())
        .execute(&mut *connection)
        .await?;
    if let Some((covered, _)) = last {
        sqlx::query(FORGET)
            .bind(site)
            .bind(covered)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Adds entries until there are `wanted`, or `most`. `false`: that many are not to be had.
async fn grow(
    connection: &mut PgConnection,
    site: &str,
    edge: &mut RightEdge,
    wanted: u64,
    most: u64,
) -> Result<bool, sqlx::Error> {
    let rows = sqlx::query(LEAVES)
        .bind(site)
        .bind(signed(edge.size())?)
        .bind(signed(wanted.min(most))?)
        .fetch_all(connection)
        .await?;
    for row in &rows {
        if unsigned(row.try_get("log_index")?)? != edge.size() {
            break;
        }
        edge.push(leaf_hash(row.try_get("leaf")?));
    }
    Ok(edge.size() == wanted)
}

fn checkpoint(note: &str) -> Option<Checkpoint> {
    Checkpoint::parse(&Note::parse(note).ok()?.text).ok()
}

/// Whether a checkpoint is the log's, and of this size.
fn signed_by(key: &VerifierKey, note: &str, size: u64) -> Result<(), String> {
    let note = Note::parse(note).map_err(|fault| fault.to_string())?;
    key.verify(&note)
        .map_err(|fault| format!("the plant's log key did not sign it: {fault}"))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|fault| fault.to_string())?;
    if checkpoint.origin != key.name() {
        return Err(format!("it is of the log `{}`", checkpoint.origin));
    }
    if checkpoint.size != size {
        return Err(format!("its note is of {} entries", checkpoint.size));
    }
    Ok(())
}

fn edge(size: u64, peaks: &[u8]) -> Result<RightEdge, sqlx::Error> {
    let hashes = peaks.chunks(32).map(|hash| Hash::try_from(hash).ok());
    let hashes: Option<Vec<Hash>> = hashes.collect();
    hashes
        .and_then(|hashes| RightEdge::from_peaks(size, hashes))
        .ok_or_else(|| unreadable("tree of a plant"))
}
