//! Transaction "reserve": intents become durable, each whole or not at all.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::Row;
use uuid::Uuid;

use crate::ca::Claim;
use crate::ca::Intent;
use crate::ca::KeyOrigin;
use crate::ca::LedgerFault;
use crate::ca::Prior;
use crate::ca::Reservation;
use crate::ca::Rework;
use crate::ca::Turn;
use crate::ca::batch::ROW_MAX;
use crate::ca::order::OrderRefusal;
use crate::db::lane::Job;
use crate::db::orders::Locked;
use crate::db::row;
use crate::db::row::intent_columns;
use crate::db::row::outcome_columns;
use crate::db::session::fence;
use crate::pki::tbs::LeafKind;

/// One statement, so one round trip and one transaction. A claim that is taken leaves its row out
/// of `admitted`, and with it out of the other two tables; so does an instance octet that is not the
/// holder's. The holder's row is locked until the commit: whoever takes the octet comes before it or after.
///
/// Each kind has its own, which names the kind and the key's origin in its text, so that a line's
/// devices carry nothing for the sake of the others.
macro_rules! admit {
    ($kind:literal, $key_origin:literal) => {
        admit!($kind, $key_origin, "", "", "")
    };
    ($kind:literal, $key_origin:literal, $arrays:literal, $columns:literal, $claimed:literal) => {
        concat!(
            "
    WITH batch AS (
        SELECT * FROM UNNEST(
            $1::uuid[], $2::bytea[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[],
            $8::bytea[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
            $14::bytea[], $15::timestamptz[], $16::timestamptz[], $17::bytea[], $19::float8[]",
            $arrays,
            ")
        AS b (intent_id, serial_number, issuer, profile, profile_sha256, principal,
              idempotency_key, request_sha256, work_order, device, slot, subject, thing_name,
              spki_sha256, not_before, not_after, tbs, lease_seconds",
            $columns,
            ")
    ), held AS (
        SELECT instance FROM replica WHERE holder = $18 FOR SHARE
    ), admitted AS (
        INSERT INTO claim (intent_id, serial_number, spki_sha256, slot, device, principal,
                           idempotency_key",
            $claimed,
            ")
        SELECT intent_id, serial_number, spki_sha256, slot, device, principal, idempotency_key",
            $claimed,
            "
        FROM batch
        WHERE $18::uuid IS NULL OR get_byte(serial_number, 0) = ANY(ARRAY(SELECT h.instance FROM held h))
        ON CONFLICT DO NOTHING
        RETURNING intent_id
    ), stored AS (
        INSERT INTO intent (intent_id, serial_number, issuer, profile, profile_sha256, principal,
                            idempotency_key, request_sha256, work_order, device, slot, subject,
                            thing_name, spki_sha256, not_before, not_after, tbs, kind,
                            key_origin",
            $columns,
            ")
        SELECT b.intent_id, b.serial_number, b.issuer, b.profile, b.profile_sha256, b.principal,
               b.idempotency_key, b.request_sha256, b.work_order, b.device, b.slot,
               b.subject::jsonb, b.thing_name, b.spki_sha256, b.not_before, b.not_after, b.tbs,
               '",
            $kind,
            "', '",
            $key_origin,
            "'",
            $columns,
            "
        FROM batch b
        WHERE b.intent_id IN (SELECT a.intent_id FROM admitted a)
    ), opened AS (
        INSERT INTO open_intent (intent_id, lease_until)
        SELECT b.intent_id, statement_timestamp() + make_interval(secs => b.lease_seconds)
        FROM batch b
        WHERE b.intent_id IN (SELECT a.intent_id FROM admitted a)
    )
    SELECT intent_id FROM admitted"
        )
    };
}
const ADMIT_DEVICES: &str = admit!("device", "csr");
const ADMIT_MADE_KEYS: &str = admit!("device", "made");
const ADMIT_BARE_KEYS: &str = admit!("device", "public-key");
const ADMIT_VERIFICATIONS: &str = admit!("verification", "made");
const ADMIT_STATIONS: &str = admit!("station", "csr");
const ADMIT_REWORKS: &str = admit!(
    "device",
    "csr",
    ", $20::uuid[], $21::smallint[], $22::text[]",
    ", supersedes, generation, rework_reason",
    ", supersedes"
);

/// What has a statement of its own, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Device,
    MadeKey,
    BareKey,
    Rework,
    Verification,
    Station,
}

impl Sort {
    fn of(intent: &Intent) -> Self {
        match (intent.kind, &intent.rework, intent.key_origin) {
            (LeafKind::Verification, _, _) => Self::Verification,
            (LeafKind::Station, _, _) => Self::Station,
            (LeafKind::Device, Some(_), _) => Self::Rework,
            (LeafKind::Device, None, KeyOrigin::Request) => Self::Device,
            (LeafKind::Device, None, KeyOrigin::Made) => Self::MadeKey,
            (LeafKind::Device, None, KeyOrigin::PublicKey) => Self::BareKey,
        }
    }

    fn statement(self) -> &'static str {
        match self {
            Self::Device => ADMIT_DEVICES,
            Self::MadeKey => ADMIT_MADE_KEYS,
            Self::BareKey => ADMIT_BARE_KEYS,
            Self::Rework => ADMIT_REWORKS,
            Self::Verification => ADMIT_VERIFICATIONS,
            Self::Station => ADMIT_STATIONS,
        }
    }
}

/// Who holds what these rows claim. Its own statement, so that its snapshot sees the holder.
const HOLDERS: &str = concat!(
    "SELECT r.intent_id AS refused, h.what, ",
    intent_columns!(),
    ", ",
    outcome_columns!(),
    " FROM UNNEST(
            $1::uuid[], $2::bytea[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::uuid[])
        AS r (intent_id, serial_number, spki_sha256, slot, device, principal, idempotency_key,
              supersedes)
    CROSS JOIN LATERAL (VALUES
        ('self', (SELECT c.intent_id FROM claim c WHERE c.intent_id = r.intent_id)),
        ('idempotency', (SELECT c.intent_id FROM claim c
            WHERE c.live AND c.idempotency_key IS NOT NULL
                  AND c.principal = r.principal AND c.idempotency_key = r.idempotency_key)),
        ('device', (SELECT c.intent_id FROM claim c
            WHERE r.supersedes IS NULL AND c.live AND c.supersedes IS NULL
                  AND c.device = r.device AND c.slot = r.slot)),
        ('successor', (SELECT c.intent_id FROM claim c
            WHERE c.live AND c.supersedes = r.supersedes)),
        ('public key', (SELECT c.intent_id FROM claim c
            WHERE c.live AND c.spki_sha256 = r.spki_sha256)),
        ('serial number', (SELECT c.intent_id FROM claim c
            WHERE c.serial_number = r.serial_number))
    ) AS h (what, intent_id)
    CROSS JOIN LATERAL (SELECT * FROM intent i WHERE i.intent_id = h.intent_id LIMIT 1) AS i
    LEFT JOIN LATERAL (SELECT * FROM outcome o WHERE o.intent_id = h.intent_id LIMIT 1) AS o
        ON true"
);

/// Times a row is offered again: its holder was abandoned between the two statements, or the order
/// has room after all because a row before it was none.
const OFFERS_MAX: usize = 4;

/// When an open intent is taken for an orphan. A batch's, after [`ROW_MAX`]: it waits for its signature while others are made;
/// where its maker is gone, whoever has its chunk next asks for it again, which of a paused batch is nobody.
const LEASE: Duration = Duration::from_secs(5);

/// One intent to store.
pub(super) struct Reserve {
    pub(super) intent: Intent,
    /// Whose it is.
    pub(super) turn: Turn,
    /// Who must hold the instance octet of its serial number; `None`: nobody in particular. The same for
    /// all of a lane.
    pub(super) holder: Option<Uuid>,
}

impl Job for Reserve {
    type Answer = Reservation;
    const LANE: &'static str = "reservations";
    const BATCH_MAX: usize = 256;

    fn turn(&self) -> Turn {
        self.turn
    }

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<Reservation, LedgerFault>>, sqlx::Error> {
        let mut seen = HashSet::with_capacity(jobs.len());
        let mut open: Vec<&Intent> = jobs.iter().map(|job| &job.intent).collect();
        open.retain(|intent| seen.insert(intent.id));
        let of_batches = jobs.iter().filter(|job| job.turn == Turn::Batch);
        let of_batches: HashSet<Uuid> = of_batches.map(|job| job.intent.id).collect();
        // The same order in every replica keeps two batches from waiting for each other.
        open.sort_by(|a, b| {
            (Sort::of(a), &a.device, &a.slot, a.id).cmp(&(Sort::of(b), &b.device, &b.slot, b.id))
        });
        let mut stored: HashSet<Uuid> = HashSet::with_capacity(jobs.len());
        let mut refused: HashMap<Uuid, Vec<Prior>> = HashMap::new();
        let mut barred: HashMap<Uuid, OrderRefusal> = HashMap::new();
        let holder = jobs.first().and_then(|job| job.holder);
        let mut orders = Locked::begin(connection, &open).await?;
        for _ in 0..OFFERS_MAX {
            let (fit, unfit) = orders.part(&open);
            if jobs.is_empty() {
                admit(connection, Sort::Device, &[], &of_batches, holder).await?;
            }
            for same in fit.chunk_by(|a, b| Sort::of(a) == Sort::of(b)) {
                let sort = Sort::of(same[0]);
                stored.extend(admit(connection, sort, same, &of_batches, holder).await?);
            }
            for intent in fit.iter().filter(|intent| stored.contains(&intent.id)) {
                orders.count(intent);
            }
            open.retain(|intent| !stored.contains(&intent.id));
            if !open.is_empty() {
                // An order that takes nothing more still answers for what it took.
                holders(connection, &open, &mut stored, &mut refused).await?;
                open.retain(|i| !stored.contains(&i.id) && !refused.contains_key(&i.id));
            }
            for (intent, refusal) in unfit {
                if !orders.may_change(&refusal) {
                    barred.insert(intent.id, refusal);
                }
            }
            open.retain(|intent| !barred.contains_key(&intent.id));
            if open.is_empty() {
                break;
            }
        }
        orders.commit(connection).await?;
        if !refused.is_empty() {
            // Replays rest on what was read.
            fence(connection).await?;
        }
        let answer = |job: &Arc<Self>| {
            if stored.contains(&job.intent.id) {
                return Ok(Reservation::Reserved);
            }
            if let Some(priors) = refused.get(&job.intent.id) {
                return Ok(Reservation::Taken(priors.iter().map(copy).collect()));
            }
            match barred.get(&job.intent.id) {
                Some(refusal) => Ok(Reservation::Barred(refusal.clone())),
                None => Err(LedgerFault::Unavailable(
                    "what the request claims changes too often, or its instance octet is another replica's by now".to_owned(),
                )),
            }
        };
        Ok(jobs.iter().map(answer).collect())
    }
}

/// Stores those that claim nothing taken; returns which.
async fn admit(
    connection: &mut PgConnection,
    sort: Sort,
    intents: &[&Intent],
    of_batches: &HashSet<Uuid>,
    holder: Option<Uuid>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let each =
        |value: fn(&Intent) -> &[u8]| -> Vec<&[u8]> { intents.iter().map(|i| value(i)).collect() };
    let text = |value: fn(&Intent) -> Option<&str>| -> Vec<Option<&str>> {
        intents.iter().map(|i| value(i)).collect()
    };
    let subjects: Vec<String> = intents
        .iter()
        .map(|i| row::subject_json(&i.subject))
        .collect();
    let lease = |intent: &&Intent| {
        if of_batches.contains(&intent.id) {
            ROW_MAX.as_secs_f64()
        } else {
            LEASE.as_secs_f64()
        }
    };
    let leases: Vec<f64> = intents.iter().map(lease).collect();
    let mut query = sqlx::query(sort.statement())
        .bind(intents.iter().map(|i| i.id).collect::<Vec<_>>())
        .bind(each(|i| i.serial_number.as_bytes()))
        .bind(text(|i| Some(&i.issuer)))
        .bind(text(|i| Some(&i.profile)))
        .bind(each(|i| &i.profile_sha256))
        .bind(text(|i| Some(&i.principal)))
        .bind(text(|i| i.idempotency_key.as_deref()))
        .bind(each(|i| &i.request_sha256))
        .bind(text(|i| i.order.as_deref()))
        .bind(text(|i| Some(&i.device)))
        .bind(text(|i| Some(&i.slot)))
        .bind(subjects)
        .bind(text(|i| i.thing_name.as_deref()))
        .bind(each(|i| &i.spki_sha256))
        .bind(
            intents
                .iter()
                .map(|i| i.validity.not_before)
                .collect::<Vec<_>>(),
        )
        .bind(
            intents
                .iter()
                .map(|i| i.validity.not_after)
                .collect::<Vec<_>>(),
        )
        .bind(each(|i| &i.tbs))
        .bind(holder)
        .bind(leases);
    if sort == Sort::Rework {
        query = query
            .bind(reworks(intents, |rework| rework.supersedes))
            .bind(reworks(intents, |rework| rework.generation))
            .bind(reworks(intents, |rework| rework.reason.clone()));
    }
    let rows = query.fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get("intent_id")).collect()
}

fn reworks<T>(intents: &[&Intent], value: fn(&Rework) -> T) -> Vec<Option<T>> {
    let rework = |intent: &&Intent| intent.rework.as_ref().map(value);
    intents.iter().map(rework).collect()
}

/// For each intent that was not stored now: that it had been stored before, or who holds its claims.
async fn holders(
    connection: &mut PgConnection,
    intents: &[&Intent],
    stored: &mut HashSet<Uuid>,
    refused: &mut HashMap<Uuid, Vec<Prior>>,
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(HOLDERS)
        .bind(intents.iter().map(|i| i.id).collect::<Vec<_>>())
        .bind(
            intents
                .iter()
                .map(|i| &i.serial_number.as_bytes()[..])
                .collect::<Vec<_>>(),
        )
        .bind(
            intents
                .iter()
                .map(|i| &i.spki_sha256[..])
                .collect::<Vec<_>>(),
        )
        .bind(intents.iter().map(|i| &*i.slot).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| &*i.device).collect::<Vec<_>>())
        .bind(intents.iter().map(|i| &*i.principal).collect::<Vec<_>>())
        .bind(
            intents
                .iter()
                .map(|i| i.idempotency_key.as_deref())
                .collect::<Vec<_>>(),
        )
        .bind(reworks(intents, |rework| rework.supersedes))
        .fetch_all(connection)
        .await?;

    for row in &rows {
        let id = row.try_get("refused")?;
        let claim = match row.try_get::<&str, _>("what")? {
            // Stored by an earlier run whose commit went unanswered.
            "self" => {
                stored.insert(id);
                continue;
            }
            "idempotency" => Claim::Idempotency,
            "device" => Claim::Device,
            "successor" => Claim::Successor,
            "public key" => Claim::PublicKey,
            _ => Claim::SerialNumber,
        };
        let intent = row::intent(row)?;
        refused.entry(id).or_default().push(Prior {
            claim,
            intent: intent.clone(),
            certificate: row::certificate(intent, row)?,
        });
    }
    Ok(())
}

/// For the second of two callers with the same intent in one batch.
fn copy(prior: &Prior) -> Prior {
    Prior {
        claim: prior.claim,
        intent: prior.intent.clone(),
        certificate: prior.certificate.clone(),
    }
}
