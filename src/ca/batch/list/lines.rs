//! A list as NDJSON: an object a line.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read;

use serde::Deserialize;

use super::FIELD_OCTETS_MAX;
use super::RECORD_OCTETS_MAX;
use super::Row;
use super::RowFault;
use super::RowKey;
use super::key;
use super::key::KeyKind;
use super::shown;
use crate::pki::name::AttributeType;
use crate::pki::name::each_name_once;

pub(super) struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    /// Whether a row was read, so that it is known what kind of key the list brings, if any.
    decided: bool,
    kind: Option<KeyKind>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, deserialize_with = "each_name_once")]
    subject: Option<BTreeMap<String, String>>,
    csr: Option<String>,
    public_key: Option<String>,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input: BufReader::new(input),
            line: Vec::new(),
            decided: false,
            kind: None,
        }
    }

    /// The row of this number.
    pub(super) fn next(&mut self, number: u32) -> Option<Result<Row, RowFault>> {
        loop {
            match self.read(number) {
                Err(fault) => return Some(Err(fault)),
                Ok(false) => return None,
                Ok(true) if self.line.trim_ascii().is_empty() => (),
                Ok(true) => return Some(self.row(number)),
            }
        }
    }

    /// Whether there is one more line.
    fn read(&mut self, number: u32) -> Result<bool, RowFault> {
        self.line.clear();
        // Room for CRLF.
        let octets_max = RECORD_OCTETS_MAX as u64 + 2;
        let length = self
            .input
            .by_ref()
            .take(octets_max)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| RowFault::unreadable(number, &error))?;
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > RECORD_OCTETS_MAX {
            return Err(RowFault::record_too_long(number));
        }
        Ok(length > 0)
    }

    fn row(&mut self, number: u32) -> Result<Row, RowFault> {
        let line = self.parsed(number)?;
        let subject = line.subject.unwrap_or_default();
        let values = subject.values().map(String::len);
        let keys = [&line.csr, &line.public_key];
        let keys = keys.into_iter().flatten().map(String::len);
        if values.chain(keys).any(|octets| octets > FIELD_OCTETS_MAX) {
            return Err(RowFault::field_too_long(number));
        }
        let key = self.key(number, line.csr.as_deref(), line.public_key.as_deref())?;
        if let Some(name) = subject
            .keys()
            .find(|name| AttributeType::from_short_name(name).is_none())
        {
            let detail = "a subject may have C, ST, L, O, OU, dnQualifier, serialNumber and CN";
            return Err(RowFault::new(number, "attribute-unknown", detail).of(name));
        }
        Ok(Row {
            number,
            subject: subject
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            key,
        })
    }

    fn parsed(&self, number: u32) -> Result<Line, RowFault> {
        let fault = |rule, detail: &str| {
            // Wherever in a line that is no row: under a name of its own, for instance.
            if key::names_private_key(&self.line) {
                return key::private_key_submitted(number);
            }
            RowFault::new(number, rule, detail)
        };
        let text = std::str::from_utf8(&self.line)
            .map_err(|_| fault("not-utf8", "the line is not UTF-8"))?;
        serde_json::from_str(text).map_err(|error| {
            let detail = format!(
                "the line is no object of subject and csr or public_key: {}",
                shown(&error.to_string())
            );
            fault("malformed-row", &detail)
        })
    }

    /// The row's key: all rows bring the same kind, as the columns of a table do.
    fn key(
        &mut self,
        number: u32,
        csr: Option<&str>,
        public_key: Option<&str>,
    ) -> Result<RowKey, RowFault> {
        // Read before anything is compared: a private key is never passed over.
        let csr = csr.map(|text| KeyKind::Csr.read(number, text.as_bytes()));
        let public_key = public_key.map(|text| KeyKind::PublicKey.read(number, text.as_bytes()));
        let (kind, key) = match (csr, public_key) {
            (Some(Err(fault)), _) | (_, Some(Err(fault))) if fault.fatal => return Err(fault),
            (Some(_), Some(_)) => {
                let detail = "a row has csr or public_key, not both";
                return Err(RowFault::new(number, "key-doubled", detail));
            }
            (Some(key), None) => (Some(KeyKind::Csr), key),
            (None, Some(key)) => (Some(KeyKind::PublicKey), key),
            (None, None) => (None, Ok(RowKey::None)),
        };
        if !self.decided {
            self.decided = true;
            self.kind = kind;
        }
        match (self.kind, kind) {
            (first, _) if first == kind => key,
            (Some(first), None) => {
                let name = first.name();
                let detail = format!("{name} is missing; the first row has it");
                Err(RowFault::new(number, "key-missing", detail).of(name))
            }
            _ => {
                let detail = "all rows have csr, or all have public_key, or none has either";
                Err(RowFault::new(number, "key-mixed", detail))
            }
        }
    }
}
