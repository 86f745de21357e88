//! Stations and people ([`StationBook`]): registrations, codes, keys, proposals.
//!
//! [`StationBook`]: crate::ca::station::StationBook

use std::sync::Arc;

use chrono::DateTime;
use chrono::NaiveDate;
use chrono::NaiveTime;
use chrono::Utc;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::Role;
use crate::ca::station::Acted;
use crate::ca::station::Approved;
use crate::ca::station::CodedAct;
use crate::ca::station::Proposal;
use crate::ca::station::Registration;
use crate::ca::station::Rights;
use crate::ca::station::StationAct;
use crate::db::lane::Job;
use crate::db::row::unreadable;

const REGISTRATIONS: &str = "
    SELECT p.name, p.role, p.rights, p.disabled, p.created_by, p.created_at,
           array(SELECT k.spki_sha256 FROM principal_key k
                 WHERE k.name = p.name AND (k.dies_at IS NULL OR k.dies_at > statement_timestamp())
                 ORDER BY k.added_at) AS keys
    FROM principal p WHERE $1::text IS NULL OR p.name = $1 ORDER BY p.name";

const ADD: &str = "INSERT INTO principal (name, role, disabled, rights, created_by)
    VALUES ($1, $2, false, $3, $4) ON CONFLICT DO NOTHING";

const SET_RIGHTS: &str = "UPDATE principal SET rights = $2 WHERE name = $1";

const SET_DISABLED: &str = "UPDATE principal SET disabled = $2 WHERE name = $1";

/// Until the transaction's end.
const ACTOR: &str = "SELECT set_config('certfactory.actor', $1, true)";

/// The newest code is the only one that is good.
const CODE: &str = "WITH earlier AS (
        UPDATE enrolment SET expires_at = statement_timestamp()
        WHERE name = $2 AND code_sha256 <> $1 AND expires_at > statement_timestamp()
    )
    INSERT INTO enrolment (code_sha256, name, created_by, expires_at)
    VALUES ($1, $2, $3, statement_timestamp() + interval '24 hours') ON CONFLICT DO NOTHING";

/// Once: the first key that comes with the code is the one. A disabled principal enrols nothing.
const USE_CODE: &str = "UPDATE enrolment e SET spki_sha256 = $3
    FROM principal p
    WHERE e.code_sha256 = $1 AND e.name = $2 AND e.expires_at > statement_timestamp()
      AND (e.spki_sha256 IS NULL OR e.spki_sha256 = $3) AND p.name = e.name AND NOT p.disabled";

const ADD_KEY: &str = "INSERT INTO principal_key (spki_sha256, name) VALUES ($1, $2)
    ON CONFLICT DO NOTHING";

const KEY_IS_GOOD: &str = "SELECT FROM principal_key
    WHERE spki_sha256 = $1 AND name = $2 AND (dies_at IS NULL OR dies_at > statement_timestamp())";

const RETIRE: &str = "UPDATE principal_key
    SET dies_at = statement_timestamp() + CASE WHEN $3 THEN interval '1 hour' ELSE interval '0' END
    WHERE name = $2 AND spki_sha256 <> $1 AND added_at <= (
            SELECT added_at FROM principal_key WHERE spki_sha256 = $1)
      AND (dies_at IS NULL OR (NOT $3 AND dies_at > statement_timestamp()))";

const PROPOSE: &str = "INSERT INTO proposal (proposal_id, act, proposed_by) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING";

const PROPOSALS: &str = "SELECT * FROM proposal
    WHERE ($1::uuid IS NULL AND approved_by IS NULL) OR proposal_id = $1
    ORDER BY proposal_id LIMIT 1000";

const APPROVE: &str = "UPDATE proposal SET approved_by = $2, approved_at = statement_timestamp()
    WHERE proposal_id = $1 AND approved_by IS NULL AND proposed_by <> $2";

/// By the index over principal and intent: UUIDv7 begin with the time.
const DEVICES_SINCE: &str = "
    SELECT n.name, (SELECT count(*) FROM intent i
                    WHERE i.principal = n.name AND i.intent_id >= $2 AND i.kind = 'device') AS devices
    FROM UNNEST($1::text[]) AS n (name)";

/// One question to the book.
pub(super) enum StationJob {
    Registrations(Option<String>),
    Act(CodedAct, String),
    Propose(Uuid, StationAct, String),
    Proposals,
    Approve(Uuid, [u8; 32], String),
    UseCode([u8; 32], String, [u8; 32]),
    AddKey(String, [u8; 32], bool),
    DevicesSince(Vec<String>, NaiveDate),
}

