//! What must hold of the log before the service starts: it is the one that was signed, and nothing
//! outside the database knows more of it than the database does.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::ca::LedgerFault;
use crate::ca::log::LogBook;
use crate::ca::log::StoredCheckpoint;
use crate::jobs::log::LogSigning;
use crate::jobs::log::tree::Tree;
use crate::journal::Journal;
use crate::journal::JournalFault;
use crate::journal::missing_after;
use crate::pki::merkle::RightEdge;
use crate::pki::merkle::leaf_hash;
use crate::pki::merkle::root_nodes;
use crate::pki::note::Checkpoint;
use crate::pki::note::Note;
use crate::pki::note::NoteFault;
use crate::pki::note::VerifierKey;
use crate::pki::tile::TileSet;
use crate::pki::tile::partial_width;
use crate::pki::tile::tiles_for;

/// Where the follower begins.
pub struct Started {
    /// Entries before it are in the journal.
    pub(crate) kept: u64,
    /// The tree of the last checkpoint; `None` where nothing is signed.
    pub(crate) tree: Option<Tree>,
    /// Entries of the tree that is signed.
    pub proved: u64,
}

/// Why the service must not start with this log.
#[derive(Debug, thiserror::Error)]
pub enum LogStartFault {
    /// The database.
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    /// The journal.
    #[error("the journal: {0}")]
    Journal(#[from] JournalFault),
    /// The database is older than what was released.
    #[error(
        "the database's log ends with {size} entries, but {what} knows of {known}: it is an earlier state of the database; `certfactory reconcile` puts back what is missing"
    )]
    Behind {
        /// Entries in the database.
        size: u64,
        /// Who knows more.
        what: String,
        /// Entries it knows of.
        known: u64,
    },
    /// The database's entries are not those that were there.
    #[error("{0}: the database's log was changed")]
    Changed(String),
    /// The file of the last checkpoint.
    #[error("{path}: {what}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

fn changed(what: impl Into<String>) -> LogStartFault {
    LogStartFault::Changed(what.into())
}

/// Holds the database's log against its last checkpoint, against the journal and against the file
/// of the last checkpoint. Reads no more than the tree's right edge.
pub async fn check(
    book: &dyn LogBook,
    signing: Option<&LogSigning>,
    journal: Option<(&Path, &Journal)>,
) -> Result<Started, LogStartFault> {
    // Before the head: a replica that runs may sign meanwhile, and is never ahead of its own log.
    let checkpoint = match signing {
        Some(_) => book.checkpoint().await?,
        None => None,
    };
    let head = book.head().await?;
    let kept = match journal {
        Some((directory, journal)) => check_journal(book, directory, journal, head.size).await?,
        None => 0,
    };
    let Some(signing) = signing else {
        let (tree, proved) = (None, 0);
        return Ok(Started { kept, tree, proved });
    };
    if let Some(path) = &signing.file {
        check_file(path, &signing.key, head.size)?;
    }
    let proved = checkpoint.as_ref().map_or(0, |it| it.size);
    if proved > head.size {
        return Err(changed(format!(
            "a checkpoint of {proved} entries is stored, but the log has {}",
            head.size
        )));
    }
    let tree = match checkpoint {
        Some(checkpoint) => resume(book, signing, &checkpoint).await?,
        None => Tree::new(),
    };
    Ok(Started {
        kept,
        tree: Some(tree),
        proved,
    })
}

/// A journal that is empty begins with the log as it is.
async fn check_journal(
    book: &dyn LogBook,
    directory: &Path,
    journal: &Journal,
    size: u64,
) -> Result<u64, LogStartFault> {
    let Some(highest) = journal.highest_index() else {
        return Ok(size);
    };
    let last = missing_after(directory, highest)?.next();
    let Some(last) = last.transpose()? else {
        return Ok(size);
    };
    if last.index >= size {
        return Err(LogStartFault::Behind {
            size,
            what: "the journal".to_owned(),
            known: last.index + 1,
        });
    }
    let leaf = book.leaves(last.index, 1).await?.pop();
    if leaf.as_ref() != Some(&last.leaf) {
        return Err(changed(format!(
            "entry {} is another one than in the journal",
            last.index
        )));
    }
    Ok(last.index + 1)
}

