//! `benchmark hsm|line|batch|plan`: measured, never timed in tests.

pub mod batch;
mod costs;
pub mod plan;
mod queue;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use hyper::Method;
use hyper::body::Bytes;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::{X509NameBuilder, X509ReqBuilder};
use serde::Serialize;

use crate::app;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::benchmark::costs::Meter;
use crate::cli::benchmark::costs::Played;
use crate::cli::client::Client;
use crate::cli::client::Connect;
use crate::cli::client::Connection;
use crate::hsm;
use crate::pki::hex;

/// Certification requests made beforehand for each second of load; more are made on the way.
const REQUESTS_A_SECOND: usize = 8_000;
/// How long the signer's raw rate is measured beside a line benchmark.
const SIGNER_SECONDS: u64 = 3;

/// Measure.
#[derive(Subcommand)]
pub enum BenchmarkCommand {
    /// The raw `C_Sign` rate of each issuer's key, on sessions of its own.
    Hsm(HsmArguments),
    /// Play stations over mTLS against the running service, a fresh device each request.
    Line(LineArguments),
    /// Have the running service make a batch, with keys that nobody will read, to its closed package.
    Batch(batch::BatchArguments),
    /// Compute what so many units an hour need, from measured costs: cores, disk, partitions, HSM.
    Plan(plan::PlanArguments),
}

/// `benchmark hsm`
#[derive(Args)]
pub struct HsmArguments {
    /// Sessions, each on a thread. Without it: as configured.
    #[arg(long)]
    sessions: Option<usize>,
    /// Seconds for each key.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// This issuer's key only.
    #[arg(long)]
    issuer: Option<String>,
}

/// `benchmark line`
#[derive(Args)]
pub struct LineArguments {
    #[command(flatten)]
    connect: Connect,
    /// Stations, each with one connection, all of one key: the service must allow it so many
    /// requests at once.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds of load.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Profile; its devices have P-256 keys.
    #[arg(long, default_value = "lightbulb")]
    profile: String,
    /// Work order that the devices are booked on, large enough; see `order create`.
    #[arg(long)]
    order: Option<String>,
    /// Requests a second, at a steady pace. Without it: each station's next as soon as it has an answer.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    per_second: Option<u32>,
    /// Measure what it costs service, database and HSM, and add it to this file, for `benchmark plan`.
    /// Nothing else may be done meanwhile.
    #[arg(long)]
    costs: Option<PathBuf>,
}

/// Runs one of them.
pub fn run(global: &Global, command: &BenchmarkCommand) -> Outcome {
    match command {
        BenchmarkCommand::Hsm(arguments) => hsm(global, arguments),
        BenchmarkCommand::Line(arguments) => line(global, arguments),
        BenchmarkCommand::Batch(arguments) => batch::run(global, arguments),
        BenchmarkCommand::Plan(arguments) => plan::run(global, arguments),
    }
}

#[derive(Serialize)]
struct SignerRate {
    issuer: String,
    sessions: usize,
    seconds: u64,
    signer_per_second: f64,
}

fn hsm(global: &Global, arguments: &HsmArguments) -> Outcome {
    let rates = signer_rates(global, arguments)?;
    if global.json {
        return crate::cli::print_json(&rates);
    }
    for rate in rates {
        println!(
            "{}: {:.0} signatures/s with {} sessions",
            rate.issuer, rate.signer_per_second, rate.sessions
        );
    }
    Ok(())
}

fn signer_rates(global: &Global, arguments: &HsmArguments) -> Result<Vec<SignerRate>, Failure> {
    let config = crate::cli::load_with_environment(&global.config)?;
    let mut rates = Vec::new();
    for token in app::token_configs(&config) {
        let sessions = arguments.sessions.unwrap_or(token.sessions);
        for key in token.keys.iter().filter(|key| {
            arguments
                .issuer
                .as_ref()
                .is_none_or(|name| *name == key.issuer)
        }) {
            let rate = hsm::benchmark::benchmark(&token, key, sessions, arguments.seconds)
                .map_err(|e| Failure::new(Failure::DEPENDENCY, e))?;
            rates.push(SignerRate {
                issuer: key.issuer.clone(),
                sessions,
                seconds: arguments.seconds,
                signer_per_second: rate,
            });
        }
    }
    if rates.is_empty() {
        return Err(Failure::new(
            Failure::NOT_FOUND,
            anyhow!("no such issuer is configured"),
        ));
    }
    Ok(rates)
}

