//! `audit query`: searches the ledger and saves all matches. Streamed: memory holds one piece of the
//! service's answer, whatever the number.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use parquet::file::metadata::ParquetMetaDataReader;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::audit::auditor;
use crate::cli::cert::pairs;
use crate::cli::cert::refused;
use crate::cli::client::Client;
use crate::cli::client::Connect;
use crate::cli::client::Stream;

/// Longest line of the service's answer, octets. A certificate and its chain as JSON have a tenth.
const LINE_LENGTH_MAX: usize = 1 << 20;

/// Longest end of a Parquet file, octets. That of ten million certificates has a tenth.
const FOOTER_LENGTH_MAX: usize = 16 << 20;

/// The columns of `--format table`: what stands above, how wide it is, and where REST has it.
const COLUMNS: [(&str, usize, &str); 7] = [
    ("SERIAL NUMBER", 32, "/serial_number"),
    ("DEVICE", 24, "/device"),
    ("STATUS", 10, "/status"),
    ("ISSUED AT", 24, "/issued_at"),
    ("PROFILE", 12, "/profile"),
    ("STATION", 12, "/station"),
    ("ORDER", 12, "/order"),
];

/// `audit query`
#[derive(Args)]
pub struct QueryArguments {
    #[command(flatten)]
    connect: Connect,
    /// Filter as in REST, `order=WO-17`, `status=revoked`, `issued_after=…`; may be repeated.
    #[arg(long = "filter", value_name = "NAME=VALUE")]
    filters: Vec<String>,
    /// Form of the matches. Without it: a table on a terminal, else NDJSON.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// File for the matches; it has its name only when it is whole.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: what matters, a line each.
    Table,
    /// For spreadsheets: as REST has it.
    Csv,
    /// For programs: all that REST says, a line each.
    Ndjson,
    /// For data frames and SQL: typed columns, the certificate as DER. No terminal shows it.
    Parquet,
}

/// Runs it.
pub(super) fn run(global: &Global, arguments: &QueryArguments) -> Outcome {
    let query = pairs(&arguments.filters)?;
    let other = ["limit", "cursor"];
    if let Some(name) = other.iter().find(|name| query.contains_key(**name)) {
        let what = format!("`{name}` is no filter here: all matches are saved");
        return Err(Failure::new(2, anyhow!(what)));
    }
    let path = format!("/v1/certificates?{}", serde_urlencoded::to_string(&query)?);
    let seen = arguments.output.is_none() && std::io::stdout().is_terminal();
    let usual = if seen && !global.json {
        Format::Table
    } else {
        Format::Ndjson
    };
    let format = arguments.format.unwrap_or(usual);
    if seen && format == Format::Parquet {
        let what = "a Parquet file is nothing for a terminal: name one with --output";
        return Err(Failure::new(2, anyhow!(what)));
    }
    let client = auditor(global, &arguments.connect)?;
    let search = Search {
        path,
        format,
        meter: if seen {
            ProgressBar::hidden()
        } else {
            meter(format)?
        },
    };
    let count = match &arguments.output {
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            let count = transfer(&client, &search, &mut out)?;
            out.flush()?;
            count
        }
        Some(file) => save(&client, &search, file)?,
    };
    search.meter.finish_and_clear();
    eprintln!("{count} certificates");
    Ok(())
}

/// What is searched, and how it is written.
struct Search {
    /// The address.
    path: String,
    format: Format,
    /// Counts lines, or octets of what has none, where nobody sees them.
    meter: ProgressBar,
}

/// On a terminal's standard error; elsewhere it shows nothing.
fn meter(format: Format) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template(match format {
        Format::Parquet => "{spinner} {bytes}, {elapsed}",
        Format::Table | Format::Csv | Format::Ndjson => "{spinner} {human_pos} lines, {elapsed}",
    });
    Ok(ProgressBar::no_length().with_style(style?))
}

/// Into a file, which is replaced when the new one is whole.
fn save(client: &Client, search: &Search, file: &Path) -> Result<u64, Failure> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let named = || part.display().to_string();
    let mut out = BufWriter::new(File::create(&part).with_context(named)?);
    let saved = transfer(client, search, &mut out).and_then(|count| {
        let inner = out.into_inner();
        let inner = inner.map_err(std::io::IntoInnerError::into_error);
        inner
            .and_then(|inner| inner.sync_all())
            .with_context(named)?;
        std::fs::rename(&part, file).with_context(|| file.display().to_string())?;
        Ok(count)
    });
    if saved.is_err() {
        // What is not whole is nothing.
        std::fs::remove_file(&part).ok();
    }
    saved
}

