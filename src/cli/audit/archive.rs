//! `audit archive`: old parts of the log leave the database for a directory that can be verified, and
//! come back from it.
//!
//! Only entries leave. Certificates, claims and what happened to them stay where they are, so that no
//! device is forgotten; and so do the tree's hashes, so that every proof of the tree holds as before.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::ensure;
use chrono::DateTime;
use chrono::NaiveDate;
use chrono::NaiveTime;
use chrono::Utc;
use clap::Args;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::app::SystemClock;
use crate::app::owner_config;
use crate::ca::Clock;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::audit::bundle;
use crate::cli::audit::bundle::Bundle;
use crate::cli::audit::bundle::Source;
use crate::cli::audit::bundle::WIDTH;
use crate::cli::audit::verify;
use crate::cli::audit::verify::Trust;
use crate::cli::audit::verify::database::Database;
use crate::config::Config;
use crate::db::parts::Part;
use crate::db::parts::Parts;
use crate::pki::merkle::leaf_hash;
use crate::pki::note::Checkpoint;
use crate::pki::note::Note;
use crate::pki::tile::TileId;
use crate::pki::tile::TileLevel;
use crate::pki::tile::encode_bundle;

/// `audit archive`
#[derive(Args)]
pub struct ArchiveArguments {
    /// Archive what is older than this month, `2026-06`: full parts of the log, of 1,048,576 entries.
    #[arg(long, value_name = "MONTH", required_unless_present = "bring_back")]
    before: Option<String>,
    /// Bring back what the directory holds.
    #[arg(long, conflicts_with = "before")]
    bring_back: bool,
    /// Only say which entries it would be.
    #[arg(long)]
    dry_run: bool,
    /// The archive: one directory for all parts, in the layout of C2SP tlog-tiles.
    directory: PathBuf,
}

/// Runs it, beside a service that runs.
pub(super) fn run(global: &Global, arguments: &ArchiveArguments) -> Outcome {
    let config = Config::load(&global.config)?;
    let database = &config.raw.database;
    let url = database.owner_url.as_ref().context(
        "database.owner_url is not configured: the service itself cannot take entries away",
    )?;
    let owner = owner_config(database, url)?;
    let runtime = crate::cli::runtime()?;
    let parts = runtime
        .block_on(Parts::connect(&owner))
        .map_err(|fault| Failure::new(Failure::DEPENDENCY, fault))?;
    let mut keeper = Keeper {
        trust: Trust::of(&config.raw)?,
        database: Database::open(global)?,
        runtime,
        parts,
        bundle: Bundle {
            directory: arguments.directory.clone(),
            partial: true,
        },
        dry_run: arguments.dry_run,
    };
    let done = if let Some(month) = &arguments.before {
        keeper.archive(month_of(month)?)?
    } else {
        keeper.bring_back()?
    };
    report(global, arguments, &done)
}

/// Who moves parts of the log between database and archive.
struct Keeper {
    trust: Trust,
    database: Database,
    runtime: Runtime,
    parts: Parts,
    bundle: Bundle,
    dry_run: bool,
}

impl Keeper {
    /// Takes out what is older; each part's first place, and the place after its last.
    fn archive(&mut self, before: DateTime<Utc>) -> anyhow::Result<Vec<(u64, u64)>> {
        let proved = signed_size(&self.database.checkpoint()?)?;
        let old = self
            .runtime
            .block_on(self.parts.older_than(before, proved))?;
        if !self.dry_run && !old.is_empty() {
            write(&self.database, &old, &self.bundle.directory)?;
            self.verify()?;
            for part in &old {
                self.runtime.block_on(self.parts.take_out(part))?;
            }
        }
        Ok(old.iter().map(|part| (part.first, part.next)).collect())
    }

    /// Brings back what the archive holds; likewise.
    fn bring_back(&mut self) -> anyhow::Result<Vec<(u64, u64)>> {
        self.verify()?;
        let mut brought = Vec::new();
        for part in self.database.archived().to_vec() {
            if self.bundle.leaves(whole(part.0 / WIDTH))?.is_none() {
                continue;
            }
            if !self.dry_run {
                self.bring_back_part(part)?;
            }
            brought.push(part);
        }
        Ok(brought)
    }

