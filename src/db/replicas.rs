//! [`PgReplicas`]: which replicas live, which instance octet each holds, and who goes first, on a session of
//! its own.
//!
//! Who lives holds advisory locks in it, and asks once a second. The server ends a session that is silent for
//! `SILENCE_MAX`: a replica that is paused or cut off then holds nothing that others wait for. An octet
//! itself changes hands in the table `replica`, by compare-and-swap of its holder, and the transaction that
//! stores intents holds the row while it does (`crate::db::reserve`): so whoever wakes up late stores
//! nothing under an octet that was taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use chrono::DateTime;
use chrono::Utc;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::replica::Duty;
use crate::ca::replica::Part;
use crate::ca::replica::Replica;
use crate::ca::replica::Standing;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::lane::Job;
use crate::db::lane::Lane;
use crate::db::row::unreadable;
use crate::db::vitals::Vitals;
use crate::metrics::LedgerMetrics;
use crate::metrics::ReplicaMetrics;
use crate::pki::serial::InstanceByte;

/// How often it is asked how the replicas stand.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a start waits for the octet that it is to have: longer than a predecessor that died without a
/// word keeps it.
const CLAIM_MAX: Duration = Duration::from_secs(15);
/// Between two tries of a start.
const CLAIM_AGAIN: Duration = Duration::from_millis(100);
/// A session that is silent for so long is ended by the server, in its own words.
pub(super) const SILENCE_MAX: &str = "5s";

/// First key of the advisory locks on octets ("cf", 1); the second is the octet.
const OCTETS: i32 = 0x6366_0001;
/// First key of the advisory locks on duties ("cf", 2); the second is the duty's place in [`Duty::EACH`].
const DUTIES: i32 = 0x6366_0002;

/// `pg_locks(5)`: of two keys the first is the class, the second the object, and the sub-object is 2.
const LOCKS: &str =
    "SELECT classid::int8 AS class, objid::int8 AS object, pid = pg_backend_pid() AS own
    FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid::int8 IN ($1, $2)
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

const ROWS: &str = "SELECT instance, holder, role, place, claimed_at FROM replica";

const TRY_LOCK: &str = "SELECT pg_try_advisory_lock($1, $2)";

/// The compare-and-swap: from the holder that was seen, and from nobody else.
const CLAIM: &str = "INSERT INTO replica AS r (instance, holder, role, place) VALUES ($1, $2, $3, $4)
    ON CONFLICT (instance) DO UPDATE
    SET holder = EXCLUDED.holder, role = EXCLUDED.role, place = EXCLUDED.place, claimed_at = statement_timestamp()
    WHERE r.holder = $5";

/// A replica that lives, for people.
#[derive(Clone, Debug)]
pub struct Living {
    /// Its octet.
    pub octet: u8,
    /// What it does.
    pub part: Part,
    /// Host and process.
    pub place: String,
    /// Since when it holds the octet.
    pub since: DateTime<Utc>,
}

/// The question how this replica stands, which claims what is free.
struct Round {
    replica: Arc<Replica>,
    /// The octet it is to have; `None`: any.
    wanted: Option<InstanceByte>,
    place: Arc<str>,
}

impl Job for Round {
    type Answer = Standing;
    const LANE: &'static str = "replicas";
    /// Each is a transaction of its own, and more than one: a lock and the row that it is for.
    const BATCH_MAX: usize = 1;

    async fn run(
        connection: &mut PgConnection,
        jobs: &[Arc<Self>],
    ) -> Result<Vec<Result<Standing, LedgerFault>>, sqlx::Error> {
        if jobs.is_empty() {
            sqlx::query(LOCKS)
                .bind(i64::from(OCTETS))
                .bind(i64::from(DUTIES))
                .execute(&mut *connection)
                .await?;
        }
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(Ok(job.standing(connection).await?));
        }
        Ok(answers)
    }
}

/// An advisory lock that somebody holds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Lock {
    class: i32,
    object: i32,
    /// This session does.
    own: bool,
}

/// A row of the table.
struct Holding {
    octet: u8,
    holder: Uuid,
    part: Part,
    place: String,
    since: DateTime<Utc>,
}

