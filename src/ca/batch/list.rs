//! Devices of a batch as an uploaded list, read row by row: CSV or NDJSON, never whole in memory.

mod guard;
mod key;
mod lines;
mod table;

use std::collections::BTreeMap;
use std::io::Chain;
use std::io::Cursor;
use std::io::Read;
use std::iter;

use self::lines::Lines;
use self::table::Table;

/// Rows of one list, at most.
pub const ROWS_MAX: u32 = 1_000_000;
/// Longest record of CSV or line of NDJSON, in octets.
pub const RECORD_OCTETS_MAX: usize = 64 * 1024;
/// Longest cell or value, in octets.
pub const FIELD_OCTETS_MAX: usize = 16 * 1024;

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListMedia {
    /// RFC 4180, with a header line.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

/// What the list says of one device. Names are known, values are not yet judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Counted from 1, without header and blank lines.
    pub number: u32,
    /// Values by the short names of their attributes, as they were written; none is empty.
    pub subject: BTreeMap<String, String>,
    /// The device's key, where the list brings it. All rows of a list have the same kind.
    pub key: RowKey,
}

/// A key that a list brings, as DER that nobody has looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowKey {
    /// The list brings no keys.
    None,
    /// A `CertificationRequest`.
    Csr(Vec<u8>),
    /// A `SubjectPublicKeyInfo`.
    PublicKey(Vec<u8>),
}

/// What is wrong with one row or with the list; repeats a short part of what was sent at most, and
/// nothing of a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row}: {detail}")]
pub struct RowFault {
    /// The row; 0 for the whole list.
    pub row: u32,
    /// Stable name of the broken rule, kebab-case.
    pub rule: &'static str,
    /// The attribute or column, where one is to blame.
    pub attribute: Option<String>,
    /// What is wrong and what would be right.
    pub detail: String,
    /// Nothing can be read after it.
    pub fatal: bool,
}

/// The rows of a list in order, each as it was written or with its first fault; ends after a
/// fatal fault.
///
/// UTF-8, with a byte-order mark or without; lines end in CRLF, LF or both; blank lines count for
/// nothing, an empty value is an absent one. A value that a spreadsheet would take for a formula
/// (`=`, `+`, `-`, `@`, TAB or CR in front) is data and stays what it is, if the rules for names
/// take it; what we write for spreadsheets is another matter.
pub fn read(media: ListMedia, input: impl Read) -> impl Iterator<Item = Result<Row, RowFault>> {
    let mut rows = Rows::open(media, input);
    let mut met = 0;
    let mut ended = false;
    iter::from_fn(move || {
        if ended {
            return None;
        }
        let row = match rows.next(met + 1) {
            None if met == 0 => Some(Err(RowFault::fatal(0, "no-rows", "the list has no rows"))),
            Some(Ok(_) | Err(RowFault { fatal: false, .. })) if met == ROWS_MAX => {
                let detail = format!("the list has more than {ROWS_MAX} rows");
                Some(Err(RowFault::fatal(0, "too-many-rows", detail)))
            }
            row => row,
        };
        met += 1;
        ended = matches!(row, None | Some(Err(RowFault { fatal: true, .. })));
        row
    })
}

enum Rows<R> {
    Csv(Box<Table<R>>),
    Ndjson(Lines<R>),
    Refused(RowFault),
}

impl<R: Read> Rows<Chain<Cursor<Vec<u8>>, R>> {
    fn open(media: ListMedia, input: R) -> Self {
        match (utf8(input), media) {
            (Ok(text), ListMedia::Csv) => Self::Csv(Box::new(Table::new(text))),
            (Ok(text), ListMedia::Ndjson) => Self::Ndjson(Lines::new(text)),
            (Err(fault), _) => Self::Refused(fault),
        }
    }

    fn next(&mut self, number: u32) -> Option<Result<Row, RowFault>> {
        match self {
            Self::Csv(table) => table.next(number),
            Self::Ndjson(lines) => lines.next(number),
            Self::Refused(fault) => Some(Err(fault.clone())),
        }
    }
}

/// The input without its byte-order mark, unless it begins as UTF-16: with a mark of that, or
/// with a character of which one half is zero.
fn utf8<R: Read>(mut input: R) -> Result<Chain<Cursor<Vec<u8>>, R>, RowFault> {
    let mut start = Vec::with_capacity(3);
    if let Err(error) = input.by_ref().take(3).read_to_end(&mut start) {
        return Err(RowFault::unreadable(0, &error));
    }
    match *start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            let detail = "the list is UTF-16; save it as UTF-8 (in Excel: \"CSV UTF-8\")";
            return Err(RowFault::fatal(0, "not-utf8", detail));
        }
        [0xef, 0xbb, 0xbf] => start.clear(),
        _ => (),
    }
    Ok(Cursor::new(start).chain(input))
}

impl RowFault {
    fn new(row: u32, rule: &'static str, detail: impl Into<String>) -> Self {
        Self {
            row,
            rule,
            attribute: None,
            detail: detail.into(),
            fatal: false,
        }
    }

    fn fatal(row: u32, rule: &'static str, detail: impl Into<String>) -> Self {
        Self {
            fatal: true,
            ..Self::new(row, rule, detail)
        }
    }

    fn unreadable(row: u32, error: &std::io::Error) -> Self {
        let detail = format!("the list cannot be read: {}", shown(&error.to_string()));
        Self::fatal(row, "unreadable", detail)
    }

    fn field_too_long(row: u32) -> Self {
        let detail = format!("a value is longer than {FIELD_OCTETS_MAX} octets");
        Self::fatal(row, "field-too-long", detail)
    }

    fn record_too_long(row: u32) -> Self {
        let detail = format!("the row is longer than {RECORD_OCTETS_MAX} octets");
        Self::fatal(row, "record-too-long", detail)
    }

    fn of(self, attribute: &str) -> Self {
        Self {
            attribute: Some(shown(attribute)),
            ..self
        }
    }
}

/// A short text in printable ASCII, for a message.
fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 100;
    let printable = |c: char| match c {
        ' '..='~' => c,
        _ => '?',
    };
    let mut shown: String = text.chars().take(CHARACTERS_MAX).map(printable).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests;
