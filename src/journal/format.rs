//! The octets of a segment: one header line, then records.
//!
//! The header is text of a fixed length, so that a person can read it: the magic, the version, and
//! then, one space between two and a line feed at the end,
//!
//! - the sequence number of the first record, as in the file's name (20 digits, as all numbers);
//! - the same of the segment before, and the octets of it that count: what follows them was never
//!   durable and is no part of the journal (dashes in the first segment);
//! - the highest index in all segments before (dashes if there is none);
//! - the chain value the segment begins with, in hexadecimal;
//! - the CRC32C of all that, in hexadecimal.
//!
//! A record is, all numbers big-endian,
//!
//! | octets | |
//! |---|---|
//! | 4 | length of index, leaf and chain value; the highest bit is set in the first record of a write |
//! | 4 | CRC32C of everything else in the record |
//! | 8 | log index |
//! | any | leaf |
//! | 32 | chain value: SHA-256(chain value before ‖ index ‖ leaf) |

use bytes::Bytes;
use crc32c::crc32c;
use crc32c::crc32c_append;
use openssl::sha::Sha256;

use crate::journal::Entry;

/// Octets of a header.
pub(super) const HEADER_LENGTH: usize = 180;
/// Octets of a record before its index.
pub(super) const HEAD_LENGTH: usize = 8;
/// Octets of the longest leaf. Short, so that the search for a record in damaged octets is fast.
pub(super) const LEAF_LENGTH_MAX: usize = 64 * 1024;
/// Octets of the longest record.
pub(super) const RECORD_LENGTH_MAX: usize = HEAD_LENGTH + REST_LENGTH_MIN + LEAF_LENGTH_MAX;

const MAGIC: &str = "certfactory-journal 1";
const NONE: &str = "--------------------";
const INDEX_LENGTH: usize = 8;
const CHAIN_LENGTH: usize = 32;
const REST_LENGTH_MIN: usize = INDEX_LENGTH + CHAIN_LENGTH;
const BEGINS_WRITE: u32 = 1 << 31;

/// A hash over all records so far; zeros before the first.
pub(super) type Chain = [u8; CHAIN_LENGTH];

/// The first line of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first: u64,
    pub(super) previous: Option<Previous>,
    pub(super) highest: Option<u64>,
    pub(super) chain: Chain,
}

/// The segment before, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) first: u64,
    /// In octets, header and all.
    pub(super) length: u64,
}

/// One entry as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// It is the first of a write, so everything before it had been made durable when it was written.
    pub(super) begins_write: bool,
    pub(super) entry: Entry,
    pub(super) chain: Chain,
}

impl Header {
    pub(super) fn encode(&self) -> String {
        let number = |number: Option<u64>| {
            number.map_or_else(|| NONE.to_owned(), |number| format!("{number:020}"))
        };
        let chain: String = self
            .chain
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect();
        let line = format!(
            "{MAGIC} {} {} {} {} {chain}",
            number(Some(self.first)),
            number(self.previous.map(|previous| previous.first)),
            number(self.previous.map(|previous| previous.length)),
            number(self.highest),
        );
        format!("{line} {:08x}\n", crc32c(line.as_bytes()))
    }

    /// The inverse, which knows one spelling, the checksum in it.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(octets).ok()?;
        let mut fields = line.strip_prefix(MAGIC)?.strip_prefix(' ')?.split(' ');
        let mut number = || -> Option<Option<u64>> {
            match fields.next()? {
                NONE => Some(None),
                digits => digits.parse().ok().map(Some),
            }
        };
        let (first, previous, length, highest) = (number()??, number()?, number()?, number()?);
        let digits = fields.next()?.as_bytes();
        let mut chain = Chain::default();
        for (octet, pair) in chain.iter_mut().zip(digits.chunks(2)) {
            *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        let header = Self {
            first,
            previous: previous
                .zip(length)
                .map(|(first, length)| Previous { first, length }),
            highest,
            chain,
        };
        (header.encode().as_bytes() == octets).then_some(header)
    }
}

/// The chain value after an entry.
pub(super) fn link(before: &Chain, entry: &Entry) -> Chain {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(&entry.index.to_be_bytes());
    hash.update(&entry.leaf);
    hash.finish()
}

