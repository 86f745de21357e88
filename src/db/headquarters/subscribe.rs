//! Plants: added and removed by a superuser of head office's cluster, whom PostgreSQL 15 alone lets
//! subscribe.

use secrecy::ExposeSecret;
use secrecy::SecretString;
use sqlx::Connection;
use sqlx::PgConnection;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;
use crate::db::error::describe;
use crate::db::headquarters::MIGRATIONS;
use crate::db::headquarters::PUBLICATION;

/// What a plant's database says of itself.
const ABOUT_PLANT: &str = "
    SELECT * FROM dblink($1, format(
        'SELECT current_setting(''wal_level''), EXISTS (SELECT FROM pg_publication WHERE pubname = %L),
                (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), (SELECT id FROM site)', $2))
        AS about (wal_level text, published boolean, may_replicate boolean, site text)";

/// Statements of this session are not for the server's log.
const QUIET: &str = "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1";

/// Why a plant was not added.
#[derive(Debug, thiserror::Error)]
pub enum PlantFault {
    /// Head office's database did not do it.
    #[error("head office's database: {0}")]
    Here(#[from] DbFault),
    /// The plant's cannot be reached.
    #[error("the plant's database cannot be reached: {0}")]
    There(String),
    /// It is not ready.
    #[error("the plant is not ready: {0}")]
    NotReady(String),
    /// It is another one.
    #[error("the database at this address is of site `{found}`, not of `{wanted}`")]
    OtherSite {
        /// Its name.
        found: String,
        /// The name that was given.
        wanted: String,
    },
    /// There is none of this name.
    #[error("there is no plant `{0}`")]
    Unknown(String),
}

/// A plant to add.
pub struct NewPlant {
    /// The site's name: lower-case letters, digits and hyphens, at most 40.
    pub site: String,
    /// Where its database is, as libpq's URI; may hold a password, which then is in head office's catalogue.
    pub connection: SecretString,
    /// Public key of its log, as a vkey; `None`: its checkpoints are not looked at.
    pub log_key: Option<String>,
    /// Seconds after which its feed is late.
    pub late_after_seconds: i32,
}

/// Whether a plant can have this name: it is a part of the names of its tables and of its slot.
#[must_use]
pub fn is_plant_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=40).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-')
}

/// The name of a plant's subscription here, and of its slot at the plant.
fn subscription(site: &str) -> String {
    format!("certfactory_{}", site.replace('-', "_"))
}

/// Brings head office's schema up to date, as its owner.
pub async fn migrate(config: &DbConfig) -> Result<(), DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|error| DbFault::Migration(error.to_string()))?;
    connection.close().await?;
    Ok(())
}

/// Looks whether the plant can be subscribed to, makes its tables here, and subscribes. What an earlier try
/// left half done is done; a plant that is there keeps its rows, and gets the new key and limit.
pub async fn add(config: &DbConfig, plant: &NewPlant) -> Result<(), PlantFault> {
    let mut here = connect(config).await?;
    examine(&mut here, plant).await?;
    let mut transaction = here.begin().await.map_err(DbFault::from)?;
    // By another key the log is looked at from its beginning.
    sqlx::query(
        "UPDATE plant_progress g
         SET tree_size = 0, tree_peaks = '', checkpoint_size = 0, checkpoint_at = NULL, disagrees = false
         FROM plant p WHERE p.site = $1 AND g.site = $1 AND p.log_key IS DISTINCT FROM $2",
    )
    .bind(&plant.site)
    .bind(&plant.log_key)
    .execute(&mut *transaction)
    .await
    .map_err(DbFault::from)?;
    sqlx::query(
        "UPDATE finding f SET ended_at = clock_timestamp()
         FROM plant p WHERE p.site = $1 AND f.site = $1 AND f.table_name = 'checkpoint' AND f.held_to = 'log' AND f.ended_at IS NULL
           AND p.log_key IS DISTINCT FROM $2",
    )
    .bind(&plant.site)
    .bind(&plant.log_key)
    .execute(&mut *transaction)
    .await
    .map_err(DbFault::from)?;
    sqlx::query(
        "INSERT INTO plant (site, log_key, late_after_seconds) VALUES ($1, $2, $3)
         ON CONFLICT (site) DO UPDATE
         SET log_key = EXCLUDED.log_key, late_after_seconds = EXCLUDED.late_after_seconds",
    )
    .bind(&plant.site)
    .bind(&plant.log_key)
    .bind(plant.late_after_seconds)
    .execute(&mut *transaction)
    .await
    .map_err(DbFault::from)?;
    for statement in [
        "INSERT INTO plant_progress (site) VALUES ($1) ON CONFLICT DO NOTHING",
        "SELECT make_plant($1)",
    ] {
        sqlx::query(statement)
            .bind(&plant.site)
            .execute(&mut *transaction)
            .await
            .map_err(DbFault::from)?;
    }
    transaction.commit().await.map_err(DbFault::from)?;

    let name = subscription(&plant.site);
    if !subscribed(&mut here, &name).await? {
        // Neither takes parameters: PostgreSQL quotes them. Making a slot is not for a transaction.
        let statement: String = sqlx::query_scalar(
            "SELECT format('CREATE SUBSCRIPTION %I CONNECTION %L PUBLICATION %I', $1, $2, $3)",
        )
        .bind(&name)
        .bind(plant.connection.expose_secret())
        .bind(PUBLICATION)
        .fetch_one(&mut here)
        .await
        .map_err(DbFault::from)?;
        // The address may hold a password: the server's log is not to have it, even where this fails.
        sqlx::raw_sql(QUIET)
            .execute(&mut here)
            .await
            .map_err(DbFault::from)?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut here)
            .await
            .map_err(|error| PlantFault::There(describe(&error)))?;
    }
    here.close().await.map_err(DbFault::from)?;
    Ok(())
}