/// Takes the service's answer as it comes; how many certificates it has.
fn transfer(client: &Client, search: &Search, out: &mut impl Write) -> Result<u64, Failure> {
    let accept = match search.format {
        Format::Csv => "text/csv",
        Format::Parquet => "application/vnd.apache.parquet",
        Format::Table | Format::Ndjson => "application/x-ndjson",
    };
    crate::cli::runtime()?.block_on(async {
        let mut connection = client.connect().await.map_err(down)?;
        let answer = connection.stream(&search.path, &[("accept", accept)]).await;
        let answer = answer.map_err(down)?;
        if !answer.status.is_success() {
            return Err(problem(answer).await);
        }
        let meter = &search.meter;
        match search.format {
            Format::Csv => {
                let lines = copy(answer, meter, out).await?;
                Ok(lines.saturating_sub(1))
            }
            Format::Ndjson => copy(answer, meter, out).await,
            Format::Parquet => parquet(answer, meter, out).await,
            Format::Table => table(answer, meter, out).await,
        }
    })
}

fn down(error: anyhow::Error) -> Failure {
    Failure::new(Failure::DEPENDENCY, error)
}

async fn problem(mut answer: Stream) -> Failure {
    let mut text = Vec::new();
    while let Ok(Some(octets)) = answer.next().await {
        text.extend_from_slice(&octets);
        if text.len() > LINE_LENGTH_MAX {
            break;
        }
    }
    let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
    refused(answer.status.as_u16(), &problem)
}

/// As it is; how many lines it has. No value that is recorded has a line break in it.
async fn copy(
    mut answer: Stream,
    meter: &ProgressBar,
    out: &mut impl Write,
) -> Result<u64, Failure> {
    let (mut lines, mut last) = (0, b'\n');
    while let Some(octets) = answer.next().await.map_err(down)? {
        lines += octets.split(|octet| *octet == b'\n').skip(1).count() as u64;
        last = octets.last().copied().unwrap_or(last);
        out.write_all(&octets)?;
        meter.set_position(lines);
    }
    if last == b'\n' {
        Ok(lines)
    } else {
        Err(down(anyhow!("the answer ends within a line")))
    }
}

/// As it is; how many rows its end says that it has. What has no end is not whole.
async fn parquet(
    mut answer: Stream,
    meter: &ProgressBar,
    out: &mut impl Write,
) -> Result<u64, Failure> {
    let mut tail = Vec::new();
    while let Some(octets) = answer.next().await.map_err(down)? {
        out.write_all(&octets)?;
        meter.inc(octets.len() as u64);
        tail.extend_from_slice(&octets);
        if tail.len() > 2 * FOOTER_LENGTH_MAX {
            tail.drain(..tail.len() - FOOTER_LENGTH_MAX);
        }
    }
    let rows = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(tail));
    let rows =
        rows.map_err(|error| down(anyhow!("the answer is no whole Parquet file: {error}")))?;
    Ok(rows.file_metadata().num_rows().unsigned_abs())
}

/// Some columns of it, of a width that is known before the last row is.
async fn table(
    mut answer: Stream,
    meter: &ProgressBar,
    out: &mut impl Write,
) -> Result<u64, Failure> {
    writeln!(out, "{}", cells(|(name, ..)| (*name).to_owned()))?;
    let (mut lines, mut line) = (0, Vec::new());
    while let Some(octets) = answer.next().await.map_err(down)? {
        for part in octets.split_inclusive(|octet| *octet == b'\n') {
            line.extend_from_slice(part);
            if line.len() > LINE_LENGTH_MAX {
                let what = format!("the service sent a line of over {LINE_LENGTH_MAX} octets");
                return Err(anyhow!(what).into());
            }
            if !part.ends_with(b"\n") {
                continue;
            }
            let item: Value = serde_json::from_slice(&line).context("the service's answer")?;
            let cell = |place: &str| item.pointer(place).and_then(Value::as_str);
            let row = cells(|(.., place)| cell(place).unwrap_or("-").to_owned());
            writeln!(out, "{row}")?;
            lines += 1;
            line.clear();
        }
        meter.set_position(lines);
    }
    if line.is_empty() {
        Ok(lines)
    } else {
        Err(down(anyhow!("the answer ends within a line")))
    }
}

fn cells(cell: impl Fn(&(&str, usize, &str)) -> String) -> String {
    let row = COLUMNS
        .iter()
        .map(|column| format!("{:1$}", cell(column), column.1));
    let row: Vec<String> = row.collect();
    row.join("  ").trim_end().to_owned()
}
