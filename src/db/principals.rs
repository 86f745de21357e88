//! Who may use the service: read by the archive, written by commands.

use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::ca::Principal;
use crate::ca::Role;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;

/// Adds a principal. `false` when it is there already, the same; whether it is disabled is left
/// as it was.
pub async fn add(config: &DbConfig, principal: &Principal) -> Result<bool, DbFault> {
    let mut connection = config.options(Purpose::Command)?.connect().await?;
    let inserted = sqlx::query(
        "INSERT INTO principal (name, role, disabled, spki_sha256) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(&principal.name)
    .bind(principal.role.as_str())
    .bind(principal.disabled)
    .bind(&principal.spki_sha256[..])
    .execute(&mut connection)
    .await?;
    if inserted.rows_affected() == 1 {
        connection.close().await?;
        return Ok(true);
    }
    let known = all(&mut connection).await?;
    connection.close().await?;
    let same = |other: &Principal| {
        (&other.name, other.role, other.spki_sha256)
            == (&principal.name, principal.role, principal.spki_sha256)
    };
    if known.iter().any(same) {
        return Ok(false);
    }
    Err(DbFault::PrincipalTaken(
        match known.iter().find(|other| other.name == principal.name) {
            Some(other) => format!(
                "there is a principal {} with another key or role",
                other.name
            ),
            None => format!("the key of {} is another principal's", principal.name),
        },
    ))
}

/// Disables or enables a principal: in force as soon as the service next reads the table.
pub async fn set_disabled(config: &DbConfig, name: &str, disabled: bool) -> Result<(), DbFault> {
    let mut connection = config.options(Purpose::Command)?.connect().await?;
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

/// All principals, by name.
pub(super) async fn all(connection: &mut PgConnection) -> Result<Vec<Principal>, sqlx::Error> {
    let rows = sqlx::query("SELECT name, role, disabled, spki_sha256 FROM principal ORDER BY name")
        .fetch_all(connection)
        .await?;
    rows.iter().map(principal).collect()
}

fn principal(row: &PgRow) -> Result<Principal, sqlx::Error> {
    let role: &str = row.try_get("role")?;
    Ok(Principal {
        name: row.try_get("name")?,
        role: Role::from_word(role)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown role {role}").into()))?,
        disabled: row.try_get("disabled")?,
        spki_sha256: row.try_get("spki_sha256")?,
    })
}
