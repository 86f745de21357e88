//! `cert issue|show|list|confirm|supersede|scrap|revoke|history|export|verify`: what a line tool or an engineer does, through the service.

pub mod export;
pub mod life;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use hyper::body::Bytes;
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId, X509StoreContext};
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::client::Answer;
use crate::cli::client::Client;
use crate::cli::client::Connect;
use crate::pki::pem;

/// Device certificates, through a running service.
#[derive(Subcommand)]
pub enum CertCommand {
    /// Issue one certificate for a certification request.
    Issue(IssueArguments),
    /// Show one certificate.
    Show(ShowArguments),
    /// Search, newest first.
    List(ListArguments),
    /// Confirm that a device holds its certificate: the end of the line.
    Confirm(life::ConfirmArguments),
    /// Rework: issue another certificate to the device of this one, for a new key.
    Supersede(life::SupersedeArguments),
    /// Scrap a device, named by its newest certificate.
    Scrap(life::ScrapArguments),
    /// Revoke one certificate, for ever.
    Revoke(life::RevokeArguments),
    /// Show what happened to a certificate, who did it, when and why.
    History(life::Which),
    /// Write what AWS IoT's provisioning roads take: an allow-list, bulk registration, certificates without a CA.
    Export(export::ExportArguments),
    /// Verify a device certificate against its issuer, offline.
    Verify(VerifyArguments),
}

/// How a certificate is printed.
#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// The certificate, then its chain.
    Pem,
    /// The certificate alone.
    Der,
}

/// `cert issue`
#[derive(Args)]
pub struct IssueArguments {
    #[command(flatten)]
    connect: Connect,
    /// Profile's name.
    #[arg(long)]
    profile: String,
    /// Certification request, PEM or DER; `-` for standard input.
    #[arg(long)]
    csr: PathBuf,
    /// Subject attribute, `CN=lamp-000001`; may be repeated.
    #[arg(long = "subject", value_name = "NAME=VALUE")]
    subject: Vec<String>,
    /// Work order.
    #[arg(long)]
    order: Option<String>,
    /// Idempotency key.
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Output, unless `--json`.
    #[arg(long, value_enum, default_value = "pem")]
    format: Format,
}

/// `cert show`
#[derive(Args)]
pub struct ShowArguments {
    #[command(flatten)]
    connect: Connect,
    /// Serial number, 32 hexadecimal digits.
    serial_number: String,
    /// Output, unless `--json`.
    #[arg(long, value_enum, default_value = "pem")]
    format: Format,
}

/// `cert list`
#[derive(Args)]
pub struct ListArguments {
    #[command(flatten)]
    connect: Connect,
    /// Filter as in REST, `cn=lamp-000001`, `profile=lightbulb`, `issued_after=…`; may be repeated.
    #[arg(long = "filter", value_name = "NAME=VALUE")]
    filters: Vec<String>,
    /// Items at most.
    #[arg(long, default_value_t = 100)]
    limit: u16,
}

/// `cert verify`
#[derive(Args)]
pub struct VerifyArguments {
    /// Device certificate, PEM (chain may follow) or DER.
    certificate: PathBuf,
    /// Trusted CA certificates, PEM. Without it: the issuers of the configuration.
    #[arg(long)]
    ca: Option<PathBuf>,
}

/// Runs one of them.
pub fn run(global: &Global, command: &CertCommand) -> Outcome {
    match command {
        CertCommand::Issue(arguments) => issue(global, arguments),
        CertCommand::Show(arguments) => show(global, arguments),
        CertCommand::List(arguments) => list(global, arguments),
        CertCommand::Confirm(arguments) => life::confirm(global, arguments),
        CertCommand::Supersede(arguments) => life::supersede(global, arguments),
        CertCommand::Scrap(arguments) => life::scrap(global, arguments),
        CertCommand::Revoke(arguments) => life::revoke(global, arguments),
        CertCommand::History(which) => life::history(global, which),
        CertCommand::Export(arguments) => export::run(global, arguments),
        CertCommand::Verify(arguments) => verify(global, arguments),
    }
}

