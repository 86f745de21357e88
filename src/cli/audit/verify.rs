//! `audit verify`: whether a copy of the log, or the database itself, is what was signed, and right
//! in itself. Offline: it asks nobody but the public keys.
//!
//! One thread reads from front to end, holds every entry against the tree and against those before
//! it; all the others verify certificates.

mod certificates;
pub(super) mod database;
mod faults;
mod story;

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::audit::bundle;
use crate::cli::audit::bundle::Bundle;
use crate::cli::audit::bundle::Source;
use crate::cli::audit::bundle::WIDTH;
use crate::cli::audit::read_signed;
use crate::cli::audit::signed;
use crate::cli::client::Connect;
use crate::config::RawConfig;
use crate::db::config::DbConfig;
use crate::pki::entry::Entry;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::merkle::Hash;
use crate::pki::merkle::RightEdge;
use crate::pki::merkle::leaf_hash;
use crate::pki::merkle::root_of;
use crate::pki::note::Checkpoint;
use crate::pki::note::Note;
use crate::pki::note::VerifierKey;
use crate::pki::profile::Profile;
use crate::pki::tile::TileId;
use crate::pki::tile::TileLevel;
use certificates::Examiners;
use faults::Faults;
use story::Story;

/// `audit verify`
#[derive(Args)]
pub struct VerifyArguments {
    #[command(flatten)]
    connect: Connect,
    /// A directory that `audit export` made. Without it: the log of the service at `--url`.
    directory: Option<PathBuf>,
    /// The database of the configuration instead of a copy, and its rows against their entries.
    #[arg(long, conflicts_with = "directory")]
    database: bool,
    /// Entries may be missing, as in an archive or in a copy of a log with archives: they are taken
    /// by their hashes, and what they say is not looked at.
    #[arg(long)]
    partial: bool,
    /// Public log key, PEM.
    #[arg(long, value_name = "FILE")]
    log_key: PathBuf,
    /// Certificate of an issuer, PEM; may be repeated. Named like its file without its ending.
    #[arg(long = "issuer", value_name = "FILE", required = true)]
    issuers: Vec<PathBuf>,
    /// A directory of profiles that were approved: every certificate must be of one of them.
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
    /// A checkpoint that was kept: the log must begin with its tree.
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    /// A witness that must have co-signed, `NAME=FILE` with its public key, PEM; may be repeated.
    #[arg(long = "witness", value_name = "NAME=FILE")]
    witnesses: Vec<String>,
}

/// What is trusted.
pub(super) struct Trust {
    log_key: Vec<u8>,
    /// By name.
    issuers: BTreeMap<String, Arc<Issuer>>,
    /// SHA-256 of each, hexadecimal; `None`: all.
    profiles: Option<HashSet<String>>,
    previous: Option<Checkpoint>,
    witnesses: Vec<VerifierKey>,
}

/// What was looked at.
#[derive(Debug, Default, Serialize)]
struct Summary {
    origin: String,
    entries: u64,
    /// Of them, those that are archived elsewhere: only their hashes were looked at.
    entries_archived: u64,
    root: String,
    /// Witnesses that co-signed.
    witnesses: u64,
    /// Whose signature was verified.
    certificates: u64,
    /// Of them, by what the log says of them at its end.
    confirmed: u64,
    superseded: u64,
    revoked: u64,
    scrapped: u64,
    /// Intents that ended without a certificate.
    abandoned: u64,
    orders: u64,
    /// Entries by kind.
    kinds: BTreeMap<String, u64>,
    /// SHA-256 of the binaries that ran, and how often they started.
    binaries: BTreeMap<String, u64>,
    /// Rows that were held against their entries; null: no database was asked.
    rows: Option<u64>,
}

/// Runs it. Each fault is a line on standard error, the first bad entry first; the exit code is 1
/// when there is any.
pub(super) fn run(global: &Global, arguments: &VerifyArguments) -> Outcome {
    let trust = Trust::read(arguments)?;
    let mut faults = Faults::default();
    let mut summary;
    if arguments.database {
        let database = database::Database::open(global)?;
        summary = check(&database, &trust, &mut faults)?;
        summary.rows = Some(database.rows(&mut faults)?);
    } else if let Some(directory) = &arguments.directory {
        let bundle = Bundle {
            directory: directory.clone(),
            partial: arguments.partial,
        };
        summary = check(&bundle, &trust, &mut faults)?;
    } else {
        let copy = scratch()?;
        let copied = bundle::export(global, &arguments.connect, &copy.0)?;
        let bundle = Bundle {
            directory: copy.0.clone(),
            // What the service says of it is held against the tree like everything else.
            partial: copied.archived > 0,
        };
        summary = check(&bundle, &trust, &mut faults)?;
    }
    conclude(global, &summary, &faults)
}