/// Whether the plant publishes what is to be subscribed to. Head office's server asks, as it will when it
/// subscribes: with its own user, files and network. What that takes here is taken back.
async fn examine(here: &mut PgConnection, plant: &NewPlant) -> Result<(), PlantFault> {
    let mut transaction = here.begin().await.map_err(DbFault::from)?;
    sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS dblink")
        .execute(&mut *transaction)
        .await
        .map_err(DbFault::from)?;
    let row = sqlx::query(ABOUT_PLANT)
        .bind(plant.connection.expose_secret())
        .bind(PUBLICATION)
        .fetch_one(&mut *transaction)
        .await
        .map_err(|error| PlantFault::There(describe(&error)))?;
    transaction.rollback().await.map_err(DbFault::from)?;
    let not_ready = |what: &str| Err(PlantFault::NotReady(what.to_owned()));
    let (wal_level, published, may_replicate, site) = about(&row).map_err(DbFault::from)?;
    if wal_level != "logical" {
        return not_ready(&format!(
            "its PostgreSQL runs with wal_level={wal_level}: set wal_level = logical and restart it"
        ));
    }
    if !published {
        return not_ready(
            "it publishes nothing: set [site] id and published = true there, and run `certfactory migrate`",
        );
    }
    if !may_replicate {
        return not_ready(
            "the role in the address may not replicate: ALTER ROLE … REPLICATION there",
        );
    }
    match site {
        Some(found) if found == plant.site => Ok(()),
        Some(found) => Err(PlantFault::OtherSite {
            found,
            wanted: plant.site.clone(),
        }),
        None => not_ready(
            "its database has no name: set [site] id there, and run `certfactory migrate`",
        ),
    }
}

fn about(row: &PgRow) -> Result<(String, bool, bool, Option<String>), sqlx::Error> {
    Ok((
        row.try_get("wal_level")?,
        row.try_get("published")?,
        row.try_get("may_replicate")?,
        row.try_get("site")?,
    ))
}

/// Ends the subscription and removes the plant's rows. `forget_slot`: the plant is gone, or was built
/// anew, and its slot need not be dropped there.
pub async fn remove(config: &DbConfig, site: &str, forget_slot: bool) -> Result<(), PlantFault> {
    let mut here = connect(config).await?;
    let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM plant WHERE site = $1)")
        .bind(site)
        .fetch_one(&mut here)
        .await
        .map_err(DbFault::from)?;
    if !known {
        return Err(PlantFault::Unknown(site.to_owned()));
    }
    let name = subscription(site);
    if subscribed(&mut here, &name).await? {
        let mut statements = vec!["DROP SUBSCRIPTION %I"];
        if forget_slot {
            statements = vec![
                "ALTER SUBSCRIPTION %I DISABLE",
                "ALTER SUBSCRIPTION %I SET (slot_name = NONE)",
                "DROP SUBSCRIPTION %I",
            ];
        }
        for statement in statements {
            let statement: String = sqlx::query_scalar("SELECT format($1, $2)")
                .bind(statement)
                .bind(&name)
                .fetch_one(&mut here)
                .await
                .map_err(DbFault::from)?;
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&mut here)
                .await
                .map_err(|error| PlantFault::There(describe(&error)))?;
        }
    }
    sqlx::query("SELECT drop_plant($1)")
        .bind(site)
        .execute(&mut here)
        .await
        .map_err(DbFault::from)?;
    here.close().await.map_err(DbFault::from)?;
    Ok(())
}

async fn connect(config: &DbConfig) -> Result<PgConnection, DbFault> {
    Ok(config.session(Purpose::Command)?.connect().await?)
}

async fn subscribed(here: &mut PgConnection, name: &str) -> Result<bool, DbFault> {
    let there = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                        WHERE s.subname = $1 AND d.datname = current_database())",
    );
    Ok(there.bind(name).fetch_one(here).await?)
}