fn issue(global: &Global, arguments: &IssueArguments) -> Outcome {
    let mut body = json!({ "profile": arguments.profile, "csr": csr(&arguments.csr)? });
    if !arguments.subject.is_empty() {
        body["subject"] = json!(pairs(&arguments.subject)?);
    }
    if let Some(order) = &arguments.order {
        body["order"] = json!(order);
    }
    let mut headers = vec![("content-type", "application/json")];
    if let Some(key) = &arguments.idempotency_key {
        headers.push(("idempotency-key", key));
    }
    let body = Bytes::from(serde_json::to_vec(&body)?);
    let answer = ask(
        global,
        &arguments.connect,
        Method::POST,
        "/v1/certificates",
        &headers,
        body,
    )?;
    print(global, &answer, arguments.format)
}

/// A certification request, PEM or DER, as PEM.
fn csr(path: &Path) -> anyhow::Result<String> {
    let csr = read(path)?;
    if csr.starts_with(b"-----") {
        String::from_utf8(csr).context("the request is not text")
    } else {
        Ok(pem::certification_request(&csr))
    }
}

fn show(global: &Global, arguments: &ShowArguments) -> Outcome {
    if arguments.serial_number.contains(['/', '?', '#', ' ']) {
        return Err(Failure::new(
            2,
            anyhow!("a serial number is 32 hexadecimal digits"),
        ));
    }
    let path = format!("/v1/certificates/{}", arguments.serial_number);
    let answer = ask(
        global,
        &arguments.connect,
        Method::GET,
        &path,
        &[],
        Bytes::new(),
    )?;
    print(global, &answer, arguments.format)
}