/// What a line benchmark reports.
#[derive(Serialize)]
struct LineReport {
    certificates: u64,
    seconds: f64,
    certificates_per_second: f64,
    units_per_hour: f64,
    p50_ms: f64,
    p99_ms: f64,
    errors: u64,
    signer_per_second: Option<f64>,
    share_of_signer: Option<f64>,
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts and microseconds of one run are far below 2^52"
)]
fn line(global: &Global, arguments: &LineArguments) -> Outcome {
    // First, so that the signer's rate is measured on an idle machine (and before any thread starts).
    let signer = signer_of(global, &arguments.profile);
    let client = Client::new(&arguments.connect, &global.config)?;
    eprintln!("making certification requests beforehand …");
    let devices = Arc::new(Devices::make(arguments)?);
    eprintln!(
        "{} connections, {} s …",
        arguments.connections, arguments.seconds
    );
    let runtime = crate::cli::runtime()?;
    let mut meter = match &arguments.costs {
        None => None,
        Some(path) => {
            let config = crate::cli::load_with_environment(&global.config)?;
            // Its connections belong to the runtime.
            let _inside = runtime.enter();
            Some(Meter::new(&config, &arguments.profile, path)?)
        }
    };
    let report = runtime.block_on(load(client, devices, arguments, meter.as_mut()))?;
    if let Some(meter) = &mut meter {
        if report.errors > 0 {
            return Err(anyhow!("{} requests failed: no costs are kept", report.errors).into());
        }
        let played = Played {
            profile: arguments.profile.clone(),
            connections: arguments.connections,
            certificates: report.latencies.len(),
            elapsed: report.elapsed,
            signer_per_second: signer,
        };
        runtime.block_on(meter.end(&played))?;
    }
    let rate = report.latencies.len() as f64 / report.elapsed.as_secs_f64();
    let report = LineReport {
        certificates: report.latencies.len(),
        seconds: report.elapsed.as_secs_f64(),
        certificates_per_second: rate,
        units_per_hour: rate * 3600.0,
        p50_ms: report.latencies.value_at_quantile(0.50) as f64 / 1e3,
        p99_ms: report.latencies.value_at_quantile(0.99) as f64 / 1e3,
        errors: report.errors,
        signer_per_second: signer,
        share_of_signer: signer.map(|signer| rate / signer),
    };
    if global.json {
        return crate::cli::print_json(&report);
    }
    println!(
        "{:.0} certificates/s ({:.0} units/h), p50 {:.1} ms, p99 {:.1} ms, {} errors",
        report.certificates_per_second,
        report.units_per_hour,
        report.p50_ms,
        report.p99_ms,
        report.errors
    );
    if let (Some(signer), Some(share)) = (report.signer_per_second, report.share_of_signer) {
        println!(
            "{:.1} % of the signer's raw {signer:.0} signatures/s",
            share * 100.0
        );
    }
    Ok(())
}

/// The raw rate of the key that signs for the profile; `None` where this machine cannot reach it.
fn signer_of(global: &Global, profile: &str) -> Option<f64> {
    let config = match crate::cli::load_with_environment(&global.config) {
        Ok(config) => config,
        Err(failure) => {
            eprintln!("the signer's own rate is not measured: {:#}", failure.error);
            return None;
        }
    };
    let issuer = config
        .profiles
        .iter()
        .find(|p| p.name == profile)?
        .issuer
        .clone();
    let arguments = HsmArguments {
        sessions: None,
        seconds: SIGNER_SECONDS,
        issuer: Some(issuer),
    };
    match signer_rates(global, &arguments) {
        Ok(rates) => rates.first().map(|rate| rate.signer_per_second),
        Err(failure) => {
            eprintln!("the signer's own rate is not measured: {:#}", failure.error);
            None
        }
    }
}

struct Load {
    latencies: Histogram<u64>,
    errors: u64,
    elapsed: Duration,
}

