//! A copy of the log in a directory, in the layout of C2SP tlog-tiles; `audit export` makes it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;
use clap::Args;
use hyper::Method;
use hyper::StatusCode;
use serde_json::json;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::audit::auditor;
use crate::cli::audit::no;
use crate::cli::client::Connect;
use crate::cli::client::Connection;
use crate::pki::merkle::Hash;
use crate::pki::note::Checkpoint;
use crate::pki::note::Note;
use crate::pki::tile::TileId;
use crate::pki::tile::TileLevel;
use crate::pki::tile::decode_bundle;
use crate::pki::tile::decode_tile;
use crate::pki::tile::tiles_of;

/// Entries in a whole bundle.
pub(super) const WIDTH: u64 = 256;

/// The checkpoint's file.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// `audit export`
#[derive(Args)]
pub struct ExportArguments {
    #[command(flatten)]
    connect: Connect,
    /// Where to; what is there from an earlier export is not fetched again.
    directory: PathBuf,
}

/// Copies the log of a running service, up to its newest checkpoint.
pub(super) fn run(global: &Global, arguments: &ExportArguments) -> Outcome {
    let directory = &arguments.directory;
    let copied = export(global, &arguments.connect, directory)?;
    if global.json {
        return crate::cli::print_json(&json!({
            "entries": copied.size, "files_fetched": copied.fetched,
            "entries_archived": copied.archived * WIDTH,
        }));
    }
    eprintln!(
        "{} entries in {}, {} files fetched",
        copied.size,
        directory.display(),
        copied.fetched
    );
    if copied.archived > 0 {
        eprintln!(
            "{} of them are archived and were not copied: `audit verify --partial`, or copy the archives' files into it",
            copied.archived * WIDTH
        );
    }
    Ok(())
}

/// What an export came to.
pub(super) struct Copied {
    /// Entries of the log.
    pub(super) size: u64,
    /// Files that were fetched.
    fetched: u64,
    /// Whole bundles that the service no longer has, and this copy has not, either.
    pub(super) archived: u64,
}

/// The same.
pub(super) fn export(
    global: &Global,
    connect: &Connect,
    directory: &Path,
) -> Result<Copied, Failure> {
    let client = auditor(global, connect)?;
    crate::cli::runtime()?.block_on(async {
        let connection = client.connect().await;
        let mut connection =
            connection.map_err(|error| Failure::new(Failure::DEPENDENCY, error))?;
        let note = fetch(&mut connection, CHECKPOINT).await;
        let note = note.map_err(|refused| match refused {
            Refused::Gone => anyhow!("there is no checkpoint").into(),
            Refused::Failed(failure) => failure,
        })?;
        let text = String::from_utf8(note).context("the checkpoint")?;
        let checkpoint = Note::parse(&text)
            .and_then(|note| Checkpoint::parse(&note.text))
            .context("the checkpoint")?;
        let mut copied = Copied {
            size: checkpoint.size,
            fetched: 0,
            archived: 0,
        };
        for tile in needed(checkpoint.size) {
            let path = tile.path();
            let file = directory.join(&path);
            if tile.width == 256 && file.exists() {
                continue;
            }
            match fetch(&mut connection, &path).await {
                Ok(octets) => write(&file, &octets)?,
                Err(Refused::Gone) => {
                    copied.archived += 1;
                    continue;
                }
                Err(Refused::Failed(failure)) => return Err(failure),
            }
            copied.fetched += 1;
        }
        // Last: whoever finds it finds everything it speaks of.
        write(&directory.join(CHECKPOINT), text.as_bytes())?;
        Ok(copied)
    })
}

/// Tiles and bundles of a log of so many entries.
pub(super) fn needed(size: u64) -> impl Iterator<Item = TileId> {
    let bundles = (0..size.div_ceil(WIDTH))
        .filter_map(move |index| TileId::in_tree(TileLevel::Entries, index, size));
    tiles_of(size)
        .filter(|tile| tile.level != TileLevel::Entries)
        .chain(bundles)
}

