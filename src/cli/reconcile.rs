//! `reconcile`: what the journal knows and the database does not is put back, before the service
//! starts again on a database that was restored to an earlier hour.

use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use bytes::Bytes;
use clap::Args;
use serde_json::json;

use crate::app::owner_config;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::RawConfig;
use crate::db::restore::Restorer;
use crate::journal;

/// Entries that are put back in one transaction.
const RUN: usize = 1_000;

/// `reconcile`
#[derive(Args)]
pub struct ReconcileArguments {
    /// Journal directory; may be repeated: each replica has one. Without it: that of the configuration.
    #[arg(long = "journal", value_name = "DIR")]
    journals: Vec<PathBuf>,
    /// Only say what is missing.
    #[arg(long)]
    dry_run: bool,
}

/// Runs it. The service must not run meanwhile.
pub fn run(global: &Global, arguments: &ReconcileArguments) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    let journals = if arguments.journals.is_empty() {
        let journal = raw.audit.as_ref().and_then(|audit| audit.journal.as_ref());
        let journal = journal.context("no [audit.journal] is configured; name one (--journal)")?;
        vec![journal.directory.clone()]
    } else {
        arguments.journals.clone()
    };
    let database = &raw.database;
    let url = database.owner_url.as_ref().unwrap_or(&database.url);
    let owner = owner_config(database, url)?;
    crate::cli::runtime()?.block_on(async {
        let mut ledger = Restorer::connect(&owner).await?;
        let size = ledger.size();
        let missing = missing(&journals, size, &mut ledger).await?;
        let end = size + u64::try_from(missing.len()).unwrap_or(u64::MAX);
        if !arguments.dry_run {
            for run in missing.chunks(RUN) {
                ledger.put_back(run).await?;
            }
        }
        let restored = ledger.close().await?;
        if global.json {
            return crate::cli::print_json(&json!({
                "entries_before": size, "entries_in_journal": end, "restored": !arguments.dry_run,
                "with_rows": restored.whole, "entries_only": restored.entries,
            }));
        }
        println!("entries before      {size}");
        println!("entries in journal  {end}");
        for (what, kinds) in [
            ("put back", &restored.whole),
            ("entry only", &restored.entries),
        ] {
            for (kind, count) in kinds {
                println!("{what:<19} {count} {kind}");
            }
        }
        Ok(())
    })
}

/// Entries of the journals from the database's end on, without gaps; each as all journals have it.
/// The entry before must be the database's own.
async fn missing(
    journals: &[PathBuf],
    size: u64,
    ledger: &mut Restorer,
) -> anyhow::Result<Vec<(u64, Bytes)>> {
    let mut found = std::collections::BTreeMap::<u64, Bytes>::new();
    for directory in journals {
        let named = || directory.display().to_string();
        let from = size.saturating_sub(1);
        let entries = journal::missing_after(directory, from).with_context(named)?;
        for entry in entries {
            let entry = entry.with_context(named)?;
            let other = found.insert(entry.index, entry.leaf.clone());
            if other.is_some_and(|other| other != entry.leaf) {
                return Err(anyhow!(
                    "entry {} is there twice, not the same",
                    entry.index
                ));
            }
        }
    }
    if let Some(before) = size.checked_sub(1).and_then(|index| found.remove(&index)) {
        let own = ledger.leaf(size - 1).await?;
        if own.as_deref() != Some(&before[..]) {
            return Err(anyhow!(
                "entry {} of the database is another one than in the journal: they are not of one log",
                size - 1
            ));
        }
    }
    for (expected, index) in (size..).zip(found.keys()) {
        if *index != expected {
            return Err(anyhow!(
                "no journal has entry {expected}; other replicas have journals, too"
            ));
        }
    }
    Ok(found.into_iter().collect())
}
