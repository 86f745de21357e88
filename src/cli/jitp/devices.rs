//! A list of devices, row by row: what the shift's first refusal would be, the evening before.
//!
//! Memory is bounded whatever the list's length: a row at a time, the first failures, and at most 80
//! octets a thing name to find duplicates, for ten million rows at most.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use clap::ValueEnum;
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::pki::Violation;
use crate::pki::name::AttributeType;
use crate::pki::name::each_name_once;
use crate::pki::profile::evaluation::Basis;

/// Rows of one list.
const ROWS_MAX: u64 = 10_000_000;
/// One row, in octets.
const ROW_LENGTH_MAX: usize = 64 * 1024;

/// How a list is read and shown.
#[derive(Args)]
pub struct DeviceList {
    /// Form of the list. Without it: by the file's extension.
    #[arg(long, value_enum, requires = "devices")]
    format: Option<ListFormat>,
    /// What separates the fields of a CSV.
    #[arg(long, default_value = ",", requires = "devices")]
    delimiter: char,
    /// Leave out columns or members that are no subject attribute, instead of refusing the list.
    #[arg(long, requires = "devices")]
    ignore_unknown: bool,
    /// Failures that are shown one by one; all are counted.
    #[arg(long, default_value_t = 100, requires = "devices")]
    failures_max: usize,
}

/// Forms of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// A header of subject attributes, `CN,serialNumber,C`, then a device a line. An empty field
    /// is an attribute that the device does not have.
    Csv,
    /// A JSON object a line: `{"CN": "lamp-000001", "C": "DE"}`.
    Ndjson,
}

/// What became of a list.
#[derive(Debug, Default, Serialize)]
struct Summary {
    rows: u64,
    accepted: u64,
    refused: u64,
    /// Rule → rows that break it.
    refused_by_rule: BTreeMap<&'static str, u64>,
    /// Rule → accepted rows that it warns of.
    warned_by_rule: BTreeMap<&'static str, u64>,
    /// The first of them.
    failures: Vec<RowFailure>,
    failures_omitted: u64,
}

/// One rule that one row breaks.
#[derive(Debug, Serialize)]
struct RowFailure {
    /// From 1, the header not counted.
    row: u64,
    /// Line of the file at which the row begins, from 1.
    line: u64,
    #[serde(flatten)]
    violation: Violation,
}

/// Evaluates the list and prints the summary. Exit code 4 when any row fails.
pub fn run(global: &Global, path: &Path, list: &DeviceList, basis: Basis<'_>) -> Outcome {
    let format = list.format.or_else(|| by_extension(path)).ok_or_else(|| {
        let unclear = anyhow!("{}: neither .csv nor .ndjson; say --format", path.display());
        Failure::new(2, unclear)
    })?;
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let file = File::open(path).with_context(|| path.display().to_string());
        Box::new(file.map_err(|error| Failure::new(Failure::NOT_FOUND, error))?)
    };
    let mut desk = Desk {
        basis,
        failures_max: list.failures_max,
        summary: Summary::default(),
        things: HashMap::new(),
    };
    match format {
        ListFormat::Csv => csv(input, list, &mut desk)?,
        ListFormat::Ndjson => ndjson(input, list, &mut desk)?,
    }
    let summary = desk.summary;
    if global.json {
        crate::cli::print_json(&summary)?;
    } else {
        print(&summary);
    }
    let told = format!(
        "{}: {} rows, {} accepted, {} refused",
        path.display(),
        summary.rows,
        summary.accepted,
        summary.refused
    );
    if summary.refused > 0 {
        return Err(Failure::new(Failure::REFUSED, anyhow!(told)));
    }
    eprintln!("{told}");
    Ok(())
}

fn by_extension(path: &Path) -> Option<ListFormat> {
    match path.extension()?.to_str()? {
        "csv" => Some(ListFormat::Csv),
        "ndjson" | "jsonl" => Some(ListFormat::Ndjson),
        _ => None,
    }
}