impl Round {
    async fn standing(&self, connection: &mut PgConnection) -> Result<Standing, sqlx::Error> {
        let mut locks = locks(connection).await?;
        let mut rows = rows(connection).await?;
        let own = |row: &Holding| row.holder == self.replica.id;
        if let Some(row) = rows.iter().find(|row| own(row)) {
            // A new session of a replica that kept its octet. Where another has the lock he may be about
            // to take it, or the server has not missed the old session yet: the next round knows.
            try_lock(connection, &mut locks, OCTETS, row.octet.into()).await?;
        } else {
            self.claim(connection, &mut locks, &rows).await?;
            rows = self::rows(connection).await?;
        }
        if self.replica.part.works() {
            for object in (0..).take(Duty::EACH.len()) {
                try_lock(connection, &mut locks, DUTIES, object).await?;
            }
        }

        let octet = rows.iter().find(|row| own(row));
        let octet = octet.and_then(|row| InstanceByte::new(row.octet));
        let mut living = BTreeMap::new();
        for alive in living_of(&locks, &rows) {
            *living.entry(alive.part).or_default() += 1;
        }
        let held = |duty: &(i32, Duty)| {
            let mut duties = locks.iter().filter(|lock| lock.class == DUTIES);
            duties.any(|lock| lock.own && lock.object == duty.0)
        };
        let duties = (0..).zip(Duty::EACH).filter(held);
        Ok(Standing {
            octet: octet.ok_or_else(|| self.why_none(&rows)),
            duties: duties.map(|(_, duty)| duty).collect(),
            living,
        })
    }

    /// Takes the octet that is wanted, or the lowest that nobody holds.
    async fn claim(
        &self,
        connection: &mut PgConnection,
        locks: &mut Vec<Lock>,
        rows: &[Holding],
    ) -> Result<(), sqlx::Error> {
        let range = match self.wanted {
            Some(octet) => octet.get()..=octet.get(),
            None => InstanceByte::MIN..=InstanceByte::MAX,
        };
        for octet in range {
            if !try_lock(connection, locks, OCTETS, octet.into()).await? {
                continue;
            }
            let before = rows.iter().find(|row| row.octet == octet);
            let claimed = sqlx::query(CLAIM)
                .bind(i16::from(octet))
                .bind(self.replica.id)
                .bind(self.replica.part.as_str())
                .bind(&*self.place)
                .bind(before.map(|row| row.holder))
                .execute(&mut *connection)
                .await?;
            if claimed.rows_affected() == 1 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn why_none(&self, rows: &[Holding]) -> String {
        let Some(wanted) = self.wanted else {
            return "all 127 instance octets are held".to_owned();
        };
        let wanted = wanted.get();
        match rows.iter().find(|row| row.octet == wanted) {
            Some(row) => format!(
                "instance octet {wanted} is held by another replica ({}, since {}): give each its own `issuance.instance`, or none, and it takes a free one",
                row.place,
                row.since.format("%F %T UTC")
            ),
            None => format!("instance octet {wanted} is being taken by another replica"),
        }
    }
}

/// Whether this session has the lock now; it is not asked for twice.
async fn try_lock(
    connection: &mut PgConnection,
    locks: &mut Vec<Lock>,
    class: i32,
    object: i32,
) -> Result<bool, sqlx::Error> {
    let is_it = |lock: &&Lock| (lock.class, lock.object) == (class, object);
    if let Some(held) = locks.iter().find(is_it) {
        return Ok(held.own);
    }
    let own: bool = sqlx::query_scalar(TRY_LOCK)
        .bind(class)
        .bind(object)
        .fetch_one(connection)
        .await?;
    locks.push(Lock { class, object, own });
    Ok(own)
}

async fn locks(connection: &mut PgConnection) -> Result<Vec<Lock>, sqlx::Error> {
    let rows = sqlx::query(LOCKS)
        .bind(i64::from(OCTETS))
        .bind(i64::from(DUTIES))
        .fetch_all(connection)
        .await?;
    let lock = |row: &sqlx::postgres::PgRow| {
        let key = |name| {
            let key: i64 = row.try_get(name)?;
            i32::try_from(key).map_err(|_| unreadable("advisory lock"))
        };
        Ok(Lock {
            class: key("class")?,
            object: key("object")?,
            own: row.try_get("own")?,
        })
    };
    rows.iter().map(lock).collect()
}

async fn rows(connection: &mut PgConnection) -> Result<Vec<Holding>, sqlx::Error> {
    let rows = sqlx::query(ROWS).fetch_all(connection).await?;
    let holding = |row: &sqlx::postgres::PgRow| {
        let octet: i16 = row.try_get("instance")?;
        let part: &str = row.try_get("role")?;
        Ok(Holding {
            octet: u8::try_from(octet).map_err(|_| unreadable("instance octet"))?,
            holder: row.try_get("holder")?,
            part: Part::from_word(part).ok_or_else(|| unreadable("replica's role"))?,
            place: row.try_get("place")?,
            since: row.try_get("claimed_at")?,
        })
    };
    rows.iter().map(holding).collect()
}

/// Those whose octet somebody's session has locked.
fn living_of(locks: &[Lock], rows: &[Holding]) -> Vec<Living> {
    let lives = |row: &&Holding| {
        let mut octets = locks.iter().filter(|lock| lock.class == OCTETS);
        octets.any(|lock| lock.object == i32::from(row.octet))
    };
    let living = rows.iter().filter(lives).map(|row| Living {
        octet: row.octet,
        part: row.part,
        place: row.place.clone(),
        since: row.since,
    });
    living.collect()
}

/// The replicas that live on this database.
pub async fn living(config: &DbConfig) -> Result<Vec<Living>, DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    let found = living_of(
        &locks(&mut connection).await?,
        &rows(&mut connection).await?,
    );
    connection.close().await?;
    Ok(found)
}

/// Keeps a replica's standing.
pub struct PgReplicas {
    lane: Lane<Round>,
    replica: Arc<Replica>,
    wanted: Option<InstanceByte>,
    place: Arc<str>,
    metrics: ReplicaMetrics,
}

impl PgReplicas {
    /// Claims an octet, the one that is wanted or any, and what duties are free. Waits for a while for one
    /// that is wanted and held; the error then says by whom.
    pub async fn claim(
        config: &DbConfig,
        replica: Arc<Replica>,
        wanted: Option<InstanceByte>,
        ledger_metrics: &Arc<LedgerMetrics>,
        metrics: ReplicaMetrics,
    ) -> Result<Self, LedgerFault> {
        let session = config
            .session(Purpose::Replica)
            .map_err(|fault| LedgerFault::Unavailable(fault.to_string()))?;
        let vitals = Arc::new(Vitals::new(&[Round::LANE], metrics.up.clone()));
        let own = Self {
            lane: Lane::start(session, vitals, Arc::clone(ledger_metrics)),
            replica,
            wanted,
            place: place().into(),
            metrics,
        };
        let until = Instant::now() + CLAIM_MAX;
        loop {
            let reason = match own.round().await {
                Ok(_) => match own.replica.octet() {
                    Ok(_) => return Ok(own),
                    Err(reason) => LedgerFault::Unavailable(reason),
                },
                Err(fault) => fault,
            };
            if Instant::now() >= until {
                return Err(reason);
            }
            tokio::time::sleep(CLAIM_AGAIN).await;
        }
    }

