//! `audit`: the log of everything, and whether it is what it was.

mod archive;
mod bundle;
mod query;
mod verify;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use clap::Subcommand;
use hyper::Method;
use hyper::StatusCode;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert::refused;
use crate::cli::client::Answer;
use crate::cli::client::Client;
use crate::cli::client::Connect;
use crate::cli::signing_key;
use crate::config::RawConfig;
use crate::db::config::DbConfig;
use crate::pki::hex;
use crate::pki::merkle::Hash;
use crate::pki::merkle::verify_consistency;
use crate::pki::note::Checkpoint;
use crate::pki::note::Note;
use crate::pki::note::VerifierKey;

/// The log.
#[derive(Subcommand)]
pub enum AuditCommand {
    /// Search the ledger, and save all matches.
    Query(query::QueryArguments),
    /// Print the newest checkpoint, verified; with an earlier one, that the log only grew since.
    Checkpoint(CheckpointArguments),
    /// Copy the log, its tree and its checkpoint into a directory (C2SP tlog-tiles).
    Export(bundle::ExportArguments),
    /// Check a copy of the log, or the database, entry by entry; needs public keys and nobody.
    Verify(verify::VerifyArguments),
    /// Move old entries of the log out of the database into a verifiable directory, or bring them back.
    Archive(archive::ArchiveArguments),
    /// Make the key that signs checkpoints in its token, at the HSM; write and print its public half.
    LogKey,
}

/// Holds the database at `database` against the configuration's keys and a checkpoint that was kept.
pub(super) fn verify_database(
    global: &Global,
    raw: &RawConfig,
    database: &DbConfig,
    previous: &Path,
) -> Outcome {
    verify::database(global, raw, database, previous)
}

/// `audit checkpoint`
#[derive(Args)]
pub struct CheckpointArguments {
    #[command(flatten)]
    connect: Connect,
    /// Public log key, PEM.
    #[arg(long, value_name = "FILE")]
    log_key: PathBuf,
    /// A checkpoint that was kept: the newest one must begin with its tree.
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
}

/// Runs one.
pub fn run(global: &Global, command: &AuditCommand) -> Outcome {
    match command {
        AuditCommand::Query(arguments) => query::run(global, arguments),
        AuditCommand::Checkpoint(arguments) => checkpoint(global, arguments),
        AuditCommand::Export(arguments) => bundle::run(global, arguments),
        AuditCommand::Verify(arguments) => verify::run(global, arguments),
        AuditCommand::Archive(arguments) => archive::run(global, arguments),
        AuditCommand::LogKey => signing_key::run(global, "audit.log_key", signing_key::log_key),
    }
}

/// The service, asked by the auditor unless somebody else is named.
fn auditor(global: &Global, connect: &Connect) -> anyhow::Result<Client> {
    let mut connect = connect.clone();
    let beside = global.config.parent().unwrap_or(Path::new("."));
    connect
        .client_certificate
        .get_or_insert_with(|| beside.join("clients/auditor.pem"));
    Client::new(&connect, &global.config)
}

/// The service's answer as this command's failure.
fn no(answer: &Answer) -> Failure {
    let problem = serde_json::from_slice(&answer.body).unwrap_or_default();
    refused(answer.status.as_u16(), &problem)
}

/// A checkpoint that the log's key signed. The key bears whatever name the log has.
fn signed(text: &str, key: &[u8]) -> anyhow::Result<Checkpoint> {
    let note = Note::parse(text)?;
    let checkpoint = Checkpoint::parse(&note.text)?;
    let key = VerifierKey::from_pem(&checkpoint.origin, key).map_err(|fault| anyhow!(fault))?;
    key.verify(&note)?;
    Ok(checkpoint)
}

fn read_signed(path: &Path, key: &[u8]) -> anyhow::Result<Checkpoint> {
    let named = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(named)?;
    signed(&text, key).with_context(named)
}

fn checkpoint(global: &Global, arguments: &CheckpointArguments) -> Outcome {
    let path = &arguments.log_key;
    let key = std::fs::read(path).with_context(|| path.display().to_string())?;
    let previous = arguments.previous.as_deref();
    let previous = previous.map(|path| read_signed(path, &key)).transpose()?;
    let connect = Connect {
        anonymous: true,
        ..arguments.connect.clone()
    };
    let client = Client::new(&connect, &global.config)?;
    let ask = async |path: &str| -> Result<_, Failure> {
        let answer = client
            .once(Method::GET, path, &[], Vec::new().into())
            .await
            .map_err(|error| Failure::new(Failure::DEPENDENCY, error))?;
        if answer.status == StatusCode::OK {
            Ok(answer.body)
        } else {
            Err(no(&answer))
        }
    };
    crate::cli::runtime()?.block_on(async {
        let text = ask("/v1/audit/checkpoint").await?;
        let text = String::from_utf8(text.to_vec()).context("the checkpoint")?;
        let newest = signed(&text, &key).context("the checkpoint")?;
        if let Some(previous) = &previous {
            let (from, to) = (previous.size, newest.size);
            if previous.origin != newest.origin {
                let (before, now) = (&previous.origin, &newest.origin);
                return Err(anyhow!("it is of another log: {now}, not {before}").into());
            }
            if to < from {
                let what = format!("the log has {to} entries, and had {from}: it was cut");
                return Err(anyhow!(what).into());
            }
            let path = format!("/v1/audit/consistency?from={from}&to={to}");
            let proof = hashes(&ask(&path).await?)?;
            if !verify_consistency(from, to, &proof, &previous.root, &newest.root) {
                let what = format!("the log was changed within its first {from} entries");
                return Err(anyhow!(what).into());
            }
        }
        if global.json {
            return crate::cli::print_json(&json!({
                "origin": newest.origin, "size": newest.size, "root": hex(&newest.root), "note": text,
            }));
        }
        print!("{text}");
        Ok(())
    })
}

/// The hashes of a proof as REST gives it.
fn hashes(body: &[u8]) -> anyhow::Result<Vec<Hash>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let body: serde_json::Value = serde_json::from_slice(body).context("the proof")?;
    let proof = body["proof"].as_array().context("the proof")?;
    let hash = |value: &serde_json::Value| -> anyhow::Result<Hash> {
        let octets = STANDARD.decode(value.as_str().unwrap_or_default())?;
        Hash::try_from(octets).map_err(|_| anyhow!("a hash of the proof has not 32 octets"))
    };
    proof.iter().map(hash).collect()
}