fn print(summary: &Summary) {
    for RowFailure {
        row,
        line,
        violation,
    } in &summary.failures
    {
        let attribute = violation.attribute.as_deref().unwrap_or("-");
        let Violation { rule, detail, .. } = violation;
        println!("row {row} (line {line}): {rule} {attribute}: {detail}");
    }
    if summary.failures_omitted > 0 {
        println!("… and {} more", summary.failures_omitted);
    }
    println!("accepted {}", summary.accepted);
    println!("refused {}", summary.refused);
    for (rule, rows) in &summary.refused_by_rule {
        println!("refused by {rule} {rows}");
    }
    for (rule, rows) in &summary.warned_by_rule {
        println!("warned by {rule} {rows}");
    }
}

/// Takes the rows.
struct Desk<'a> {
    basis: Basis<'a>,
    failures_max: usize,
    summary: Summary,
    /// Half a SHA-256 of each thing name → the row that had it first.
    things: HashMap<[u8; 16], u64>,
}

impl Desk<'_> {
    /// One row: its attributes, or why there are none.
    fn take(
        &mut self,
        line: u64,
        attributes: Result<BTreeMap<AttributeType, String>, Violation>,
    ) -> Outcome {
        self.summary.rows += 1;
        let row = self.summary.rows;
        if row > ROWS_MAX {
            return Err(anyhow!("more than {ROWS_MAX} rows; split the list").into());
        }
        let (mut violations, mut warnings) = (Vec::new(), Vec::new());
        match attributes {
            Ok(attributes) => {
                let evaluation = self.basis.evaluate(attributes);
                violations = evaluation.violations;
                warnings = evaluation.warnings;
                let thing = evaluation.provisioning.and_then(|made| made.thing_name);
                violations.extend(thing.and_then(|thing| self.duplicate(row, &thing)));
            }
            Err(violation) => violations.push(violation),
        }
        let summary = &mut self.summary;
        if violations.is_empty() {
            summary.accepted += 1;
            count(&mut summary.warned_by_rule, &warnings);
            return Ok(());
        }
        summary.refused += 1;
        count(&mut summary.refused_by_rule, &violations);
        for violation in violations {
            if summary.failures.len() < self.failures_max {
                summary.failures.push(RowFailure {
                    row,
                    line,
                    violation,
                });
            } else {
                summary.failures_omitted += 1;
            }
        }
        Ok(())
    }

    fn duplicate(&mut self, row: u64, thing: &str) -> Option<Violation> {
        let hash = openssl::sha::sha256(thing.as_bytes());
        let (half, _) = hash.split_first_chunk::<16>()?;
        let first = *self.things.entry(*half).or_insert(row);
        (first != row).then(|| Violation {
            rule: "thing-name-duplicate",
            attribute: self.name_attribute(),
            detail: format!("thing {thing} is that of row {first} already"),
        })
    }

    fn name_attribute(&self) -> Option<String> {
        let sources = self.basis.template()?.thing_name_attributes()?;
        Some(sources.first()?.short_name().to_owned())
    }
}

/// Each rule once a row.
fn count(counts: &mut BTreeMap<&'static str, u64>, violations: &[Violation]) {
    for (position, violation) in violations.iter().enumerate() {
        let mut earlier = violations[..position].iter();
        if !earlier.any(|other| other.rule == violation.rule) {
            *counts.entry(violation.rule).or_default() += 1;
        }
    }
}

fn malformed(detail: impl Into<String>) -> Violation {
    Violation {
        rule: "row-malformed",
        attribute: None,
        detail: detail.into(),
    }
}

fn csv(input: impl Read, list: &DeviceList, desk: &mut Desk<'_>) -> Outcome {
    let delimiter = u8::try_from(list.delimiter)
        .map_err(|_| Failure::new(2, anyhow!("a delimiter is an ASCII character")))?;
    let since_row = Rc::new(Cell::new(0));
    let input = Bounded {
        input,
        since_row: Rc::clone(&since_row),
    };
    let mut rows = ::csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        // Not CRLF: its LF would be counted with the next row's line.
        .terminator(::csv::Terminator::Any(b'\n'))
        .from_reader(input);
    let columns = columns(rows.byte_headers()?, list)?;
    let mut record = ::csv::ByteRecord::new();
    while rows.read_byte_record(&mut record)? {
        since_row.set(0);
        let line = record.position().map_or(0, ::csv::Position::line);
        if record.as_slice() != b"\r" {
            desk.take(line, fields(&record, &columns))?;
        }
    }
    Ok(())
}

