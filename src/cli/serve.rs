//! `serve`: the service, until SIGTERM or SIGINT. At SIGHUP it reads its configuration and its TLS
//! files again.
//!
//! After a graceful stop the process leaves at once, without the C libraries' exit handlers: OpenSSL
//! and PKCS#11 modules take themselves apart there, under threads that may still free what is theirs.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;

use crate::app::App;
use crate::app::headquarters::Office;
use crate::app::privacy;
use crate::app::supervision;
use crate::ca::replica::Part;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::Role;
use crate::config::LogFormat;
use crate::config::LogSection;
use crate::config::headquarters::HeadquartersConfig;
use crate::db::check::StartupFault;
use crate::db::error::DbFault;
use crate::telemetry;

/// How long the start waits for the HSM before it serves without.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop may take beside the time for which requests are still served.
const STOP_MAX: Duration = Duration::from_secs(20);

/// `serve`
#[derive(Args)]
pub struct ServeArguments {
    /// What this process does: there may be any number of each on one database.
    #[arg(long, value_enum, default_value_t = Role::All)]
    role: Role,
}

/// Runs the service; after a graceful stop the process ends here, with exit code 0.
pub fn run(global: &Global, arguments: &ServeArguments) -> Outcome {
    let part = match arguments.role {
        Role::All => Part::All,
        Role::Api => Part::Api,
        Role::Jobs => Part::Jobs,
        Role::Headquarters => return headquarters(global),
    };
    site(global, part)
}

fn headquarters(global: &Global) -> Outcome {
    let config = HeadquartersConfig::read(&global.config)?;
    crate::cli::enter(&config.environment())?;
    let (log, _level) = start_log(&config.log)?;
    privacy::keep_memory_private();
    crate::cli::runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let office = Office::start(&config).await.map_err(start_failure)?;
        supervision::ready("serving");
        supervision::keep_alive(office.operations);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    supervision::reloading();
                    office.reload();
                    supervision::ready("serving");
                }
            }
        }
        tracing::info!("stopping");
        supervision::stopping(STOP_MAX);
        office.stop().await;
        Ok::<(), Failure>(())
    })?;
    drop(log);
    signal_hook::low_level::exit(0)
}

fn start_log(section: &LogSection) -> anyhow::Result<(WorkerGuard, telemetry::Level)> {
    let json = match section.format {
        LogFormat::Auto => None,
        LogFormat::Json => Some(true),
        LogFormat::Text => Some(false),
    };
    telemetry::start(&section.level, json).map_err(anyhow::Error::from_boxed)
}

fn start_failure(error: anyhow::Error) -> Failure {
    let code = match error.downcast_ref() {
        Some(StartupFault::Database(DbFault::Unavailable(_))) => Failure::DEPENDENCY,
        _ => 1,
    };
    Failure::new(code, error)
}

fn site(global: &Global, part: Part) -> Outcome {
    let config = crate::cli::load_with_environment(&global.config)?;
    let (log, level) = start_log(&config.raw.log)?;
    privacy::keep_memory_private();
    let runtime = crate::cli::runtime()?;
    runtime.block_on(async {
        // Before anything else: a signal during the start must not be lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let app = App::start(config, &global.config, level, part)
            .await
            .map_err(start_failure)?;
        match app.ready(READY_TIMEOUT).await {
            Ok(()) => tracing::info!("ready"),
            Err(reason) => tracing::error!(reason, "serving, but not able to issue"),
        }
        supervision::ready("serving");
        supervision::keep_alive(app.operations);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    supervision::reloading();
                    app.reload().await;
                    supervision::ready("serving");
                }
            }
        }
        tracing::info!("stopping");
        supervision::stopping(app.leave + STOP_MAX);
        app.stop().await;
        Ok::<(), Failure>(())
    })?;
    // Waits until the last lines are written.
    drop(log);
    signal_hook::low_level::exit(0)
}
