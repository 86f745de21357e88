//! `migrate`: bring the database to the schema this version knows, as the schema's owner.

use anyhow::Context;

use crate::app;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::RawConfig;
use crate::db;

/// Applies what is missing; does nothing to an up-to-date database.
pub fn run(global: &Global) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    let url = raw.database.owner_url.as_ref().context("database.owner_url is not configured: migrations run as the schema's owner, which the service never is")?;
    let owner = app::owner_config(&raw.database, url)?;
    crate::cli::runtime()?
        .block_on(db::migrate::migrate(&owner))
        .context("migrating")
        .map_err(|e| Failure::new(Failure::DEPENDENCY, e))?;
    eprintln!("the schema is up to date");
    Ok(())
}
