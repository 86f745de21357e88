//! One segment from front to back, and what to make of a record that cannot be believed.

use std::fs::File;
use std::io;
use std::io::BufReader;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use crate::journal::fault::JournalFault;
use crate::journal::format;
use crate::journal::format::Chain;
use crate::journal::format::HEAD_LENGTH;
use crate::journal::format::HEADER_LENGTH;
use crate::journal::format::Header;
use crate::journal::format::RECORD_LENGTH_MAX;
use crate::journal::format::Record;

/// Octets that are read at once.
const BUFFER_LENGTH: usize = 1024 * 1024;
/// A disk writes these whole or not at all.
const SECTOR_LENGTH: usize = 512;

/// A segment while it is read.
pub(super) struct Scan {
    path: PathBuf,
    input: BufReader<File>,
    record: Vec<u8>,
    /// Its first line.
    pub(super) header: Header,
    /// Where the next record begins.
    pub(super) offset: u64,
    /// Where the segment ends.
    pub(super) end: u64,
    /// The chain value so far.
    pub(super) chain: Chain,
    /// Index of the last record that was read; at first the highest of all segments before.
    pub(super) index: Option<u64>,
}

/// What stands next in a segment.
pub(super) enum Step {
    /// A record, checked.
    Record(Record),
    /// Nothing, as it should be.
    End,
    /// Octets that are no record, or not the one that should follow, and why.
    Broken(&'static str),
}

impl Scan {
    /// Reads the header of the segment that should begin with the record of this number. The
    /// segment ends at `end`, or with the file.
    pub(super) fn new(
        path: PathBuf,
        file: File,
        first: u64,
        end: Option<u64>,
    ) -> Result<Self, JournalFault> {
        let fault = |error: &io::Error| JournalFault::io("read", &path, error);
        let mut octets = Vec::with_capacity(HEADER_LENGTH);
        let mut input = BufReader::with_capacity(BUFFER_LENGTH, file);
        (&mut input)
            .take(HEADER_LENGTH as u64)
            .read_to_end(&mut octets)
            .map_err(|error| fault(&error))?;
        let length = input.get_ref().metadata().map_err(|error| fault(&error))?;
        let header = Header::parse(&octets)
            .filter(|header| header.first == first)
            .ok_or_else(|| JournalFault::Damaged {
                file: path.clone(),
                offset: 0,
                after_index: None,
                what: "is no header of this segment",
            })?;
        Ok(Self {
            path,
            input,
            record: Vec::new(),
            offset: HEADER_LENGTH as u64,
            end: end.unwrap_or(length.len()),
            chain: header.chain,
            index: header.highest,
            header,
        })
    }

    /// The next record. After `End` or `Broken` there is none.
    pub(super) fn step(&mut self) -> Result<Step, JournalFault> {
        let remaining = self.end.saturating_sub(self.offset);
        if remaining == 0 {
            return Ok(Step::End);
        }
        let mut head = [0; HEAD_LENGTH];
        if !self.fill(&mut head)? {
            return Ok(Step::Broken("a record is cut off"));
        }
        let length = head.first_chunk().and_then(|word| format::length(*word));
        let Some(length) = length else {
            return Ok(Step::Broken("a record has an impossible length"));
        };
        if length as u64 > remaining {
            return Ok(Step::Broken("a record is cut off"));
        }
        let mut octets = std::mem::take(&mut self.record);
        octets.clear();
        octets.extend_from_slice(&head);
        octets.resize(length, 0);
        let filled = self.fill(&mut octets[HEAD_LENGTH..])?;
        let record = format::parse(&octets).filter(|_| filled);
        self.record = octets;
        let Some(record) = record else {
            return Ok(Step::Broken("a record does not match its checksum"));
        };
        if format::link(&self.chain, &record.entry) != record.chain {
            return Ok(Step::Broken("a record does not continue the chain"));
        }
        self.offset = self.offset.saturating_add(length as u64);
        self.chain = record.chain;
        self.index = Some(record.entry.index);
        Ok(Step::Record(record))
    }

    /// Whether the file has as many octets as are asked for.
    fn fill(&mut self, octets: &mut [u8]) -> Result<bool, JournalFault> {
        match self.input.read_exact(octets) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(JournalFault::io("read", &self.path, &error)),
        }
    }

