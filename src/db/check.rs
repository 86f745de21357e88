//! What must hold before the service starts: a database that keeps what it acknowledges, and a
//! role that cannot change what is final.

use std::time::Duration;

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::migrate::Migrator;

use tokio::time::timeout;

use crate::ca::Clock;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::error::describe;
use crate::db::headquarters;
use crate::db::migrate::MIGRATIONS;
use crate::db::migrate::newest;
use crate::db::pooling::shares_sessions;
use crate::db::session::NOT_SYNCHRONOUS;

/// Oldest server, as `server_version_num`.
const SERVER_VERSION_MIN: i32 = 15_00_00;
/// Time for all of it: a server that is frozen is no server.
const STARTUP_MAX: Duration = Duration::from_secs(10);
/// 2026-01-01: no clock that was ever set is before this program.
const CLOCK_MIN: DateTime<Utc> = DateTime::from_timestamp_nanos(1_767_225_600_000_000_000);
/// What the service may insert into, or that is noted by itself, but that the service may never change.
const FINAL_TABLES: [&str; 21] = [
    "site",
    "heartbeat",
    "claim",
    "certificate_id",
    "unconfirmed",
    "ended",
    "late_outcome",
    "recording_minute",
    "profile_issuer",
    "archived_part",
    "intent",
    "outcome",
    "life_event",
    "crl",
    "order_ticket",
    "order_device",
    "order_report",
    "log_entry",
    "log_tile",
    "checkpoint",
    "cosignature",
];

/// Why the service must not start with this database.
#[derive(Debug, thiserror::Error)]
pub enum StartupFault {
    /// It cannot be reached, or a question was refused.
    #[error(transparent)]
    Database(#[from] DbFault),
    /// Too old.
    #[error("PostgreSQL {0} is too old: 15 or newer is needed")]
    ServerTooOld(String),
    /// An acknowledged commit could be lost.
    #[error("PostgreSQL runs with {0}=off: an acknowledged certificate could be lost")]
    NotDurable(&'static str),
    /// Commits would be on one server, where two are asked for.
    #[error("database.require_synchronous is set, and {NOT_SYNCHRONOUS}")]
    NotSynchronous,
    /// A proxy that gives each transaction another session.
    #[error(
        "a proxy before the database shares its sessions between connections, so that no setting and no lock is kept: give certfactory sessions of its own (pgbouncer: pool_mode = session)"
    )]
    SharedSessions,
    /// Nothing could be recorded.
    #[error("the database is read-only: {0}")]
    ReadOnly(&'static str),
    /// Never migrated, or not far enough.
    #[error(
        "the database has schema {found}, this binary needs {needed}: run `certfactory migrate`"
    )]
    SchemaOld {
        /// Newest migration of the database; 0 for none.
        found: i64,
        /// Newest migration of this binary.
        needed: i64,
    },
    /// A newer binary has been here.
    #[error(
        "the database has schema {found}, newer than this binary's {known}: use the newer binary"
    )]
    SchemaNewer {
        /// Newest migration of the database.
        found: i64,
        /// Newest migration of this binary.
        known: i64,
    },
    /// A migration of this number had other text, or was left half done.
    #[error(
        "migration {0} of the database is not this binary's: it is another product's or a damaged database"
    )]
    SchemaForeign(i64),
    /// Clocks differ.
    #[error(
        "the clocks of service and database differ by {difference} s: at most {most} s are allowed"
    )]
    Clock {
        /// Seconds.
        difference: i64,
        /// Seconds.
        most: f64,
    },
    /// A machine without a battery behind its clock, before the network told it the time.
    #[error("this machine's clock says {0}: it was never set")]
    ClockUnset(DateTime<Utc>),
    /// Certificates would bear dates before those of earlier ones.
    #[error(
        "the clock says {now}, before the ledger's last record of {newest}: it was turned back"
    )]
    ClockBehind {
        /// The service's time.
        now: DateTime<Utc>,
        /// When the newest outcome was recorded.
        newest: DateTime<Utc>,
    },
    /// Rights do not bind a superuser.
    #[error(
        "the service connects as the superuser {0}, who may change final rows: use a member of certfactory_service"
    )]
    Superuser(String),
    /// The promise "never changed" would be void.
    #[error(
        "the service's role {role} may change final rows of {table}: use a member of certfactory_service"
    )]
    MayChangeFinalRows {
        /// The role.
        role: String,
        /// The first such table.
        table: &'static str,
    },
}

/// Checks that sessions are not shared, then durability, role, schema and clock, in this order, and reports the first fault in one
/// line. Connects as the service will. Takes a few milliseconds.
///
/// Times may be apart by `difference_max`.
pub async fn startup(
    config: &DbConfig,
    clock: &dyn Clock,
    difference_max: TimeDelta,
) -> Result<(), StartupFault> {
    let now = clock.now();
    if now < CLOCK_MIN {
        return Err(StartupFault::ClockUnset(now));
    }
    // The connection goes with the future: nothing half-done is used again.
    let examined = timeout(STARTUP_MAX, examine(config, clock, difference_max)).await;
    examined.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", STARTUP_MAX.as_secs());
        Err(DbFault::Unavailable(reason).into())
    })
}

async fn examine(
    config: &DbConfig,
    clock: &dyn Clock,
    difference_max: TimeDelta,
) -> Result<(), StartupFault> {
    if shares_sessions(config).await? {
        return Err(StartupFault::SharedSessions);
    }
    let mut connection = config
        .session(Purpose::Command)?
        .connect()
        .await
        .map_err(DbFault::from)?;
    server(&mut connection, config, clock, difference_max).await?;
    schema(&mut connection, &MIGRATIONS).await?;
    role(&mut connection).await?;
    last_record(&mut connection, clock.now(), difference_max).await?;
    connection.close().await.map_err(DbFault::from)?;
    Ok(())
}

