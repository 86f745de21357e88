//! `benchmark plan`: what so many units an hour need, computed from what a certificate was measured to cost.
//!
//! What service and database do in a second was measured at some rates, from none to all that they could.
//! The more certificates share a transaction, the less each costs: between two measured rates what is done is
//! taken to grow with a power of the rate, the one that leads from the lower to the higher. Below the lowest
//! and beyond the highest it grows with the rate: less for a certificate than was measured is not claimed.
//! Where all cores of a replica are used, stations wait and certificates share transactions at any rate: none
//! costs the service less than at the highest.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::benchmark::costs::Costs;
use crate::cli::benchmark::costs::Machine;
use crate::cli::benchmark::costs::Run;
use crate::cli::benchmark::queue;
use crate::cli::benchmark::queue::Waits;

/// Measured by `tests/proofs/sizing measure`.
const BUILT_IN: &str = include_str!("measured.json");

/// Rows of a partition of the log, as `make_partitions` makes them.
const LOG_PART_ROWS: f64 = 1_048_576.0;
/// Octets of a record of the journal beside its entry: length, checksum, index and chain.
const JOURNAL_RECORD: f64 = 48.0;
/// No plan has more replicas.
const REPLICAS_MAX: u32 = 1_000;

/// `benchmark plan`
#[derive(Args)]
pub struct PlanArguments {
    /// Units that one plant makes in an hour of work.
    #[arg(long, value_parser = positive)]
    units_per_hour: f64,
    /// Plants, all alike, each with its own database and log.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    plants: u32,
    /// Years of work whose certificates are kept.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    years: u32,
    /// Hours of work a day.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=24))]
    hours_per_day: u32,
    /// Days of work a year.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=366))]
    days_per_year: u32,
    /// The busiest seconds have so many times the hour's units.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    peak: f64,
    /// Cores of a replica's machine, or its share of them.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    service_cores: f64,
    /// Cores of the database's machine.
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    database_cores: f64,
    /// The share of its cores, or of its signatures, that nothing exceeds at the peak.
    #[arg(long, default_value_t = 0.6, value_parser = share)]
    load_max: f64,
    /// Signatures a second that a token makes on all its sessions; without it: as measured. `benchmark hsm`
    /// tells.
    #[arg(long, value_parser = positive)]
    signer_per_second: Option<f64>,
    /// Sessions of a token; without it: as measured.
    #[arg(long)]
    signer_sessions: Option<usize>,
    /// Files of `benchmark line --costs`, all of one machine. Without it: what was measured on the machine
    /// that the answer names.
    #[arg(long)]
    measured: Vec<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok();
    let number = number.filter(|it| it.is_finite() && *it > 0.0);
    number.ok_or_else(|| "must be a number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = positive(text)?;
    let most = share <= 1.0;
    most.then_some(share)
        .ok_or_else(|| "must be at most 1".to_owned())
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Basis {
    /// Of certificates that were issued.
    Measured,
    /// Between two loads that were measured.
    BetweenMeasured,
    /// Beyond the highest load that was measured, or of something that was never run.
    OnlyComputed,
}

impl Basis {
    fn words(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::BetweenMeasured => "between measured loads",
            Self::OnlyComputed => "only computed",
        }
    }
}

#[derive(Serialize)]
struct Plan {
    measured: Source,
    plant: Plant,
    all_plants: AllPlants,
}

#[derive(Serialize)]
struct Source {
    machine: Machine,
    /// Certificates a second of each load.
    certificates_per_second: Vec<f64>,
    certificates: u64,
    basis: Basis,
}

/// What each plant needs.
#[derive(Serialize)]
struct Plant {
    certificates_per_second: f64,
    peak_certificates_per_second: f64,
    certificates_per_year: f64,
    service: Service,
    database: Database,
    disk: Disk,
    partitions: Partitions,
    hsm: Hsm,
}

#[derive(Serialize)]
struct Service {
    /// With the peak's load.
    cpu_us_per_certificate: f64,
    /// Of all replicas, at the peak.
    cores: f64,
    /// What a replica gives at most, whose cores are all used while stations wait for it.
    replica_certificates_per_second: f64,
    /// For the peak, and one that may fail.
    replicas: Option<u32>,
    basis: Basis,
}

#[derive(Serialize)]
struct Database {
    cpu_us_per_certificate: f64,
    /// At the peak.
    cores: f64,
    /// Within the share of its cores that may be used.
    fits: bool,
    fsyncs_per_certificate: f64,
    /// At the peak: writes that have to be durable before anybody is answered.
    fsyncs_per_second: f64,
    wal_bytes_per_certificate: f64,
    /// At the peak.
    wal_bytes_per_second: f64,
    wal_bytes_per_day: f64,
    basis: Basis,
}

#[derive(Serialize)]
struct Disk {
    table_bytes_per_certificate: f64,
    index_bytes_per_certificate: f64,
    bytes_per_year: f64,
    /// After all years.
    bytes: f64,
    journal_bytes_per_certificate: f64,
    journal_bytes: f64,
    basis: Basis,
}

#[derive(Serialize)]
struct Partitions {
    /// Of the intents, and as many of the outcomes.
    months: u32,
    rows_per_month: f64,
    log_entries_per_certificate: f64,
    /// Of 2^20 entries.
    log_parts: f64,
    hours_per_log_part: f64,
    basis: Basis,
}

#[derive(Serialize)]
struct Hsm {
    signatures_per_certificate: f64,
    /// At the peak.
    signatures_per_second: f64,
    signer_per_second: f64,
    signer_sessions: usize,
    /// So that none makes more than its share of what it can.
    tokens: f64,
    /// Of a token, at the peak.
    share: f64,
    /// Signatures wait for a session, when certificates are asked for by chance.
    wait_mean_ms: Option<f64>,
    wait_p99_ms: Option<f64>,
    basis: Basis,
}

/// All of them, for head office.
#[derive(Serialize)]
struct AllPlants {
    count: u32,
    certificates_per_year: f64,
    /// Of all plants' ledgers, after all years.
    bytes: f64,
    peak_wal_bytes_per_second: f64,
    basis: Basis,
}

/// Runs it.
pub(super) fn run(global: &Global, arguments: &PlanArguments) -> Outcome {
    let costs = match arguments.measured.split_first() {
        None => serde_json::from_str(BUILT_IN)?,
        Some((first, others)) => {
            let mut costs = Costs::read(first)?;
            for path in others {
                let more = Costs::read(path)?;
                if more.machine != costs.machine {
                    let path = path.display();
                    return Err(anyhow::anyhow!("{path}: measured on another machine").into());
                }
                costs.runs.extend(more.runs);
            }
            costs
        }
    };
    let plan = plan(&costs, arguments)?;
    if global.json {
        return crate::cli::print_json(&plan);
    }
    plan.print(arguments);
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts of a plan")]
fn plan(costs: &Costs, arguments: &PlanArguments) -> anyhow::Result<Plan> {
    let usage = Usage::of(&costs.runs)?;
    let rate = arguments.units_per_hour / 3_600.0;
    let peak = rate * arguments.peak;
    let hours = f64::from(arguments.hours_per_day) * f64::from(arguments.days_per_year);
    let yearly = arguments.units_per_hour * hours;
    let years = f64::from(arguments.years);
    let needed = arguments.service_cores * arguments.load_max;
    let replicas =
        (1..=REPLICAS_MAX).find(|count| usage.service.at(peak / f64::from(*count)) <= needed);
    let among = f64::from(replicas.unwrap_or(REPLICAS_MAX));
    let all = |curve: &Curve| curve.at(peak / among) * among;
    let between = if peak / among <= usage.service.highest() {
        Basis::BetweenMeasured
    } else {
        Basis::OnlyComputed
    };
    let service = all(&usage.service);
    let database = all(&usage.database);
    let (wal, fsyncs) = (all(&usage.wal), all(&usage.fsyncs));
    let each = &usage.each;
    let octets = each.table_bytes + each.index_bytes;
    let journal = each.leaf_bytes + JOURNAL_RECORD;
    let entries = each.log_entries;
    let signatures = each.signatures * peak;
    let signer = arguments.signer_per_second.or(each.signer_per_second);
    let signer =
        signer.ok_or_else(|| anyhow::anyhow!("no signer was measured: --signer-per-second"))?;
    let sessions = arguments.signer_sessions.unwrap_or(each.signer_sessions);
    let tokens = (signatures / (signer * arguments.load_max)).ceil().max(1.0);
    let waits = queue::play(signatures / tokens, sessions, signer);
    let plants = f64::from(arguments.plants);
    Ok(Plan {
        measured: Source {
            machine: costs.machine.clone(),
            certificates_per_second: costs.runs.iter().map(Run::rate).collect(),
            certificates: costs.runs.iter().map(|run| run.certificates).sum(),
            basis: Basis::Measured,
        },
        plant: Plant {
            certificates_per_second: rate,
            peak_certificates_per_second: peak,
            certificates_per_year: yearly,
            service: Service {
                cpu_us_per_certificate: service / peak * 1e6,
                cores: service,
                replica_certificates_per_second: usage.service.rate_of(arguments.service_cores),
                replicas: replicas.map(|count| count + 1),
                basis: between,
            },
            database: Database {
                cpu_us_per_certificate: database / peak * 1e6,
                cores: database,
                fits: database <= arguments.database_cores * arguments.load_max,
                fsyncs_per_certificate: fsyncs / peak,
                fsyncs_per_second: fsyncs,
                wal_bytes_per_certificate: wal / peak,
                wal_bytes_per_second: wal,
                wal_bytes_per_day: wal / peak
                    * arguments.units_per_hour
                    * f64::from(arguments.hours_per_day),
                basis: between,
            },
            disk: Disk {
                table_bytes_per_certificate: each.table_bytes,
                index_bytes_per_certificate: each.index_bytes,
                bytes_per_year: octets * yearly,
                bytes: octets * yearly * years,
                journal_bytes_per_certificate: journal * entries,
                journal_bytes: journal * entries * yearly * years,
                basis: Basis::OnlyComputed,
            },
            partitions: Partitions {
                months: arguments.years * 12,
                rows_per_month: yearly / 12.0,
                log_entries_per_certificate: entries,
                log_parts: (entries * yearly * years / LOG_PART_ROWS).ceil(),
                hours_per_log_part: LOG_PART_ROWS / (entries * arguments.units_per_hour),
                basis: Basis::OnlyComputed,
            },
            hsm: Hsm {
                signatures_per_certificate: each.signatures,
                signatures_per_second: signatures,
                signer_per_second: signer,
                signer_sessions: sessions,
                tokens,
                share: signatures / tokens / signer,
                wait_mean_ms: waits.map(|Waits { mean_ms, .. }| mean_ms),
                wait_p99_ms: waits.map(|Waits { p99_ms, .. }| p99_ms),
                basis: Basis::OnlyComputed,
            },
        },
        all_plants: AllPlants {
            count: arguments.plants,
            certificates_per_year: yearly * plants,
            bytes: octets * yearly * years * plants,
            peak_wal_bytes_per_second: wal * plants,
            basis: Basis::OnlyComputed,
        },
    })
}

impl Plan {
    fn print(&self, arguments: &PlanArguments) {
        let Self {
            measured,
            plant,
            all_plants,
        } = self;
        println!(
            "a plant     {:.1} certificates/s, {:.1} at the peak, {:.1} million a year",
            plant.certificates_per_second,
            plant.peak_certificates_per_second,
            plant.certificates_per_year / 1e6
        );
        for (name, basis, text) in [
            ("from", measured.basis, measured.words()),
            (
                "service",
                plant.service.basis,
                plant.service.words(arguments),
            ),
            (
                "database",
                plant.database.basis,
                plant.database.words(arguments),
            ),
            ("disk", plant.disk.basis, plant.disk.words(arguments)),
            (
                "partitions",
                plant.partitions.basis,
                plant.partitions.words(),
            ),
            ("HSM", plant.hsm.basis, plant.hsm.words()),
            ("all plants", all_plants.basis, all_plants.words(arguments)),
        ] {
            println!("{name:<11} {text}\n{:<11} ({})", "", basis.words());
        }
    }
}

impl Source {
    fn words(&self) -> String {
        let machine = &self.machine;
        format!(
            "{} certificates in {} loads on {} cores of {}, PostgreSQL {}",
            self.certificates,
            self.certificates_per_second.len(),
            machine.cores,
            machine.processor,
            machine.postgresql
        )
    }
}

impl Service {
    fn words(&self, arguments: &PlanArguments) -> String {
        let replicas = match self.replicas {
            Some(count) => format!("{count} replicas of {} cores", arguments.service_cores),
            None => format!("more than {REPLICAS_MAX} replicas"),
        };
        format!(
            "{:.0} µs of processor a certificate, {:.2} cores at the peak: {replicas}, one of which may fail; a replica all of whose cores are used gives at most {:.0}/s (only computed)",
            self.cpu_us_per_certificate, self.cores, self.replica_certificates_per_second
        )
    }
}

impl Database {
    fn words(&self, arguments: &PlanArguments) -> String {
        let fits = if self.fits { "fits" } else { "does not fit" };
        format!(
            "{:.0} µs a certificate, {:.2} cores at the peak, which {fits} {} cores; {:.0} fsyncs/s; WAL {:.1} MB/s at the peak, {:.1} GB a day, without the pages that checkpoints add",
            self.cpu_us_per_certificate,
            self.cores,
            arguments.database_cores,
            self.fsyncs_per_second,
            self.wal_bytes_per_second / 1e6,
            self.wal_bytes_per_day / 1e9
        )
    }
}

impl Disk {
    fn words(&self, arguments: &PlanArguments) -> String {
        format!(
            "{:.0} bytes a certificate in tables and {:.0} in indexes (measured): {:.1} GB a year, {:.1} GB after {} years; journal {:.1} GB",
            self.table_bytes_per_certificate,
            self.index_bytes_per_certificate,
            self.bytes_per_year / 1e9,
            self.bytes / 1e9,
            arguments.years,
            self.journal_bytes / 1e9
        )
    }
}

impl Partitions {
    fn words(&self) -> String {
        format!(
            "{} months of {:.1} million rows, of intents and of outcomes; {:.0} parts of the log of 2^20 entries, one every {:.1} hours",
            self.months,
            self.rows_per_month / 1e6,
            self.log_parts,
            self.hours_per_log_part
        )
    }
}

impl Hsm {
    fn words(&self) -> String {
        let waits = match (self.wait_mean_ms, self.wait_p99_ms) {
            (Some(mean), Some(p99)) => {
                format!("a signature waits {mean:.2} ms, one in a hundred longer than {p99:.2} ms")
            }
            _ => "the queue grows without end".to_owned(),
        };
        format!(
            "{:.1} signatures/s at the peak: {:.0} tokens of {:.0}/s on {} sessions, {:.1} % used; {waits}",
            self.signatures_per_second,
            self.tokens,
            self.signer_per_second,
            self.signer_sessions,
            self.share * 100.0
        )
    }
}

impl AllPlants {
    fn words(&self, arguments: &PlanArguments) -> String {
        format!(
            "{} plants: {:.1} million certificates a year, {:.1} GB after {} years, {:.1} MB/s of WAL at the peak",
            self.count,
            self.certificates_per_year / 1e6,
            self.bytes / 1e9,
            arguments.years,
            self.peak_wal_bytes_per_second / 1e6
        )
    }
}

impl Run {
    #[allow(clippy::cast_precision_loss, reason = "certificates of one run")]
    fn rate(&self) -> f64 {
        self.certificates as f64 / self.seconds
    }
}

/// What is used in a second, by the certificates that are issued in it.
struct Usage {
    /// Cores.
    service: Curve,
    /// Cores.
    database: Curve,
    wal: Curve,
    fsyncs: Curve,
    each: Each,
}

/// What every certificate costs alike.
struct Each {
    table_bytes: f64,
    index_bytes: f64,
    log_entries: f64,
    leaf_bytes: f64,
    signatures: f64,
    signer_per_second: Option<f64>,
    signer_sessions: usize,
}

impl Usage {
    #[allow(clippy::cast_precision_loss, reason = "certificates of some runs")]
    fn of(runs: &[Run]) -> anyhow::Result<Self> {
        let certificates: u64 = runs.iter().map(|run| run.certificates).sum();
        if certificates == 0 {
            anyhow::bail!("nothing was measured");
        }
        let each = |of: fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / certificates as f64;
        let signers = runs.iter().filter_map(|run| run.signer_per_second);
        let curve = |idle: fn(&Run) -> Option<f64>, of: fn(&Run) -> Option<f64>| {
            let idles: Vec<f64> = runs.iter().filter_map(idle).collect();
            let loads = runs
                .iter()
                .filter_map(|run| Some((run.rate(), of(run)? / run.seconds)));
            Curve::through(
                idles.iter().sum::<f64>() / idles.len().max(1) as f64,
                loads.collect(),
            )
        };
        let missing = |part: &str| {
            anyhow::anyhow!(
                "the processor time of the {part} was not measured: run `benchmark line --costs` where both run"
            )
        };
        let service = curve(|run| run.idle_service_cores, |run| run.service_cpu_seconds);
        let database = curve(
            |run| run.idle_database_cores,
            |run| run.database_cpu_seconds,
        );
        let wal = curve(
            |run| Some(run.idle_wal_bytes_per_second),
            |run| Some(run.wal_bytes),
        );
        let fsyncs = curve(
            |run| Some(run.idle_fsyncs_per_second),
            |run| Some(run.fsyncs),
        );
        Ok(Self {
            service: service.ok_or_else(|| missing("service"))?,
            database: database.ok_or_else(|| missing("database"))?,
            wal: wal.ok_or_else(|| missing("log"))?,
            fsyncs: fsyncs.ok_or_else(|| missing("log"))?,
            each: Each {
                table_bytes: each(|run| run.table_bytes),
                index_bytes: each(|run| run.index_bytes),
                log_entries: each(|run| run.log_entries),
                leaf_bytes: runs.iter().map(|run| run.leaf_bytes).sum::<f64>() / runs.len() as f64,
                signatures: each(|run| run.signatures),
                signer_per_second: signers.reduce(f64::min),
                signer_sessions: runs.first().map_or(1, |run| run.signer_sessions),
            },
        })
    }
}

/// What is used at which rate.
struct Curve {
    /// When nobody asks.
    idle: f64,
    /// Rates, rising, and what each load used beside that; at least one.
    loads: Vec<(f64, f64)>,
}

impl Curve {
    /// By what is used when nobody asks, and by each load beside that; `None` without a load. Loads of nearly
    /// the same rate are one.
    #[allow(clippy::cast_precision_loss, reason = "some runs")]
    fn through(idle: f64, mut loads: Vec<(f64, f64)>) -> Option<Self> {
        loads.sort_by(|a, b| a.0.total_cmp(&b.0));
        let near = |a: &(f64, f64), b: &(f64, f64)| b.0 < a.0 * 1.1;
        let mean = |near: &[(f64, f64)]| {
            let count = near.len() as f64;
            let sum = |of: fn(&(f64, f64)) -> f64| near.iter().map(of).sum::<f64>() / count;
            // What a load did not use has a logarithm, too.
            (sum(|it| it.0), sum(|it| it.1).max(f64::MIN_POSITIVE))
        };
        let loads: Vec<(f64, f64)> = loads.chunk_by(near).map(mean).collect();
        (!loads.is_empty()).then_some(Self { idle, loads })
    }

    fn highest(&self) -> f64 {
        self.loads.last().map_or(0.0, |(rate, _)| *rate)
    }

    /// At this rate.
    fn at(&self, rate: f64) -> f64 {
        let under = self.loads.partition_point(|(measured, _)| *measured < rate);
        let (under, over) = self.loads.split_at(under);
        let used = match (under.last(), over.first()) {
            (Some(below), Some(above)) => {
                let power = (above.1 / below.1).ln() / (above.0 / below.0).ln();
                below.1 * (rate / below.0).powf(power)
            }
            (Some((nearest, used)), None) | (None, Some((nearest, used))) => used * rate / nearest,
            (None, None) => 0.0,
        };
        self.idle + used
    }

    /// The highest rate at which so much, when it is all that there is, can be enough.
    fn rate_of(&self, all: f64) -> f64 {
        all * self.highest() / self.at(self.highest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve() -> Curve {
        Curve::through(0.1, vec![(400.0, 0.3), (100.0, 0.2), (420.0, 0.5)]).unwrap()
    }

    #[test]
    fn what_is_used_grows_with_a_power_of_the_rate_between_what_was_measured() {
        let curve = curve();
        for (rate, used) in [
            (0.0, 0.1),
            (50.0, 0.2),
            (100.0, 0.3),
            // Half way, by factors, from 0.2 at 100 to what follows.
            ((100.0_f64 * 410.0).sqrt(), 0.1 + (0.2_f64 * 0.4).sqrt()),
            // The mean of the two that are near each other.
            (410.0, 0.5),
            (820.0, 0.9),
        ] {
            assert!(
                (curve.at(rate) - used).abs() < 1e-9,
                "{rate}: {}",
                curve.at(rate)
            );
        }
    }

    #[test]
    fn more_certificates_never_use_less_than_fewer_where_none_was_measured_to() {
        let curve = curve();
        let used = (0..1_000).map(|rate| curve.at(f64::from(rate)));
        let used: Vec<f64> = used.collect();
        assert!(used.is_sorted());
        let nothing = Curve::through(0.0, vec![(100.0, 0.0), (400.0, 0.2)]).unwrap();
        assert!(nothing.at(100.0) < 1e-9 && nothing.at(200.0) < 1e-9);
        assert!((nothing.at(400.0) - 0.2).abs() < 1e-9);
    }

    #[test]
    fn at_most_as_many_as_if_each_cost_what_it_did_at_the_highest_rate() {
        let curve = curve();
        for (all, rate) in [(0.5, 410.0), (0.25, 205.0), (1.5, 1_230.0)] {
            assert!((curve.rate_of(all) - rate).abs() < 1e-9, "{all}");
        }
        assert!(Curve::through(0.1, Vec::new()).is_none());
    }

    #[test]
    fn what_is_built_in_can_be_planned_with() {
        let costs: Costs = serde_json::from_str(BUILT_IN).unwrap();
        let usage = Usage::of(&costs.runs).unwrap();
        assert!(usage.service.at(100.0) > 0.0 && usage.database.at(100.0) > 0.0);
        assert!((0.99..1.2).contains(&usage.each.signatures));
        assert!((0.99..1.2).contains(&usage.each.log_entries));
    }
}
