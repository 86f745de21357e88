//! What is wrong with a package, a line each, as it is found.

use std::fmt::Display;
use std::io::Write;

/// Lines that are written; the rest is counted. A package of a million wrong files fills no disk.
const LINES_MAX: u64 = 1_000;

/// Faults so far.
pub(super) struct Faults<'a> {
    out: &'a mut dyn Write,
    count: u64,
}

impl<'a> Faults<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, count: 0 }
    }

    /// One more: of a file or of a row, and what is wrong with it. Names come from the package, so
    /// what could move a terminal's cursor is escaped.
    pub(super) fn add(&mut self, name: impl Display, what: impl Display) {
        self.count += 1;
        if self.count <= LINES_MAX {
            let line = format!("{name}: {what}");
            let safe: String = line
                .chars()
                .flat_map(|c| {
                    let escaped = c.is_control().then(|| c.escape_default());
                    let plain = escaped.is_none().then_some(c);
                    escaped.into_iter().flatten().chain(plain)
                })
                .collect();
            // Whoever reads it may have gone; the count remains.
            let _ = writeln!(self.out, "{safe}");
        }
    }

    /// How many there are.
    pub(super) fn finish(self) -> u64 {
        if self.count > LINES_MAX {
            let _ = writeln!(self.out, "and {} more", self.count - LINES_MAX);
        }
        self.count
    }
}