/// Why a file is not to be had.
enum Refused {
    /// It was, and is archived.
    Gone,
    Failed(Failure),
}

async fn fetch(connection: &mut Connection, path: &str) -> Result<Vec<u8>, Refused> {
    let path = format!("/v1/audit/{path}");
    let answer = connection
        .send(Method::GET, &path, &[], Vec::new().into())
        .await
        .map_err(|error| Refused::Failed(Failure::new(Failure::DEPENDENCY, error)))?;
    match answer.status {
        StatusCode::OK => Ok(answer.body.to_vec()),
        StatusCode::GONE => Err(Refused::Gone),
        _ => Err(Refused::Failed(no(&answer))),
    }
}

/// Whole or not at all.
pub(super) fn write(path: &Path, octets: &[u8]) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(named)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let mut file = std::fs::File::create(&beside).with_context(named)?;
    file.write_all(octets).with_context(named)?;
    std::fs::rename(&beside, path).with_context(named)
}

/// Makes all files below a directory durable.
pub(super) fn sync(directory: &Path) -> anyhow::Result<()> {
    let named = || directory.display().to_string();
    for entry in std::fs::read_dir(directory).with_context(named)? {
        let path = entry.with_context(named)?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
            file.sync_all()
                .with_context(|| path.display().to_string())?;
        }
    }
    let itself = std::fs::File::open(directory).with_context(named)?;
    itself.sync_all().with_context(named)
}

/// Where a log can be read from, for verification.
pub(super) trait Source {
    /// The newest checkpoint there, a note.
    fn checkpoint(&self) -> anyhow::Result<String>;
    /// Entries of a bundle; `None`: they are archived, and only their hash is here.
    fn leaves(&self, bundle: TileId) -> anyhow::Result<Option<Vec<Vec<u8>>>>;
    /// Hashes of a tile.
    fn hashes(&self, tile: TileId) -> anyhow::Result<Vec<Hash>>;
}

/// A copy in a directory.
pub(super) struct Bundle {
    pub(super) directory: PathBuf,
    /// Some entries may be elsewhere.
    pub(super) partial: bool,
}

impl Bundle {
    /// A tile; where it has grown since, the beginning of what it has become.
    fn read<T>(
        &self,
        tile: TileId,
        decode: impl Fn(&[u8]) -> Option<Vec<T>>,
    ) -> anyhow::Result<Vec<T>> {
        for path in paths(tile) {
            let file = self.directory.join(&path);
            let octets = match std::fs::read(&file) {
                Ok(octets) => octets,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).context(file.display().to_string()),
            };
            let mut found = decode(&octets).with_context(|| format!("{path} is damaged"))?;
            if found.len() < usize::from(tile.width) {
                bail!("{path} is cut short");
            }
            found.truncate(usize::from(tile.width));
            return Ok(found);
        }
        bail!("{} is missing", tile.path())
    }
}

/// Where a tile may be: as wide as it is, or whole.
fn paths(tile: TileId) -> impl Iterator<Item = String> {
    let whole = TileId { width: 256, ..tile };
    let paths: BTreeSet<String> = [tile.path(), whole.path()].into();
    paths.into_iter().rev()
}

impl Source for Bundle {
    fn checkpoint(&self) -> anyhow::Result<String> {
        let path = self.directory.join(CHECKPOINT);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    fn leaves(&self, bundle: TileId) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
        if self.partial && !paths(bundle).any(|path| self.directory.join(path).exists()) {
            return Ok(None);
        }
        let decode = |octets: &[u8]| {
            let leaves = decode_bundle(octets)?;
            Some(leaves.into_iter().map(<[u8]>::to_vec).collect())
        };
        self.read(bundle, decode).map(Some)
    }

    fn hashes(&self, tile: TileId) -> anyhow::Result<Vec<Hash>> {
        self.read(tile, decode_tile)
    }
}