/// The attribute of each column; `None` for one that is left out.
fn columns(
    header: &::csv::ByteRecord,
    list: &DeviceList,
) -> Result<Vec<Option<AttributeType>>, Failure> {
    let usage = |what: String| Failure::new(2, anyhow!(what));
    let mut columns = Vec::new();
    for (position, name) in header.iter().enumerate() {
        let ends_line = position + 1 == header.len();
        let name = String::from_utf8_lossy(without_cr(name, ends_line));
        let kind = AttributeType::from_short_name(&name);
        if kind.is_none() && !list.ignore_unknown {
            let known = AttributeType::ALL.map(AttributeType::short_name).join(", ");
            return Err(usage(format!(
                "column {name:?} is none of {known}; the first line of a CSV names its columns, \
                 --delimiter says what is between them, --ignore-unknown leaves others out"
            )));
        }
        if kind.is_some() && columns.contains(&kind) {
            return Err(usage(format!("column {name} stands twice")));
        }
        columns.push(kind);
    }
    if columns.iter().all(Option::is_none) {
        return Err(usage("no column is a subject attribute".to_owned()));
    }
    Ok(columns)
}

fn fields(
    record: &::csv::ByteRecord,
    columns: &[Option<AttributeType>],
) -> Result<BTreeMap<AttributeType, String>, Violation> {
    if record.len() != columns.len() {
        let (found, wanted) = (record.len(), columns.len());
        return Err(malformed(format!("{found} fields under {wanted} columns")));
    }
    let mut attributes = BTreeMap::new();
    for (position, (kind, field)) in columns.iter().zip(record).enumerate() {
        let field = without_cr(field, position + 1 == columns.len());
        if let Some(kind) = kind.filter(|_| !field.is_empty()) {
            let text = std::str::from_utf8(field)
                .map_err(|_| malformed(format!("{} is not UTF-8", kind.short_name())))?;
            attributes.insert(kind, text.to_owned());
        }
    }
    Ok(attributes)
}

/// A line's last field without the CR of a CRLF.
fn without_cr(field: &[u8], ends_line: bool) -> &[u8] {
    match field.strip_suffix(b"\r") {
        Some(stripped) if ends_line => stripped,
        _ => field,
    }
}

fn ndjson(input: impl Read, list: &DeviceList, desk: &mut Desk<'_>) -> Outcome {
    let since_row = Rc::new(Cell::new(0));
    let mut input = BufReader::new(Bounded {
        input,
        since_row: Rc::clone(&since_row),
    });
    let mut text = Vec::new();
    let mut line = 0;
    while input.read_until(b'\n', &mut text)? > 0 {
        line += 1;
        since_row.set(0);
        if !text.trim_ascii().is_empty() {
            desk.take(line, object(&text, list))?;
        }
        text.clear();
    }
    Ok(())
}

fn object(text: &[u8], list: &DeviceList) -> Result<BTreeMap<AttributeType, String>, Violation> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let named = each_name_once(&mut json).and_then(|named| json.end().map(|()| named));
    let named = named.map_err(|error| malformed(error.to_string()))?;
    let mut attributes = BTreeMap::new();
    for (name, value) in named.unwrap_or_default() {
        match AttributeType::from_short_name(&name) {
            Some(kind) => {
                attributes.insert(kind, value);
            }
            None if list.ignore_unknown => {}
            None => {
                let known = AttributeType::ALL.map(AttributeType::short_name).join(", ");
                return Err(malformed(format!("{name:?} is none of {known}")));
            }
        }
    }
    Ok(attributes)
}

/// Ends a row that does not end: a reader that counts what it gave since the last one.
struct Bounded<R> {
    input: R,
    since_row: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.since_row.get() > ROW_LENGTH_MAX {
            let endless = format!("a row is longer than {ROW_LENGTH_MAX} octets");
            return Err(std::io::Error::other(endless));
        }
        let length = self.input.read(buffer)?;
        self.since_row.set(self.since_row.get() + length);
        Ok(length)
    }
}
