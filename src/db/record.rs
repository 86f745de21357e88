//! Transaction "record": certificates become durable and get their places in the log.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::Row;
use uuid::Uuid;

use crate::ca::CertificateRecord;
use crate::ca::Intent;
use crate::ca::LedgerFault;
use crate::db::lane::Job;
use crate::db::row;
use crate::db::row::fresh_outcome_columns;
use crate::db::row::outcome_columns;
use crate::pki::certificate::SignedCertificate;

/// One recording transaction of all replicas at a time. A statement of its own: the next one's
/// snapshot is then taken under the lock, and sees what the earlier holder committed.
const LOCK: &str = "BEGIN; SELECT size FROM log_head FOR UPDATE";

/// Records those intents that have no outcome yet, numbers them, and moves the head.
const RECORD: &str = concat!(
    "WITH fresh AS (
        SELECT b.intent_id, b.der, b.fingerprint, row_number() OVER (ORDER BY b.ordinal) AS place
        FROM UNNEST($1::uuid[], $2::bytea[], $3::bytea[]) WITH ORDINALITY
             AS b (intent_id, der, fingerprint, ordinal)
        WHERE (SELECT true FROM outcome o WHERE o.intent_id = b.intent_id) IS NULL
    ), o AS (
        INSERT INTO outcome (intent_id, der, fingerprint, log_index)
        SELECT f.intent_id, f.der, f.fingerprint, h.size + f.place - 1
        FROM fresh f CROSS JOIN log_head h
        RETURNING intent_id, der, fingerprint, log_index, recorded_at
    ), closed AS (
        DELETE FROM open_intent WHERE intent_id = ANY($1)
    ), moved AS (
        UPDATE log_head SET size = size + (SELECT count(*) FROM fresh)
        WHERE EXISTS (SELECT FROM fresh)
    )
    SELECT o.intent_id, ",
    fresh_outcome_columns!(),
    " FROM o"
);

/// What earlier recordings of the same intents left.
const WINNERS: &str = concat!(
    "SELECT o.intent_id, ",
    outcome_columns!(),
    " FROM outcome o WHERE o.intent_id = ANY($1)"
);

/// One certificate to record.
pub(super) struct Record {
    pub(super) intent: Intent,
    pub(super) certificate: SignedCertificate,
}

impl Job for Record {
    type Answer = CertificateRecord;
    const LANE: &'static str = "outcomes";
    const BATCH_MAX: usize = 256;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<CertificateRecord, LedgerFault>>, sqlx::Error> {
        // Twice in one batch, when two tasks finished the same intent: the first one counts.
        let mut seen = HashSet::with_capacity(jobs.len());
        let mut fresh: Vec<&Record> = jobs.iter().map(|job| &**job).collect();
        fresh.retain(|job| seen.insert(job.intent.id));

        sqlx::raw_sql(LOCK).execute(&mut *connection).await?;
        let rows = sqlx::query(RECORD)
            .bind(fresh.iter().map(|job| job.intent.id).collect::<Vec<_>>())
            .bind(
                fresh
                    .iter()
                    .map(|job| job.certificate.as_der())
                    .collect::<Vec<_>>(),
            )
            .bind(
                fresh
                    .iter()
                    .map(|job| &job.certificate.sha256()[..])
                    .collect::<Vec<_>>(),
            )
            .fetch_all(&mut *connection)
            .await?;
        sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;

        let mut recorded: HashMap<Uuid, _> = HashMap::with_capacity(jobs.len());
        for row in rows {
            recorded.insert(row.try_get("intent_id")?, row);
        }
        let lost: Vec<Uuid> = seen
            .into_iter()
            .filter(|id| !recorded.contains_key(id))
            .collect();
        if !lost.is_empty() {
            for row in sqlx::query(WINNERS)
                .bind(lost)
                .fetch_all(&mut *connection)
                .await?
            {
                recorded.insert(row.try_get("intent_id")?, row);
            }
        }

        jobs.iter()
            .map(|job| {
                let certificate = match recorded.get(&job.intent.id) {
                    Some(row) => row::certificate(job.intent.clone(), row)?,
                    None => None,
                };
                Ok(certificate.ok_or_else(|| {
                    LedgerFault::Unavailable("the intent was abandoned before".to_owned())
                }))
            })
            .collect()
    }
}
