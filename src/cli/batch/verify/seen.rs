//! What may be there once: devices, serial numbers, public keys.

use openssl::sha::sha256;

use crate::cli::batch::verify::faults::Faults;

/// Values of one kind, each with its row, as the first half of their SHA-256: 20 octets each.
pub(super) struct Seen {
    what: &'static str,
    values: Vec<([u8; 16], u32)>,
}

impl Seen {
    /// `what`: "device", for instance.
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            values: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, value: &str, row: u32) {
        self.values.push((short_hash(value), row));
    }

    /// Names the later one of each pair of rows with the same value.
    pub(super) fn check(mut self, faults: &mut Faults<'_>) {
        self.values.sort_unstable();
        for pair in self.values.windows(2) {
            if let [(value, first), (same, row)] = pair
                && value == same
            {
                let what = self.what;
                faults.add(
                    format_args!("row {row}"),
                    format_args!("its {what} is that of row {first}, too"),
                );
            }
        }
    }
}

/// The first half of a SHA-256.
pub(super) fn short_hash(value: &str) -> [u8; 16] {
    let hash = sha256(value.as_bytes());
    hash.first_chunk().copied().unwrap_or_default()
}