async fn load(
    client: Client,
    devices: Arc<Devices>,
    arguments: &LineArguments,
    meter: Option<&mut Meter>,
) -> anyhow::Result<Load> {
    let mut connections = Vec::new();
    for _ in 0..arguments.connections {
        connections.push(client.connect().await?);
    }
    if let Some(meter) = meter {
        meter.begin().await?;
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(arguments.seconds);
    let errors = Arc::new(AtomicU64::new(0));
    let pace = Arc::new(Pace {
        start,
        per_second: arguments.per_second,
        turns: AtomicU32::new(0),
    });
    let stations = connections.into_iter().map(|connection| {
        let turns = (pace.clone(), end);
        tokio::spawn(station(
            client.clone(),
            connection,
            devices.clone(),
            errors.clone(),
            turns,
        ))
    });
    let mut latencies = Histogram::new(3)?;
    for station in stations.collect::<Vec<_>>() {
        latencies.add(station.await??)?;
    }
    Ok(Load {
        latencies,
        errors: errors.load(Ordering::Relaxed),
        elapsed: start.elapsed(),
    })
}

/// When requests are sent.
struct Pace {
    start: Instant,
    /// `None`: at once.
    per_second: Option<u32>,
    /// Requests that stations have taken upon them.
    turns: AtomicU32,
}

impl Pace {
    /// Waits for the next request's time; `false` when there is none before the end.
    async fn turn(&self, end: Instant) -> bool {
        if let Some(per_second) = self.per_second {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            let at = self.start + Duration::from_secs(turn.into()) / per_second;
            if at >= end {
                return false;
            }
            tokio::time::sleep_until(at.into()).await;
        }
        Instant::now() < end
    }
}

/// One station: the next device as soon as the last one has its certificate, or at its time.
async fn station(
    client: Client,
    mut connection: Connection,
    devices: Arc<Devices>,
    errors: Arc<AtomicU64>,
    (pace, end): (Arc<Pace>, Instant),
) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    while pace.turn(end).await {
        let body = devices.next()?;
        let start = Instant::now();
        match connection
            .send(
                Method::POST,
                "/v1/certificates",
                &[("content-type", "application/json")],
                body,
            )
            .await
        {
            Ok(answer) if answer.status == 201 => {
                latencies.record(u64::try_from(start.elapsed().as_micros())?)?;
            }
            Ok(answer) => {
                if errors.fetch_add(1, Ordering::Relaxed) == 0 {
                    eprintln!(
                        "first error: {} {}",
                        answer.status,
                        String::from_utf8_lossy(&answer.body)
                    );
                }
            }
            Err(error) => {
                if errors.fetch_add(1, Ordering::Relaxed) == 0 {
                    eprintln!("first error: {error:#}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                if let Ok(fresh) = client.connect().await {
                    connection = fresh;
                }
            }
        }
    }
    Ok(latencies)
}

/// Fresh devices, each with its own key and request body.
struct Devices {
    profile: String,
    order: Option<String>,
    run: String,
    made: Vec<Bytes>,
    taken: AtomicUsize,
}

impl Devices {
    fn make(arguments: &LineArguments) -> anyhow::Result<Self> {
        let mut run = [0; 4];
        openssl::rand::rand_bytes(&mut run)?;
        let run = hex(&run);
        let seconds = usize::try_from(arguments.seconds)?;
        // One connection waits for each answer: it cannot use more than a thousand a second.
        let count = (seconds * REQUESTS_A_SECOND).min(seconds * arguments.connections * 1_000);
        let paced = arguments.per_second.map(usize::try_from).transpose()?;
        let count = paced.map_or(count, |per_second| count.min(seconds * per_second));
        let threads = 2;
        let parts = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|t| {
                    let (profile, order, run) = (&arguments.profile, &arguments.order, &run);
                    scope.spawn(move || {
                        (t..count)
                            .step_by(threads)
                            .map(|n| device(profile, order.as_deref(), run, n))
                            .collect::<anyhow::Result<Vec<_>>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|w| w.join().map_err(|_| anyhow!("a request maker died"))?)
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        Ok(Self {
            profile: arguments.profile.clone(),
            order: arguments.order.clone(),
            run,
            made: parts.into_iter().flatten().collect(),
            taken: AtomicUsize::new(0),
        })
    }

    fn next(&self) -> anyhow::Result<Bytes> {
        let n = self.taken.fetch_add(1, Ordering::Relaxed);
        match self.made.get(n) {
            Some(body) => Ok(body.clone()),
            None => device(&self.profile, self.order.as_deref(), &self.run, n),
        }
    }
}

/// The body of one device's request.
fn device(profile: &str, order: Option<&str>, run: &str, n: usize) -> anyhow::Result<Bytes> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut request = X509ReqBuilder::new()?;
    request.set_pubkey(&key)?;
    request.set_subject_name(&X509NameBuilder::new()?.build())?;
    request.sign(&key, MessageDigest::sha256())?;
    let csr = String::from_utf8(request.build().to_pem()?).context("PEM is text")?;
    let subject = serde_json::json!({ "CN": format!("bench-{run}-{n:07}"), "serialNumber": format!("SN{run}{n:07}"), "C": "DE" });
    Ok(serde_json::to_vec(
        &serde_json::json!({ "profile": profile, "csr": csr, "subject": subject, "order": order }),
    )?
    .into())
}