/// The answer to the variant of the same name, or of the same kind.
pub(super) enum StationAnswer {
    Registrations(Vec<Registration>),
    Acted(Acted),
    Proposals(Vec<Proposal>),
    Approved(Approved),
    /// Of `UseCode` and `AddKey`.
    Good(bool),
    DevicesSince(Vec<(String, u32)>),
}

impl Job for StationJob {
    type Answer = StationAnswer;
    const LANE: &'static str = "stations";
    /// Each is a transaction of its own.
    const BATCH_MAX: usize = 1;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<StationAnswer, LedgerFault>>, sqlx::Error> {
        if jobs.is_empty() {
            // Asks for the right to disable; nobody has this name.
            set_disabled(connection, "", true).await?;
        }
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
            if let Some(actor) = job.actor() {
                sqlx::query(ACTOR)
                    .bind(actor)
                    .execute(&mut *connection)
                    .await?;
            }
            let answer = job.answer(connection).await?;
            sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
            answers.push(Ok(answer));
        }
        Ok(answers)
    }
}

impl StationJob {
    /// Whom the log is to name for what is done.
    fn actor(&self) -> Option<&str> {
        match self {
            Self::Act(_, by) | Self::Propose(_, _, by) | Self::Approve(_, _, by) => Some(by),
            Self::UseCode(_, name, _) | Self::AddKey(name, _, _) => Some(name),
            Self::Registrations(_) | Self::Proposals | Self::DevicesSince(..) => None,
        }
    }

    async fn answer(&self, connection: &mut PgConnection) -> Result<StationAnswer, sqlx::Error> {
        Ok(match self {
            Self::Registrations(name) => {
                StationAnswer::Registrations(registrations(connection, name.as_deref()).await?)
            }
            Self::Act(act, by) => StationAnswer::Acted(perform(connection, act, by).await?),
            Self::Propose(id, act, by) => {
                sqlx::query(PROPOSE)
                    .bind(id)
                    .bind(Json(act))
                    .bind(by)
                    .execute(&mut *connection)
                    .await?;
                StationAnswer::Proposals(proposals(connection, Some(*id)).await?)
            }
            Self::Proposals => StationAnswer::Proposals(proposals(connection, None).await?),
            Self::Approve(id, code, by) => {
                StationAnswer::Approved(approve(connection, *id, *code, by).await?)
            }
            Self::UseCode(code, name, key) => {
                let used = sqlx::query(USE_CODE)
                    .bind(&code[..])
                    .bind(name)
                    .bind(&key[..])
                    .execute(connection)
                    .await?;
                StationAnswer::Good(used.rows_affected() == 1)
            }
            Self::AddKey(name, key, others_linger) => {
                StationAnswer::Good(add_key(connection, name, key, *others_linger).await?)
            }
            Self::DevicesSince(names, day) => {
                let first = first_id(day.and_time(NaiveTime::MIN).and_utc());
                let rows = sqlx::query(DEVICES_SINCE)
                    .bind(names)
                    .bind(first)
                    .fetch_all(connection)
                    .await?;
                let counts = rows.iter().map(|row| {
                    let devices: i64 = row.try_get("devices")?;
                    Ok((
                        row.try_get("name")?,
                        u32::try_from(devices).unwrap_or(u32::MAX),
                    ))
                });
                StationAnswer::DevicesSince(counts.collect::<Result<_, sqlx::Error>>()?)
            }
        })
    }
}

