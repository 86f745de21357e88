//! Logging: one line an event, with request, station and serial; never blocks the line.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for a slow reader of standard output; more are dropped, issuing goes on.
const LINES_WAITING_MAX: usize = 16_384;

/// Sends log lines to standard output until the guard is dropped.
///
/// `json`: `None` means JSON unless standard output is a terminal.
pub fn start(
    level: &str,
    json: Option<bool>,
) -> Result<WorkerGuard, Box<dyn std::error::Error + Send + Sync>> {
    // cryptoki reports each of a token's mechanisms that it has no name for as an error.
    let filter = EnvFilter::try_new(level)?.add_directive("cryptoki::mechanism=off".parse()?);
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_WAITING_MAX)
        .lossy(true)
        // Standard output writes at every line; under load the worker has many at hand, and flushes
        // when it has none.
        .finish(std::io::BufWriter::new(std::io::stdout()));
    let registry = tracing_subscriber::registry().with(filter);
    if json.unwrap_or_else(|| !std::io::stdout().is_terminal()) {
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        registry.with(layer.with_writer(writer)).try_init()?;
    } else {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(writer)
                    .with_target(false),
            )
            .try_init()?;
    }
    Ok(guard)
}
