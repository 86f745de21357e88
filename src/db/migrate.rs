//! Bringing the schema up to date, and which schema this binary knows.

use sqlx::Connection;
use sqlx::migrate::Migrator;

use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;

/// Every migration this binary knows, oldest first.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Brings the schema up to date; does nothing when it is. Connect as the owner of the schema:
/// not the service's role, whose lack of rights protects what is final.
///
/// Each migration is one transaction, so one that is killed half-way has not happened. Runs of
/// several replicas wait for each other.
pub async fn migrate(config: &DbConfig) -> Result<(), DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|error| DbFault::Migration(error.to_string()))?;
    connection.close().await?;
    Ok(())
}

/// The version a database has when this binary's migrations were run: `YYYYMMDDhhmmss`.
#[must_use]
pub fn schema_version() -> i64 {
    newest(&MIGRATIONS)
}

/// The newest of these migrations.
pub(super) fn newest(migrations: &Migrator) -> i64 {
    migrations
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or_default()
}
