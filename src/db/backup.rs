//! What a backup needs of the database beside its dump: which schema it is, a row that says that it was
//! made, and an empty place to put it back.

use sqlx::AssertSqlSafe;
use sqlx::Connection;
use sqlx::PgConnection;

use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;

/// A backup that was completed.
pub struct Completed {
    /// Entries of the log that it holds at least.
    pub entries: u64,
    /// Length of the dump.
    pub octets: u64,
    /// SHA-256 of the dump.
    pub sha256: [u8; 32],
}

async fn connect(owner: &DbConfig) -> Result<PgConnection, DbFault> {
    Ok(owner.session(Purpose::Command)?.connect().await?)
}

/// The schema's version, `YYYYMMDDhhmmss`; 0: it was never migrated.
pub async fn schema(owner: &DbConfig) -> Result<i64, DbFault> {
    let mut connection = connect(owner).await?;
    Ok(
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
            .fetch_one(&mut connection)
            .await?,
    )
}

/// Says that the backup was made: a row, and with it an entry of the log.
pub async fn completed(owner: &DbConfig, backup: &Completed) -> Result<(), DbFault> {
    let mut connection = connect(owner).await?;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    sqlx::query("INSERT INTO backup (entries, octets, sha256) VALUES ($1, $2, $3)")
        .bind(number(backup.entries))
        .bind(number(backup.octets))
        .bind(&backup.sha256[..])
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// Roles that a dump's rights name; a dump holds no roles. Others are members of them.
const GROUP_ROLES: [&str; 2] = ["certfactory_service", "certfactory_replication"];

/// Makes the group roles that the dump's rights name, where the server does not have them. `false`, and
/// nothing is made, when the database is not empty.
pub async fn make_room(owner: &DbConfig) -> Result<bool, DbFault> {
    let mut connection = connect(owner).await?;
    let empty: bool = sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%')
         AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace)",
    )
    .fetch_one(&mut connection)
    .await?;
    if !empty {
        return Ok(false);
    }
    for role in GROUP_ROLES {
        let there: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
                .bind(role)
                .fetch_one(&mut connection)
                .await?;
        if !there {
            sqlx::query(AssertSqlSafe(format!("CREATE ROLE {role} NOLOGIN")))
                .execute(&mut connection)
                .await?;
        }
    }
    connection.close().await?;
    Ok(true)
}
