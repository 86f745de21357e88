//! `serve`: the service, until SIGTERM or SIGINT.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config::LogFormat;
use crate::db::check::StartupFault;
use crate::db::error::DbFault;
use crate::telemetry;

/// How long the start waits for the HSM before it serves without.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the service; returns after a graceful stop.
pub fn run(global: &Global) -> Outcome {
    let config = crate::cli::load_with_environment(&global.config)?;
    let json = match config.raw.log.format {
        LogFormat::Auto => None,
        LogFormat::Json => Some(true),
        LogFormat::Text => Some(false),
    };
    let _guard =
        telemetry::start(&config.raw.log.level, json).map_err(anyhow::Error::from_boxed)?;
    crate::cli::runtime()?.block_on(async {
        // Before anything else: a signal during the start must not be lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let app = App::start(config).await.map_err(|error| {
            let code = match error.downcast_ref() {
                Some(StartupFault::Database(DbFault::Unavailable(_))) => Failure::DEPENDENCY,
                _ => 1,
            };
            Failure::new(code, error)
        })?;
        match app.ready(READY_TIMEOUT).await {
            Ok(()) => tracing::info!("ready"),
            Err(reason) => tracing::error!(reason, "serving, but not able to issue"),
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        app.stop().await;
        Ok(())
    })
}
