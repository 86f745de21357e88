//! The flasher's table: one row a device, with the columns that were asked for (RFC 4180).
//!
//! People open it in spreadsheets, so a cell that one would take for a formula gets a leading
//! apostrophe. A package's manifest has the exact value.

use crate::pki::name::AttributeType;
use chrono::{DateTime, SecondsFormat, Utc};
use std::collections::BTreeMap;

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// `row`, counted from 1 through the batch.
    Row,
    /// `device`, its identity.
    Device,
    /// `serial_number` of the certificate, hexadecimal.
    SerialNumber,
    /// `fingerprint_sha256` of the certificate, hexadecimal.
    Fingerprint,
    /// `thing_name`; empty: the profile names none.
    ThingName,
    /// `certificate_file`, within the package.
    CertificateFile,
    /// `key_file`, the envelope within the package; empty: the key was not made here.
    KeyFile,
    /// `not_after`, the certificate's last valid second, RFC 3339.
    NotAfter,
    /// A subject attribute, under its short name.
    Attribute(AttributeType),
}

/// What a row shows, whatever its columns are.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the columns, under their names")]
pub struct TableRow<'a> {
    pub row: u32,
    pub device: &'a str,
    pub serial_number: &'a str,
    pub fingerprint_sha256: &'a str,
    pub thing_name: Option<&'a str>,
    pub certificate_file: &'a str,
    pub key_file: Option<&'a str>,
    pub not_after: DateTime<Utc>,
    pub subject: &'a BTreeMap<String, String>,
}

impl Column {
    /// The columns of who asked for none.
    pub const USUAL: [Self; 7] = [
        Self::Row,
        Self::Device,
        Self::SerialNumber,
        Self::Fingerprint,
        Self::ThingName,
        Self::CertificateFile,
        Self::KeyFile,
    ];

    /// Its heading.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Device => "device",
            Self::SerialNumber => "serial_number",
            Self::Fingerprint => "fingerprint_sha256",
            Self::ThingName => "thing_name",
            Self::CertificateFile => "certificate_file",
            Self::KeyFile => "key_file",
            Self::NotAfter => "not_after",
            Self::Attribute(kind) => kind.short_name(),
        }
    }

    /// The inverse of [`Self::name`]; exact spelling.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let attributes = AttributeType::ALL.map(Self::Attribute);
        Self::USUAL
            .into_iter()
            .chain([Self::NotAfter])
            .chain(attributes)
            .find(|column| column.name() == name)
    }
}

/// Appends the line of headings.
pub fn append_head(columns: &[Column], text: &mut Vec<u8>) {
    append_line(columns, text, |column, text| {
        text.extend_from_slice(column.name().as_bytes());
    });
}

/// Appends a device's line.
pub fn append_row(columns: &[Column], row: &TableRow<'_>, text: &mut Vec<u8>) {
    append_line(columns, text, |column, text| match column {
        Column::Row => append_cell(&row.row.to_string(), text),
        Column::Device => append_safe(row.device, text),
        Column::SerialNumber => append_safe(row.serial_number, text),
        Column::Fingerprint => append_safe(row.fingerprint_sha256, text),
        Column::ThingName => append_safe(row.thing_name.unwrap_or_default(), text),
        Column::CertificateFile => append_safe(row.certificate_file, text),
        Column::KeyFile => append_safe(row.key_file.unwrap_or_default(), text),
        Column::NotAfter => {
            let time = row.not_after.to_rfc3339_opts(SecondsFormat::Secs, true);
            append_safe(&time, text);
        }
        Column::Attribute(kind) => {
            let value = row.subject.get(kind.short_name());
            append_safe(value.map_or("", String::as_str), text);
        }
    });
}

fn append_line(
    columns: &[Column],
    text: &mut Vec<u8>,
    mut append: impl FnMut(Column, &mut Vec<u8>),
) {
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        append(*column, text);
    }
    text.extend_from_slice(b"\r\n");
}

/// A cell that no spreadsheet runs.
fn append_safe(cell: &str, text: &mut Vec<u8>) {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        append_cell(&format!("'{cell}"), text);
    } else {
        append_cell(cell, text);
    }
}

/// The value itself, quoted where it must be.
pub(super) fn append_cell(cell: &str, text: &mut Vec<u8>) {
    if cell.contains([',', '"', '\r', '\n']) {
        text.push(b'"');
        text.extend_from_slice(cell.replace('"', "\"\"").as_bytes());
        text.push(b'"');
    } else {
        text.extend_from_slice(cell.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(device: &str) -> String {
        let subject = BTreeMap::from([("CN".to_owned(), "a \"lamp\", red".to_owned())]);
        let row = TableRow {
            row: 7,
            device,
            serial_number: "01",
            fingerprint_sha256: "0b",
            thing_name: None,
            certificate_file: "certificates/0001/0000007.pem",
            key_file: Some("keys/0001.p7m"),
            not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
            subject: &subject,
        };
        let columns: Vec<_> = ["row", "device", "thing_name", "not_after", "CN", "OU"]
            .map(|name| Column::from_name(name).unwrap())
            .into();
        let mut text = Vec::new();
        append_row(&columns, &row, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_row_has_the_columns_that_were_asked_for() {
        assert_eq!(
            row("lamp-7"),
            "7,lamp-7,,2030-01-01T00:00:00Z,\"a \"\"lamp\"\", red\",\r\n"
        );
        let mut text = Vec::new();
        append_head(&Column::USUAL, &mut text);
        assert_eq!(
            text,
            b"row,device,serial_number,fingerprint_sha256,thing_name,certificate_file,key_file\r\n"
        );
    }

    #[test]
    fn no_cell_begins_a_formula() {
        for device in ["=1+1", "+1", "-1", "@a", "\ta", "\ra"] {
            let text = row(device);
            let cell = text.split(',').nth(1).unwrap().trim_start_matches('"');
            assert!(cell.starts_with(&format!("'{device}")), "{text:?}");
        }
        assert!(row("=\"a\",b").contains(",\"'=\"\"a\"\",b\","));
    }

    #[test]
    fn columns_lead_back_from_their_names() {
        for name in ["row", "key_file", "not_after", "serialNumber", "CN"] {
            assert_eq!(Column::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Column::from_name("Row"), None);
    }
}
