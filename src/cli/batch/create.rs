//! `batch create`: from a pattern or a list to a package, in one command that may be repeated.

mod list;
pub mod subject;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use hyper::Method;
use hyper::body::Bytes;
use openssl::x509::X509;
use serde_json::{Value, json};

use crate::ca::device_key::EnvelopeForm;
use crate::ca::device_key::KeyType;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::batch::body;
use crate::cli::batch::body::Batch;
use crate::cli::batch::body::State;
use crate::cli::batch::download;
use crate::cli::batch::service::Service;
use crate::cli::batch::service::patiently;
use crate::cli::batch::watch;
use crate::cli::cert;
use crate::cli::client::Connect;
use list::List;
use subject::Defaults;
use subject::subject;

/// `batch create`
#[derive(Args)]
pub struct CreateArguments {
    #[command(flatten)]
    connect: Connect,
    /// Profile's name.
    #[arg(long)]
    profile: String,
    #[command(flatten)]
    devices: DevicesArguments,
    #[command(flatten)]
    keys: KeysArguments,
    /// Work order that the devices are booked on.
    #[arg(long)]
    order: Option<String>,
    /// Form of the certificates in the package, `pem` or `der`; may be repeated. Without it: pem.
    #[arg(long = "form", value_name = "FORM")]
    forms: Vec<String>,
    /// Column of the package's table, in this order; may be repeated. Without it: as the service has it.
    #[arg(long = "column", value_name = "NAME")]
    columns: Vec<String>,
    /// With the same key the same batch: repeat an interrupted command with it. Without it: a new one.
    #[arg(long, value_parser = idempotency_key)]
    idempotency_key: Option<String>,
    /// Return as soon as the batch exists; see `batch watch`.
    #[arg(long, conflicts_with = "download")]
    detach: bool,
    /// File for the package, when it is done.
    #[arg(long, value_name = "FILE")]
    download: Option<PathBuf>,
}

/// Which devices.
#[derive(Args)]
struct DevicesArguments {
    /// Number of devices, whose subjects are made from a pattern.
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..),
        required_unless_present = "list",
        conflicts_with = "list",
        requires = "recipient"
    )]
    count: Option<u32>,
    /// Number of the first of them, for `{seq}`.
    #[arg(long, default_value_t = 1, requires = "count")]
    start: u64,
    /// Attribute of their subjects, `CN=lamp-{seq:08}`, where `{seq:08}` is a device's number in eight
    /// digits; may be repeated. Without it, of what the profile requires: CN=PROFILE-{seq:08},
    /// serialNumber=SN{seq:08}, and C as `--country` says.
    #[arg(
        long = "subject",
        value_name = "NAME=TEMPLATE",
        conflicts_with = "list"
    )]
    subject: Vec<String>,
    /// Country of their subjects, where the profile requires one.
    #[arg(
        long,
        value_name = "XX",
        env = "CERTFACTORY_COUNTRY",
        default_value = "DE"
    )]
    country: String,
    /// The devices, a row each: `.csv` or `.ndjson`, sent as it is read.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
}

/// Which keys. Without a recipient the list brings the devices' own.
#[derive(Args)]
struct KeysArguments {
    /// Certificate that the private keys are encrypted to, PEM or DER.
    #[arg(long, value_name = "FILE")]
    recipient: Option<PathBuf>,
    /// Kind of key.
    #[arg(long, value_enum, default_value = "p256", requires = "recipient")]
    key_type: KeyType,
    /// What is encrypted together: a chunk of devices, or every device by itself.
    #[arg(long, value_enum, default_value = "chunk", requires = "recipient")]
    envelope: EnvelopeForm,
}

impl ValueEnum for KeyType {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

impl ValueEnum for EnvelopeForm {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

/// It becomes a header.
fn idempotency_key(text: &str) -> Result<String, String> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("1 to 128 printable ASCII characters without space".to_owned())
    }
}

/// Runs it. What is wrong with its files is found before anything is created.
pub(super) fn run(global: &Global, arguments: &CreateArguments) -> Outcome {
    let list = match &arguments.devices.list {
        Some(file) => Some(List::open(file)?),
        None => None,
    };
    let key = match &arguments.idempotency_key {
        Some(key) => key.clone(),
        None => new_key()?,
    };
    let body = body(arguments)?;
    let mut service = Service::new(global, &arguments.connect)?;
    crate::cli::runtime()?.block_on(create(global, arguments, &mut service, body, list, &key))
}

async fn create(
    global: &Global,
    arguments: &CreateArguments,
    service: &mut Service,
    mut body: Value,
    list: Option<List>,
    key: &str,
) -> Outcome {
    if let Some(count) = arguments.devices.count {
        let defaults = Defaults {
            common_name: format!("{}-", arguments.profile),
            serial_number: "SN".to_owned(),
            country: arguments.devices.country.clone(),
        };
        let given = cert::pairs(&arguments.devices.subject)?;
        let profiles = patiently(async || service.get("/v1/profiles").await).await?;
        let subject = subject(&profiles, &arguments.profile, &defaults, given)?;
        let start = arguments.devices.start;
        body["devices"] = json!({ "count": count, "start": start, "subject": subject });
    }
    let mut answer = post(service, &body, key)
        .await
        .inspect_err(|_| eprintln!("to repeat it: --idempotency-key {key}"))?;
    let batch = Batch::read(&answer)?;
    eprintln!("batch {}", batch.id);
    if let Some(list) = list.filter(|_| batch.state == State::AwaitingDevices) {
        let sent = list.send(service, &batch.id).await;
        answer = sent.inspect_err(|_| {
            eprintln!(
                "batch {} waits for its device list: repeat with --idempotency-key {key}, or `batch cancel {}`",
                batch.id, batch.id
            );
        })?;
    }
    if !arguments.detach {
        answer = watch::to_end(service, &batch.id, watch::INTERVAL).await?;
    }
    body::print(global, &answer, body::table)?;
    let batch = Batch::read(&answer)?;
    if let (State::Done, Some(file)) = (batch.state, &arguments.download) {
        let saved = download::save(service, &batch, file).await?;
        eprintln!("{}", saved.file.display());
    }
    batch.verdict()
}

