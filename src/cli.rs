//! The command line. Data on standard output, everything else on standard error.
//!
//! Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 refused by policy, 5 a dependency is down.

pub mod audit;
pub mod backup;
pub mod batch;
pub mod benchmark;
pub mod ceremony;
pub mod cert;
pub mod client;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod headquarters;
pub mod issuer;
pub mod jitp;
pub mod migrate;
pub mod order;
pub mod packaging;
pub mod reconcile;
pub mod serve;
pub mod signing_key;
pub mod station;
pub mod witness;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::config::RawConfig;
use crate::hsm::error::HsmFault;

/// A device-certificate factory: one X.509 identity per device, signed in an HSM, recorded before it leaves the house.
#[derive(Parser)]
#[command(name = "certfactory", version, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args)]
pub struct Global {
    /// Configuration file.
    #[arg(
        long,
        global = true,
        env = "CERTFACTORY_CONFIG",
        default_value = "/etc/certfactory/config.toml"
    )]
    pub config: PathBuf,
    /// Machine-readable output with the REST field names.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service until SIGTERM.
    Serve(serve::ServeArguments),
    /// Make and run a private development world: PostgreSQL, SoftHSM, issuers, service.
    Dev(dev::DevArguments),
    /// Bring the database to the schema this version knows.
    Migrate,
    /// Copy the database, and the checkpoint that says what it must hold, into a directory.
    Backup(backup::BackupArguments),
    /// Put a backup into an empty database.
    Restore(backup::RestoreArguments),
    /// Put back what the journal knows and a restored database does not, before the service starts.
    Reconcile(reconcile::ReconcileArguments),
    /// Check configuration, database and HSM, and say what is wrong.
    Doctor,
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Keys and CA certificates by a written plan, with a transcript that two people sign.
    #[command(subcommand)]
    Ceremony(ceremony::CeremonyCommand),
    /// Issuing CAs.
    #[command(subcommand)]
    Issuer(issuer::IssuerCommand),
    /// Device certificates, through a running service.
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Work orders, through a running service.
    #[command(subcommand)]
    Order(order::OrderCommand),
    /// Batches: keys and certificates beforehand, through a running service.
    #[command(subcommand)]
    Batch(batch::BatchCommand),
    /// The log of everything: checkpoints, copies, verification.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Co-sign the checkpoints of logs, somewhere else than where they are made.
    #[command(subcommand)]
    Witness(witness::WitnessCommand),
    /// Head office: its database, its plants and people.
    #[command(subcommand)]
    Headquarters(headquarters::HeadquartersCommand),
    /// Stations and people, through a running service.
    #[command(subcommand)]
    Station(station::StationCommand),
    /// AWS IoT provisioning templates.
    #[command(subcommand)]
    Jitp(jitp::JitpCommand),
    /// Measure.
    #[command(subcommand)]
    Benchmark(benchmark::BenchmarkCommand),
    /// Write manual pages and completions, for who makes a package.
    #[command(hide = true)]
    Packaging(packaging::PackagingArguments),
}

/// What a process of the service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything that a site needs.
    All,
    /// Answers stations and people; others work on what no request waits for.
    Api,
    /// Works on batches, CRLs, checkpoints and what was left open; has the operations listener alone.
    Jobs,
    /// Head office: reads what the plants published, issues nothing. Its configuration is of another form.
    Headquarters,
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// The cause.
    pub error: anyhow::Error,
}

impl Failure {
    /// What was named is not there.
    pub const NOT_FOUND: u8 = 3;
    /// A rule refuses it.
    pub const REFUSED: u8 = 4;
    /// A neighbour is down.
    pub const DEPENDENCY: u8 = 5;

    /// A failure with its exit code.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let code = match error.downcast_ref::<HsmFault>() {
            None | Some(HsmFault::Ceremony(_)) => 1,
            Some(_) => Self::DEPENDENCY,
        };
        Self { code, error }
    }
}

/// What a command returns.
pub type Outcome = Result<(), Failure>;

/// Runs one command, and ends the process with its exit code.
pub fn run(arguments: Arguments) -> ! {
    let Arguments { global, command } = arguments;
    let outcome = match command {
        Command::Serve(arguments) => serve::run(&global, &arguments),
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Migrate => migrate::run(&global),
        Command::Backup(arguments) => backup::backup(&global, &arguments),
        Command::Restore(arguments) => backup::restore(&global, &arguments),
        Command::Reconcile(arguments) => reconcile::run(&global, &arguments),
        Command::Doctor => doctor::run(&global),
        Command::Config(command) => config::run(&global, &command),
        Command::Ceremony(command) => ceremony::run(&global, &command),
        Command::Issuer(command) => issuer::run(&global, &command),
        Command::Cert(command) => cert::run(&global, &command),
        Command::Order(command) => order::run(&global, &command),
        Command::Batch(command) => batch::run(&global, &command),
        Command::Witness(command) => witness::run(&global, &command),
        Command::Audit(command) => audit::run(&global, &command),
        Command::Headquarters(command) => headquarters::run(&global, &command),
        Command::Station(command) => station::run(&global, &command),
        Command::Jitp(command) => jitp::run(&global, &command),
        Command::Benchmark(command) => benchmark::run(&global, &command),
        Command::Packaging(arguments) => packaging::run(&arguments),
    };
    let code = match outcome {
        Ok(()) => 0,
        Err(Failure { code, error }) => {
            eprintln!("certfactory: {error:#}");
            code
        }
    };
    // Whoever reads it may have gone.
    let _ = std::io::stdout().flush();
    // Without the C libraries' exit handlers: OpenSSL and PKCS#11 modules take themselves apart there,
    // under threads that may still free what is theirs.
    signal_hook::low_level::exit(i32::from(code))
}

/// Loads the configuration for a command that uses the HSM.
pub fn load_with_environment(path: &Path) -> Result<Config, Failure> {
    enter_environment(&RawConfig::read(path)?)?;
    Ok(Config::load(path)?)
}

/// PKCS#11 modules read their settings from the environment. A running process cannot change its
/// own safely, so it starts itself again, once, with the variables that the configuration names.
pub fn enter_environment(raw: &RawConfig) -> Outcome {
    enter(&raw.environment())
}

/// The same, for variables that are named elsewhere.
pub fn enter(wanted: &BTreeMap<String, String>) -> Outcome {
    if wanted
        .iter()
        .all(|(name, value)| std::env::var(name).as_ref() == Ok(value))
    {
        return Ok(());
    }
    let error = std::process::Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .envs(wanted)
        .exec();
    Err(error.into())
}

/// A runtime for a command: two threads, or one where the process may use less than two cores.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(2))
        .enable_all()
        .build()
}

/// Prints a JSON document on standard output.
pub fn print_json(value: &impl serde::Serialize) -> Outcome {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
