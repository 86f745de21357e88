//! `cert confirm|supersede|scrap|revoke|history`: what happens to a certificate after it was issued.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use openssl::x509::X509;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert;
use crate::cli::cert::Format;
use crate::cli::client::Connect;
use crate::pki::pem;
use crate::pki::serial::SerialNumber;

/// The certificate that a command is about.
#[derive(Args)]
pub struct Which {
    #[command(flatten)]
    connect: Connect,
    /// Serial number, 32 hexadecimal digits.
    #[arg(value_parser = serial_number)]
    serial_number: SerialNumber,
}

/// `cert confirm`
#[derive(Args)]
pub struct ConfirmArguments {
    #[command(flatten)]
    which: Which,
    /// What was read back from the device: PEM of its certificate, a chain may follow, or DER; `-`
    /// for standard input.
    #[arg(long)]
    readback: PathBuf,
}

/// `cert supersede`
#[derive(Args)]
pub struct SupersedeArguments {
    #[command(flatten)]
    which: Which,
    /// Certification request with a new key, PEM or DER; `-` for standard input.
    #[arg(long)]
    csr: PathBuf,
    /// Why, in words.
    #[arg(long)]
    reason: String,
    /// Idempotency key.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Output, unless `--json`.
    #[arg(long, value_enum, default_value = "pem")]
    format: Format,
}

/// `cert scrap`
#[derive(Args)]
pub struct ScrapArguments {
    #[command(flatten)]
    which: Which,
    /// Why, in words.
    #[arg(long)]
    reason: String,
}

/// `cert revoke`
#[derive(Args)]
pub struct RevokeArguments {
    #[command(flatten)]
    which: Which,
    /// unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or
    /// privilegeWithdrawn (RFC 5280 5.3.1).
    #[arg(long)]
    reason: String,
    /// Why, in words.
    #[arg(long)]
    comment: Option<String>,
}

fn serial_number(text: &str) -> Result<SerialNumber, String> {
    SerialNumber::from_hex(text).ok_or_else(|| "must be 32 hexadecimal digits".to_owned())
}

/// Runs `cert confirm`.
pub fn confirm(global: &Global, arguments: &ConfirmArguments) -> Outcome {
    let readback = cert::read(&arguments.readback)?;
    let text = if readback.starts_with(b"-----") {
        String::from_utf8(readback).context("what was read back is not text")?
    } else {
        let der = X509::from_der(&readback)
            .and_then(|certificate| certificate.to_der())
            .map_err(|_| Failure::new(2, anyhow!("what was read back is no certificate")))?;
        pem::certificate(&der)
    };
    let body = json!({ "certificate": text });
    print(
        global,
        &arguments.which.post(global, "confirmation", &body)?,
    )
}

/// Runs `cert supersede`.
pub fn supersede(global: &Global, arguments: &SupersedeArguments) -> Outcome {
    let which = &arguments.which;
    let body = json!({ "csr": cert::csr(&arguments.csr)?, "reason": arguments.reason });
    let mut headers = vec![("content-type", "application/json")];
    if let Some(key) = &arguments.idempotency_key {
        headers.push(("idempotency-key", key));
    }
    let body = Bytes::from(serde_json::to_vec(&body)?);
    let path = which.path("supersession");
    let answer = cert::ask(global, &which.connect, Method::POST, &path, &headers, body)?;
    cert::print(global, &answer, arguments.format)
}

/// Runs `cert scrap`.
pub fn scrap(global: &Global, arguments: &ScrapArguments) -> Outcome {
    let body = json!({ "reason": arguments.reason });
    print(global, &arguments.which.post(global, "scrap", &body)?)
}

/// Runs `cert revoke`, as the operator unless another certificate is named.
pub fn revoke(global: &Global, arguments: &RevokeArguments) -> Outcome {
    let beside = global.config.parent().unwrap_or(Path::new("."));
    let mut connect = arguments.which.connect.clone();
    connect
        .client_certificate
        .get_or_insert_with(|| beside.join("clients/operator.pem"));
    let which = Which {
        connect,
        serial_number: arguments.which.serial_number,
    };
    let mut body = json!({ "reason": arguments.reason });
    if let Some(comment) = &arguments.comment {
        body["comment"] = json!(comment);
    }
    print(global, &which.post(global, "revocation", &body)?)
}

/// Runs `cert history`.
pub fn history(global: &Global, which: &Which) -> Outcome {
    let path = which.path("history");
    let answer = cert::ask(
        global,
        &which.connect,
        Method::GET,
        &path,
        &[],
        Bytes::new(),
    )?;
    print(global, &serde_json::from_slice(&answer.body)?)
}

impl Which {
    fn path(&self, what: &str) -> String {
        format!("/v1/certificates/{}/{what}", self.serial_number.to_hex())
    }

    fn post(&self, global: &Global, what: &str, body: &Value) -> Result<Value, Failure> {
        let answer = cert::ask(
            global,
            &self.connect,
            Method::POST,
            &self.path(what),
            &[("content-type", "application/json")],
            Bytes::from(serde_json::to_vec(body)?),
        )?;
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

fn print(global: &Global, life: &Value) -> Outcome {
    if global.json {
        return crate::cli::print_json(life);
    }
    let mut table = comfy_table::Table::new();
    table.set_header(["EVENT", "AT", "BY", "REASON", "COMMENT"]);
    for event in life["events"].as_array().into_iter().flatten() {
        table.add_row(
            ["event", "at", "by", "reason", "comment"]
                .map(|field| event[field].as_str().unwrap_or("-").to_owned()),
        );
    }
    println!("{table}");
    Ok(())
}
