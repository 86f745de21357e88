//! The journal read from front to back, each octet checked.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::path::Path;
use std::path::PathBuf;

use crate::journal::Entry;
use crate::journal::fault::JournalFault;
use crate::journal::format::Chain;
use crate::journal::scan;
use crate::journal::scan::Scan;
use crate::journal::scan::Step;
use crate::journal::segment;

/// So many entries back, another leaf under the same index is found.
const REMEMBERED_MAX: usize = 65_536;

/// Entries of a journal in the order in which they were written, an index perhaps twice with the
/// same leaf. It ends at the first fault. Its memory does not grow with the journal.
pub struct Entries {
    directory: PathBuf,
    /// The newest first.
    segments: Vec<Segment>,
    scan: Option<(Scan, Option<Chain>)>,
    from_index: u64,
    seen: Seen,
}

/// A segment and where it ends, as the next one says. The newest ends with its file.
struct Segment {
    first: u64,
    end: Option<(u64, Chain)>,
}

/// All entries in a directory. May run beside the process that appends: what that appends later is
/// not seen. A torn tail, which was never durable, is passed over.
///
/// Everything is verified: checksums, the chain within a segment and from one to the next, and that
/// an index never comes with two leaves (within the last 65,536 entries).
pub fn read(directory: &Path) -> Result<Entries, JournalFault> {
    Entries::new(directory, 0)
}

/// The entries from this index on, as [`read`] gives them. Segments that hold only lower ones are not
/// read, nor verified.
pub fn missing_after(directory: &Path, from_index: u64) -> Result<Entries, JournalFault> {
    Entries::new(directory, from_index)
}

impl Entries {
    fn new(directory: &Path, from_index: u64) -> Result<Self, JournalFault> {
        let numbers = segment::list(directory)?;
        let (mut segments, mut end) = (Vec::new(), None);
        for (place, first) in numbers.iter().copied().enumerate().rev() {
            segments.push(Segment { first, end });
            let scan = scan::open(&segment::path(directory, first), first, None)?;
            let before = place.checked_sub(1).and_then(|place| numbers.get(place));
            segment::follows(&scan, before.copied())?;
            if from_index > 0 && scan.header.highest.is_none_or(|index| index < from_index) {
                break;
            }
            end = scan
                .header
                .previous
                .map(|previous| (previous.length, scan.header.chain));
        }
        Ok(Self {
            directory: directory.to_owned(),
            segments,
            scan: None,
            from_index,
            seen: Seen::default(),
        })
    }

    /// The next entry, whatever its index.
    fn step(&mut self) -> Result<Option<Entry>, JournalFault> {
        loop {
            let Some((scan, chain_at_end)) = &mut self.scan else {
                let Some(Segment { first, end }) = self.segments.pop() else {
                    return Ok(None);
                };
                let (length, chain) = end.unzip();
                let path = segment::path(&self.directory, first);
                self.scan = Some((scan::open(&path, first, length)?, chain));
                continue;
            };
            let (offset, index) = (scan.offset, scan.index);
            match scan.step()? {
                Step::Record(record) if self.seen.agrees(&record.entry) => {
                    return Ok(Some(record.entry));
                }
                Step::Record(_) => {
                    let what = "a record has another leaf than an earlier one of its index";
                    return Err(scan.damaged_at(offset, index, what));
                }
                Step::End if chain_at_end.is_none_or(|chain| chain == scan.chain) => {
                    self.scan = None;
                }
                Step::End => {
                    return Err(scan.damaged("the next segment goes on from another chain value"));
                }
                Step::Broken(_) if chain_at_end.is_none() && scan.is_torn()? => self.scan = None,
                Step::Broken(what) => return Err(scan.damaged(what)),
            }
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, JournalFault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(Some(entry)) if entry.index < self.from_index => {}
                Ok(entry) => return entry.map(Ok),
                Err(fault) => {
                    self.segments.clear();
                    self.scan = None;
                    return Some(Err(fault));
                }
            }
        }
    }
}

/// The leaves of the last entries, as a hash under a key that is drawn for each reading.
#[derive(Default)]
struct Seen {
    key: RandomState,
    leaves: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Seen {
    fn agrees(&mut self, entry: &Entry) -> bool {
        let leaf = self.key.hash_one(&entry.leaf);
        if let Some(seen) = self.leaves.get(&entry.index) {
            return *seen == leaf;
        }
        if self.order.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.leaves.remove(&oldest);
        }
        self.order.push_back(entry.index);
        self.leaves.insert(entry.index, leaf);
        true
    }
}