    /// What is wrong at this place.
    pub(super) fn damaged(&self, what: &'static str) -> JournalFault {
        self.damaged_at(self.offset, self.index, what)
    }

    /// What is wrong with the header.
    pub(super) fn damaged_header(&self, what: &'static str) -> JournalFault {
        self.damaged_at(0, self.header.highest, what)
    }

    /// What is wrong with a record that was read whole.
    pub(super) fn damaged_at(
        &self,
        offset: u64,
        after_index: Option<u64>,
        what: &'static str,
    ) -> JournalFault {
        JournalFault::Damaged {
            file: self.path.clone(),
            offset,
            after_index,
            what,
        }
    }

    /// Whether the broken record here is what a crash in the middle of the last write leaves, so
    /// that nobody was ever told that it is durable.
    pub(super) fn is_torn(&self) -> Result<bool, JournalFault> {
        is_torn(self.input.get_ref(), self.offset, self.end)
            .map_err(|error| JournalFault::io("read", &self.path, &error))
    }

    /// The file and its path.
    pub(super) fn into_file(self) -> (File, PathBuf) {
        (self.input.into_inner(), self.path)
    }
}

/// Reads a segment's header and no more.
pub(super) fn open(path: &Path, first: u64, end: Option<u64>) -> Result<Scan, JournalFault> {
    let file = File::open(path).map_err(|error| JournalFault::io("open", path, &error))?;
    Scan::new(path.to_owned(), file, first, end)
}

/// A tail is torn if no whole record follows. If one does, it may still be of the same write, whose
/// parts reach the disk in any order; then the missing part reads as zeros. A record that begins a
/// write proves the opposite: that write came after all octets before it had been made durable.
fn is_torn(file: &File, broken: u64, end: u64) -> io::Result<bool> {
    let mut window = Window {
        file,
        end,
        begin: broken,
        octets: Vec::new(),
    };
    let (mut next_whole, mut at) = (None, broken.saturating_add(1));
    while at < end {
        match format::whole(window.from(at)?) {
            Some((_, true)) => return Ok(false),
            Some((record, false)) => {
                next_whole.get_or_insert(at);
                at = at.saturating_add(record.len() as u64);
            }
            None => at += 1,
        }
    }
    next_whole.map_or(Ok(true), |next| has_hole(file, broken, next))
}

/// Whether some sector between a broken record and the next whole one was never written. The first
/// may hold the end of the record before; fewer than four zeros are no proof, as a length may begin so.
fn has_hole(file: &File, broken: u64, next: u64) -> io::Result<bool> {
    let sector_length = SECTOR_LENGTH as u64;
    let (mut begin, mut octets) = (broken, [0; SECTOR_LENGTH]);
    while begin < next {
        let length = sector_length - begin % sector_length;
        let least = if begin == broken { 4 } else { sector_length };
        let octets = &mut octets[..usize::try_from(length.min(next - begin)).unwrap_or(0)];
        file.read_exact_at(octets, begin)?;
        if octets.len() as u64 >= least && octets.iter().all(|octet| *octet == 0) {
            return Ok(true);
        }
        begin = begin.saturating_add(length);
    }
    Ok(false)
}

/// Octets of a file around a place that moves forward.
struct Window<'a> {
    file: &'a File,
    end: u64,
    begin: u64,
    octets: Vec<u8>,
}

impl Window<'_> {
    /// As many octets from there as the longest record has, or all there are.
    fn from(&mut self, at: u64) -> io::Result<&[u8]> {
        let held = |window: &Self| usize::try_from(at - window.begin).unwrap_or(usize::MAX);
        let needed = usize::try_from(self.end - at).map_or(RECORD_LENGTH_MAX, |remaining| {
            remaining.min(RECORD_LENGTH_MAX)
        });
        if self.octets.len() < held(self).saturating_add(needed) {
            let remaining = usize::try_from(self.end - at).unwrap_or(usize::MAX);
            self.octets.resize(remaining.min(BUFFER_LENGTH), 0);
            self.file.read_exact_at(&mut self.octets, at)?;
            self.begin = at;
        }
        Ok(self.octets.get(held(self)..).unwrap_or_default())
    }
}
