//! What becomes of intents that did not go straight through. Rare, so on a lane of its own.

use std::sync::Arc;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::ca::Intent;
use crate::ca::LedgerFault;
use crate::ca::Outcome;
use crate::ca::recover::VERY_LATE_SECONDS;
use crate::db::lane::Job;
use crate::db::row;
use crate::db::row::intent_columns;
use crate::db::row::outcome_columns;
use crate::db::session::fence;

const OUTCOME: &str = concat!(
    "SELECT ",
    intent_columns!(),
    ", ",
    outcome_columns!(),
    " FROM outcome o JOIN intent i ON i.intent_id = o.intent_id WHERE o.intent_id = $1"
);

/// Database time alone decides; replicas skip what another one is just taking.
const TAKE_OVER: &str = concat!(
    "WITH taken AS (
        UPDATE open_intent SET lease_until = statement_timestamp() + interval '5 seconds'
        WHERE intent_id = ANY(ARRAY(
            SELECT o.intent_id FROM open_intent o
            WHERE o.lease_until < statement_timestamp() - $2::int4 * interval '1 second'
                  AND (o.lease_until < statement_timestamp() - $4::int4 * interval '1 second'
                       OR (SELECT i.issuer FROM intent i WHERE i.intent_id = o.intent_id) = ANY($3))
            ORDER BY o.lease_until LIMIT $1 FOR UPDATE SKIP LOCKED))
        RETURNING intent_id
    )
    SELECT ",
    intent_columns!(),
    " FROM intent i WHERE i.intent_id = ANY(ARRAY(SELECT intent_id FROM taken))
      ORDER BY i.intent_id"
);

const ABANDON: &str = "SELECT abandon_intent($1, $2)";

/// One thing to find out or to do.
pub(super) enum Settle {
    /// What became of an intent.
    Outcome(Uuid),
    /// Lease open intents of these issuers whose lease has run out so many seconds ago, and any that are very
    /// late, at most so many.
    TakeOver {
        limit: i64,
        late_seconds: i32,
        issuers: Vec<String>,
    },
    /// Give up an open intent, and why.
    Abandon(Uuid, String),
}

/// The answer to the variant of the same name.
pub(super) enum Settled {
    /// `None` while it is open.
    Outcome(Box<Option<Outcome>>),
    /// Those now leased.
    TakeOver(Vec<Intent>),
    /// Done, or not needed.
    Abandon,
}

impl Job for Settle {
    type Answer = Settled;
    const LANE: &'static str = "settlements";
    /// Each is a transaction of its own.
    const BATCH_MAX: usize = 1;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<Settled, LedgerFault>>, sqlx::Error> {
        if jobs.is_empty() {
            take_over(connection, 0, 0, &[]).await?;
        }
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(Ok(match &**job {
                Self::Outcome(intent) => {
                    let outcome = outcome(connection, *intent).await?;
                    fence(connection).await?;
                    Settled::Outcome(Box::new(outcome))
                }
                Self::TakeOver {
                    limit,
                    late_seconds,
                    issuers,
                } => {
                    let taken = take_over(connection, *limit, *late_seconds, issuers).await?;
                    Settled::TakeOver(taken)
                }
                Self::Abandon(intent, reason) => {
                    sqlx::query(ABANDON)
                        .bind(intent)
                        .bind(reason)
                        .execute(&mut *connection)
                        .await?;
                    Settled::Abandon
                }
            }));
        }
        Ok(answers)
    }
}

async fn outcome(
    connection: &mut PgConnection,
    intent: Uuid,
) -> Result<Option<Outcome>, sqlx::Error> {
    let Some(row) = sqlx::query(OUTCOME)
        .bind(intent)
        .fetch_optional(connection)
        .await?
    else {
        return Ok(None);
    };
    Ok(Some(match row::certificate(row::intent(&row)?, &row)? {
        Some(certificate) => Outcome::Issued(certificate),
        None => Outcome::Abandoned,
    }))
}

async fn take_over(
    connection: &mut PgConnection,
    limit: i64,
    late_seconds: i32,
    issuers: &[String],
) -> Result<Vec<Intent>, sqlx::Error> {
    let rows = sqlx::query(TAKE_OVER)
        .bind(limit)
        .bind(late_seconds)
        .bind(issuers)
        .bind(VERY_LATE_SECONDS)
        .fetch_all(connection)
        .await?;
    rows.iter().map(row::intent).collect()
}
