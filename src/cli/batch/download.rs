//! `batch download`: the package, whole or not at all.

mod part;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use hyper::StatusCode;
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::batch::INTERRUPTED;
use crate::cli::batch::body::Batch;
use crate::cli::batch::body::Package;
use crate::cli::batch::id;
use crate::cli::batch::meter::Meter;
use crate::cli::batch::service::Service;
use crate::cli::batch::service::away;
use crate::cli::batch::service::passes;
use crate::cli::batch::service::patiently;
use crate::cli::client::Connection;
use crate::cli::client::Stream;
use part::Part;

/// Attempts in a row that bring nothing new.
const FRUITLESS_MAX: u32 = 10;
/// Wait between two attempts.
const WAIT: Duration = Duration::from_secs(2);

/// `batch download`
#[derive(Args)]
pub struct DownloadArguments {
    #[command(flatten)]
    connect: crate::cli::client::Connect,
    /// The batch's id.
    #[arg(value_parser = id)]
    id: String,
    /// File to write; what has arrived of it waits in FILE.part. Without it: `batch-<id>.tar`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A package that is safe on this disk.
#[derive(Serialize)]
pub(super) struct Saved {
    pub(super) file: PathBuf,
    pub(super) length: u64,
    pub(super) sha256: String,
}

pub(super) fn run(global: &Global, arguments: &DownloadArguments) -> Outcome {
    let id = &arguments.id;
    let mut service = Service::new(global, &arguments.connect)?;
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| format!("batch-{id}.tar").into());
    let saved = crate::cli::runtime()?.block_on(async {
        let path = format!("/v1/batches/{id}");
        let batch = patiently(async || service.get(&path).await).await?;
        save(&mut service, &Batch::read(&batch)?, &out).await
    })?;
    if global.json {
        return crate::cli::print_json(&saved);
    }
    println!("{}", saved.file.display());
    Ok(())
}

/// Fetches a batch's package to a file, which gets its name only when length and SHA-256 are right
/// and it is on the disk. SIGINT leaves what has arrived, for another time.
pub(super) async fn save(
    service: &mut Service,
    batch: &Batch,
    file: &Path,
) -> Result<Saved, Failure> {
    let Some(package) = &batch.package else {
        let none = anyhow!("batch {} has no package yet; see `batch watch`", batch.id);
        return Err(Failure::new(Failure::REFUSED, none));
    };
    let mut part_name = OsString::from(file);
    part_name.push(".part");
    let part_name = PathBuf::from(part_name);
    let mut part = Part::open(&part_name)?;
    let path = format!("/v1/batches/{}/package", batch.id);
    tokio::select! {
        whole = fetch(service, &path, &mut part, package) => whole?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(
            INTERRUPTED,
            anyhow!("to go on: certfactory batch download {} --out {}", batch.id, file.display()),
        )),
    }
    std::fs::rename(&part_name, file).with_context(|| file.display().to_string())?;
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)?.sync_all()?;
    Ok(Saved {
        file: file.to_owned(),
        length: package.length,
        sha256: package.sha256.clone(),
    })
}

/// Fills the part until it is the package. What an earlier run left may be of another one: then once
/// again, from the start.
async fn fetch(
    service: &mut Service,
    path: &str,
    part: &mut Part,
    package: &Package,
) -> Result<(), Failure> {
    if part.length() > package.length {
        part.restart()?;
    }
    for _ in 0..2 {
        fill(service, path, part, package.length).await?;
        part.sync()?;
        if part.sha256()?.eq_ignore_ascii_case(&package.sha256) {
            return Ok(());
        }
        part.restart()?;
    }
    Err(anyhow!(
        "what arrives is not the package: its SHA-256 should be {}",
        package.sha256
    )
    .into())
}

async fn fill(
    service: &mut Service,
    path: &str,
    part: &mut Part,
    length: u64,
) -> Result<(), Failure> {
    let mut meter = Meter::octets()?;
    meter.start_at(part.length());
    let (mut furthest, mut fruitless) = (part.length(), 0);
    while part.length() < length {
        let failure = match attempt(service, path, part, length, &mut meter).await {
            Ok(()) => break,
            Err(failure) => failure,
        };
        if part.length() > furthest {
            (furthest, fruitless) = (part.length(), 0);
        }
        fruitless += 1;
        if !passes(&failure) || fruitless > FRUITLESS_MAX {
            return Err(failure);
        }
        meter.say(&format!("{:#}; trying again", failure.error));
        tokio::time::sleep(WAIT).await;
    }
    Ok(())
}

/// One request, to the package's end or until something breaks.
async fn attempt(
    service: &mut Service,
    path: &str,
    part: &mut Part,
    length: u64,
    meter: &mut Meter,
) -> Result<(), Failure> {
    let (_connection, mut answer) = ask(service, path, part).await?;
    while let Some(octets) = answer.next().await.map_err(away)? {
        if part.length() + octets.len() as u64 > length {
            return Err(anyhow!("the package is longer than {length} octets").into());
        }
        part.append(&octets)?;
        let so_far = part.length();
        meter.show(so_far, length, String::new, || {
            format!("{so_far} of {length} octets")
        });
    }
    if part.length() < length {
        return Err(anyhow!("the package has only {} octets", part.length()).into());
    }
    Ok(())
}

/// Asks for what the part lacks (RFC 9110 clause 14). Where the service has another package than
/// before, or does not know ranges, the part starts again.
async fn ask(
    service: &mut Service,
    path: &str,
    part: &mut Part,
) -> Result<(Connection, Stream), Failure> {
    const EXPECTED: [StatusCode; 3] = [
        StatusCode::OK,
        StatusCode::PARTIAL_CONTENT,
        StatusCode::RANGE_NOT_SATISFIABLE,
    ];
    let range = format!("bytes={}-", part.length());
    let mut headers = Vec::new();
    if part.length() > 0 {
        headers.push(("range", range.as_str()));
        headers.extend(part.tag().map(|tag| ("if-range", tag)));
    }
    let (connection, answer) = service.stream(path, &headers, &EXPECTED).await?;
    match answer.status {
        StatusCode::OK => part.restart()?,
        StatusCode::PARTIAL_CONTENT if part.continues(&answer.headers) => {}
        _ => {
            part.restart()?;
            return Err(away(anyhow!("what arrived before is of another package")));
        }
    }
    part.remember(&answer.headers);
    Ok((connection, answer))
}