    /// One part, each of its bundles held against the tile that never left.
    fn bring_back_part(&mut self, (first, next): (u64, u64)) -> anyhow::Result<()> {
        let Self {
            runtime,
            parts,
            bundle: archive,
            database,
            ..
        } = self;
        let mut back = runtime.block_on(parts.bring_back((first, next)))?;
        for number in first / WIDTH..next / WIDTH {
            let bundle = whole(number);
            let leaves = archive.leaves(bundle)?;
            let leaves = leaves.with_context(|| format!("{} is missing", bundle.path()))?;
            let level = TileLevel::Hashes(0);
            let hashes = database.hashes(TileId { level, ..bundle })?;
            let same = leaves.iter().map(|leaf| leaf_hash(leaf)).eq(hashes);
            ensure!(same, "{} is not that of the log", bundle.path());
            runtime.block_on(back.add(&leaves))?;
        }
        runtime.block_on(back.finish())?;
        Ok(())
    }

    /// Refuses an archive that is not a part of the log that was signed.
    fn verify(&self) -> anyhow::Result<()> {
        match verify::faults(&self.bundle, &self.trust)? {
            0 => Ok(()),
            count => Err(anyhow!(
                "{}: {count} faults: nothing was moved",
                self.bundle.directory.display()
            )),
        }
    }
}

fn report(global: &Global, arguments: &ArchiveArguments, parts: &[(u64, u64)]) -> Outcome {
    if global.json {
        let parts: Vec<_> = parts
            .iter()
            .map(|(first, next)| json!({ "first": first, "last": next - 1 }))
            .collect();
        return crate::cli::print_json(&json!({ "parts": parts, "done": !arguments.dry_run }));
    }
    let what = match (arguments.bring_back, arguments.dry_run) {
        (false, false) => "archived",
        (false, true) => "would be archived",
        (true, false) => "brought back",
        (true, true) => "would be brought back",
    };
    for (first, next) in parts {
        println!("entries {first} to {} {what}", next - 1);
    }
    if parts.is_empty() {
        println!("nothing to do");
    }
    Ok(())
}

/// The first moment of a month.
fn month_of(text: &str) -> anyhow::Result<DateTime<Utc>> {
    let day = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d");
    let day = day.map_err(|_| anyhow!("--before {text}: must be a month, such as 2026-06"))?;
    let month = day.and_time(NaiveTime::MIN).and_utc();
    ensure!(
        month <= SystemClock.now(),
        "--before {text}: this month has not begun"
    );
    Ok(month)
}

fn signed_size(note: &str) -> anyhow::Result<u64> {
    let note = Note::parse(note)?;
    Ok(Checkpoint::parse(&note.text)?.size)
}

fn whole(index: u64) -> TileId {
    TileId {
        level: TileLevel::Entries,
        index,
        width: 256,
    }
}

/// Checkpoint, hashes and the parts' entries, each file whole and durable before the next step.
fn write(database: &Database, parts: &[Part], directory: &Path) -> anyhow::Result<()> {
    let note = database.checkpoint()?;
    let size = signed_size(&note)?;
    let within = |bundle: u64| {
        let first = bundle * WIDTH;
        parts
            .iter()
            .any(|part| (part.first..part.next).contains(&first))
    };
    for tile in bundle::needed(size) {
        let file = directory.join(tile.path());
        let octets = match tile.level {
            TileLevel::Entries if within(tile.index) => {
                let leaves = database.leaves(tile)?;
                let leaves = leaves.with_context(|| format!("{} is archived", tile.path()))?;
                encode_bundle(leaves.iter().map(AsRef::as_ref))
                    .context("an entry is too long for a bundle")?
            }
            // The tile above has the hash of a whole one.
            TileLevel::Hashes(0) if within(tile.index) || tile.width < 256 => {
                database.hashes(tile)?.concat()
            }
            TileLevel::Hashes(1..) => database.hashes(tile)?.concat(),
            TileLevel::Entries | TileLevel::Hashes(_) => continue,
        };
        bundle::write(&file, &octets)?;
    }
    bundle::write(&directory.join(bundle::CHECKPOINT), note.as_bytes())?;
    bundle::sync(directory)
}
