//! `migrate`: bring the database to the schema this version knows, as the schema's owner.

use anyhow::Context;

use crate::app;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::RawConfig;
use crate::config::secret;
use crate::db;

/// Applies what is missing; does nothing to an up-to-date database.
pub fn run(global: &Global) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    let url = raw.database.owner_url.context("database.owner_url is not configured: migrations run as the schema's owner, which the service never is")?;
    let password = raw.database.owner_password_file.as_deref().map(secret);
    let owner = db::config::DbConfig {
        url: app::database_url(&url, password.transpose()?.as_ref())?,
        archive_connections_max: 1,
    };
    crate::cli::runtime()?
        .block_on(db::migrate::migrate(&owner))
        .context("migrating")
        .map_err(|e| Failure::new(Failure::DEPENDENCY, e))?;
    eprintln!("the schema is up to date");
    Ok(())
}
