//! `migrate`: bring the database to the schema this version knows, as the schema's owner; name its site, and
//! publish it where head office is to have its rows.

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
    let runtime = crate::cli::runtime()?;
    let failed = |error| Failure::new(Failure::DEPENDENCY, error);
    runtime
        .block_on(db::migrate::migrate(&owner))
        .context("migrating")
        .map_err(failed)?;
    let site = &raw.site;
    if let Some(id) = &site.id {
        runtime
            .block_on(db::site::name(&owner, id, site.published))
            .context("naming the site")
            .map_err(failed)?;
        let check = db::site::check(&owner, Some(id), site.published);
        if let Some(fault) = runtime.block_on(check)? {
            return Err(failed(fault.into()));
        }
    }
    eprintln!("the schema is up to date");
    Ok(())
}
