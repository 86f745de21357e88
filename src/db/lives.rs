//! What happened to certificates ([`LifeBook`]): events in batches, under the order's lock first.
//!
//! [`LifeBook`]: crate::ca::life::LifeBook

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::Status;
use crate::ca::life::LifeAct;
use crate::ca::life::LifeEvent;
use crate::db::lane::Job;
use crate::db::row::unreadable;
use crate::pki::revocation::RevocationReason;

/// Before the certificates' claims, which the events' triggers lock: a reservation locks an order
/// first, too. In the order of the names, so that two batches never wait crosswise.
const LOCK: &str =
    "SELECT name FROM work_order WHERE name = ANY($1) ORDER BY name FOR NO KEY UPDATE";

/// Row by row in the order given: a later event of an act may need an earlier one.
const ADD: &str = "INSERT INTO life_event
        (intent_id, kind, principal, reason, reason_code, issuer, crl_shard)
    SELECT intent_id, kind, principal, reason, reason_code, issuer, crl_shard
    FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::text[],
                $7::smallint[]) WITH ORDINALITY
         AS n (intent_id, kind, principal, reason, reason_code, issuer, crl_shard, ordinal)
    ORDER BY ordinal
    ON CONFLICT DO NOTHING";

/// A confirmation comes before an end of the same moment.
const EVENTS: &str = "SELECT intent_id, kind, principal, reason, reason_code, at
    FROM life_event WHERE intent_id = ANY($1) ORDER BY at, kind <> 'confirmed'";

/// Takes some along that are of no use any more, more than come.
const CHALLENGE: &str = "WITH old AS (
        DELETE FROM challenge WHERE nonce = ANY(ARRAY(
            SELECT nonce FROM challenge WHERE created_at < statement_timestamp() - interval '1 hour'
            ORDER BY created_at LIMIT 10))
    )
    INSERT INTO challenge (nonce, intent_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const CHALLENGED: &str = "SELECT FROM challenge WHERE nonce = $1 AND intent_id = $2
    AND created_at > statement_timestamp() - interval '10 minutes'";

/// One thing to store or to find out.
pub(super) enum LifeJob {
    Act(LifeAct),
    Events(Uuid),
    Challenge(Uuid, [u8; 32]),
    Challenged(Uuid, [u8; 32]),
}

/// The answer to the variant of the same name.
pub(super) enum LifeAnswer {
    /// Of `Act`, too.
    Events(Vec<LifeEvent>),
    Challenge,
    Challenged(bool),
}

impl Job for LifeJob {
    type Answer = LifeAnswer;
    const LANE: &'static str = "lives";
    const BATCH_MAX: usize = 128;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<LifeAnswer, LedgerFault>>, sqlx::Error> {
        let mut acts: Vec<&LifeAct> = jobs.iter().filter_map(|job| job.act()).collect();
        acts.sort_by_key(|act| act.intent);
        if !acts.is_empty() || jobs.is_empty() {
            store(connection, &acts).await?;
        }
        let asked: Vec<Uuid> = jobs.iter().filter_map(|job| job.reads()).collect();
        let mut events: HashMap<Uuid, Vec<LifeEvent>> = HashMap::with_capacity(asked.len());
        if !asked.is_empty() {
            let rows = sqlx::query(EVENTS)
                .bind(asked)
                .fetch_all(&mut *connection)
                .await?;
            for row in &rows {
                let of = events.entry(row.try_get("intent_id")?).or_default();
                of.push(event(row)?);
            }
        }
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(Ok(match &**job {
                Self::Act(LifeAct { intent, .. }) | Self::Events(intent) => {
                    LifeAnswer::Events(events.get(intent).cloned().unwrap_or_default())
                }
                Self::Challenge(intent, nonce) => {
                    sqlx::query(CHALLENGE)
                        .bind(&nonce[..])
                        .bind(intent)
                        .execute(&mut *connection)
                        .await?;
                    LifeAnswer::Challenge
                }
                Self::Challenged(intent, nonce) => LifeAnswer::Challenged(
                    sqlx::query(CHALLENGED)
                        .bind(&nonce[..])
                        .bind(intent)
                        .fetch_optional(&mut *connection)
                        .await?
                        .is_some(),
                ),
            }));
        }
        Ok(answers)
    }
}

impl LifeJob {
    fn act(&self) -> Option<&LifeAct> {
        match self {
            Self::Act(act) => Some(act),
            Self::Events(_) | Self::Challenge(..) | Self::Challenged(..) => None,
        }
    }

    /// The certificate whose events are asked for.
    fn reads(&self) -> Option<Uuid> {
        match self {
            Self::Act(act) => Some(act.intent),
            Self::Events(intent) => Some(*intent),
            Self::Challenge(..) | Self::Challenged(..) => None,
        }
    }
}

async fn store(connection: &mut PgConnection, acts: &[&LifeAct]) -> Result<(), sqlx::Error> {
    let mut orders: Vec<&str> = acts
        .iter()
        .flat_map(|act| act.orders.iter().map(String::as_str))
        .collect();
    orders.sort_unstable();
    orders.dedup();
    let events = || {
        acts.iter()
            .flat_map(|act| act.events.iter().map(move |event| (*act, event)))
    };
    let code = |reason: RevocationReason| i16::from(reason.code());
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
    sqlx::query(LOCK)
        .bind(orders)
        .execute(&mut *connection)
        .await?;
    sqlx::query(ADD)
        .bind(events().map(|(_, e)| e.intent).collect::<Vec<_>>())
        .bind(events().map(|(_, e)| e.kind.as_str()).collect::<Vec<_>>())
        .bind(events().map(|(a, _)| &*a.principal).collect::<Vec<_>>())
        .bind(
            events()
                .map(|(_, e)| e.reason.as_deref())
                .collect::<Vec<_>>(),
        )
        .bind(
            events()
                .map(|(_, e)| e.reason_code.map(code))
                .collect::<Vec<_>>(),
        )
        .bind(events().map(|(_, e)| &*e.issuer).collect::<Vec<_>>())
        .bind(events().map(|(_, e)| e.crl_shard).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}

fn event(row: &PgRow) -> Result<LifeEvent, sqlx::Error> {
    let code: Option<i16> = row.try_get("reason_code")?;
    let reason_code = code.map(|code| {
        u8::try_from(code)
            .ok()
            .and_then(RevocationReason::from_code)
            .ok_or_else(|| unreadable("reason code"))
    });
    Ok(LifeEvent {
        kind: Status::from_word(row.try_get("kind")?).ok_or_else(|| unreadable("event"))?,
        principal: row.try_get("principal")?,
        reason: row.try_get("reason")?,
        reason_code: reason_code.transpose()?,
        at: row.try_get("at")?,
    })
}
