//! Logging: one line an event, with request, station and serial; never blocks the line.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for a slow reader of standard output; more are dropped, issuing goes on.
const LINES_WAITING_MAX: usize = 16_384;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What is logged, which changes while the service runs.
#[derive(Clone)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// From now on this is logged. Fails, and changes nothing, when it is no filter.
    pub fn set(&self, level: &str) -> Result<(), Fault> {
        Ok(self.0.reload(filter(level)?)?)
    }
}

/// Whether `level` can be set.
pub fn check(level: &str) -> Result<(), Fault> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, Fault> {
    // cryptoki reports each of a token's mechanisms that it has no name for as an error.
    // A database's warning is heeded, so it is never filtered out.
    Ok(EnvFilter::try_new(level)?
        .add_directive("cryptoki::mechanism=off".parse()?)
        .add_directive(format!("{DATABASE_NOTICES}=warn").parse()?))
}

/// Where the database's driver tells what a server says beside its answers. It has no other way to tell it.
const DATABASE_NOTICES: &str = "sqlx::postgres::notice";

tokio::task_local! {
    static WARNED: DatabaseWarnings;
}

/// Whether a database server has warned of anything since [`heed_database_warnings`] began.
#[derive(Clone, Default)]
pub struct DatabaseWarnings(Arc<AtomicBool>);

impl DatabaseWarnings {
    /// A warning is heard before the statement that it belongs to has its answer. Always `false` before [`start`].
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Does `work`, and tells it of warnings of database servers to the sessions that it uses itself. Of those
/// that another such work inside it hears it is not told. Sessions that it opens must be open before: a
/// server may greet each with a warning (of another version of a collation, for instance).
pub async fn heed_database_warnings<W: Future>(
    work: impl FnOnce(DatabaseWarnings) -> W,
) -> W::Output {
    let warned = DatabaseWarnings::default();
    WARNED.scope(warned.clone(), work(warned)).await
}

/// Hears them: the driver tells them to whoever polls the session.
struct HearDatabaseWarnings;

impl<S: tracing::Subscriber> Layer<S> for HearDatabaseWarnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == DATABASE_NOTICES {
            // Nobody listens: it is no commit that somebody waits for.
            let _ = WARNED.try_with(|warned| warned.0.store(true, Ordering::Release));
        }
    }
}

/// Sends log lines to standard output until the guard is dropped.
///
/// `json`: `None` means JSON unless standard output is a terminal.
pub fn start(level: &str, json: Option<bool>) -> Result<(WorkerGuard, Level), Fault> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_WAITING_MAX)
        .lossy(true)
        // Standard output writes at every line; under load the worker has many at hand, and flushes
        // when it has none.
        .finish(std::io::BufWriter::new(std::io::stdout()));
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(HearDatabaseWarnings);
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
    Ok((guard, Level(handle)))
}
