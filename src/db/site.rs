//! The site's name in its database, and what head office may subscribe to.

use sqlx::Connection;
use sqlx::PgConnection;

use crate::ca::LedgerFault;
use crate::db::archive::PgArchive;
use crate::db::config::DbConfig;
use crate::db::config::Purpose;
use crate::db::error::DbFault;

/// What keeps head office from having the rows of this database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteFault {
    /// It has no name, or publishes nothing.
    #[error(
        "the database is not published: run `certfactory migrate` with [site] id and published = true"
    )]
    NotPublished,
    /// The server writes too little into its log.
    #[error(
        "PostgreSQL runs with wal_level={0}: set wal_level = logical and restart it; until then head office gets nothing"
    )]
    WalLevel(String),
    /// It was named otherwise.
    #[error("the database is of site `{found}`, for ever; the configuration names `{configured}`")]
    OtherSite {
        /// Its name.
        found: String,
        /// The configuration's.
        configured: String,
    },
}

/// Names the database's site, once and for ever, and, where it is to be, publishes it; as the schema's owner.
pub async fn name(config: &DbConfig, id: &str, published: bool) -> Result<(), DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    let mut transaction = connection.begin().await?;
    let named = sqlx::query("SELECT name_site($1)")
        .bind(id)
        .execute(&mut *transaction)
        .await;
    named.map_err(|error| DbFault::Migration(crate::db::error::describe(&error)))?;
    if published {
        sqlx::query("SELECT publish_site()")
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}

/// Looks whether the database is of the configured site and, where it is to be, published.
pub async fn check(
    config: &DbConfig,
    id: Option<&str>,
    published: bool,
) -> Result<Option<SiteFault>, DbFault> {
    let mut connection = config.session(Purpose::Command)?.connect().await?;
    let fault = examine(&mut connection, id, published).await?;
    connection.close().await?;
    Ok(fault)
}

async fn examine(
    connection: &mut PgConnection,
    id: Option<&str>,
    published: bool,
) -> Result<Option<SiteFault>, DbFault> {
    let found: Option<String> = sqlx::query_scalar("SELECT id FROM site")
        .fetch_optional(&mut *connection)
        .await?;
    if let (Some(found), Some(configured)) = (&found, id)
        && found != configured
    {
        return Ok(Some(SiteFault::OtherSite {
            found: found.clone(),
            configured: configured.to_owned(),
        }));
    }
    if !published {
        return Ok(None);
    }
    let (has_publication, wal_level): (bool, String) = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = 'certfactory'), current_setting('wal_level')",
    )
    .fetch_one(connection)
    .await?;
    Ok(if !has_publication {
        Some(SiteFault::NotPublished)
    } else if wal_level != "logical" {
        Some(SiteFault::WalLevel(wal_level))
    } else {
        None
    })
}

/// Says to head office that the service runs.
pub struct PgHeartbeat(PgArchive);

impl PgHeartbeat {
    /// Connects when first used, on the current Tokio runtime. Fails only when the URL is none.
    pub fn new(config: &DbConfig) -> Result<Self, DbFault> {
        let own = DbConfig {
            archive_connections_max: 1,
            ..config.clone()
        };
        PgArchive::for_purpose(&own, Purpose::Log).map(Self)
    }

    /// Once.
    pub async fn beat(&self) -> Result<(), LedgerFault> {
        let beat = self.0.ask(|connection| {
            Box::pin(async move {
                sqlx::query("SELECT heartbeat()")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        });
        beat.await
    }
}
