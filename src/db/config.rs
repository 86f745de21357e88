//! How to reach the database, and the limits that every session asks the server to keep.

use std::str::FromStr;
use std::sync::Arc;

use secrecy::ExposeSecret;
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;

use crate::ca::log::seen::SeenLog;
use crate::db::error::DbFault;
use crate::db::replicas::SILENCE_MAX;
use crate::db::session::Admission;
use crate::db::session::Session;

/// Where the database is. The URL may hold a password, so it has no `Debug`.
#[derive(Clone)]
pub struct DbConfig {
    /// `postgres://user@host/database`; `?host=/run/postgresql` for a unix socket.
    pub url: SecretString,
    /// Most connections that reading may use; issuing has three of its own beside them.
    pub archive_connections_max: u32,
    /// Whether a commit must wait for a standby: a server that lets none wait is not written to.
    pub require_synchronous: bool,
    /// What this process has seen of the log: a server that lacks it is not written to.
    pub seen: Arc<SeenLog>,
}

/// What a connection is for; shows as `application_name`, and decides its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// One of the ledger's lanes.
    Ledger(&'static str),
    /// What is long and rare: a device list, a closing report.
    Aside,
    /// Searches and downloads.
    Archive,
    /// Where primary and standby are.
    Watch,
    /// What people look at while the line runs.
    Floor,
    /// CRLs: what they list, and the bytes of them.
    Crl,
    /// The log: its leaves, tiles and checkpoints.
    Log,
    /// The same for those who only read it.
    LogReading,
    /// What says that a replica lives.
    Replica,
    /// Start-up checks and commands: the server's own settings, so that they can be looked at.
    Command,
}

/// Limits of a ledger session. Below the watchdog's, so that the server speaks first.
const LEDGER_SESSION: &[(&str, &str)] = &[
    ("statement_timeout", "4s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "5s"),
    // Durable before it is answered, whatever the server's default becomes at run time.
    ("synchronous_commit", "on"),
    // The ledger looks up keys and joins batches. Its plans are kept with its prepared statements:
    // one made while the tables were still empty must not scan them when they are full, nor
    // compare each row of a batch with each other one. Look-ups are written as sub-selects, which
    // no join method can turn into a scan.
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_nestloop", "off"),
    ("jit", "off"),
];

/// What a long and rare transaction has beyond a ledger session's limits.
const ASIDE_SESSION: &[(&str, &str)] = &[("statement_timeout", "60s")];

/// Limits of a reading session.
const ARCHIVE_SESSION: &[(&str, &str)] = &[
    ("statement_timeout", "10s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("default_transaction_read_only", "on"),
    // A filter that matches nothing must not be planned like the one before it.
    ("plan_cache_mode", "force_custom_plan"),
    // Of an SSD: an index that has the rows in their order is better than two that have them all.
    ("random_page_cost", "1.1"),
    ("jit", "off"),
];

/// Limits of the CRLs' session: a hundred thousand lines are read, and megabytes written.
const CRL_SESSION: &[(&str, &str)] = &[
    ("statement_timeout", "12s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("synchronous_commit", "on"),
    // An issuer with few revocations must not be planned like one with many.
    ("plan_cache_mode", "force_custom_plan"),
    ("jit", "off"),
];

/// Limits of the log's session: leaves are read by their place, and tiles written.
const LOG_SESSION: &[(&str, &str)] = &[
    ("statement_timeout", "10s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("synchronous_commit", "on"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// What the session that says that a replica lives has beyond a ledger session's limits: locks that others
/// wait for end with it when its replica is paused or cut off.
const REPLICA_SESSION: &[(&str, &str)] = &[("idle_session_timeout", SILENCE_MAX)];

/// Limits of a command's session.
const COMMAND_SESSION: &[(&str, &str)] = &[("lock_timeout", "10s")];

/// So that the server gives up a client that vanished, and with it the locks it held. Seconds;
/// without effect on unix sockets, and behind a proxy for the proxy alone.
const KEEPALIVE: &[(&str, &str)] = &[
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
];

impl DbConfig {
    /// Sessions for one purpose. Fails when the URL is none; the message never holds the URL.
    pub(super) fn session(&self, purpose: Purpose) -> Result<Session, DbFault> {
        let options =
            PgConnectOptions::from_str(self.url.expose_secret()).map_err(|_| DbFault::Url)?;
        let (name, settings): (_, &[&[_]]) = match purpose {
            Purpose::Ledger(lane) => (lane, &[LEDGER_SESSION]),
            Purpose::Aside => ("aside", &[LEDGER_SESSION, ASIDE_SESSION]),
            Purpose::Archive => ("archive", &[ARCHIVE_SESSION]),
            Purpose::Watch => ("watch", &[ARCHIVE_SESSION]),
            Purpose::Floor => ("floor", &[ARCHIVE_SESSION]),
            Purpose::Crl => ("crl", &[CRL_SESSION]),
            Purpose::Log | Purpose::LogReading => ("log", &[LOG_SESSION]),
            Purpose::Replica => ("replicas", &[LEDGER_SESSION, REPLICA_SESSION]),
            Purpose::Command => ("command", &[COMMAND_SESSION]),
        };
        let writes = match purpose {
            Purpose::Ledger(_)
            | Purpose::Aside
            | Purpose::Crl
            | Purpose::Log
            | Purpose::Replica => true,
            Purpose::Archive
            | Purpose::Watch
            | Purpose::Floor
            | Purpose::LogReading
            | Purpose::Command => false,
        };
        let admission = writes.then(|| Admission {
            require_synchronous: self.require_synchronous,
            seen: Arc::clone(&self.seen),
        });
        Ok(Session {
            options: options.application_name(&format!("certfactory {name}")),
            settings: [KEEPALIVE]
                .iter()
                .chain(settings)
                .copied()
                .flatten()
                .copied()
                .collect(),
            admission,
        })
    }
}
