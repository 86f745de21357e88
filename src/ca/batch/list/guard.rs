//! Stands before the CSV parser: what passes is RFC 4180 and within the limits.
//!
//! The parser alone would take a quote anywhere, and keep a field without end in memory.

use std::io;
use std::io::ErrorKind;
use std::io::Read;

use super::FIELD_OCTETS_MAX;
use super::RECORD_OCTETS_MAX;

/// A reader that fails with a [`Breach`] at the first octet that does not pass; everything before
/// it is handed on.
pub(super) struct Guard<R> {
    input: R,
    place: Place,
    field: usize,
    record: usize,
    breach: Option<Breach>,
}

/// Why CSV does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    #[error("a field is too long")]
    FieldTooLong,
    #[error("a record is too long")]
    RecordTooLong,
    #[error("a quote stands where none may")]
    QuoteMisplaced,
    #[error("a quote is not closed")]
    QuoteOpen,
}

/// Where the next octet stands (RFC 4180 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Plain,
    Quoted,
    /// After a quote within quotes: the end, or the first half of a quote.
    Quote,
}

impl<R> Guard<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            place: Place::Start,
            field: 0,
            record: 0,
            breach: None,
        }
    }

    fn pass(&mut self, octet: u8) -> Result<(), Breach> {
        let line_end = matches!(octet, b'\r' | b'\n') && self.place != Place::Quoted;
        self.record = if line_end { 0 } else { self.record + 1 };
        let (place, counts) = match (self.place, octet) {
            (Place::Start, b'"') => (Place::Quoted, false),
            (Place::Quoted, b'"') => (Place::Quote, false),
            (Place::Quoted, _) | (Place::Quote, b'"') => (Place::Quoted, true),
            (Place::Start | Place::Plain | Place::Quote, b',' | b'\r' | b'\n') => {
                self.field = 0;
                (Place::Start, false)
            }
            (Place::Plain, b'"') | (Place::Quote, _) => return Err(Breach::QuoteMisplaced),
            (Place::Start | Place::Plain, _) => (Place::Plain, true),
        };
        self.place = place;
        self.field += usize::from(counts);
        if self.field > FIELD_OCTETS_MAX {
            return Err(Breach::FieldTooLong);
        }
        if self.record > RECORD_OCTETS_MAX {
            return Err(Breach::RecordTooLong);
        }
        Ok(())
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(breach) = self.breach {
            return Err(io::Error::other(breach));
        }
        // The CSV parser does not try again by itself.
        let length = loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                other => break other?,
            }
        };
        if length == 0 && !buffer.is_empty() && self.place == Place::Quoted {
            return Err(io::Error::other(Breach::QuoteOpen));
        }
        for (index, octet) in buffer.iter().take(length).enumerate() {
            if let Err(breach) = self.pass(*octet) {
                self.breach = Some(breach);
                return if index == 0 {
                    Err(io::Error::other(breach))
                } else {
                    Ok(index)
                };
            }
        }
        Ok(length)
    }
}