/// Holds the database against the configuration's keys: its log begins with the tree of `previous`,
/// and its rows are what their entries say.
pub(super) fn database(
    global: &Global,
    raw: &RawConfig,
    database: &DbConfig,
    previous: &Path,
) -> Outcome {
    let mut trust = Trust::of(raw)?;
    trust.previous = Some(read_signed(previous, &trust.log_key)?);
    let database = database::Database::of(database.clone())?;
    let mut faults = Faults::default();
    let mut summary = check(&database, &trust, &mut faults)?;
    summary.rows = Some(database.rows(&mut faults)?);
    conclude(global, &summary, &faults)
}

/// Prints what was looked at and what was found.
fn conclude(global: &Global, summary: &Summary, faults: &Faults) -> Outcome {
    let count = faults.print();
    print(global, summary, count)?;
    if count > 0 {
        return Err(anyhow!("{count} faults: this is not the log that was signed").into());
    }
    Ok(())
}

/// A directory that goes when it is let go of.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn scratch() -> anyhow::Result<Scratch> {
    let path = std::env::temp_dir().join(format!("certfactory-audit-{}", std::process::id()));
    std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
    Ok(Scratch(path))
}

/// Checks a copy and names what is wrong with it; how many faults there are.
pub(super) fn faults(source: &dyn Source, trust: &Trust) -> anyhow::Result<u64> {
    let mut faults = Faults::default();
    check(source, trust, &mut faults)?;
    Ok(faults.print())
}

/// Checks everything that a log says by itself.
fn check(source: &dyn Source, trust: &Trust, faults: &mut Faults) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let text = source.checkpoint()?;
    let checkpoint = match signed(&text, &trust.log_key) {
        Ok(checkpoint) => checkpoint,
        Err(fault) => {
            faults.whole("checkpoint", format!("{fault:#}"));
            return Ok(summary);
        }
    };
    summary.origin.clone_from(&checkpoint.origin);
    summary.entries = checkpoint.size;
    summary.root = hex(&checkpoint.root);
    summary.witnesses = witnessed(&text, trust, faults)?;
    let previous = trust.previous.as_ref();
    if let Some(previous) = previous.filter(|it| it.origin != checkpoint.origin) {
        let what = format!(
            "it is of another log than the earlier one, {}",
            previous.origin
        );
        faults.whole("checkpoint", what);
    }
    let mut walk = Walk {
        source,
        trust,
        edge: RightEdge::new(),
        whole: Vec::new(),
        story: Story::default(),
        summary,
    };
    std::thread::scope(|scope| {
        let examiners = Examiners::start(scope, &trust.issuers);
        let walked = walk.entries(checkpoint.size, &examiners, faults);
        for (index, what) in examiners.finish(&mut walk.summary.certificates) {
            faults.entry(index, what);
        }
        walked
    })?;
    walk.tree(&checkpoint, faults);
    walk.story.finish(&mut walk.summary, faults);
    Ok(walk.summary)
}

/// How many of the named witnesses co-signed.
fn witnessed(text: &str, trust: &Trust, faults: &mut Faults) -> anyhow::Result<u64> {
    let note = Note::parse(text)?;
    let mut count = 0;
    for witness in &trust.witnesses {
        match witness.verify(&note) {
            Ok(_) => count += 1,
            Err(fault) => {
                faults.whole("checkpoint", format!("witness {}: {fault}", witness.name()));
            }
        }
    }
    Ok(count)
}

/// From front to end.
struct Walk<'a> {
    source: &'a dyn Source,
    trust: &'a Trust,
    edge: RightEdge,
    /// Hashes of whole tiles of level 0.
    whole: Vec<Hash>,
    story: Story,
    summary: Summary,
}

