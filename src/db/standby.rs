//! [`Reading`]: what may be a little old is read on a streaming standby, while that is not too old; else,
//! and when it breaks off there, on the primary.
//!
//! Each reading is preceded, on its own connection, by the question how far that server is: behind an
//! address may stand several, each with its own lag. So what comes with an answer is what that answer holds.

mod positions;

use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use sqlx::PgConnection;
use sqlx::Row;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::Page;
use crate::ca::PortFuture;
use crate::ca::SearchFilter;
use crate::ca::searches::AsOf;
use crate::ca::searches::ExportedPages;
use crate::ca::searches::Moment;
use crate::ca::searches::Searches;
use crate::ca::searches::StandbyState;
use crate::db::archive::PAGE_MAX;
use crate::db::archive::PgArchive;
use crate::db::archive::READING_MAX;
use crate::db::archive::RECORD;
use crate::db::archive::Reader;
use crate::db::archive::asking;
use crate::db::archive::paging;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::error::Failure;
use crate::db::export;
use crate::db::standby::positions::Position;
use crate::db::standby::positions::Positions;
use crate::metrics::LedgerMetrics;
use crate::metrics::StandbyMetrics;

/// How often primary and standby are asked where they are: no lag is known to be shorter.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A server that takes longer to say so is away.
const LOOK_MAX: Duration = Duration::from_secs(2);

const NO_STANDBY: &str = "the server is no standby";
const OTHER_DATABASE: &str = "the server is the standby of another database";