/// The file of the last checkpoint, where there is one.
fn check_file(path: &Path, key: &VerifierKey, size: u64) -> Result<(), LogStartFault> {
    let fault = |what: String| LogStartFault::File {
        path: path.to_owned(),
        what,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error.to_string())),
    };
    let checkpoint = verified(&text, key).map_err(|e| fault(e.to_string()))?;
    if checkpoint.size > size {
        return Err(LogStartFault::Behind {
            size,
            what: path.display().to_string(),
            known: checkpoint.size,
        });
    }
    Ok(())
}

/// A checkpoint from a note that the key signed.
pub fn verified(note: &str, key: &VerifierKey) -> Result<Checkpoint, NoteFault> {
    let note = Note::parse(note)?;
    key.verify(&note)?;
    Checkpoint::parse(&note.text)
}

/// The tree of the last checkpoint: signed by the log's key, made of the stored tiles, and its
/// youngest tile made of the stored entries.
async fn resume(
    book: &dyn LogBook,
    signing: &LogSigning,
    stored: &StoredCheckpoint,
) -> Result<Tree, LogStartFault> {
    let size = stored.size;
    let checkpoint = verified(&stored.note, &signing.key)
        .map_err(|e| changed(format!("the checkpoint of {size} entries: {e}")))?;
    if (checkpoint.size, checkpoint.root) != (size, stored.root)
        || checkpoint.origin != signing.origin
    {
        let what = format!("the checkpoint of {size} entries is not what was signed");
        return Err(changed(what));
    }
    let nodes = root_nodes(size);
    let levels = (0..8).take_while(|level| size >> (8 * level) > 0);
    let growing: Vec<(u8, u64)> = levels
        .map(|level: u8| (level, size >> (8 * (u32::from(level) + 1)).min(63)))
        .collect();
    let mut ids = tiles_for(&nodes);
    ids.extend(growing.iter().copied());
    let mut tiles = TileSet::default();
    let mut rows: Vec<Vec<_>> = vec![Vec::new(); growing.len()];
    for tile in book.tiles(ids.into_iter().collect()).await? {
        if growing.contains(&(tile.level, tile.index))
            && let Some(row) = rows.get_mut(usize::from(tile.level))
        {
            row.clone_from(&tile.hashes);
            // A tile may have grown since.
            row.truncate(usize::from(partial_width(size, tile.level)));
        }
        tiles.insert(tile.level, tile.index, tile.hashes);
    }
    let mut peaks = Vec::with_capacity(nodes.len());
    for (level, index) in nodes {
        use crate::pki::merkle::Nodes;
        let hash = tiles.node(level, index);
        peaks.push(hash.map_err(|missing| changed(missing.to_string()))?);
    }
    let edge = RightEdge::from_peaks(size, peaks)
        .filter(|edge| edge.root() == stored.root)
        .ok_or_else(|| {
            changed(format!(
                "the tiles are not those of the checkpoint of {size} entries"
            ))
        })?;
    for (level, row) in (0..).zip(&rows) {
        if row.len() != usize::from(partial_width(size, level)) {
            return Err(changed(format!("a tile of level {level} is gone")));
        }
    }
    let youngest = rows.first().map_or(&[][..], Vec::as_slice);
    let first = size - u64::try_from(youngest.len()).unwrap_or_default();
    let count = u32::try_from(youngest.len()).unwrap_or_default();
    let leaves = book.leaves(first, count).await?;
    for (index, (hash, leaf)) in (first..).zip(youngest.iter().zip(&leaves)) {
        if leaf_hash(leaf) != *hash {
            return Err(changed(format!(
                "entry {index} is not the one that was signed"
            )));
        }
    }
    if leaves.len() < youngest.len() {
        return Err(changed("entries that were signed are gone"));
    }
    Ok(Tree::resume(edge, rows))
}

/// Replaces the file, whole and durable.
pub(crate) fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