impl Walk<'_> {
    fn entries(
        &mut self,
        size: u64,
        examiners: &Examiners<'_>,
        faults: &mut Faults,
    ) -> anyhow::Result<()> {
        for number in 0..size.div_ceil(WIDTH) {
            let tile = |level| TileId::in_tree(level, number, size).context("no such tile");
            let first = number * WIDTH;
            let leaves = match self.source.leaves(tile(TileLevel::Entries)?) {
                Ok(Some(leaves)) => leaves,
                Ok(None) => {
                    if let Err(fault) = self.archived(number, size) {
                        faults.entry(first, format!("{fault:#}"));
                        return Ok(());
                    }
                    continue;
                }
                Err(fault) => {
                    faults.entry(first, format!("{fault:#}"));
                    return Ok(());
                }
            };
            let id = tile(TileLevel::Hashes(0))?;
            let hashes = match self.source.hashes(id) {
                Ok(hashes) => hashes,
                Err(fault) => {
                    faults.entry(first, format!("{fault:#}"));
                    Vec::new()
                }
            };
            for ((index, leaf), hash) in (first..).zip(&leaves).zip(&hashes) {
                if leaf_hash(leaf) != *hash {
                    faults.entry(index, "its octets are not those of its tile".to_owned());
                }
            }
            for (index, leaf) in (first..).zip(leaves) {
                self.edge.push(leaf_hash(&leaf));
                if let Some(previous) = &self.trust.previous
                    && previous.size == index + 1
                    && previous.root != self.edge.root()
                {
                    let what = "the log up to here is not that of the earlier checkpoint";
                    faults.entry(index, what.to_owned());
                }
                self.entry(index, leaf, examiners, faults);
            }
            if hashes.len() == 256 {
                self.whole.push(root_of(&hashes));
            }
        }
        if let Some(previous) = self.trust.previous.as_ref().filter(|it| it.size > size) {
            let what = format!(
                "the log had {} entries before, and has {size}",
                previous.size
            );
            faults.whole("checkpoint", what);
        }
        Ok(())
    }

    /// A bundle of which only hashes are here: of a whole one that in the tile above, of the log's last
    /// those of its own tile.
    fn archived(&mut self, number: u64, size: u64) -> anyhow::Result<()> {
        let tile = |level, number| {
            TileId::in_tree(TileLevel::Hashes(level), number, size).context("no such tile")
        };
        let own = tile(0, number)?;
        if u64::from(own.width) < WIDTH {
            for hash in self.source.hashes(own)? {
                self.edge.push(hash);
            }
        } else {
            let above = tile(1, number / WIDTH)?;
            let hashes = self.source.hashes(above)?;
            let hash = usize::try_from(number % WIDTH).ok();
            let hash = hash.and_then(|place| hashes.get(place));
            let hash = *hash.with_context(|| format!("{} is cut short", above.path()))?;
            anyhow::ensure!(
                self.edge.push_subtree(8, hash),
                "it does not follow on whole tiles"
            );
            self.whole.push(hash);
        }
        self.story.skip();
        self.summary.entries_archived += u64::from(own.width);
        Ok(())
    }

    fn entry(&mut self, index: u64, leaf: Vec<u8>, examiners: &Examiners<'_>, faults: &mut Faults) {
        let entry = match Entry::parse(&leaf) {
            Ok(entry) => entry,
            Err(fault) => return faults.entry(index, fault.to_string()),
        };
        if entry.index != index {
            faults.entry(index, format!("it says that it is entry {}", entry.index));
        }
        match self.story.tell(&entry) {
            Ok(Some(issued)) => {
                let profiles = self.trust.profiles.as_ref();
                if entry_is_of_none(profiles, &issued) {
                    let what = format!("profile {} was not approved as it was", issued.profile);
                    faults.entry(index, what);
                }
                examiners.examine(index, issued, leaf);
            }
            Ok(None) => {}
            Err(what) => faults.entry(index, what),
        }
    }

    /// The levels above the leaves, and the root.
    fn tree(&mut self, checkpoint: &Checkpoint, faults: &mut Faults) {
        let size = checkpoint.size;
        let mut below = std::mem::take(&mut self.whole);
        for level in 1..8 {
            let mut above = Vec::new();
            for number in 0.. {
                let Some(tile) = TileId::in_tree(TileLevel::Hashes(level), number, size) else {
                    break;
                };
                let from = usize::try_from(number * WIDTH).unwrap_or(usize::MAX);
                let expected = below.get(from..from + usize::from(tile.width));
                match self.source.hashes(tile) {
                    Ok(hashes) if expected == Some(&hashes[..]) => {}
                    Ok(_) => faults.whole(&tile.path(), "it is not made of the tiles below it"),
                    Err(fault) => faults.whole(&tile.path(), format!("{fault:#}")),
                }
                if let Some(hashes) = expected.filter(|hashes| hashes.len() == 256) {
                    above.push(root_of(hashes));
                }
            }
            below = above;
        }
        if self.edge.size() == size && self.edge.root() != checkpoint.root {
            faults.whole(
                "checkpoint",
                "the entries do not make the tree that was signed",
            );
        }
        if self.edge.size() != size {
            let what = format!("{} of {size} entries are there", self.edge.size());
            faults.whole("checkpoint", what);
        }
    }
}