/// Creates a batch, or finds the one of this key. Repeated while the service is away.
pub(in crate::cli) async fn post(
    service: &mut Service,
    body: &Value,
    key: &str,
) -> Result<Value, Failure> {
    let octets = Bytes::from(serde_json::to_vec(body)?);
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    patiently(async || {
        let body = octets.clone().into();
        service
            .call(Method::POST, "/v1/batches", &headers, body)
            .await
    })
    .await
}

/// A new idempotency key.
pub(in crate::cli) fn new_key() -> anyhow::Result<String> {
    let mut random = [0; 16];
    openssl::rand::rand_bytes(&mut random)?;
    let id = uuid::Builder::from_random_bytes(random).into_uuid();
    Ok(id.to_string())
}

/// All but the devices.
fn body(arguments: &CreateArguments) -> anyhow::Result<Value> {
    let mut body = json!({ "profile": arguments.profile });
    if let Some(order) = &arguments.order {
        body["order"] = json!(order);
    }
    for (field, values) in [("forms", &arguments.forms), ("columns", &arguments.columns)] {
        if !values.is_empty() {
            body[field] = json!(values);
        }
    }
    let KeysArguments {
        recipient,
        key_type,
        envelope,
    } = &arguments.keys;
    if let Some(file) = recipient {
        let octets = cert::read(file)?;
        let recipient = recipient_pem(&octets).with_context(|| file.display().to_string())?;
        body["keys"] = json!({
            "type": key_type.as_str(),
            "recipient": recipient,
            "envelope": envelope.as_str(),
        });
    }
    Ok(body)
}

/// The certificate alone: the file may hold its private key too, which nobody else is to see.
fn recipient_pem(octets: &[u8]) -> anyhow::Result<String> {
    let certificate = X509::from_pem(octets)
        .or_else(|_| X509::from_der(octets))
        .map_err(|_| anyhow!("there is no certificate in it"))?;
    Ok(String::from_utf8(certificate.to_pem()?)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::CreateArguments;
    use super::recipient_pem;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: CreateArguments,
    }

    fn parse(line: &str) -> Result<CreateArguments, ErrorKind> {
        let words = ["create", "--profile", "lightbulb"];
        Line::try_parse_from(words.into_iter().chain(line.split_whitespace()))
            .map(|line| line.create)
            .map_err(|e| e.kind())
    }

    #[test]
    fn a_pattern_needs_a_recipient_and_a_list_does_not() {
        for line in [
            "--count 1 --recipient r.pem",
            "--count 9 --start 5 --recipient r.pem --subject CN=a-{seq:08} --country FR --detach",
            "--list d.csv",
            "--list d.csv --recipient r.pem --key-type rsa3072 --envelope device",
            "--list d.csv --form pem --form der --column row --download d.tar",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for (line, kind) in [
            ("", ErrorKind::MissingRequiredArgument),
            ("--count 1", ErrorKind::MissingRequiredArgument),
            ("--count 0 --recipient r.pem", ErrorKind::ValueValidation),
            (
                "--count 1 --recipient r.pem --list d.csv",
                ErrorKind::ArgumentConflict,
            ),
            ("--list d.csv --subject CN=a", ErrorKind::ArgumentConflict),
            (
                "--list d.csv --key-type p384",
                ErrorKind::MissingRequiredArgument,
            ),
            (
                "--list d.csv --detach --download d.tar",
                ErrorKind::ArgumentConflict,
            ),
        ] {
            assert_eq!(parse(line).err(), Some(kind), "{line}");
        }
    }

    #[test]
    fn a_recipients_private_key_stays_at_home() {
        let name = openssl::x509::X509Name::builder().unwrap().build();
        let key = openssl::rsa::Rsa::generate(2048).unwrap();
        let key = openssl::pkey::PKey::from_rsa(key).unwrap();
        let mut made = openssl::x509::X509::builder().unwrap();
        made.set_subject_name(&name).unwrap();
        made.set_pubkey(&key).unwrap();
        let soon = openssl::asn1::Asn1Time::days_from_now(1).unwrap();
        made.set_not_before(&soon).unwrap();
        made.set_not_after(&soon).unwrap();
        made.sign(&key, openssl::hash::MessageDigest::sha256())
            .unwrap();
        let certificate = made.build();
        let pem = certificate.to_pem().unwrap();
        let both = [key.private_key_to_pem_pkcs8().unwrap(), pem.clone()].concat();
        for octets in [&both, &pem, &certificate.to_der().unwrap()] {
            assert_eq!(recipient_pem(octets).unwrap().as_bytes(), pem);
        }
        assert!(recipient_pem(b"").is_err());
    }
}
