//! The files of a journal: their names, how one is begun, and how the newest is taken up again.

use std::collections::HashMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::read_dir;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;
use nix::fcntl::PosixFadviseAdvice;
use nix::fcntl::posix_fadvise;

use crate::journal::disk::Disk;
use crate::journal::fault::JournalFault;
use crate::journal::format::Chain;
use crate::journal::format::HEADER_LENGTH;
use crate::journal::format::Header;
use crate::journal::format::Previous;
use crate::journal::scan::Scan;
use crate::journal::scan::Step;

/// Where the journal ends: everything up to here is durable.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    /// Of the newest segment.
    pub(super) header: Header,
    /// Octets of that segment that count.
    pub(super) length: u64,
    /// Number of the next record.
    pub(super) sequence: u64,
    /// Chain value after the last record.
    pub(super) chain: Chain,
    /// Highest index in the journal.
    pub(super) highest: Option<u64>,
}

/// The newest segment, taken up.
pub(super) struct Newest {
    pub(super) file: File,
    pub(super) tip: Tip,
    /// Leaves of the last write, by index.
    pub(super) last_write: HashMap<u64, Bytes>,
    /// Octets of a torn tail that went.
    pub(super) cut: u64,
}

impl Tip {
    /// The end of a journal, or of a segment, that holds nothing yet.
    pub(super) fn of_empty(header: Header) -> Self {
        Self {
            length: HEADER_LENGTH as u64,
            sequence: header.first,
            chain: header.chain,
            highest: header.highest,
            header,
        }
    }

    /// Whether the segment holds no record.
    pub(super) fn is_empty(&self) -> bool {
        self.length <= HEADER_LENGTH as u64
    }

    /// The header of the segment that goes on from here. A segment without a durable record is
    /// not followed but replaced, by one of the same name and the same header: so a disk that fails
    /// for hours does not fill with empty segments.
    pub(super) fn next_header(&self) -> Header {
        if self.is_empty() {
            return self.header.clone();
        }
        Header {
            first: self.sequence,
            previous: Some(Previous {
                first: self.header.first,
                length: self.length,
            }),
            highest: self.highest,
            chain: self.chain,
        }
    }
}

/// The segment whose first record has this number.
pub(super) fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(name(first))
}

fn name(first: u64) -> String {
    format!("journal-{first:020}.cfj")
}

/// The numbers of all segments, in rising order. What has another name is none of ours.
pub(super) fn list(directory: &Path) -> Result<Vec<u64>, JournalFault> {
    let fault = |error| JournalFault::io("list", directory, &error);
    let mut found = Vec::new();
    for entry in read_dir(directory).map_err(fault)? {
        let entry = entry.map_err(fault)?.file_name();
        let number = entry
            .to_str()
            .and_then(|text| text.strip_prefix("journal-")?.strip_suffix(".cfj"))
            .and_then(|digits| digits.parse().ok());
        found.extend(number.filter(|number| entry.to_str() == Some(&name(*number))));
    }
    found.sort_unstable();
    Ok(found)
}

/// Begins a segment. It has its name only once its header is durable, and counts only once its
/// name is.
pub(super) fn create(
    disk: &impl Disk,
    directory: &Path,
    header: &Header,
) -> Result<File, JournalFault> {
    let (draft, path) = (
        directory.join("journal.draft"),
        path(directory, header.first),
    );
    let file = disk
        .create(&draft)
        .map_err(|error| JournalFault::io("create", &draft, &error))?;
    disk.write(&file, header.encode().as_bytes(), 0)
        .map_err(|error| JournalFault::io("write", &draft, &error))?;
    disk.sync(&file)
        .map_err(|error| JournalFault::io("sync", &draft, &error))?;
    disk.rename(&draft, &path)
        .map_err(|error| JournalFault::io("rename", &path, &error))?;
    disk.sync_directory(directory)
        .map_err(|error| JournalFault::io("sync", directory, &error))?;
    Ok(file)
}

/// Takes up the newest segment, or begins the first. Cuts a torn tail.
pub(super) fn take_up(disk: &impl Disk, directory: &Path) -> Result<Newest, JournalFault> {
    // What an earlier process renamed must not come back after it was built upon.
    disk.sync_directory(directory)
        .map_err(|error| JournalFault::io("sync", directory, &error))?;
    let segments = list(directory)?;
    let Some(first) = segments.last().copied() else {
        let header = Header {
            first: 0,
            previous: None,
            highest: None,
            chain: Chain::default(),
        };
        return Ok(Newest {
            file: create(disk, directory, &header)?,
            tip: Tip::of_empty(header),
            last_write: HashMap::new(),
            cut: 0,
        });
    };
    let path = path(directory, first);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| JournalFault::io("open", &path, &error))?;
    disk.sync(&file)
        .map_err(|error| JournalFault::io("sync", &path, &error))?;
    // After a failed fsync the cache may hold what the disk does not. So it is read from the disk,
    // where the system lets us ask for that.
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    let mut scan = Scan::new(path, file, first, None)?;
    follows(&scan, segments.iter().rev().nth(1).copied())?;

    let (mut tip, mut last_write) = (Tip::of_empty(scan.header.clone()), HashMap::new());
    let torn = loop {
        match scan.step()? {
            Step::Record(record) => {
                if record.begins_write {
                    last_write.clear();
                }
                tip.highest = tip.highest.max(Some(record.entry.index));
                tip.sequence = tip.sequence.saturating_add(1);
                last_write.insert(record.entry.index, record.entry.leaf);
            }
            Step::End => break false,
            Step::Broken(_) if scan.is_torn()? => break true,
            Step::Broken(what) => return Err(scan.damaged(what)),
        }
    };
    (tip.length, tip.chain) = (scan.offset, scan.chain);
    let cut = scan.end.saturating_sub(scan.offset);
    let (file, path) = scan.into_file();
    if torn {
        disk.truncate(&file, tip.length)
            .map_err(|error| JournalFault::io("truncate", &path, &error))?;
        disk.sync(&file)
            .map_err(|error| JournalFault::io("sync", &path, &error))?;
    }
    Ok(Newest {
        file,
        tip,
        last_write,
        cut,
    })
}

/// Whether a segment names the one that stands before it in the directory.
pub(super) fn follows(scan: &Scan, before: Option<u64>) -> Result<(), JournalFault> {
    if scan.header.previous.map(|previous| previous.first) == before {
        return Ok(());
    }
    Err(scan.damaged_header("names another segment before it than there is"))
}
