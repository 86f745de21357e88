//! The journal: a second copy of the log's entries, append-only and fsynced, on another path than the
//! database.
//!
//! A certificate leaves the house only once both copies are durable. So the journal outlives a
//! database that was restored to yesterday or failed over to a replica that lagged, and shows what
//! somebody with all rights on the database has taken out.
//!
//! It is a directory of segments, `journal-<number of the first record>.cfj`. Each record carries a
//! hash over all before it, so that none can be cut, changed or moved unseen. When an fsync fails,
//! the segment is not touched again and the batch goes into a new one; when the disk is full, appends
//! fail until there is space, and then work again without a restart. What was not answered with
//! success may be in the journal or not; what was, is.

mod disk;
mod fault;
mod format;
mod read;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod vitals;
mod writer;

use std::fs::File;
use std::fs::TryLockError;
use std::path::Path;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::statvfs::statvfs;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::journal::disk::Disk;
use crate::journal::disk::RealDisk;
use crate::journal::vitals::Vitals;
use crate::journal::writer::Waiting;
use crate::journal::writer::Writer;

pub use crate::journal::fault::JournalFault;
pub use crate::journal::read::Entries;
pub use crate::journal::read::missing_after;
pub use crate::journal::read::read;

/// Octets of a segment, unless configured otherwise.
pub const SEGMENT_LENGTH: u64 = 64 * 1024 * 1024;
/// Octets of the longest leaf.
pub const LEAF_LENGTH_MAX: usize = format::LEAF_LENGTH_MAX;
/// Octets of the leaves of one append, together.
pub const APPEND_LENGTH_MAX: usize = 16 * 1024 * 1024;
/// Appends that may wait for the thread; whoever comes then waits for a place.
const QUEUE_DEPTH_MAX: usize = 1024;
/// How often it is looked, while an append waits, whether the disk answers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub index: u64,
    /// Its octets, which the journal does not interpret; at most [`LEAF_LENGTH_MAX`].
    pub leaf: Bytes,
}

/// Where the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// Exists already: a volume that was not mounted must not be mistaken for an empty journal.
    pub directory: PathBuf,
    /// After so many octets the next segment begins. A segment may be longer by one write.
    pub segment_length: u64,
}

/// A journal that was opened.
pub struct Opened {
    /// Ready for appends.
    pub journal: Journal,
    /// Octets of a torn tail that were cut off: a crash came in the middle of a write that nobody was
    /// told of. 0 after an orderly end.
    pub cut_octets: u64,
}

/// The end of a journal that takes entries. One thread of its own does the work, until this is
/// dropped and all that waited is written.
pub struct Journal {
    directory: PathBuf,
    queue: mpsc::Sender<Waiting>,
    ended: oneshot::Receiver<()>,
    vitals: Arc<Vitals>,
}

/// The file system a journal is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Octets that may still be written.
    pub free_octets: u64,
    /// Octets in all.
    pub total_octets: u64,
}

impl Journal {
    /// Locks the journal, reads and verifies its newest segment, cuts a torn tail, and starts the
    /// thread. Begins the first segment in an empty directory. Blocks while it reads.
    ///
    /// Only the newest segment is looked at: [`read()`] verifies all. Fails with
    /// [`JournalFault::Damaged`] if that segment is broken anywhere but at its end; nothing has been
    /// changed then.
    pub fn open(config: JournalConfig) -> Result<Opened, JournalFault> {
        Self::open_on(RealDisk, config)
    }

