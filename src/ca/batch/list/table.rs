//! A list as CSV (RFC 4180): a header line, then a device a row.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;

use csv::ByteRecord;
use csv::ErrorKind;

use super::Row;
use super::RowFault;
use super::RowKey;
use super::guard::Breach;
use super::guard::Guard;
use super::key;
use super::key::KeyKind;
use super::shown;
use crate::pki::name::AttributeType;

/// Columns that a message names, at most.
const NAMED_MAX: usize = 10;

pub(super) struct Table<R> {
    reader: csv::Reader<Guard<R>>,
    /// None before the header is read.
    columns: Option<Vec<Column>>,
    record: ByteRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Attribute(AttributeType),
    Key(KeyKind),
}

impl<R: Read> Table<R> {
    pub(super) fn new(input: R) -> Self {
        let mut settings = csv::ReaderBuilder::new();
        // The header is read as a record like any other, so that its faults are told in our words.
        settings.has_headers(false).flexible(false);
        Self {
            reader: settings.from_reader(Guard::new(input)),
            columns: None,
            record: ByteRecord::new(),
        }
    }

    /// The row of this number.
    pub(super) fn next(&mut self, number: u32) -> Option<Result<Row, RowFault>> {
        if self.columns.is_none() {
            match self.read(0) {
                Ok(true) => (),
                Ok(false) => return None,
                Err(fault) => return Some(Err(fault)),
            }
            match columns(&self.record) {
                Ok(columns) => self.columns = Some(columns),
                Err(fault) => return Some(Err(fault)),
            }
        }
        match self.read(number) {
            Ok(true) => Some(self.row(number)),
            Ok(false) => None,
            Err(fault) => Some(Err(fault)),
        }
    }

    /// Whether there is one more record.
    fn read(&mut self, number: u32) -> Result<bool, RowFault> {
        let error = match self.reader.read_byte_record(&mut self.record) {
            Ok(more) => return Ok(more),
            Err(error) => error,
        };
        Err(match error.into_kind() {
            // PEM without quotes around it falls into rows like this.
            ErrorKind::UnequalLengths { .. } if key::names_private_key(self.record.as_slice()) => {
                key::private_key_submitted(number)
            }
            ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => {
                let detail = format!("the row has {len} cells, the header {expected_len}");
                RowFault::new(number, "ragged-row", detail)
            }
            ErrorKind::Io(error) => broken(number, &error),
            other => RowFault::unreadable(number, &io::Error::other(format!("{other:?}"))),
        })
    }

    fn row(&self, number: u32) -> Result<Row, RowFault> {
        let cells = || self.columns.iter().flatten().zip(&self.record);
        let mut key = RowKey::None;
        for (column, cell) in cells() {
            if let Column::Key(kind) = column {
                key = kind.read(number, cell)?;
            }
        }
        let mut subject = BTreeMap::new();
        for (column, cell) in cells().filter(|(_, cell)| !cell.is_empty()) {
            if let Column::Attribute(kind) = column {
                let name = kind.short_name();
                let value = std::str::from_utf8(cell).map_err(|_| {
                    RowFault::new(number, "not-utf8", format!("{name} is not UTF-8")).of(name)
                })?;
                subject.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(Row {
            number,
            subject,
            key,
        })
    }
}

/// What the columns are, each once, and one key column at most.
fn columns(header: &ByteRecord) -> Result<Vec<Column>, RowFault> {
    let mut columns = Vec::new();
    let (mut unknown, mut doubled) = (Vec::new(), Vec::new());
    for cell in header {
        let name = String::from_utf8_lossy(cell);
        let column = AttributeType::from_short_name(&name)
            .map(Column::Attribute)
            .or_else(|| KeyKind::from_name(&name).map(Column::Key));
        match column {
            None => unknown.push(shown(&name)),
            Some(column) if columns.contains(&column) => doubled.push(shown(&name)),
            Some(column) => columns.push(column),
        }
    }
    let keys = columns.iter().filter(|c| matches!(c, Column::Key(_)));
    let (rule, detail, blamed) = if let Some(first) = unknown.first() {
        let detail = format!(
            "unknown columns: {}; a list has the columns CN, C, O, OU, ST, L, serialNumber, \
             dnQualifier and csr or public_key, separated by commas",
            named(&unknown)
        );
        ("column-unknown", detail, first)
    } else if let Some(first) = doubled.first() {
        let detail = format!("columns that are there twice: {}", named(&doubled));
        ("column-doubled", detail, first)
    } else if keys.count() > 1 {
        let detail = "a list has the column csr or the column public_key, not both";
        return Err(RowFault::fatal(0, "key-doubled", detail));
    } else {
        return Ok(columns);
    };
    Err(RowFault::fatal(0, rule, detail).of(blamed))
}

fn named(columns: &[String]) -> String {
    let shown = columns.iter().take(NAMED_MAX);
    let mut named: Vec<_> = shown.map(|column| format!("`{column}`")).collect();
    if columns.len() > NAMED_MAX {
        named.push(format!("{} more", columns.len() - NAMED_MAX));
    }
    named.join(", ")
}

/// What stopped the reading: the guard, or the input itself.
fn broken(row: u32, error: &io::Error) -> RowFault {
    let breach = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Breach>());
    match breach {
        Some(Breach::FieldTooLong) => RowFault::field_too_long(row),
        Some(Breach::RecordTooLong) => RowFault::record_too_long(row),
        Some(Breach::QuoteMisplaced) => RowFault::fatal(
            row,
            "quote-misplaced",
            "a quote stands inside a cell; such a cell is quoted whole, and the quote in it doubled",
        ),
        Some(Breach::QuoteOpen) => RowFault::fatal(
            row,
            "quote-open",
            "the list ends inside a quoted cell; it may have been cut off",
        ),
        None => RowFault::unreadable(row, error),
    }
}