/// Whether a device's certificate is of none of the approved profiles. Others have no profile.
fn entry_is_of_none(
    profiles: Option<&HashSet<String>>,
    issued: &crate::pki::entry::Issued,
) -> bool {
    issued.kind == "device" && profiles.is_some_and(|all| !all.contains(&issued.profile_sha256))
}

impl Trust {
    /// What the service itself trusts. Of the files that the configuration names only public ones are read.
    pub(super) fn of(raw: &RawConfig) -> anyhow::Result<Self> {
        let audit = raw.audit.as_ref();
        let audit = audit.context("[audit] is not configured: no log is signed here")?;
        let path = &audit.log_key.public_key;
        let mut issuers = BTreeMap::new();
        for section in &raw.issuer {
            let issuer = section.load().map_err(|fault| anyhow!(fault))?;
            issuers.insert(section.name.clone(), Arc::new(issuer));
        }
        Ok(Self {
            log_key: std::fs::read(path).with_context(|| path.display().to_string())?,
            issuers,
            profiles: None,
            previous: None,
            witnesses: Vec::new(),
        })
    }

    fn read(arguments: &VerifyArguments) -> anyhow::Result<Self> {
        let path = &arguments.log_key;
        let log_key = std::fs::read(path).with_context(|| path.display().to_string())?;
        let mut issuers = BTreeMap::new();
        for path in &arguments.issuers {
            let named = || path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(named)?;
            let name = path.file_stem().and_then(|stem| stem.to_str());
            let name = name.with_context(named)?;
            let issuer = Issuer::parse(name, &text, None).with_context(named)?;
            issuers.insert(name.to_owned(), Arc::new(issuer));
        }
        let previous = arguments.previous.as_deref();
        let profiles = arguments.profiles.as_deref().map(profiles).transpose()?;
        let mut witnesses = Vec::new();
        for witness in &arguments.witnesses {
            let (name, path) = witness
                .split_once('=')
                .with_context(|| format!("--witness {witness}: NAME=FILE"))?;
            let pem = std::fs::read(path).with_context(|| path.to_owned())?;
            let key = VerifierKey::cosigner_from_pem(name, &pem).map_err(|fault| anyhow!(fault))?;
            witnesses.push(key);
        }
        Ok(Self {
            previous: previous
                .map(|path| read_signed(path, &log_key))
                .transpose()?,
            log_key,
            issuers,
            profiles,
            witnesses,
        })
    }
}

/// The hashes of a directory's profiles.
fn profiles(directory: &Path) -> anyhow::Result<HashSet<String>> {
    let mut hashes = HashSet::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(&path).with_context(named)?;
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let template = Profile::template_path(&text);
        let template = template.map(|file| std::fs::read_to_string(directory.join(file)));
        let template = template.transpose().with_context(named)?;
        let profile = Profile::parse(name.unwrap_or_default(), &text, template.as_deref())
            .map_err(|lines| anyhow!(lines.join("\n")))
            .with_context(named)?;
        hashes.insert(hex(&profile.sha256));
    }
    Ok(hashes)
}

fn print(global: &Global, summary: &Summary, faults: u64) -> Outcome {
    if global.json {
        let mut value = serde_json::to_value(summary)?;
        value["faults"] = faults.into();
        return crate::cli::print_json(&value);
    }
    println!("log           {}", summary.origin);
    println!("entries       {}", summary.entries);
    if summary.entries_archived > 0 {
        println!(
            "archived      {} entries, by their hashes",
            summary.entries_archived
        );
    }
    println!("root          {}", summary.root);
    println!("witnesses     {} co-signed", summary.witnesses);
    println!("certificates  {} verified", summary.certificates);
    println!("confirmed     {}", summary.confirmed);
    println!("superseded    {}", summary.superseded);
    println!("revoked       {}", summary.revoked);
    println!("scrapped      {}", summary.scrapped);
    println!("abandoned     {}", summary.abandoned);
    println!("orders        {}", summary.orders);
    for (kind, count) in &summary.kinds {
        println!("  {kind:<20} {count}");
    }
    for (binary, count) in &summary.binaries {
        println!("binary        {binary} started {count} times");
    }
    if let Some(rows) = summary.rows {
        println!("rows          {rows} as in their entries");
    }
    println!("faults        {faults}");
    Ok(())
}