    fn open_on(disk: impl Disk, config: JournalConfig) -> Result<Opened, JournalFault> {
        let JournalConfig {
            directory,
            segment_length,
        } = config;
        let lock = lock(&directory)?;
        let newest = segment::take_up(&disk, &directory)?;
        let cut_octets = newest.cut;
        if cut_octets > 0 {
            tracing::warn!(cut_octets, "a torn tail of the journal was cut off");
        }
        let vitals = Arc::new(Vitals::new(newest.tip.highest));
        let (queue, arrivals) = mpsc::channel(QUEUE_DEPTH_MAX);
        let (ends, ended) = oneshot::channel();
        let writer = Writer::new(
            disk,
            directory.clone(),
            segment_length,
            newest,
            Arc::clone(&vitals),
            lock,
        );
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                writer.run(arrivals);
                drop(ends);
            })
            .map_err(|error| JournalFault::io("start a thread for", &directory, &error))?;
        let journal = Self {
            directory,
            queue,
            ended,
            vitals,
        };
        Ok(Opened {
            journal,
            cut_octets,
        })
    }

    /// Appends these entries, all or none, and waits until they are durable. Appends that wait
    /// together share one fsync. Dropping the future loses the answer, and not always the append.
    ///
    /// An entry that is in the last write already, or that waits to be in the next, is not written
    /// again. [`JournalFault::Refused`] means that these entries cannot be appended, any other fault
    /// that the journal cannot now: then the entries do not count, though a reader may still see them,
    /// and they may be appended again.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<(), JournalFault> {
        let lengths = || entries.iter().map(|entry| entry.leaf.len());
        if let Some(length) = lengths().find(|length| *length > LEAF_LENGTH_MAX) {
            let reason =
                format!("a leaf has {length} octets, more than {LEAF_LENGTH_MAX} are not taken");
            return Err(JournalFault::Refused(reason));
        }
        let length: usize = lengths().sum();
        if length > APPEND_LENGTH_MAX {
            let reason =
                format!("{length} octets at once, more than {APPEND_LENGTH_MAX} are not taken");
            return Err(JournalFault::Refused(reason));
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Waiting { entries, answer }).await;
        sent.map_err(|_| self.stopped())?;
        answered.await.map_err(|_| self.stopped())?
    }

    /// As [`Self::append`]; and tells meanwhile, about twice a second, of a disk that does not answer.
    pub async fn append_telling(
        &self,
        entries: Vec<Entry>,
        mut hangs: impl FnMut(String),
    ) -> Result<(), JournalFault> {
        let mut append = pin!(self.append(entries));
        loop {
            match timeout(LOOK_EVERY, &mut append).await {
                Ok(appended) => return appended,
                Err(_) => self.vitals.hangs().into_iter().for_each(&mut hangs),
            }
        }
    }

    /// The highest index in the journal; `None` if it is empty.
    pub fn highest_index(&self) -> Option<u64> {
        self.vitals.highest()
    }

    /// Why appends fail: the last failure, until an append works again, or that the disk has not
    /// answered for more than two seconds.
    pub fn health(&self) -> Result<(), String> {
        if self.queue.is_closed() {
            return Err(self.stopped().to_string());
        }
        self.vitals.health()
    }

    /// How much room its file system has.
    pub fn space(&self) -> Result<Space, JournalFault> {
        let numbers = statvfs(&self.directory)
            .map_err(|error| JournalFault::io("statvfs", &self.directory, &error.into()))?;
        let octets = |fragments: u64| fragments.saturating_mul(numbers.fragment_size());
        Ok(Space {
            free_octets: octets(numbers.blocks_available()),
            total_octets: octets(numbers.blocks()),
        })
    }

    /// Waits until all that was appended is written and the lock is free.
    pub async fn close(self) {
        drop(self.queue);
        // An error is all that comes: it says that the thread has ended.
        let _ = self.ended.await;
    }

    fn stopped(&self) -> JournalFault {
        JournalFault::Io {
            what: "append",
            path: self.directory.clone(),
            reason: "the journal's thread has ended".to_owned(),
        }
    }
}

/// Holds the journal until the file is closed, by whatever end of the process.
fn lock(directory: &Path) -> Result<File, JournalFault> {
    let path = directory.join("journal.lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| JournalFault::io("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalFault::Locked),
        Err(TryLockError::Error(error)) => Err(JournalFault::io("lock", &path, &error)),
    }
}