/// The same of head office's database, which has no certificates of its own.
pub async fn headquarters(
    config: &DbConfig,
    clock: &dyn Clock,
    difference_max: TimeDelta,
) -> Result<(), StartupFault> {
    let examined = timeout(STARTUP_MAX, async {
        let mut connection = config
            .session(Purpose::Command)?
            .connect()
            .await
            .map_err(DbFault::from)?;
        server(&mut connection, config, clock, difference_max).await?;
        schema(&mut connection, &headquarters::MIGRATIONS).await?;
        let (role, superuser) = who(&mut connection).await?;
        if superuser {
            return Err(StartupFault::Superuser(role));
        }
        connection.close().await.map_err(DbFault::from)?;
        Ok(())
    });
    examined.await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", STARTUP_MAX.as_secs());
        Err(DbFault::Unavailable(reason).into())
    })
}

async fn server(
    connection: &mut PgConnection,
    config: &DbConfig,
    clock: &dyn Clock,
    difference_max: TimeDelta,
) -> Result<(), StartupFault> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int AS version_number,
                current_setting('server_version') AS version,
                current_setting('fsync')::bool AS fsync,
                current_setting('full_page_writes')::bool AS full_page_writes,
                current_setting('synchronous_commit') <> 'off' AS synchronous_commit,
                current_setting('synchronous_standby_names') <> '' AS synchronous,
                pg_is_in_recovery() AS in_recovery,
                current_setting('transaction_read_only')::bool AS read_only,
                clock_timestamp() AS now",
    )
    .fetch_one(connection)
    .await;
    let now = clock.now();
    let row = row.map_err(DbFault::from)?;
    let is = |name: &str| row.try_get::<bool, _>(name).map_err(DbFault::from);

    if row
        .try_get::<i32, _>("version_number")
        .map_err(DbFault::from)?
        < SERVER_VERSION_MIN
    {
        return Err(StartupFault::ServerTooOld(
            row.try_get("version").map_err(DbFault::from)?,
        ));
    }
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        if !is(setting)? {
            return Err(StartupFault::NotDurable(setting));
        }
    }
    if is("in_recovery")? {
        return Err(StartupFault::ReadOnly("the server is a standby"));
    }
    if is("read_only")? {
        return Err(StartupFault::ReadOnly(
            "default_transaction_read_only is on",
        ));
    }
    if config.require_synchronous && !is("synchronous")? {
        return Err(StartupFault::NotSynchronous);
    }
    let database: DateTime<Utc> = row.try_get("now").map_err(DbFault::from)?;
    let difference = (now - database).abs();
    if difference > difference_max {
        return Err(StartupFault::Clock {
            difference: difference.num_seconds(),
            most: difference_max.as_seconds_f64(),
        });
    }
    Ok(())
}

async fn last_record(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    difference_max: TimeDelta,
) -> Result<(), StartupFault> {
    let newest: Option<DateTime<Utc>> = sqlx::query_scalar("SELECT max(recorded_at) FROM outcome")
        .fetch_one(connection)
        .await
        .map_err(DbFault::from)?;
    match newest {
        Some(newest) if newest - now > difference_max => {
            Err(StartupFault::ClockBehind { now, newest })
        }
        _ => Ok(()),
    }
}

async fn schema(connection: &mut PgConnection, known: &Migrator) -> Result<(), StartupFault> {
    let needed = newest(known);
    let applied =
        sqlx::query("SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version")
            .fetch_all(connection)
            .await;
    let rows = match applied {
        Ok(rows) => rows,
        // undefined_table
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(DbFault::Unavailable(describe(&error)).into()),
    };
    let mut found = 0;
    for row in &rows {
        let version: i64 = row.try_get("version").map_err(DbFault::from)?;
        let checksum: &[u8] = row.try_get("checksum").map_err(DbFault::from)?;
        let whole: bool = row.try_get("success").map_err(DbFault::from)?;
        if version > needed {
            return Err(StartupFault::SchemaNewer {
                found: version,
                known: needed,
            });
        }
        let ours = known
            .iter()
            .any(|it| it.version == version && *it.checksum == *checksum);
        if !ours || !whole {
            return Err(StartupFault::SchemaForeign(version));
        }
        found = version;
    }
    if rows.len() != known.iter().count() {
        return Err(StartupFault::SchemaOld { found, needed });
    }
    Ok(())
}

/// The session's role, and whether it is a superuser.
async fn who(connection: &mut PgConnection) -> Result<(String, bool), StartupFault> {
    let who = sqlx::query_as(
        "SELECT current_user::text, rolsuper FROM pg_roles WHERE rolname = current_user",
    );
    Ok(who.fetch_one(connection).await.map_err(DbFault::from)?)
}

async fn role(connection: &mut PgConnection) -> Result<(), StartupFault> {
    let (role, superuser) = who(connection).await?;
    if superuser {
        return Err(StartupFault::Superuser(role));
    }
    for table in FINAL_TABLES {
        // An owner has all rights, and this finds them too.
        let may_change: bool = sqlx::query_scalar(
            "SELECT has_table_privilege($1, 'DELETE, TRUNCATE') OR has_any_column_privilege($1, 'UPDATE')",
        )
        .bind(table)
        .fetch_one(&mut *connection)
        .await
        .map_err(DbFault::from)?;
        if may_change {
            return Err(StartupFault::MayChangeFinalRows { role, table });
        }
    }
    Ok(())
}
