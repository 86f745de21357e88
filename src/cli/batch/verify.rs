//! `batch verify`: whether a package is what the site sealed, and right in itself. Offline: it asks
//! nobody but the report key.
//!
//! The tar is read once from front to end beside its manifest, which has been hashed before. Memory
//! holds a chunk and, for each device, three short hashes.

mod expected;
mod faults;
mod keys;
mod seal;
mod seen;
#[cfg(test)]
mod tests;
mod walk;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use clap::Args;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::batch::package;
use crate::cli::batch::package::PackageFile;
use crate::pki::jws::JwsKey;
use crate::pki::pem;
use crate::pki::report::ReportKey;
use faults::Faults;

/// `batch verify`
#[derive(Args)]
pub struct VerifyArguments {
    /// The package, a tar file.
    package: PathBuf,
    /// Public report key of the site, PEM.
    #[arg(long, value_name = "FILE")]
    report_key: PathBuf,
    /// Certificate of an issuer that is trusted, PEM; may be repeated. Without it: those in the package, which the site has sealed.
    #[arg(long = "issuer", value_name = "FILE")]
    issuers: Vec<PathBuf>,
    /// Private key of the recipient, PEM: opens every envelope and checks every key.
    #[arg(long, value_name = "FILE")]
    recipient_key: Option<PathBuf>,
}

/// What is trusted, and what can be opened.
struct Trust {
    report_key: JwsKey,
    /// DER; empty: whatever the site sealed.
    issuers: Vec<Vec<u8>>,
    recipient_key: Option<PKey<Private>>,
}

/// What was looked at.
#[derive(Debug, Serialize)]
struct Summary {
    batch: String,
    site: String,
    profile: String,
    order: Option<String>,
    created_at: DateTime<Utc>,
    /// Rows of the batch.
    count: u32,
    /// With a certificate.
    devices: u32,
    /// Without one.
    failures: u32,
    /// Whose signature was verified.
    certificates: u32,
    /// Members whose hash is that of the manifest.
    files: u64,
    /// Private keys that fit their certificate; null: no envelope was opened.
    keys: Option<u32>,
}

/// Runs it. Each fault is a line on standard error; the exit code is 1 when there is any.
pub fn run(global: &Global, arguments: &VerifyArguments) -> Outcome {
    let trust = Trust::read(arguments)?;
    let package = PackageFile::open(&arguments.package)?;
    let mut standard_error = std::io::stderr();
    let mut faults = Faults::new(&mut standard_error);
    let summary = check(&package, &trust, &mut faults)?;
    let count = faults.finish();
    if let Some(summary) = summary {
        print(global, &summary, count)?;
    } else if global.json {
        crate::cli::print_json(&serde_json::json!({ "faults": count }))?;
    }
    if count > 0 {
        return Err(anyhow!("{count} faults: this package is not to be used").into());
    }
    Ok(())
}

/// Checks everything; `None`: it is not what the site sealed, so nothing in it says anything.
fn check(
    package: &PackageFile,
    trust: &Trust,
    faults: &mut Faults<'_>,
) -> anyhow::Result<Option<Summary>> {
    let Some(sealed) = seal::check(package, trust, faults)? else {
        return Ok(None);
    };
    walk::check(package, &sealed, trust, faults).map(Some)
}

impl Trust {
    fn read(arguments: &VerifyArguments) -> Result<Self, Failure> {
        let path = &arguments.report_key;
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        let kid = ReportKey::from_pem(&text)
            .map_err(|fault| anyhow!(fault))
            .with_context(named)?
            .kid;
        let report_key = JwsKey::from_pem(&kid, text.as_bytes())
            .map_err(|fault| anyhow!(fault))
            .with_context(named)?;
        let mut issuers = Vec::new();
        for path in &arguments.issuers {
            let named = || path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(named)?;
            let blocks = pem::blocks(&text).with_context(named)?;
            // The one that signs stands first; those above it are no issuers of devices.
            let first = blocks
                .into_iter()
                .next()
                .filter(|block| block.label == "CERTIFICATE")
                .ok_or_else(|| anyhow!("no certificate in PEM"))
                .with_context(named)?;
            issuers.push(first.der);
        }
        let recipient_key = arguments
            .recipient_key
            .as_deref()
            .map(package::recipient_key)
            .transpose()?;
        Ok(Self {
            report_key,
            issuers,
            recipient_key,
        })
    }
}

fn print(global: &Global, summary: &Summary, faults: u64) -> Outcome {
    if global.json {
        let mut value = serde_json::to_value(summary)?;
        value["faults"] = faults.into();
        return crate::cli::print_json(&value);
    }
    let Summary {
        batch,
        site,
        profile,
        ..
    } = summary;
    println!("batch         {batch}");
    println!("site          {site}");
    println!("profile       {profile}");
    println!("order         {}", summary.order.as_deref().unwrap_or("-"));
    println!("created at    {}", summary.created_at);
    println!("rows          {}", summary.count);
    println!("devices       {}", summary.devices);
    println!("failures      {}", summary.failures);
    println!("certificates  {} verified", summary.certificates);
    println!("files         {} as in the manifest", summary.files);
    match summary.keys {
        Some(keys) => println!("keys          {keys} fit their certificates"),
        None => println!("keys          not opened (--recipient-key)"),
    }
    println!("faults        {faults}");
    Ok(())
}
