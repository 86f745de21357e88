//! The thread that writes: whatever waits when the disk is free is one write and one fsync.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::journal::Entry;
use crate::journal::disk::Disk;
use crate::journal::fault::JournalFault;
use crate::journal::format;
use crate::journal::segment;
use crate::journal::segment::Newest;
use crate::journal::segment::Tip;
use crate::journal::vitals::Vitals;

/// A write that has so many octets takes no more appends.
const WRITE_LENGTH: usize = 4 * 1024 * 1024;

/// An append that waits for its answer.
pub(super) struct Waiting {
    pub(super) entries: Vec<Entry>,
    pub(super) answer: oneshot::Sender<Result<(), JournalFault>>,
}

/// The one who writes.
pub(super) struct Writer<D> {
    disk: D,
    directory: PathBuf,
    segment_length: u64,
    /// `None` if the newest segment has been given up.
    file: Option<File>,
    tip: Tip,
    last_write: HashMap<u64, Bytes>,
    vitals: Arc<Vitals>,
    /// Unlocked when the thread ends.
    _lock: File,
}

/// One write: entries as records, ready for the disk.
struct Write {
    octets: Vec<u8>,
    leaves: HashMap<u64, Bytes>,
    /// The tip once it is durable, but for the segment and its length.
    tip: Tip,
}

/// What failed, and whether octets may be in the page cache that the disk will never get.
struct Failure {
    fault: JournalFault,
    segment_is_lost: bool,
}

impl<D: Disk> Writer<D> {
    pub(super) fn new(
        disk: D,
        directory: PathBuf,
        segment_length: u64,
        newest: Newest,
        vitals: Arc<Vitals>,
        lock: File,
    ) -> Self {
        Self {
            disk,
            directory,
            segment_length,
            file: Some(newest.file),
            tip: newest.tip,
            last_write: newest.last_write,
            vitals,
            _lock: lock,
        }
    }

    /// Runs until nobody can append any more and all that waited has its answer.
    pub(super) fn run(mut self, mut arrivals: mpsc::Receiver<Waiting>) {
        while let Some(first) = arrivals.blocking_recv() {
            let mut write = Write {
                octets: Vec::new(),
                leaves: HashMap::new(),
                tip: self.tip.clone(),
            };
            let (mut answers, mut next) = (Vec::new(), Some(first));
            while let Some(Waiting { entries, answer }) = next {
                match write.take(entries, &self.last_write) {
                    Ok(()) => answers.push(answer),
                    Err(fault) => drop(answer.send(Err(fault))),
                }
                next = (write.octets.len() < WRITE_LENGTH)
                    .then(|| arrivals.try_recv().ok())
                    .flatten();
            }
            let result = self.finish(write);
            for answer in answers {
                // Whoever does not wait any more has still had it written.
                let _ = answer.send(result.clone());
            }
        }
    }

    fn finish(&mut self, write: Write) -> Result<(), JournalFault> {
        if write.octets.is_empty() {
            return Ok(());
        }
        self.vitals.begin();
        let result = self.commit(&write.octets);
        if result.is_ok() {
            self.tip = Tip {
                header: self.tip.header.clone(),
                length: self.tip.length.saturating_add(write.octets.len() as u64),
                ..write.tip
            };
            self.last_write = write.leaves;
        }
        self.vitals.end(self.tip.highest, result.as_ref().err());
        result
    }

    /// Makes these octets durable behind the tip: in the newest segment, or, if that is lost, in a
    /// new one. If this fails they do not count, and the next attempt begins anew.
    fn commit(&mut self, octets: &[u8]) -> Result<(), JournalFault> {
        let full = self.tip.length >= self.segment_length && !self.tip.is_empty();
        if full || self.file.is_none() {
            self.begin_segment()?;
        }
        let Err(failure) = self.put(octets) else {
            return Ok(());
        };
        self.retreat(&failure);
        if self.file.is_some() {
            return Err(failure.fault);
        }
        tracing::error!(
            fault = %failure.fault,
            segment = self.tip.header.first,
            durable_octets = self.tip.length,
            "a segment of the journal is given up; the next one begins"
        );
        self.begin_segment()?;
        self.put(octets).map_err(|failure| {
            self.retreat(&failure);
            failure.fault
        })
    }

    fn put(&self, octets: &[u8]) -> Result<(), Failure> {
        let path = segment::path(&self.directory, self.tip.header.first);
        let failure = |what, error: &io::Error, synced| {
            let fault = JournalFault::io(what, &path, error);
            Failure {
                segment_is_lost: synced || fault != JournalFault::Full,
                fault,
            }
        };
        let Some(file) = &self.file else {
            return Err(failure("open", &io::ErrorKind::NotFound.into(), true));
        };
        self.disk
            .write(file, octets, self.tip.length)
            .map_err(|error| failure("write", &error, false))?;
        self.disk
            .sync(file)
            .map_err(|error| failure("sync", &error, true))
    }

    /// Takes back what is behind the tip. Only a segment that a full disk refused to lengthen, and
    /// that could be cut, is used further. Of any other the page cache is not believed: it may show
    /// octets the disk does not have. Where it cannot be cut, the next segment's header says where it
    /// ends.
    fn retreat(&mut self, failure: &Failure) {
        let cut = self
            .file
            .as_ref()
            .is_some_and(|file| self.disk.truncate(file, self.tip.length).is_ok());
        if failure.segment_is_lost || !cut {
            self.file = None;
        }
    }

    fn begin_segment(&mut self) -> Result<(), JournalFault> {
        // Never again a word into the old one, not even if the new one cannot be begun: the new
        // one's header may be on the disk all the same, and says where the old one ends.
        self.file = None;
        let header = self.tip.next_header();
        self.file = Some(segment::create(&self.disk, &self.directory, &header)?);
        self.tip = Tip {
            sequence: self.tip.sequence,
            ..Tip::of_empty(header)
        };
        Ok(())
    }
}

impl Write {
    /// Takes all entries of an append or none. Those of the last write and of this one are left out.
    fn take(
        &mut self,
        entries: Vec<Entry>,
        last_write: &HashMap<u64, Bytes>,
    ) -> Result<(), JournalFault> {
        let mut leaves = HashMap::new();
        let mut fresh = Vec::with_capacity(entries.len());
        for entry in entries {
            let known = [&leaves, &self.leaves, last_write]
                .into_iter()
                .find_map(|known| known.get(&entry.index));
            match known {
                Some(leaf) if *leaf == entry.leaf => {}
                Some(_) => {
                    let index = entry.index;
                    let reason = format!("the journal has another leaf under index {index}");
                    return Err(JournalFault::Refused(reason));
                }
                None => {
                    leaves.insert(entry.index, entry.leaf.clone());
                    fresh.push(entry);
                }
            }
        }
        for entry in fresh {
            let chain = format::link(&self.tip.chain, &entry);
            let begins_write = self.octets.is_empty();
            format::encode(&mut self.octets, begins_write, &entry, &chain);
            self.tip.chain = chain;
            self.tip.sequence = self.tip.sequence.saturating_add(1);
            self.tip.highest = self.tip.highest.max(Some(entry.index));
        }
        self.leaves.extend(leaves);
        Ok(())
    }
}
