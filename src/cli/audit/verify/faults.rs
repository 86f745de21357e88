//! What is wrong with a log, by entry.

use std::collections::BTreeMap;

/// Entries that are named; the others are counted.
const NAMED_MAX: usize = 20;

/// Faults by entry, then those of no entry.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The first thing that is wrong with each.
    pub(super) entries: BTreeMap<u64, String>,
    pub(super) wholes: Vec<String>,
}

impl Faults {
    /// An entry is wrong.
    pub(super) fn entry(&mut self, index: u64, what: String) {
        self.entries.entry(index).or_insert(what);
    }

    /// Something that is no entry is wrong.
    pub(super) fn whole(&mut self, place: &str, what: impl std::fmt::Display) {
        self.wholes.push(format!("{place}: {what}"));
    }

    /// Names them on standard error, the first bad entry first. How many there are.
    pub(super) fn print(&self) -> u64 {
        for (index, what) in self.entries.iter().take(NAMED_MAX) {
            eprintln!("entry {index}: {what}");
        }
        let others = self.entries.len().saturating_sub(NAMED_MAX);
        if others > 0 {
            eprintln!("and {others} entries more");
        }
        for what in self.wholes.iter().take(NAMED_MAX) {
            eprintln!("{what}");
        }
        let others = self.wholes.len().saturating_sub(NAMED_MAX);
        if others > 0 {
            eprintln!("and {others} places more");
        }
        u64::try_from(self.entries.len() + self.wholes.len()).unwrap_or(u64::MAX)
    }
}