fn list(global: &Global, arguments: &ListArguments) -> Outcome {
    let mut query = pairs(&arguments.filters)?;
    query.insert("limit".into(), arguments.limit.to_string());
    let path = format!("/v1/certificates?{}", serde_urlencoded::to_string(&query)?);
    let answer = ask(
        global,
        &arguments.connect,
        Method::GET,
        &path,
        &[],
        Bytes::new(),
    )?;
    let page: Value = serde_json::from_slice(&answer.body)?;
    if global.json {
        return crate::cli::print_json(&page);
    }
    let mut table = comfy_table::Table::new();
    table.set_header([
        "SERIAL NUMBER",
        "CN",
        "PROFILE",
        "STATION",
        "ISSUED AT",
        "STATUS",
        "UNCONFIRMED FOR",
    ]);
    for item in page["items"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        table.add_row([
            text(&item["serial_number"]),
            text(&item["subject"]["CN"]),
            text(&item["profile"]),
            text(&item["station"]),
            text(&item["issued_at"]),
            text(&item["status"]),
            item["unconfirmed_seconds"]
                .as_i64()
                .map_or_else(String::new, |seconds| format!("{seconds} s")),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn verify(global: &Global, arguments: &VerifyArguments) -> Outcome {
    let input = read(&arguments.certificate)?;
    let mut certificates = if input.starts_with(b"-----") {
        X509::stack_from_pem(&input)?
    } else {
        vec![X509::from_der(&input)?]
    }
    .into_iter();
    let leaf = certificates.next().ok_or_else(|| {
        anyhow!(
            "there is no certificate in {}",
            arguments.certificate.display()
        )
    })?;
    let mut untrusted = Stack::new()?;
    certificates.try_for_each(|certificate| untrusted.push(certificate))?;
    let mut store = X509StoreBuilder::new()?;
    for certificate in trusted(global, arguments)? {
        store.add_cert(certificate)?;
    }
    store.set_flags(X509VerifyFlags::X509_STRICT | X509VerifyFlags::PARTIAL_CHAIN)?;
    store.set_purpose(X509PurposeId::SSL_CLIENT)?;
    let mut context = X509StoreContext::new()?;
    let fault = context.init(&store.build(), &leaf, &untrusted, |context| {
        Ok((!context.verify_cert()?).then(|| context.error()))
    })?;
    if let Some(fault) = fault {
        return Err(Failure::new(
            Failure::REFUSED,
            anyhow!("{}: {fault}", arguments.certificate.display()),
        ));
    }
    eprintln!("{}: verified", arguments.certificate.display());
    Ok(())
}

fn trusted(global: &Global, arguments: &VerifyArguments) -> anyhow::Result<Vec<X509>> {
    let files = match &arguments.ca {
        Some(file) => vec![file.clone()],
        None => crate::config::RawConfig::read(&global.config)?
            .issuer
            .into_iter()
            .map(|issuer| issuer.certificate)
            .collect(),
    };
    let mut all = Vec::new();
    for file in files {
        all.extend(
            X509::stack_from_pem(&read(&file)?).with_context(|| file.display().to_string())?,
        );
    }
    Ok(all)
}

/// Asks the service; a problem is a failure with the exit code that fits it.
pub(super) fn ask(
    global: &Global,
    connect: &Connect,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer, Failure> {
    let client = Client::new(connect, &global.config)?;
    let answer = crate::cli::runtime()?
        .block_on(client.once(method, path, headers, body))
        .map_err(|e| Failure::new(Failure::DEPENDENCY, e))?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if global.json {
        crate::cli::print_json(&problem)?;
    }
    Err(refused(answer.status.as_u16(), &problem))
}

/// The service's problem as this command's failure.
pub(super) fn refused(status: u16, problem: &Value) -> Failure {
    let code = match status {
        404 => Failure::NOT_FOUND,
        503 => Failure::DEPENDENCY,
        500.. => 1,
        _ => Failure::REFUSED,
    };
    Failure::new(code, anyhow!("{}", describe(problem, status)))
}

fn describe(problem: &Value, status: u16) -> String {
    let slug = problem["type"]
        .as_str()
        .and_then(|kind| kind.rsplit('/').next())
        .unwrap_or("no problem document");
    let mut text = format!(
        "{status} {slug}: {}",
        problem["detail"].as_str().unwrap_or_default()
    );
    for violation in problem["violations"].as_array().into_iter().flatten() {
        let part = |name: &str| violation[name].as_str().unwrap_or_default().to_owned();
        // Writing into a string does not fail.
        let _ = write!(
            text,
            "\n  {} {}: {}",
            part("rule"),
            part("attribute"),
            part("detail")
        );
    }
    text
}

pub(super) fn print(global: &Global, answer: &Answer, format: Format) -> Outcome {
    let body: Value = serde_json::from_slice(&answer.body)?;
    eprintln!(
        "{} {} thing `{}` {}",
        body["serial_number"].as_str().unwrap_or_default(),
        body["status"].as_str().unwrap_or_default(),
        body["thing_name"].as_str().unwrap_or("-"),
        if answer.headers.contains_key("idempotency-replayed") {
            "(issued before)"
        } else {
            ""
        },
    );
    if global.json {
        return crate::cli::print_json(&body);
    }
    let certificate = body["certificate"].as_str().unwrap_or_default();
    let mut out = std::io::stdout().lock();
    match format {
        Format::Pem => {
            out.write_all(certificate.as_bytes())?;
            for above in body["ca_chain"].as_array().into_iter().flatten() {
                out.write_all(above.as_str().unwrap_or_default().as_bytes())?;
            }
        }
        Format::Der => out.write_all(&X509::from_pem(certificate.as_bytes())?.to_der()?)?,
    }
    Ok(())
}

/// Each `NAME=VALUE`; anything else is a usage error.
pub(super) fn pairs(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let split = |pair: &String| {
        pair.split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    given
        .iter()
        .map(|pair| {
            split(pair).ok_or_else(|| Failure::new(2, anyhow!("`{pair}` is not NAME=VALUE")))
        })
        .collect()
}

/// A file, or standard input for `-`.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut input = Vec::new();
        std::io::stdin().read_to_end(&mut input)?;
        return Ok(input);
    }
    std::fs::read(path).with_context(|| path.display().to_string())
}
