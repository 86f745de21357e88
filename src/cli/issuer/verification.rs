//! `issuer verification-certificate`: what AWS IoT wants to see before it registers a CA.

use std::path::Path;

use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert;
use crate::cli::client::Connect;
use crate::cli::issuer::plain;
use crate::pki::verification::RegistrationCode;

/// `issuer verification-certificate`
///
/// The PEM on standard output is the file that `aws iot register-ca-certificate` takes as
/// `--verification-certificate`. It is valid for a day at most; run again for another one.
#[derive(Args)]
pub struct VerificationArguments {
    #[command(flatten)]
    connect: Connect,
    /// Issuer's name.
    name: String,
    /// What `aws iot get-registration-code` prints: 64 hexadecimal digits. It is no secret.
    #[arg(long, value_name = "CODE", value_parser = code)]
    registration_code: RegistrationCode,
}

fn code(text: &str) -> Result<RegistrationCode, String> {
    RegistrationCode::parse(text)
        .ok_or_else(|| "a registration code is 64 hexadecimal digits".to_owned())
}

/// Asks the service for one.
pub(super) fn run(global: &Global, arguments: &VerificationArguments) -> Outcome {
    let name = &arguments.name;
    plain(name)?;
    let mut connect = arguments.connect.clone();
    let beside = global.config.parent().unwrap_or(Path::new("."));
    connect
        .client_certificate
        .get_or_insert_with(|| beside.join("clients/administrator.pem"));
    let body = json!({ "registration_code": arguments.registration_code.as_str() });
    let answer = cert::ask(
        global,
        &connect,
        Method::POST,
        &format!("/v1/issuers/{name}/verification-certificates"),
        &[("content-type", "application/json")],
        Bytes::from(serde_json::to_vec(&body)?),
    )?;
    let body: Value = serde_json::from_slice(&answer.body)?;
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    eprintln!(
        "{} issuer `{}` valid until {}",
        text("serial_number"),
        text("issuer"),
        text("not_after")
    );
    if global.json {
        return crate::cli::print_json(&body);
    }
    print!("{}", text("certificate"));
    Ok(())
}
