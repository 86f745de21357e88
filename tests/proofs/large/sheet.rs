//! Rows as COPY takes them in binary (PostgreSQL manual, COPY, "Binary Format"), each for its partition.

use std::sync::Arc;

use crate::large::tables::Leaves;

/// What stands before the rows: signature, flags, length of an extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What stands behind them.
const TRAILER: [u8; 2] = [0xff, 0xff];
/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800_000_000;

/// Rows of one table.
pub struct Sheet {
    leaves: Arc<Leaves>,
    /// Rows by partition, in the order in which they came.
    pub parts: Vec<(usize, Vec<u8>)>,
    pub rows: u64,
}

impl Sheet {
    pub fn new(leaves: &Arc<Leaves>) -> Self {
        Self {
            leaves: Arc::clone(leaves),
            parts: Vec::new(),
            rows: 0,
        }
    }

    /// A row of so many fields, which are to follow. `key` says which partition it is of.
    pub fn row(&mut self, key: u128, fields: i16) -> Fields<'_> {
        let leaf = self.leaves.of(key);
        let at = self.parts.iter().position(|(other, _)| *other == leaf);
        let at = at.unwrap_or_else(|| {
            self.parts.push((leaf, HEADER.to_vec()));
            self.parts.len() - 1
        });
        self.rows += 1;
        let octets = &mut self.parts[at].1;
        octets.extend(fields.to_be_bytes());
        Fields(octets)
    }

    /// Partitions and what COPY is sent for each.
    pub fn finish(mut self) -> Vec<(usize, Vec<u8>)> {
        for (_, octets) in &mut self.parts {
            octets.extend(TRAILER);
        }
        self.parts
    }
}

/// The fields of a row.
pub struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    pub fn bytes(self, value: &[u8]) -> Self {
        self.0
            .extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        self.0.extend(value);
        self
    }

    pub fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    pub fn maybe(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => self.null(),
        }
    }

    pub fn null(self) -> Self {
        self.0.extend((-1_i32).to_be_bytes());
        self
    }

    pub fn short(self, value: i16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn long(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Microseconds since 1970.
    pub fn time(self, value: i64) -> Self {
        self.bytes(&(value - EPOCH).to_be_bytes())
    }

    /// Version 1 of its form is its text.
    pub fn jsonb(self, value: &str) -> Self {
        self.0
            .extend(u32::try_from(value.len() + 1).unwrap().to_be_bytes());
        self.0.push(1);
        self.0.extend(value.as_bytes());
        self
    }
}