/// The smallest UUIDv7 of a moment.
fn first_id(at: DateTime<Utc>) -> Uuid {
    let milliseconds = u64::try_from(at.timestamp_millis()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(milliseconds, &[0; 10]).into_uuid()
}

async fn registrations(
    connection: &mut PgConnection,
    name: Option<&str>,
) -> Result<Vec<Registration>, sqlx::Error> {
    let rows = sqlx::query(REGISTRATIONS)
        .bind(name)
        .fetch_all(connection)
        .await?;
    rows.iter().map(registration).collect()
}

async fn perform(
    connection: &mut PgConnection,
    CodedAct { act, code_sha256 }: &CodedAct,
    by: &str,
) -> Result<Acted, sqlx::Error> {
    match act {
        StationAct::Add { name, role, rights } => {
            sqlx::query(ADD)
                .bind(name)
                .bind(role)
                .bind(Json(rights))
                .bind(by)
                .execute(&mut *connection)
                .await?;
        }
        StationAct::Rights { name, rights } => {
            sqlx::query(SET_RIGHTS)
                .bind(name)
                .bind(Json(rights))
                .execute(&mut *connection)
                .await?;
        }
        StationAct::Enable { name } => set_disabled(connection, name, false).await?,
        StationAct::Disable { name } => set_disabled(connection, name, true).await?,
        StationAct::Code { .. } => {}
    }
    let found = registrations(connection, Some(act.name())).await?.pop();
    let Some(found) = found else {
        return Ok(Acted::Unknown);
    };
    if let StationAct::Add { role, rights, .. } = act
        && (found.role.as_str() != role || found.rights != *rights)
    {
        return Ok(Acted::NameTaken);
    }
    if let Some(code) = code_sha256.filter(|_| act.needs_code()) {
        sqlx::query(CODE)
            .bind(&code[..])
            .bind(act.name())
            .bind(by)
            .execute(connection)
            .await?;
    }
    Ok(Acted::Done(Box::new(found)))
}

async fn set_disabled(
    connection: &mut PgConnection,
    name: &str,
    disabled: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(SET_DISABLED)
        .bind(name)
        .bind(disabled)
        .execute(connection)
        .await?;
    Ok(())
}

async fn approve(
    connection: &mut PgConnection,
    id: Uuid,
    code: [u8; 32],
    by: &str,
) -> Result<Approved, sqlx::Error> {
    let approved = sqlx::query(APPROVE)
        .bind(id)
        .bind(by)
        .execute(&mut *connection)
        .await?;
    let Some(proposal) = proposals(connection, Some(id)).await?.pop() else {
        return Ok(Approved::Unknown);
    };
    if approved.rows_affected() == 1 {
        let coded = proposal.act.needs_code();
        let act = CodedAct {
            act: proposal.act,
            code_sha256: Some(code),
        };
        let acted = perform(connection, &act, by).await?;
        return Ok(Approved::Acted(acted, coded));
    }
    Ok(match proposal.approved {
        Some(_) => Approved::Before(Box::new(proposal)),
        None => Approved::Own,
    })
}

async fn add_key(
    connection: &mut PgConnection,
    name: &str,
    key: &[u8; 32],
    others_linger: bool,
) -> Result<bool, sqlx::Error> {
    sqlx::query(ADD_KEY)
        .bind(&key[..])
        .bind(name)
        .execute(&mut *connection)
        .await?;
    let good = sqlx::query(KEY_IS_GOOD)
        .bind(&key[..])
        .bind(name)
        .fetch_optional(&mut *connection)
        .await?;
    if good.is_none() {
        return Ok(false);
    }
    sqlx::query(RETIRE)
        .bind(&key[..])
        .bind(name)
        .bind(others_linger)
        .execute(connection)
        .await?;
    Ok(true)
}

async fn proposals(
    connection: &mut PgConnection,
    id: Option<Uuid>,
) -> Result<Vec<Proposal>, sqlx::Error> {
    let rows = sqlx::query(PROPOSALS)
        .bind(id)
        .fetch_all(connection)
        .await?;
    rows.iter().map(proposal).collect()
}

fn registration(row: &PgRow) -> Result<Registration, sqlx::Error> {
    let Json(rights): Json<Rights> = row.try_get("rights")?;
    Ok(Registration {
        name: row.try_get("name")?,
        role: role(row)?,
        rights,
        disabled: row.try_get("disabled")?,
        created: (row.try_get("created_by")?, row.try_get("created_at")?),
        keys: row.try_get("keys")?,
    })
}

fn proposal(row: &PgRow) -> Result<Proposal, sqlx::Error> {
    let Json(act): Json<StationAct> = row.try_get("act")?;
    let approved_by: Option<String> = row.try_get("approved_by")?;
    let approved_at: Option<DateTime<Utc>> = row.try_get("approved_at")?;
    Ok(Proposal {
        id: row.try_get("proposal_id")?,
        act,
        proposed: (row.try_get("proposed_by")?, row.try_get("proposed_at")?),
        approved: approved_by.zip(approved_at),
    })
}

pub(super) fn role(row: &PgRow) -> Result<Role, sqlx::Error> {
    Role::from_word(row.try_get("role")?).ok_or_else(|| unreadable("role"))
}
