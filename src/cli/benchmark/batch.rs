//! `benchmark batch`: a whole batch, from the request to the closed package.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::KeyUsage;
use openssl::x509::{X509, X509NameBuilder};
use serde::Serialize;
use serde_json::json;

use crate::ca::device_key::KeyType;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::batch::body::Batch;
use crate::cli::batch::create;
use crate::cli::batch::create::subject::Defaults;
use crate::cli::batch::create::subject::subject;
use crate::cli::batch::service::Service;
use crate::cli::batch::service::patiently;
use crate::cli::batch::watch;
use crate::cli::benchmark::signer_of;
use crate::cli::client::Connect;
use crate::pki::hex;

/// Between two looks at the batch: the end is seen at most so late.
const INTERVAL: Duration = Duration::from_millis(200);

/// `benchmark batch`
#[derive(Args)]
pub struct BatchArguments {
    #[command(flatten)]
    connect: Connect,
    /// Devices.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Profile.
    #[arg(long, default_value = "lightbulb")]
    profile: String,
    /// Kind of key.
    #[arg(long, value_enum, default_value = "p256")]
    key_type: KeyType,
}

/// What it reports.
#[derive(Serialize)]
struct BatchReport {
    devices: u64,
    seconds: f64,
    devices_per_second: f64,
    units_per_hour: f64,
    failed: u64,
    package_octets: Option<u64>,
    signer_per_second: Option<f64>,
    share_of_signer: Option<f64>,
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts of one run are far below 2^52"
)]
pub(super) fn run(global: &Global, arguments: &BatchArguments) -> Outcome {
    // First, so that the signer's rate is measured on an idle machine (and before any thread starts).
    let signer = signer_of(global, &arguments.profile);
    let mut service = Service::new(global, &arguments.connect)?;
    let (batch, elapsed) = crate::cli::runtime()?.block_on(measure(&mut service, arguments))?;
    let seconds = elapsed.as_secs_f64();
    let rate = batch.issued as f64 / seconds;
    let report = BatchReport {
        devices: batch.issued,
        seconds,
        devices_per_second: rate,
        units_per_hour: rate * 3600.0,
        failed: batch.failed,
        package_octets: batch.package.as_ref().map(|package| package.length),
        signer_per_second: signer,
        share_of_signer: signer.map(|signer| rate / signer),
    };
    eprintln!(
        "nobody can open its package; to remove it: certfactory batch confirm {}",
        batch.id
    );
    if global.json {
        crate::cli::print_json(&report)?;
        return batch.verdict();
    }
    println!(
        "{} devices in {seconds:.1} s: {rate:.0} devices/s ({:.0} units/h), {} failed, package of {} octets",
        report.devices,
        report.units_per_hour,
        report.failed,
        report.package_octets.unwrap_or_default()
    );
    if let (Some(signer), Some(share)) = (report.signer_per_second, report.share_of_signer) {
        println!(
            "{:.1} % of the signer's raw {signer:.0} signatures/s",
            share * 100.0
        );
    }
    batch.verdict()
}

/// Creates the batch and waits for its end. What a planner of batches has beforehand, recipient and
/// subject, is made before the clock starts.
async fn measure(
    service: &mut Service,
    arguments: &BatchArguments,
) -> Result<(Batch, Duration), crate::cli::Failure> {
    let mut run = [0; 4];
    openssl::rand::rand_bytes(&mut run)?;
    let run = hex(&run);
    let defaults = Defaults {
        common_name: format!("bench-{run}-"),
        serial_number: format!("SN{run}"),
        country: "DE".to_owned(),
    };
    let profiles = patiently(async || service.get("/v1/profiles").await).await?;
    let subject = subject(&profiles, &arguments.profile, &defaults, BTreeMap::new())?;
    let body = json!({
        "profile": arguments.profile,
        "devices": { "count": arguments.count, "start": 1, "subject": subject },
        "keys": {
            "type": arguments.key_type.as_str(),
            "recipient": recipient()?,
            "envelope": "chunk",
        },
    });
    let key = create::new_key()?;
    let start = Instant::now();
    let batch = create::post(service, &body, &key).await?;
    let id = Batch::read(&batch)?.id;
    let end = watch::to_end(service, &id, INTERVAL).await?;
    Ok((Batch::read(&end)?, start.elapsed()))
}

/// A certificate whose key is forgotten at once: what is encrypted to it stays closed.
fn recipient() -> anyhow::Result<String> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "certfactory benchmark")?;
    let name = name.build();
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    let serial_number = BigNum::from_u32(1)?.to_asn1_integer()?;
    certificate.set_serial_number(&serial_number)?;
    certificate.set_subject_name(&name)?;
    certificate.set_issuer_name(&name)?;
    certificate.set_pubkey(&key)?;
    let (not_before, not_after) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(30)?);
    certificate.set_not_before(&not_before)?;
    certificate.set_not_after(&not_after)?;
    certificate.append_extension(KeyUsage::new().critical().key_agreement().build()?)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    String::from_utf8(certificate.build().to_pem()?).context("PEM is text")
}
