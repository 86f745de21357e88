//! The database as a source, and its rows against their entries.

use std::collections::BTreeMap;

use anyhow::Context;
use chrono::DateTime;
use chrono::Utc;
use prometheus::Registry;
use tokio::runtime::Runtime;

use crate::app::database_config;
use crate::ca::log::LogBook;
use crate::cli::Global;
use crate::cli::audit::bundle::Source;
use crate::cli::audit::verify::faults::Faults;
use crate::config::Config;
use crate::db::config::DbConfig;
use crate::db::log::PgLog;
use crate::db::log::rows;
use crate::metrics::LedgerMetrics;
use crate::pki::entry::Entry;
use crate::pki::hex;
use crate::pki::merkle::Hash;
use crate::pki::tile::TileId;
use crate::pki::tile::TileLevel;

/// Entries that are compared at a time.
const RUN: u32 = 5_000;

/// The database of the configuration.
pub(in crate::cli::audit) struct Database {
    runtime: Runtime,
    config: DbConfig,
    log: PgLog,
    /// Parts of the log that are archived: first place, and the place after the last.
    archived: Vec<(u64, u64)>,
    /// Time of the newest entry of them.
    archived_until: Option<DateTime<Utc>>,
}

impl Database {
    /// As the service connects.
    pub(in crate::cli::audit) fn open(global: &Global) -> anyhow::Result<Self> {
        let config = Config::load(&global.config)?;
        Self::of(database_config(&config)?)
    }

    /// This one.
    pub(super) fn of(config: DbConfig) -> anyhow::Result<Self> {
        let runtime = crate::cli::runtime()?;
        let metrics = std::sync::Arc::new(LedgerMetrics::new(&Registry::new())?);
        let log = runtime.block_on(async { PgLog::start(&config, &metrics) })?;
        let archived = runtime.block_on(rows::archived(&config))?;
        Ok(Self {
            runtime,
            config,
            log,
            archived_until: archived.iter().map(|part| part.newest).max(),
            archived: archived
                .iter()
                .map(|part| (part.first, part.next))
                .collect(),
        })
    }

    /// Parts of the log that are archived: first place, and the place after the last.
    pub(in crate::cli::audit) fn archived(&self) -> &[(u64, u64)] {
        &self.archived
    }

    fn archived_at(&self, index: u64) -> Option<(u64, u64)> {
        let holds = |part: &&(u64, u64)| (part.0..part.1).contains(&index);
        self.archived.iter().find(holds).copied()
    }

    /// Holds every row against its entry, and every entry against its row. Rows that were compared.
    pub(super) fn rows(&self, faults: &mut Faults) -> anyhow::Result<u64> {
        self.runtime.block_on(self.compare(faults))
    }

    async fn compare(&self, faults: &mut Faults) -> anyhow::Result<u64> {
        let head = self.log.head().await?;
        let mut compared = 0;
        let mut lives: BTreeMap<String, u64> = BTreeMap::new();
        let mut from = 0;
        while from < head.size {
            if let Some((_, next)) = self.archived_at(from) {
                from = next;
                continue;
            }
            let mut run = RUN;
            if let Some((first, _)) = self.archived.iter().find(|(first, _)| *first > from) {
                run = run.min(u32::try_from(first - from).unwrap_or(RUN));
            }
            let leaves = self.log.leaves(from, run).await?;
            if leaves.is_empty() {
                faults.entry(from, "the log ends here, before its head".to_owned());
                break;
            }
            let to = from + u64::try_from(leaves.len())?;
            let mut stored = rows::issued(&self.config, from, to)
                .await
                .context("reading the certificates")?;
            for (index, leaf) in (from..).zip(&leaves) {
                // One that is no entry was named before.
                let Ok(entry) = Entry::parse(leaf) else {
                    continue;
                };
                if let Some(certificate) = entry.certificate {
                    match stored.remove(&index) {
                        None => faults.entry(index, "its certificate's row is gone".to_owned()),
                        Some(row) => {
                            compared += 1;
                            if let Some(what) = differs(&entry, certificate, &row) {
                                faults.entry(index, format!("its row has another {what}"));
                            }
                        }
                    }
                } else if rows::LIFE_KINDS.contains(&entry.kind) {
                    *lives.entry(life(&entry)).or_default() += 1;
                }
            }
            for index in stored.keys() {
                faults.entry(
                    *index,
                    "a certificate's row has this place, its entry does not tell of it".to_owned(),
                );
            }
            from = to;
        }
        let others = rows::beyond(&self.config, head.size).await?;
        for serial in others {
            faults.whole("outcome", format!("certificate {serial} has no entry"));
        }
        for (row, at) in rows::lives(&self.config).await? {
            compared += 1;
            match lives.get_mut(&row) {
                Some(count) if *count > 0 => *count -= 1,
                // Its entry is archived.
                _ if self.archived_until.is_some_and(|until| at <= until) => {}
                _ => faults.whole("life_event", format!("{row} has no entry")),
            }
        }
        for (what, count) in lives {
            if count > 0 {
                faults.whole("life_event", format!("the row of {what} is gone"));
            }
        }
        Ok(compared)
    }
}

