//! `batch …`: keys and certificates beforehand, through a running service; `batch verify|open`: their
//! package, on its recipient's machine and without a service.

pub mod body;
pub mod create;
pub mod download;
pub mod meter;
pub mod open;
mod package;
pub mod service;
pub mod verify;
pub mod watch;

use clap::{Args, Subcommand};
use hyper::Method;
use hyper::body::Bytes;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::client::Connect;
use service::Service;

/// Exit code of a command that was interrupted: 128 and SIGINT, as shells say it.
const INTERRUPTED: u8 = 130;

/// Batches: keys and certificates beforehand, through a running service.
#[derive(Subcommand)]
pub enum BatchCommand {
    /// Create a batch, watch it to its end, and fetch its package.
    Create(Box<create::CreateArguments>),
    /// Watch a batch to its end. Exit code 4 when devices failed or it was cancelled.
    Watch(IdArguments),
    /// List batches, newest first.
    List(ListArguments),
    /// Show one batch.
    Show(IdArguments),
    /// Fetch a batch's package; goes on where an earlier attempt ended.
    Download(download::DownloadArguments),
    /// Pause a batch: it makes no more devices until it is resumed.
    Pause(IdArguments),
    /// Resume a paused batch.
    Resume(IdArguments),
    /// Cancel a batch, for ever. What it issued stays issued.
    Cancel(IdArguments),
    /// Confirm that the package has arrived and can be read: its keys are destroyed in the service.
    Confirm(IdArguments),
    /// Check a package, offline: its signature, every file, every certificate, every key.
    Verify(verify::VerifyArguments),
    /// Take the key and the certificate of one device out of a package, offline.
    Open(open::OpenArguments),
}

/// `batch watch|show|pause|resume|cancel|confirm`
#[derive(Args)]
pub struct IdArguments {
    #[command(flatten)]
    connect: Connect,
    /// The batch's id.
    #[arg(value_parser = id)]
    id: String,
}

/// `batch list`
#[derive(Args)]
pub struct ListArguments {
    #[command(flatten)]
    connect: Connect,
    /// Batches at most.
    #[arg(long, default_value_t = 100)]
    limit: u16,
    /// `next` of the page before.
    #[arg(long)]
    cursor: Option<String>,
}

/// It becomes a part of an address.
fn id(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("an id is what `batch list` shows first".to_owned())
    }
}

/// Runs one of them, as the operator unless another certificate is named.
pub fn run(global: &Global, command: &BatchCommand) -> Outcome {
    match command {
        BatchCommand::Create(arguments) => create::run(global, arguments),
        BatchCommand::Watch(which) => watch::run(global, which),
        BatchCommand::List(arguments) => list(global, arguments),
        BatchCommand::Show(which) => {
            let batch = act(global, which, Method::GET, "")?;
            body::print(global, &batch, body::details)
        }
        BatchCommand::Download(arguments) => download::run(global, arguments),
        BatchCommand::Pause(which) => change(global, which, "/pause"),
        BatchCommand::Resume(which) => change(global, which, "/resume"),
        BatchCommand::Cancel(which) => change(global, which, "/cancellation"),
        BatchCommand::Confirm(which) => change(global, which, "/confirmation"),
        BatchCommand::Verify(arguments) => verify::run(global, arguments),
        BatchCommand::Open(arguments) => open::run(global, arguments),
    }
}

fn list(global: &Global, arguments: &ListArguments) -> Outcome {
    let mut query = vec![("limit", arguments.limit.to_string())];
    query.extend(arguments.cursor.clone().map(|cursor| ("cursor", cursor)));
    let path = format!("/v1/batches?{}", serde_urlencoded::to_string(&query)?);
    let mut service = Service::new(global, &arguments.connect)?;
    let page = crate::cli::runtime()?.block_on(service.get(&path))?;
    body::print(global, &page, body::table)?;
    if let (false, Some(next)) = (global.json, page["next"].as_str()) {
        eprintln!("there are more: --cursor {next}");
    }
    Ok(())
}

fn change(global: &Global, which: &IdArguments, what: &str) -> Outcome {
    let batch = act(global, which, Method::POST, what)?;
    body::print(global, &batch, body::table)
}

fn act(
    global: &Global,
    which: &IdArguments,
    method: Method,
    what: &str,
) -> Result<serde_json::Value, Failure> {
    let path = format!("/v1/batches/{}{what}", which.id);
    let mut service = Service::new(global, &which.connect)?;
    let call = service.call(method, &path, &[], Bytes::new().into());
    crate::cli::runtime()?.block_on(call)
}
