//! The first certificate, with the tools a station would use: `openssl` and `curl`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::app::SystemClock;
use crate::ca::Clock;
use crate::cli::dev::world::World;

/// Makes a device key and a request, has it certified, verifies it, and tells what happened.
pub fn first_certificate(world: &World) -> anyhow::Result<()> {
    let device = format!(
        "lamp-{}",
        DateTime::<Utc>::format(&SystemClock.now(), "%Y%m%d-%H%M%S-%3f")
    );
    let dir = world.dir.join("first");
    std::fs::create_dir_all(&dir)?;
    let file = |name: &str| dir.join(name).display().to_string();
    let (key, csr, request, certificate) = (
        file("device.key"),
        file("device.csr"),
        file("request.json"),
        file("device.pem"),
    );

    make_request(&device, &key, &csr)?;
    let body = json!({
        "profile": "lightbulb",
        "csr": std::fs::read_to_string(&csr)?,
        "subject": { "CN": device, "serialNumber": device.replace('-', ""), "C": "DE" },
    });
    std::fs::write(&request, serde_json::to_vec_pretty(&body)?)?;

    let url = format!("https://{}", world.api);
    let path = |name: &str| world.dir.join(name).display().to_string();
    let (ca, client, client_key) = (
        path("tls/ca.pem"),
        path("clients/station-01.pem"),
        path("clients/station-01.key"),
    );
    let post = [
        "-sS",
        "--fail-with-body",
        "--cacert",
        &ca,
        "--cert",
        &client,
        "--key",
        &client_key,
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        &format!("@{request}"),
        &format!("{url}/v1/certificates"),
    ];
    let answer: Value =
        serde_json::from_str(&run("curl", &post)?).context("the service's answer")?;
    let pem = answer["certificate"]
        .as_str()
        .context("the answer holds no certificate")?;
    std::fs::write(&certificate, pem)?;

    let issuer = path("issuers/line-ec.pem");
    run(
        "openssl",
        &[
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            &issuer,
            &certificate,
        ],
    )?;

    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let tls = format!(
        "--cacert {} --cert {} --key {}",
        quoted(&ca),
        quoted(&client),
        quoted(&client_key)
    );
    println!(
        "\
first certificate
  device key and request   {key}, {csr} (openssl req)
  asked as station-01      POST {url}/v1/certificates (curl, mTLS)
  serial number            {serial}
  certificate              {certificate}
  verified                 openssl verify -x509_strict -purpose sslclient -CAfile {issuer}
  AWS IoT would make       thing `{thing}`, type `lightBulb-versionA`, groups `v1-lightbulbs` and `DE`
  certificateId            {fingerprint}

try next (source {env} for the certfactory commands)
  curl {tls} {url}/v1/certificates/{serial}
  curl {tls} '{url}/v1/certificates?device={device}'
  curl {tls} -H 'Content-Type: application/json' --data-binary {body} {url}/v1/certificates",
        serial = text("serial_number"),
        thing = text("thing_name"),
        fingerprint = text("fingerprint_sha256"),
        body = quoted(&format!("@{request}")),
        env = quoted(&path("env")),
    );
    Ok(())
}

/// A device's key and its certification request, in files.
fn make_request(device: &str, key: &str, csr: &str) -> anyhow::Result<String> {
    run(
        "openssl",
        &[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &format!("/CN={device}"),
            "-keyout",
            key,
            "-out",
            csr,
        ],
    )
}

/// As a shell reads it in one piece.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}; is it installed?"))?;
    if !output.status.success() {
        let told = [output.stderr, output.stdout].concat();
        bail!(
            "{program} {}: {}",
            Path::new(arguments.first().unwrap_or(&"")).display(),
            String::from_utf8_lossy(&told)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