    /// Keeps it for ever. `changed` is told when the octet is another than before.
    pub fn keep(self, changed: impl Fn() + Send + 'static) {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                match self.round().await {
                    Ok(before) => {
                        let now = self.replica.octet();
                        if now.as_ref().ok() != before.as_ref() {
                            tracing::warn!(
                                ?before,
                                ?now,
                                "another replica took the instance octet"
                            );
                            changed();
                        }
                    }
                    // What it may store, the ledger decides.
                    Err(_) => self.replica.alone(),
                }
                self.show();
            }
        });
    }

    /// One round; the octet that was held before it.
    async fn round(&self) -> Result<Option<InstanceByte>, LedgerFault> {
        let round = Round {
            replica: Arc::clone(&self.replica),
            wanted: self.wanted,
            place: Arc::clone(&self.place),
        };
        let standing = self.lane.submit(round, Instant::now() + ANSWER_MAX).await?;
        let before = self.replica.stands(standing);
        self.show();
        Ok(before)
    }

    fn show(&self) {
        let standing = self.replica.standing();
        let octet = standing.octet.map_or(0, InstanceByte::get);
        self.metrics.instance.set(octet.into());
        for duty in Duty::EACH {
            let gauge = self.metrics.duty.with_label_values(&[duty.as_str()]);
            gauge.set(standing.duties.contains(&duty).into());
        }
        for part in Part::EACH {
            let count = standing.living.get(&part).copied().unwrap_or_default();
            let gauge = self.metrics.living.with_label_values(&[part.as_str()]);
            gauge.set(count.into());
        }
    }
}

/// Host and process.
fn place() -> String {
    let host = nix::unistd::gethostname();
    let host = host.ok().and_then(|name| name.into_string().ok());
    format!(
        "host {}, process {}",
        host.as_deref().unwrap_or("unknown"),
        std::process::id()
    )
}