/// Puts an entry as a record behind `octets`. Its leaf must not be longer than [`LEAF_LENGTH_MAX`].
pub(super) fn encode(octets: &mut Vec<u8>, begins_write: bool, entry: &Entry, chain: &Chain) {
    let length = u32::try_from(REST_LENGTH_MIN + entry.leaf.len()).unwrap_or(u32::MAX);
    let word = (length | if begins_write { BEGINS_WRITE } else { 0 }).to_be_bytes();
    let index = entry.index.to_be_bytes();
    let parts: [&[u8]; 4] = [&word, &index, &entry.leaf, chain];
    let checksum = parts
        .iter()
        .fold(0, |checksum, part| crc32c_append(checksum, part));
    octets.extend_from_slice(&word);
    octets.extend_from_slice(&checksum.to_be_bytes());
    for part in &parts[1..] {
        octets.extend_from_slice(part);
    }
}

/// Octets of the record that begins so, all counted; nothing if there is no such record.
pub(super) fn length(head: [u8; 4]) -> Option<usize> {
    let rest = usize::try_from(u32::from_be_bytes(head) & !BEGINS_WRITE).ok()?;
    let length = HEAD_LENGTH.checked_add(rest)?;
    (rest >= REST_LENGTH_MIN && length <= RECORD_LENGTH_MAX).then_some(length)
}

/// The whole record that `octets` begin with and whether it begins a write, if its checksum is right.
pub(super) fn whole(octets: &[u8]) -> Option<(&[u8], bool)> {
    let (word, _) = octets.split_first_chunk::<4>()?;
    let record = octets.get(..length(*word)?)?;
    let (checksum, rest) = record.get(4..)?.split_first_chunk::<4>()?;
    (crc32c_append(crc32c(word), rest) == u32::from_be_bytes(*checksum))
        .then_some((record, u32::from_be_bytes(*word) & BEGINS_WRITE != 0))
}

/// The record these octets are, if its checksum is right. The chain is not looked at.
pub(super) fn parse(octets: &[u8]) -> Option<Record> {
    let (record, begins_write) = whole(octets)?;
    let (index, rest) = record
        .get(HEAD_LENGTH..)?
        .split_first_chunk::<INDEX_LENGTH>()?;
    let (leaf, chain) = rest.split_last_chunk::<CHAIN_LENGTH>()?;
    Some(Record {
        begins_write,
        entry: Entry {
            index: u64::from_be_bytes(*index),
            leaf: Bytes::copy_from_slice(leaf),
        },
        chain: *chain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(numbers: Option<u64>, first: u64, chain: Chain) -> Header {
        Header {
            first,
            previous: numbers.map(|number| Previous {
                first: number,
                length: !number,
            }),
            highest: numbers,
            chain,
        }
    }

    #[test]
    fn a_header_is_a_line_of_a_fixed_length() {
        for numbers in [None, Some(0), Some(u64::MAX)] {
            let line = header(numbers, 7, [0xa5; 32]).encode();
            assert_eq!((line.len(), line.find('\n')), (180, Some(179)), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_header_comes_back_and_with_one_octet_changed_does_not(
            numbers: Option<u64>, first: u64, chain: Chain, at in 0..HEADER_LENGTH, flip in 1..=255u8,
        ) {
            let header = header(numbers, first, chain);
            let mut octets = header.encode().into_bytes();
            prop_assert_eq!(Header::parse(&octets), Some(header));
            octets[at] ^= flip;
            prop_assert_eq!(Header::parse(&octets), None);
        }

        #[test]
        fn a_record_comes_back_and_with_one_octet_changed_does_not(
            begins_write: bool, index: u64, leaf: Vec<u8>, chain: Chain, at: usize, flip in 1..=255u8,
        ) {
            let entry = Entry { index, leaf: leaf.into() };
            let mut octets = Vec::new();
            encode(&mut octets, begins_write, &entry, &chain);
            prop_assert_eq!(parse(&octets), Some(Record { begins_write, entry, chain }));
            let at = at % octets.len();
            octets[at] ^= flip;
            prop_assert_eq!(parse(&octets), None);
        }

        #[test]
        fn any_octets_are_read_without_a_panic(octets: Vec<u8>) {
            let _ = parse(&octets);
            let _ = Header::parse(&octets);
        }
    }
}
