//! A session with the server: how it is opened, what it must find there before it is used, and what must
//! hold before an answer that rests on it leaves the house.
//!
//! What a server shows is not yet what will last. After a crash, or when somebody ends a wait, it shows
//! commits that no standby has; a primary that was replaced may wake; one that took over may lack what was
//! released. So each session that writes is admitted first, and nothing that was merely read is answered
//! before it is where commits have to be.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::ConnectOptions;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgConnectOptions;
use sqlx::postgres::PgPool;
use sqlx::postgres::PgPoolOptions;
use sqlx::postgres::PgRow;

use crate::ca::log::seen::SeenLog;
use crate::db::row::signed;
use crate::db::row::unsigned;
use crate::telemetry::DatabaseWarnings;
use crate::telemetry::heed_database_warnings;

/// One statement, so one moment. A session that has waited for a standby for two seconds has been left by
/// whoever opened it: another one would wait beside it.
const SERVER: &str = "
    SELECT pg_is_in_recovery() AS standby,
           current_setting('transaction_read_only')::bool AS read_only,
           current_setting('synchronous_standby_names') <> '' AS synchronous,
           (SELECT count(*) FROM pg_stat_activity a
            WHERE a.usename = current_user AND a.wait_event = 'SyncRep'
                  AND a.query_start < clock_timestamp() - interval '2 seconds') AS waiting";

/// Ends when every commit that is visible is where commits have to be: a commit waits until its own place in
/// the write-ahead log, which is behind theirs, is there. Writes nothing where no standby has to be waited for.
macro_rules! fence_select {
    () => {
        "SELECT CASE WHEN current_setting('synchronous_standby_names') <> '' \
         THEN pg_logical_emit_message(true, 'certfactory', '')::text END"
    };
}
pub(super) use fence_select;

const SEEN: &str = "
    SELECT h.size, (SELECT e.leaf FROM log_entry e WHERE e.log_index = $1) AS leaf FROM log_head h";

const SYNCHRONOUS: &str = "SELECT current_setting('synchronous_standby_names') <> ''";

/// How to open sessions of one kind.
#[derive(Clone)]
pub(super) struct Session {
    /// Where, and as whom.
    pub(super) options: PgConnectOptions,
    /// Settings, in this order. They are set when the session is open: proxies refuse or forget those that
    /// come with its opening.
    pub(super) settings: Vec<(&'static str, &'static str)>,
    /// What it must find; `None`: it only reads, or is a command's.
    pub(super) admission: Option<Admission>,
}

/// What a session that writes must find at the server.
#[derive(Clone)]
pub(super) struct Admission {
    /// A commit must wait for a standby.
    pub(super) require_synchronous: bool,
    /// What the server's log must hold.
    pub(super) seen: Arc<SeenLog>,
}

impl Session {
    /// Opens one.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        self.prepare(&mut connection).await?;
        Ok(connection)
    }

    /// A pool of them, which opens them when they are first used.
    pub(super) fn pool(self, pool: PgPoolOptions) -> PgPool {
        let options = self.options.clone();
        pool.after_connect(move |connection, _| {
            let session = self.clone();
            Box::pin(async move { session.prepare(connection).await })
        })
        .connect_lazy_with(options)
    }

    async fn prepare(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let set: String = self
            .settings
            .iter()
            .map(|(name, value)| format!("SET {name} = '{value}';"))
            .collect();
        // Names and values are this program's own. Together, and without preparing them: a lane that lost its
        // session has a new one after two round trips.
        let Some(admission) = &self.admission else {
            sqlx::raw_sql(AssertSqlSafe(set))
                .execute(connection)
                .await?;
            return Ok(());
        };
        let server = sqlx::raw_sql(AssertSqlSafe(set + SERVER))
            .fetch_one(&mut *connection)
            .await?;
        admission.admit(&server, connection).await
    }
}

impl Admission {
    /// Finds out whether the server is the primary, whether all that it shows will last, and whether its log
    /// is the one that this process has seen. A log that is not is halted there: it is the primary's, and
    /// every replica would go on with it.
    async fn admit(
        &self,
        server: &PgRow,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        // With the code that a statement would have failed by.
        if server.try_get("standby")? {
            return Err(refused("the server is a standby (25006)"));
        }
        if server.try_get("read_only")? {
            return Err(refused("the server is read-only (25006)"));
        }
        if self.require_synchronous && !server.try_get("synchronous")? {
            return Err(refused(NOT_SYNCHRONOUS));
        }
        let waiting: i64 = server.try_get("waiting")?;
        if waiting > 0 {
            let reason = format!("no standby confirms: {waiting} sessions wait for one");
            return Err(refused(reason));
        }
        self.fence(connection).await?;
        let Some(index) = self.seen.newest() else {
            return Ok(());
        };
        let row = sqlx::query(SEEN)
            .bind(signed(index)?)
            .fetch_one(&mut *connection)
            .await?;
        let leaf: Option<&[u8]> = row.try_get("leaf")?;
        let size = unsigned(row.try_get("size")?)?;
        if let Some(reason) = self.seen.contradiction(index, size, leaf) {
            sqlx::query("SELECT log_halt($1)")
                .bind(&reason)
                .execute(&mut *connection)
                .await?;
            return Err(refused(reason));
        }
        Ok(())
    }

    /// For what was read here: that it will last. A primary that is stopped ends all waits for a standby; for
    /// a moment those who still have a session there see what no standby has.
    pub(super) async fn fence(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        heed_database_warnings(async |warned| {
            fence(connection).await?;
            self.confirm(connection, warned).await
        })
        .await
    }

    /// Whether the commits of this session, since its warnings are heeded, are where commits have to be.
    ///
    /// A wait for a standby ends early, and the commit is reported all the same, when somebody cancels it,
    /// of which the server only warns, and when `synchronous_standby_names` is emptied meanwhile (PostgreSQL,
    /// 27.2.8; `syncrep.c`). A server that was told to reload tells its sessions before the checkpointer,
    /// which ends the waits: the next statement of the session knows of it.
    pub(super) async fn confirm(
        &self,
        connection: &mut PgConnection,
        warned: DatabaseWarnings,
    ) -> Result<(), sqlx::Error> {
        if self.require_synchronous {
            let synchronous: bool = sqlx::query_scalar(SYNCHRONOUS)
                .fetch_one(&mut *connection)
                .await?;
            if !synchronous {
                return Err(refused(NOT_SYNCHRONOUS));
            }
        }
        // Of whatever it warned: to settle a commit once more does no harm.
        if warned.any() {
            return Err(refused("a commit was not waited for to its end"));
        }
        Ok(())
    }
}

pub(super) const NOT_SYNCHRONOUS: &str =
    "synchronous_standby_names is empty: a commit would be on this server alone";

/// For a batch's answers that rest on what was read: see [`fence_select!`]. [`Admission::confirm`] follows it.
pub(super) async fn fence(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(fence_select!()).execute(connection).await?;
    Ok(())
}

fn refused(reason: impl Into<String>) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(reason.into()))
}
