//! Transaction "record": certificates become durable and get their places in the log.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use chrono::Utc;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::ca::CertificateRecord;
use crate::ca::Intent;
use crate::ca::LedgerFault;
use crate::ca::Status;
use crate::ca::Turn;
use crate::ca::log;
use crate::ca::log::fresh::FreshEntries;
use crate::db::lane::Job;
use crate::db::row;
use crate::db::row::outcome_columns;
use crate::db::row::signed;
use crate::db::row::unsigned;
use crate::db::session::fence;
use crate::pki::certificate::SignedCertificate;

/// Locks the log's head, records those intents that have no outcome yet, appends their entries. Rows
/// without an id are entries from the last parameter on that were there before. Commits by itself.
const RECORD: &str =
    "SELECT recorded_id, place, recorded, told FROM record_certificates($1, $2, $3, $4, $5)";

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
    /// Whose it is.
    pub(super) turn: Turn,
    /// Takes its entry, and those before it.
    pub(super) fresh: Arc<FreshEntries>,
}

impl Job for Record {
    type Answer = CertificateRecord;
    const LANE: &'static str = "outcomes";
    const BATCH_MAX: usize = 256;

    fn turn(&self) -> Turn {
        self.turn
    }

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<CertificateRecord, LedgerFault>>, sqlx::Error> {
        // Twice in one batch, when two tasks finished the same intent: the first one counts.
        let mut seen = HashSet::with_capacity(jobs.len());
        let mut fresh: Vec<&Record> = jobs.iter().map(|job| &**job).collect();
        fresh.retain(|job| seen.insert(job.intent.id));

        let events = fresh.iter().map(|job| event(&job.intent));
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
            .bind(events.collect::<Result<Vec<_>, _>>()?)
            .bind(unknown_from(&fresh)?)
            .fetch_all(&mut *connection)
            .await?;

        let mut recorded: HashMap<Uuid, (i64, DateTime<Utc>)> = HashMap::with_capacity(jobs.len());
        for row in &rows {
            if let Some(id) = row.try_get("recorded_id")? {
                recorded.insert(id, (row.try_get("place")?, row.try_get("recorded")?));
            }
        }
        hand_over(&fresh, &rows)?;
        let lost: Vec<Uuid> = seen
            .into_iter()
            .filter(|id| !recorded.contains_key(id))
            .collect();
        let mut winners: HashMap<Uuid, PgRow> = HashMap::with_capacity(lost.len());
        if !lost.is_empty() {
            for row in sqlx::query(WINNERS)
                .bind(lost)
                .fetch_all(&mut *connection)
                .await?
            {
                winners.insert(row.try_get("intent_id")?, row);
            }
            fence(connection).await?;
        }

        jobs.iter()
            .map(|job| {
                let id = job.intent.id;
                // Of two for one intent in this batch, the first: its octets are the stored ones.
                let first = fresh.iter().find(|fresh| fresh.intent.id == id);
                let certificate = match (recorded.get(&id), first, winners.get(&id)) {
                    (Some(place), Some(first), _) => Some(first.recorded(*place)),
                    (_, _, Some(row)) => row::certificate(job.intent.clone(), row)?,
                    _ => None,
                };
                Ok(certificate.ok_or_else(|| {
                    LedgerFault::Unavailable("the intent was abandoned before".to_owned())
                }))
            })
            .collect()
    }

    fn sure(jobs: &[Arc<Self>]) {
        if let Some(job) = jobs.first() {
            job.fresh.confirm();
        }
    }
}

impl Record {
    /// As it was just recorded: nothing can have followed.
    fn recorded(&self, (log_index, issued_at): (i64, DateTime<Utc>)) -> CertificateRecord {
        CertificateRecord {
            intent: self.intent.clone(),
            der: self.certificate.as_der().to_vec(),
            fingerprint: *self.certificate.sha256(),
            issued_at,
            log_index,
            status: Status::Issued,
            successor: None,
        }
    }
}

/// The first entry that this replica's follower has to be told; `None`: it has none.
fn unknown_from(fresh: &[&Record]) -> Result<Option<i64>, sqlx::Error> {
    let follower = fresh.first().map(|job| &job.fresh);
    let unknown_from = follower.and_then(|it| it.unknown_from());
    unknown_from.map(signed).transpose()
}

/// To this replica's own follower, as they are stored: the entries that were there before, and these.
fn hand_over(fresh: &[&Record], rows: &[PgRow]) -> Result<(), sqlx::Error> {
    let Some(taker) = fresh.first().map(|job| &job.fresh) else {
        return Ok(());
    };
    let ders = fresh
        .iter()
        .map(|job| (job.intent.id, job.certificate.as_der()));
    let ders: HashMap<Uuid, &[u8]> = ders.collect();
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let index = unsigned(row.try_get("place")?)?;
        let told: &[u8] = row.try_get("told")?;
        let id: Option<Uuid> = row.try_get("recorded_id")?;
        match id.map(|id| ders.get(&id)) {
            None => entries.push((index, Bytes::copy_from_slice(told))),
            Some(Some(der)) => entries.push((index, Bytes::from([told, b"\n", der].concat()))),
            Some(None) => {}
        }
    }
    taker.hand_over(entries);
    Ok(())
}

fn event(intent: &Intent) -> Result<String, sqlx::Error> {
    serde_json::to_string(&log::issued(intent)).map_err(|error| sqlx::Error::Encode(error.into()))
}