/// The first thing in which a row is not what its entry says.
fn differs(entry: &Entry<'_>, certificate: &[u8], row: &rows::IssuedRow) -> Option<&'static str> {
    let Ok(issued) = entry.issued() else {
        return Some("event");
    };
    let time = |at: DateTime<Utc>| at.timestamp_micros();
    [
        ("certificate", row.der == certificate),
        (
            "fingerprint",
            row.fingerprint == openssl::sha::sha256(certificate),
        ),
        ("time", time(row.recorded_at) == time(entry.at)),
        ("intent", row.intent == issued.intent),
        ("kind", row.kind == issued.kind),
        (
            "serial number",
            hex(&row.serial_number) == issued.serial_number,
        ),
        ("issuer", row.issuer == issued.issuer),
        ("profile", row.profile == issued.profile),
        (
            "profile hash",
            hex(&row.profile_sha256) == issued.profile_sha256,
        ),
        ("device", row.device == issued.device),
        ("slot", row.slot == issued.slot),
        ("thing name", row.thing_name == issued.thing_name),
        ("public key", hex(&row.spki_sha256) == issued.spki_sha256),
        ("station", row.principal == issued.station),
        ("order", row.work_order == issued.order),
        ("request", hex(&row.request_sha256) == issued.request_sha256),
        ("claim", row.claimed),
    ]
    .into_iter()
    .find_map(|(what, same)| (!same).then_some(what))
}

/// Kind and serial number, who and why: what a row and its entry must agree in.
fn life(entry: &Entry<'_>) -> String {
    let event = entry.value();
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let code = event["reason_code"].as_i64();
    rows::life_text(
        entry.kind,
        &text("serial_number"),
        &text("by"),
        &text("reason"),
        code,
    )
}

impl Source for Database {
    fn checkpoint(&self) -> anyhow::Result<String> {
        let checkpoint = self.runtime.block_on(self.log.checkpoint())?;
        Ok(checkpoint.context("there is no checkpoint")?.cosigned())
    }

    fn leaves(&self, bundle: TileId) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
        let (first, count) = (bundle.index * 256, u32::from(bundle.width));
        if self.archived_at(first).is_some() {
            return Ok(None);
        }
        let leaves = self.runtime.block_on(self.log.leaves(first, count))?;
        if leaves.len() < usize::from(bundle.width) {
            anyhow::bail!("{} of its bundle's {count} entries are there", leaves.len());
        }
        Ok(Some(leaves.iter().map(|leaf| leaf.to_vec()).collect()))
    }

    fn hashes(&self, tile: TileId) -> anyhow::Result<Vec<Hash>> {
        let TileLevel::Hashes(level) = tile.level else {
            anyhow::bail!("a bundle is no tile");
        };
        let tiles = self.log.tiles(vec![(level, tile.index)]);
        let stored = self.runtime.block_on(tiles)?.pop();
        let stored = stored.with_context(|| format!("{} is missing", tile.path()))?;
        let hashes = stored.hashes.get(..usize::from(tile.width));
        let hashes = hashes.with_context(|| format!("{} is cut short", tile.path()))?;
        Ok(hashes.to_vec())
    }
}
