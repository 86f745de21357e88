//! `issuer crl`: an issuer's newest CRL.

use std::io::Write as _;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::json;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert;
use crate::cli::client::Connect;
use crate::cli::issuer::plain;
use crate::pki::pem;

/// `issuer crl`
#[derive(Args)]
pub struct CrlArguments {
    #[command(flatten)]
    connect: Connect,
    /// Issuer's name.
    name: String,
    /// One of the issuer's shards; without it: the complete CRL.
    #[arg(long)]
    shard: Option<u16>,
    /// How it is written on standard output.
    #[arg(long, value_enum, default_value_t = Format::Pem)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Pem,
    Der,
}

/// Asks the service for it.
pub(super) fn run(global: &Global, arguments: &CrlArguments) -> Outcome {
    let name = &arguments.name;
    plain(name)?;
    if global.json && arguments.format == Format::Der {
        return Err(Failure::new(2, anyhow!("--json holds PEM, not DER")));
    }
    let shard = arguments.shard.map(|shard| format!("?shard={shard}"));
    let path = format!(
        "/v1/issuers/{name}/crl{}",
        shard.as_deref().unwrap_or_default()
    );
    let answer = cert::ask(
        global,
        &arguments.connect,
        Method::GET,
        &path,
        &[],
        Bytes::new(),
    )?;
    match arguments.format {
        Format::Der => std::io::stdout().write_all(&answer.body)?,
        Format::Pem if global.json => {
            return crate::cli::print_json(
                &json!({ "issuer": name, "shard": arguments.shard, "crl": pem::crl(&answer.body) }),
            );
        }
        Format::Pem => print!("{}", pem::crl(&answer.body)),
    }
    Ok(())
}
