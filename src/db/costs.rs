//! [`PgCosts`]: what the database has done so far, for whoever measures what a certificate costs it.

use sqlx::PgConnection;
use sqlx::Row;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::db::archive::PgArchive;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::row::unsigned;

/// Of the whole cluster is the write-ahead log with its writes and syncs (`pg_stat_wal`), of this database
/// the rest. Nothing else may write meanwhile.
const DONE: &str = "
    SELECT pg_backend_pid() AS backend,
           coalesce(host(inet_server_addr()) IN ('127.0.0.1', '::1'), true) AS is_local,
           current_setting('server_version') AS version,
           (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS wal_octets,
           w.wal_write AS wal_writes, w.wal_sync AS wal_syncs,
           r.table_octets, r.index_octets,
           (SELECT size FROM log_head) AS log_entries
    FROM pg_stat_wal w
    CROSS JOIN (
        SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint AS table_octets,
               coalesce(sum(pg_indexes_size(c.oid)), 0)::bigint AS index_octets
        FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace) r";

const LEAF_OCTETS: &str = "
    SELECT coalesce(avg(octet_length(leaf)), 0)::bigint AS octets FROM (
        SELECT leaf FROM log_entry ORDER BY log_index DESC LIMIT 1000) newest";

/// What was done until now.
#[derive(Clone, Debug)]
pub struct Done {
    /// The process that answered.
    pub backend: i32,
    /// Whether the server is on this machine.
    pub is_local: bool,
    /// The server's version.
    pub version: String,
    /// Octets of the write-ahead log.
    pub wal_octets: u64,
    /// Times it was written.
    pub wal_writes: u64,
    /// Times it was made durable.
    pub wal_syncs: u64,
    /// Octets of the ledger's tables.
    pub table_octets: u64,
    /// Octets of their indexes.
    pub index_octets: u64,
    /// Entries of the log.
    pub log_entries: u64,
    /// Octets of an entry, of the thousand newest.
    pub leaf_octets: u64,
}

/// Asks for it, on a connection of its own.
pub struct PgCosts(PgArchive);

impl PgCosts {
    /// Connects when first used. Fails only when the URL is none.
    pub fn new(config: &DbConfig) -> Result<Self, DbFault> {
        let own = DbConfig {
            archive_connections_max: 1,
            ..config.clone()
        };
        PgArchive::for_purpose(&own, Purpose::Archive).map(Self)
    }

    /// What was done until now. A session tells of its writes a second late (`pg_stat_wal`).
    pub fn done(&self) -> PortFuture<'_, Result<Done, LedgerFault>> {
        self.0.ask(|connection| Box::pin(done(connection)))
    }
}

async fn done(connection: &mut PgConnection) -> Result<Done, sqlx::Error> {
    let row = sqlx::query(DONE).fetch_one(&mut *connection).await?;
    let leaf_octets: i64 = sqlx::query_scalar(LEAF_OCTETS)
        .fetch_one(connection)
        .await?;
    let count = |name: &str| unsigned(row.try_get(name)?);
    Ok(Done {
        backend: row.try_get("backend")?,
        is_local: row.try_get("is_local")?,
        version: row.try_get("version")?,
        wal_octets: count("wal_octets")?,
        wal_writes: count("wal_writes")?,
        wal_syncs: count("wal_syncs")?,
        table_octets: count("table_octets")?,
        index_octets: count("index_octets")?,
        log_entries: count("log_entries")?,
        leaf_octets: unsigned(leaf_octets)?,
    })
}