/// The order matters: what is committed before the time is not beyond the position. For anyone: the
/// functions are for all roles.
const PRIMARY: &str = "SELECT clock_timestamp() AS now,
        (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint AS flushed,
        (SELECT system_identifier FROM pg_control_system()) AS system";

const STANDBY: &str = "SELECT pg_is_in_recovery() AS in_recovery,
        (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint AS replayed,
        (SELECT system_identifier FROM pg_control_system()) AS system";

/// Why a server is not read from.
#[derive(Clone, Debug, thiserror::Error)]
enum Unfit {
    #[error("{0}")]
    Away(String),
    #[error("it is {} s behind, and may be {} s", .0.as_secs(), .1.as_secs())]
    Behind(Duration, Duration),
    /// Fit, but not for who has just changed something.
    #[error("it does not yet have what was just written")]
    Older,
}

impl Unfit {
    /// The metric's label.
    fn word(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Behind(..) => "behind",
            Self::Older => "older",
        }
    }
}

/// How far a server is.
struct Place {
    /// The cluster's `system_identifier`.
    system: i64,
    in_recovery: bool,
    replayed: Option<i64>,
}

async fn place(connection: &mut PgConnection) -> Result<Place, sqlx::Error> {
    let row = sqlx::query(STANDBY).fetch_one(connection).await?;
    Ok(Place {
        system: row.try_get("system")?,
        in_recovery: row.try_get("in_recovery")?,
        replayed: row.try_get("replayed")?,
    })
}

/// Where the primary is, and its `system_identifier`.
async fn position(primary: &PgArchive) -> Result<(i64, Position), LedgerFault> {
    let at = Instant::now();
    let asked = primary.ask(|connection| {
        Box::pin(async move {
            let row = sqlx::query(PRIMARY).fetch_one(connection).await?;
            let (time, flushed) = (row.try_get("now")?, row.try_get("flushed")?);
            Ok((row.try_get("system")?, time, flushed))
        })
    });
    let (system, time, flushed) = asked.await?;
    Ok((system, Position { at, time, flushed }))
}

/// How long it takes until the standby has what the primary has now; `Err(reason)` when that is longer than
/// `at_most`, or the server is none of its standbys.
pub async fn examine(
    primary: &DbConfig,
    standby: &DbConfig,
    at_most: Duration,
) -> Result<Duration, String> {
    let reason = |fault: &dyn std::fmt::Display| fault.to_string();
    let primary = PgArchive::for_purpose(primary, Purpose::Watch).map_err(|e| reason(&e))?;
    let standby = PgArchive::for_purpose(standby, Purpose::Watch).map_err(|e| reason(&e))?;
    let (system, wanted) = position(&primary).await.map_err(|e| reason(&e))?;
    loop {
        let asked = standby.ask(|connection| Box::pin(place(connection)));
        let place = asked.await.map_err(|e| reason(&e))?;
        if !place.in_recovery {
            return Err(NO_STANDBY.to_owned());
        }
        if place.system != system {
            return Err(OTHER_DATABASE.to_owned());
        }
        let lag = wanted.at.elapsed();
        if place.replayed.is_some_and(|it| it >= wanted.flushed) {
            return Ok(lag);
        }
        if lag > at_most {
            return Err(format!("it is more than {} s behind", at_most.as_secs()));
        }
        tokio::time::sleep(LOOK_EVERY / 10).await;
    }
}

/// A streaming standby, watched.
pub struct Standby {
    config: DbConfig,
    lag_max: Duration,
    positions: Mutex<Positions>,
    /// Why nothing is read there; and until when everything is on it.
    state: watch::Sender<(Option<Unfit>, Instant)>,
    metrics: StandbyMetrics,
}

impl Standby {
    /// Watches it from now on, on the current Tokio runtime. Fails only when a URL is none.
    pub fn start(
        primary: &DbConfig,
        standby: DbConfig,
        lag_max: Duration,
        metrics: StandbyMetrics,
    ) -> Result<Arc<Self>, DbFault> {
        let one = |config: &DbConfig| DbConfig {
            archive_connections_max: 1,
            ..config.clone()
        };
        let first = Unfit::Away("it was not looked at yet".to_owned());
        let primary = PgArchive::for_purpose(&one(primary), Purpose::Watch)?;
        let probe = PgArchive::for_purpose(&one(&standby), Purpose::Watch)?;
        let own = Arc::new(Self {
            config: standby,
            lag_max,
            positions: Mutex::default(),
            state: watch::Sender::new((Some(first), Instant::now())),
            metrics,
        });
        tokio::spawn(Arc::clone(&own).keep_positions(primary));
        tokio::spawn(Arc::clone(&own).keep_looking(probe));
        Ok(own)
    }

    /// What to do about it is on the metrics and in [`Searches::standby`].
    fn state(&self) -> StandbyState {
        let (unfit, until) = &*self.state.borrow();
        StandbyState {
            lag: until.elapsed(),
            lag_max: self.lag_max,
            fault: unfit.as_ref().map(ToString::to_string),
        }
    }

    async fn keep_positions(self: Arc<Self>, primary: PgArchive) {
        loop {
            // A primary that is away is told of elsewhere; the standby grows old meanwhile.
            if let Ok((system, position)) = position(&primary).await {
                self.positions().add(system, position);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn keep_looking(self: Arc<Self>, probe: PgArchive) {
        loop {
            let seen = Arc::new(OnceLock::new());
            let gate = Gate {
                standby: Arc::clone(&self),
                since: None,
                seen: Arc::clone(&seen),
            };
            let reader = probe.reader().through(gate);
            let look = tokio::spawn(async move {
                reader.acquire().await?.release();
                Ok::<_, Failure>(())
            });
            let look = timeout(LOOK_MAX, look).await;
            let found = match (seen.get(), look) {
                (Some(found), _) => found.clone(),
                (None, Ok(Ok(Err(failure)))) => Err(Unfit::Away(failure.reason())),
                (None, _) => Err(Unfit::Away("it does not answer".to_owned())),
            };
            self.note(found);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Keeps what was found out.
    fn note(&self, found: Result<Moment, Unfit>) {
        self.state.send_modify(|(unfit, until)| {
            match (&unfit, &found) {
                (None, Err(why)) => {
                    tracing::warn!(%why, "searches are read on the primary");
                }
                (Some(_), Ok(_)) => tracing::info!("searches are read on the standby"),
                _ => {}
            }
            *unfit = match found {
                Ok(moment) => {
                    *until = moment.at;
                    None
                }
                Err(Unfit::Behind(lag, most)) => {
                    // What it has is known, even though it is not enough.
                    *until = Instant::now().checked_sub(lag).unwrap_or(*until);
                    Some(Unfit::Behind(lag, most))
                }
                Err(other) => Some(other),
            };
        });
        let (unfit, until) = &*self.state.borrow();
        self.metrics.up.set(i64::from(unfit.is_none()));
        self.metrics.lag.set(until.elapsed().as_secs_f64());
    }

    /// Until when everything is on the server at the connection's other end.
    async fn judge(
        &self,
        connection: &mut PgConnection,
        since: Option<Instant>,
    ) -> Result<Result<Moment, Unfit>, sqlx::Error> {
        let place = place(connection).await?;
        let positions = self.positions();
        Ok(if !place.in_recovery {
            Err(Unfit::Away(NO_STANDBY.to_owned()))
        } else if positions.system().is_some_and(|own| own != place.system) {
            Err(Unfit::Away(OTHER_DATABASE.to_owned()))
        } else {
            match place
                .replayed
                .and_then(|replayed| positions.newest(replayed))
            {
                None => {
                    let (_, until) = &*self.state.borrow();
                    Err(Unfit::Behind(until.elapsed(), self.lag_max))
                }
                Some(it) if it.at.elapsed() > self.lag_max => {
                    Err(Unfit::Behind(it.at.elapsed(), self.lag_max))
                }
                Some(it) if since.is_some_and(|since| it.at < since) => Err(Unfit::Older),
                Some(it) => Ok(Moment {
                    at: it.at,
                    time: Some(it.time),
                }),
            }
        })
    }

    fn positions(&self) -> std::sync::MutexGuard<'_, Positions> {
        self.positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection to the standby has to pass before it is read from.
pub(super) struct Gate {
    standby: Arc<Standby>,
    since: Option<Instant>,
    seen: Arc<OnceLock<Result<Moment, Unfit>>>,
}

impl Gate {
    /// Asks that server, and keeps what it says. The outer failure is the connection's; the inner one says
    /// that the server is not fit.
    pub(super) async fn pass(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Result<(), Failure>, Failure> {
        let found = self.standby.judge(connection, self.since).await;
        let found = found.map_err(|e| Failure::from(&e))?;
        let passed = match &found {
            Ok(_) => Ok(()),
            Err(unfit) => Err(Failure::Unavailable(unfit.to_string())),
        };
        // Nobody asks twice through one gate.
        self.seen.set(found).ok();
        Ok(passed)
    }
}

/// Reads on a standby where there is one that is fit, and on the primary.
#[derive(Clone)]
pub struct Reading {
    primary: PgArchive,
    standby: Option<(PgArchive, Arc<Standby>)>,
    /// Where a reading on the standby runs.
    runtime: Handle,
}

impl Reading {
    /// For searches and exports. Connects when first used, on the current Tokio runtime. Fails only when a
    /// URL is none.
    pub fn new(config: &DbConfig, standby: Option<&Arc<Standby>>) -> Result<Self, DbFault> {
        Self::for_purpose(config, standby, Purpose::Archive)
    }

    /// The same for somebody else's connections: as many on either server.
    pub(super) fn for_purpose(
        config: &DbConfig,
        standby: Option<&Arc<Standby>>,
        purpose: Purpose,
    ) -> Result<Self, DbFault> {
        let there = |standby: &Arc<Standby>| {
            let there = DbConfig {
                archive_connections_max: config.archive_connections_max,
                ..standby.config.clone()
            };
            let pool = PgArchive::for_purpose(&there, purpose)?;
            Ok::<_, DbFault>((pool, Arc::clone(standby)))
        };
        Ok(Self {
            primary: PgArchive::for_purpose(config, purpose)?,
            standby: standby.map(there).transpose()?,
            runtime: Handle::current(),
        })
    }

    /// The same, counted as `pool` when no connection to the primary becomes free in time.
    #[must_use]
    pub fn counted(self, pool: &str, metrics: &LedgerMetrics) -> Self {
        Self {
            primary: self.primary.counted(pool, metrics),
            ..self
        }
    }

    /// Its connections to the primary.
    #[must_use]
    pub fn primary(&self) -> PgArchive {
        self.primary.clone()
    }

    /// Runs a reading that has to hold everything committed before `since`.
    pub(super) async fn read<T, F>(
        &self,
        since: Option<Instant>,
        reading: impl Fn(Reader) -> F,
    ) -> Result<AsOf<T>, LedgerFault>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        if let Some((pool, standby)) = &self.standby {
            match self.try_standby(pool, standby, since, &reading).await {
                Ok(found) => {
                    standby.metrics.readings("standby").inc();
                    return found;
                }
                Err(why) => standby.metrics.passed_over(why).inc(),
            }
            standby.metrics.readings("primary").inc();
        }
        let moment = Moment::now();
        let found = self.primary.read(reading).await?;
        Ok(AsOf { found, moment })
    }

    /// Runs `work` on a connection, and keeps that for the next one.
    pub(super) fn ask<'a, T: Send + 'static>(
        &'a self,
        since: Option<Instant>,
        work: impl for<'c> Fn(&'c mut PgConnection) -> PortFuture<'c, Result<T, sqlx::Error>>
        + Clone
        + Send
        + Sync
        + 'static,
    ) -> PortFuture<'a, Result<AsOf<T>, LedgerFault>> {
        Box::pin(self.read(since, asking(work)))
    }

    /// One try on the standby; `Err`, in the metric's word, when the primary is to be asked instead.
    async fn try_standby<T, F>(
        &self,
        pool: &PgArchive,
        standby: &Arc<Standby>,
        since: Option<Instant>,
        reading: &impl Fn(Reader) -> F,
    ) -> Result<Result<AsOf<T>, LedgerFault>, &'static str>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let mut state = standby.state.subscribe();
        if let Some(unfit) = &state.borrow().0 {
            return Err(unfit.word());
        }
        // Nobody has to ask a server for what was not even written when the primary was last looked at.
        let newest = standby.positions().newest(i64::MAX).map(|it| it.at);
        if since > newest {
            return Err(Unfit::Older.word());
        }
        let seen = Arc::new(OnceLock::new());
        let gate = Gate {
            standby: Arc::clone(standby),
            since,
            seen: Arc::clone(&seen),
        };
        let mut task = self.runtime.spawn(reading(pool.reader().through(gate)));
        let lost = state.wait_for(|(unfit, _)| matches!(unfit, Some(Unfit::Away(_))));
        let ended = tokio::select! {
            ended = timeout(READING_MAX, &mut task) => ended,
            // It is frozen, or gone without a word.
            _ = lost => {
                task.abort();
                return Err("away");
            }
        };
        match (ended, seen.get()) {
            (Ok(Ok(Ok(found))), Some(Ok(moment))) => Ok(Ok(AsOf {
                found,
                moment: *moment,
            })),
            (Ok(_), Some(Err(unfit))) => Err(unfit.word()),
            // What takes a standby too long is not asked of the primary, too.
            (Ok(Ok(Err(failure))), Some(Ok(_))) if failure.took_too_long() => {
                Ok(Err(failure.into()))
            }
            (Err(_), _) => {
                task.abort();
                Ok(Err(LedgerFault::Deadline))
            }
            // Among others a reading that stood in the way of the replay (PostgreSQL 15, 27.4.2).
            (Ok(_), Some(Ok(_))) => Err("broken"),
            (Ok(ended), None) => {
                if let Ok(Err(failure)) = ended {
                    standby.note(Err(Unfit::Away(failure.reason())));
                }
                Err("away")
            }
        }
    }
}

impl Searches for Reading {
    fn search(
        &self,
        filter: SearchFilter,
        limit: i64,
        cursor: Option<Uuid>,
        since: Option<Instant>,
    ) -> PortFuture<'_, Result<AsOf<Page>, LedgerFault>> {
        let limit = limit.clamp(1, PAGE_MAX);
        Box::pin(self.read(since, paging(&RECORD, filter, limit, cursor)))
    }

    fn export(
        &self,
        filter: SearchFilter,
        cursor: Option<Uuid>,
        since: Option<Instant>,
    ) -> ExportedPages {
        let (sender, pages) = mpsc::channel(export::PAGES_AHEAD);
        let reading = export::read_ahead(self.clone(), filter, (cursor, since), sender);
        self.runtime.spawn(reading);
        pages
    }

    fn standby(&self) -> Option<StandbyState> {
        let standby = self.standby.as_ref();
        standby.map(|(_, standby)| standby.state())
    }
}
