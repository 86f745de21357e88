//! Whether a proxy lets the statements of one connection run in the sessions of others.
//!
//! pgbouncer with `pool_mode = transaction` gives a connection another session after each transaction.
//! Settings, prepared statements and advisory locks of a session are then somebody else's: a time limit or
//! `synchronous_commit` that was set is not kept. It cannot be asked for, so it is tried.

use sqlx::PgConnection;
use sqlx::Row;

use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;

/// Times it is tried: other clients of the proxy may take a session in between.
const ROUNDS: u32 = 5;

/// Whether sessions are shared. While a second connection holds a session in a transaction, the first one's
/// must be another one, and stay the one it was.
pub(super) async fn shares_sessions(config: &DbConfig) -> Result<bool, DbFault> {
    let mut one = config.session(Purpose::Command)?.connect().await?;
    let mut other = config.session(Purpose::Command)?.connect().await?;
    for _ in 0..ROUNDS {
        let before = session(&mut one).await?;
        sqlx::raw_sql("BEGIN").execute(&mut other).await?;
        let held = session(&mut other).await?;
        // Where there is but one session to share, the first connection would wait for it.
        let shared = held == before || session(&mut one).await? != before;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await?;
        if shared {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The process that serves the statement. Asked for without a prepared statement, which may be another's.
async fn session(connection: &mut PgConnection) -> Result<i32, DbFault> {
    let row = sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection);
    Ok(row.await?.try_get(0)?)
}
