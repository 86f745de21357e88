//! `audit verify`: whether a copy of the log, or the database itself, is what was signed, and right
//! in itself. Offline: it asks nobody but the public keys.
//!
//! One thread reads from front to end, holds every entry against the tree and against those before
//! it; all the others verify certificates.

mod certificates;
mod database;
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
        summary = check(&Bundle(directory.clone()), &trust, &mut faults)?;
    } else {
        let copy = scratch()?;
        bundle::export(global, &arguments.connect, &copy.0)?;
        summary = check(&Bundle(copy.0.clone()), &trust, &mut faults)?;
    }
    let count = faults.print();
    print(global, &summary, count)?;
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
                Ok(leaves) => leaves,
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
