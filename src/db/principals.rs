//! Who may use the service: read by the archive, written by commands.

use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;

use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::station::Rights;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::stations::role;

/// Adds a principal with a key. `false` when it is there already, the same; whether it is disabled,
/// and its rights, are left as they were.
pub async fn add(config: &DbConfig, principal: &Principal) -> Result<bool, DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    let added = add_by(&mut connection, principal).await;
    connection.close().await?;
    added
}

async fn add_by(connection: &mut PgConnection, principal: &Principal) -> Result<bool, DbFault> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "INSERT INTO principal (name, role, disabled, rights) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(&principal.name)
    .bind(principal.role.as_str())
    .bind(principal.disabled)
    .bind(Json(&principal.rights))
    .execute(&mut *transaction)
    .await?;
    let role: String = sqlx::query_scalar("SELECT role FROM principal WHERE name = $1")
        .bind(&principal.name)
        .fetch_one(&mut *transaction)
        .await?;
    let keyed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM principal_key WHERE name = $1 AND spki_sha256 <> $2)",
    )
    .bind(&principal.name)
    .bind(&principal.spki_sha256[..])
    .fetch_one(&mut *transaction)
    .await?;
    if role != principal.role.as_str() || keyed {
        let name = &principal.name;
        return Err(DbFault::PrincipalTaken(format!(
            "there is a principal {name} with another key or role"
        )));
    }
    let added = sqlx::query(
        "INSERT INTO principal_key (spki_sha256, name) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    )
    .bind(&principal.spki_sha256[..])
    .bind(&principal.name)
    .execute(&mut *transaction)
    .await?;
    let owner: String = sqlx::query_scalar("SELECT name FROM principal_key WHERE spki_sha256 = $1")
        .bind(&principal.spki_sha256[..])
        .fetch_one(&mut *transaction)
        .await?;
    if owner != principal.name {
        let name = &principal.name;
        return Err(DbFault::PrincipalTaken(format!(
            "the key of {name} is another principal's"
        )));
    }
    transaction.commit().await?;
    Ok(added.rows_affected() == 1)
}

/// Registers an administrator who may enrol a key with this code, for a service that knows none yet.
/// `false`: an administrator can connect, or the name is somebody else's.
pub async fn add_first_administrator(
    config: &DbConfig,
    name: &str,
    code_sha256: &[u8; 32],
) -> Result<bool, DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    let mut transaction = connection.begin().await?;
    // Of two such commands at once, the second sees the first.
    sqlx::raw_sql("LOCK TABLE principal IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    let in_the_way: bool = sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM principal p
             WHERE (p.name = $1 AND (p.role <> $2 OR p.disabled))
                OR (p.role = $2 AND NOT p.disabled AND EXISTS (
                        SELECT FROM principal_key k
                        WHERE k.name = p.name
                          AND (k.dies_at IS NULL OR k.dies_at > statement_timestamp()))))",
    )
    .bind(name)
    .bind(Role::Administrator.as_str())
    .fetch_one(&mut *transaction)
    .await?;
    if in_the_way {
        return Ok(false);
    }
    let insert = "INSERT INTO principal (name, role, disabled, rights) VALUES ($1, $2, false, $3)
        ON CONFLICT DO NOTHING";
    sqlx::query(insert)
        .bind(name)
        .bind(Role::Administrator.as_str())
        .bind(Json(Rights::default()))
        .execute(&mut *transaction)
        .await?;
    // An earlier code is good for nothing, as in the service.
    sqlx::query(
        "UPDATE enrolment SET expires_at = statement_timestamp()
         WHERE name = $1 AND expires_at > statement_timestamp()",
    )
    .bind(name)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO enrolment (code_sha256, name, created_by, expires_at)
         VALUES ($1, $2, 'command', statement_timestamp() + interval '24 hours')",
    )
    .bind(&code_sha256[..])
    .bind(name)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    connection.close().await?;
    Ok(true)
}

/// Disables or enables a principal: in force as soon as the service next reads the table.
pub async fn set_disabled(config: &DbConfig, name: &str, disabled: bool) -> Result<(), DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    let updated = sqlx::query("UPDATE principal SET disabled = $2 WHERE name = $1")
        .bind(name)
        .bind(disabled)
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    match updated.rows_affected() {
        0 => Err(DbFault::PrincipalUnknown(name.to_owned())),
        _ => Ok(()),
    }
}

/// All principals that have a key that is good, by name.
pub(super) async fn all(connection: &mut PgConnection) -> Result<Vec<Principal>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT p.name, p.role, p.disabled, p.rights, k.spki_sha256
         FROM principal p JOIN principal_key k ON k.name = p.name
         WHERE k.dies_at IS NULL OR k.dies_at > statement_timestamp() ORDER BY p.name, k.added_at",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(principal).collect()
}

fn principal(row: &PgRow) -> Result<Principal, sqlx::Error> {
    let Json(rights): Json<Rights> = row.try_get("rights")?;
    Ok(Principal {
        name: row.try_get("name")?,
        role: role(row)?,
        disabled: row.try_get("disabled")?,
        spki_sha256: row.try_get("spki_sha256")?,
        rights,
    })
}
