//! Composition root: `Config` → running service. The order of start and of shutdown is here.

pub mod headquarters;
mod listener;
mod log;
pub mod privacy;
mod reload;
mod repository;
mod settings;
mod sockets;
pub mod supervision;
mod upkeep;

pub use settings::database_config;
pub use settings::owner_config;
pub use settings::standby_config;
pub use settings::tls_files;
pub use settings::token_config;
pub use settings::token_configs;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use actix_web::App as Actix;
use actix_web::HttpServer;
use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use actix_web::web::ServiceConfig;
use anyhow::Context;
use chrono::{DateTime, Utc};
use prometheus::Registry;

use crate::app::reload::Reloader;
use crate::app::sockets::Sockets;
use crate::ca::Archive;
use crate::ca::Ca;
use crate::ca::Clock;
use crate::ca::Ledger;
use crate::ca::Signer;
use crate::ca::clock::ClockWatch;
use crate::ca::crl::CrlShelf;
use crate::ca::floor::Floor;
use crate::ca::life::LifeBook;
use crate::ca::line::Line;
use crate::ca::log::LogBook;
use crate::ca::log::NoteKind;
use crate::ca::log::fresh::FreshEntries;
use crate::ca::order::OrderBook;
use crate::ca::profiles::Profiles;
use crate::ca::random::RandomWatch;
use crate::ca::replica::Part;
use crate::ca::replica::Replica;
use crate::ca::station::DailyCaps;
use crate::ca::station::StationBook;
use crate::ca::station::StationIssuing;
use crate::ca::ticket::TicketTrust;
use crate::config::Config;
use crate::db;
use crate::db::measures::PgMeasures;
use crate::db::replicas::PgReplicas;
use crate::db::site::SiteFault;
use crate::hsm;
use crate::http;
use crate::http::batches::Batches;
use crate::http::certificates::Deadline;
use crate::http::limits::Limits;
use crate::http::middleware::Around;
use crate::http::middleware::Flights;
use crate::http::principal::Principals;
use crate::http::tls::Tls;
use crate::jobs::batches::BatchRunner;
use crate::jobs::batches::Running;
use crate::jobs::measure::Measuring;
use crate::metrics::BatchMetrics;
use crate::metrics::HsmMetrics;
use crate::metrics::HttpMetrics;
use crate::metrics::IssuanceMetrics;
use crate::metrics::LedgerMetrics;
use crate::metrics::LogMetrics;
use crate::metrics::ReloadMetrics;
use crate::metrics::ReplicaMetrics;
use crate::metrics::StandbyMetrics;
use crate::metrics::StateMetrics;
use crate::metrics::TlsMetrics;
use crate::pki::issuer::Issuer;
use crate::telemetry::Level;

/// How often head office is told that the service runs.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Time for requests in flight to be answered at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long requests are still served at shutdown, at the least, each with the word that its connection is
/// closed: who asks again and again comes to another replica, or to the next process.
const LEAVE_MIN: Duration = Duration::from_millis(500);

/// The system's clock: the only place that reads it.
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the clock's one home")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A running service.
pub struct App {
    ca: Arc<Ca>,
    hsm: Arc<hsm::Hsm>,
    flights: Arc<Flights>,
    reloader: Reloader,
    servers: Vec<ServerHandle>,
    batches: Option<Running>,
    /// How long requests are still served at shutdown.
    pub leave: Duration,
    /// Listeners whose sockets are not ours to close: new connections wait in them for the next process.
    handed_over: Vec<ServerHandle>,
    /// Where operations listens.
    pub operations: SocketAddr,
}

impl App {
    /// Checks the database, opens the HSM, starts the listeners.
    ///
    /// An HSM that does not answer, or holds a wrong key, does not keep the listeners down: they
    /// answer 503 and `/readyz` says why, until it is put right.
    ///
    /// It does its `part` of the work, beside other replicas on the database; a start fails when the
    /// instance octet that the configuration names is another's.
    ///
    /// `path` is where the configuration came from, and `level` sets what is logged: both for
    /// [`App::reload`].
    pub async fn start(
        config: Config,
        path: &Path,
        level: Level,
        part: Part,
    ) -> anyhow::Result<Self> {
        let sockets = Sockets::handed_over(&listening(&config, part))?;
        let registry = Registry::new();
        register_process_metrics(&registry)?;
        let issuance = Arc::new(IssuanceMetrics::new(&registry)?);
        let clock = Arc::new(SystemClock);

        let database = database_config(&config)?;
        db::check::startup(&database, clock.as_ref(), config.clock_difference_max).await?;
        check_site(&config, &database).await?;
        let ledger_metrics = Arc::new(LedgerMetrics::new(&registry)?);
        let fresh = Arc::new(FreshEntries::default());
        let (replica, standing) =
            take_place(&config, &database, part, &ledger_metrics, &registry).await?;
        let holder = Some(replica.id);
        let ledger =
            db::ledger::PgLedger::start(&database, &ledger_metrics, fresh.clone(), holder)?;
        let batches = db::batches::PgBatches::start(&database, &ledger_metrics)?;
        let standby = standby(&config, &database, &registry)?;
        let [log_book, log_shelf] = log_books(&database, standby.as_ref(), &ledger_metrics)?;
        let log = log::open(&config, log_book.as_ref()).await?;
        let searches = db::standby::Reading::new(&database, standby.as_ref())?;
        let searches = searches.counted("archive", &ledger_metrics);
        let archive = searches.primary();
        let watch = watching(&database)?;

        // Before anything logs in to a token: a start that ends here has spent no try of a PIN.
        let tls = first_tls(&config, clock.as_ref(), &registry)?;
        let hsm = start_hsm(&config, &registry)?;
        show_ends(&config, &issuance);
        let ca = Arc::new(Ca {
            issuers: by_name(&config),
            profiles: Profiles::new(&config.profiles),
            replica,
            signer: Arc::clone(&hsm) as Arc<dyn Signer>,
            orders: Arc::clone(&ledger) as Arc<dyn OrderBook>,
            report_key: config.report_key.clone(),
            tickets: ticket_trust(&config),
            lives: Arc::clone(&ledger) as Arc<dyn LifeBook>,
            station_book: Arc::clone(&ledger) as Arc<dyn StationBook>,
            daily_caps: DailyCaps::default(),
            line: Line::default(),
            batches: Arc::new(batches),
            log_book,
            log_shelf,
            log: Arc::clone(&log.watch),
            floor: floor(&database, standby.as_ref())?,
            stations: station_issuing(&config),
            ledger: ledger as Arc<dyn Ledger>,
            archive: Arc::new(archive.clone()),
            searches: Arc::new(searches),
            clock_watch: ClockWatch::new(config.clock_difference_max, clock.now()),
            random_watch: RandomWatch::default(),
            clock,
            metrics: issuance.clone(),
        });

        let config = Arc::new(config);
        keep_standing(standing, &ca, &config);
        let seen = (fresh, database.seen.clone());
        log.follow(&config, &ca, seen, Arc::new(LogMetrics::new(&registry)?))?;
        let principals = first_principals(&ca).await?;
        let shelf = repository::publish(&config, &database, &ca, &registry).await?;
        upkeep::begin(&ca, Arc::clone(&hsm), watch, &principals, &tls);
        keep_beating(&config, &database)?;
        measure(&config, &database, &ca, archive, &registry)?;
        let batches = batch_runner(&config, &ca, &registry)?;
        let flights = Arc::new(Flights::default());
        let around = Data::new(Around {
            flights: flights.clone(),
            http: Arc::new(HttpMetrics::new(&registry)?),
            issuance,
        });
        let reloader = reloader(path, &config, &ca, &tls, level, &registry)?;
        let front = Front {
            config: &config,
            database: &database,
            ca: &ca,
            shelf: &shelf,
            registry: &registry,
            tls: &tls,
            principals,
            around,
        };
        let mut listeners = front.listen(sockets)?;
        let listen = config.raw.operations.listen;
        let about = Data::from(ca.clone());
        let (operations, handle) = serve_operations(listen, registry, &flights, move |service| {
            service.app_data(about.clone()).configure(http::operations);
        })?;
        listeners.servers.push(handle);
        tracing::info!(role = part.as_str(), %operations, version = env!("CARGO_PKG_VERSION"), "listening");
        Ok(Self {
            hsm,
            flights,
            leave: Duration::from_secs(config.raw.http.drain_seconds.into()).max(LEAVE_MIN),
            reloader,
            ca,
            servers: listeners.servers,
            handed_over: listeners.handed_over,
            batches,
            operations,
        })
    }

    /// Waits until a certificate could be issued by every issuer, or `timeout` passes.
    pub async fn ready(&self, timeout: Duration) -> Result<(), String> {
        let end = Instant::now() + timeout;
        loop {
            let state = self
                .ca
                .issuers
                .keys()
                .try_for_each(|name| self.ca.signer.ready(name))
                .and_then(|()| self.ca.ledger.ready());
            if state.is_ok() || Instant::now() >= end {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads the configuration and the TLS files again, and takes them into use where nothing is wrong
    /// with them; what is wrong is in the log.
    pub async fn reload(&self) {
        self.reloader.reload().await;
    }

    /// Says at `/readyz` that it goes, and serves on for as long as a load balancer takes to see it; then
    /// answers or cleanly refuses what is in flight, and stops. Where its sockets are somebody else's, it takes
    /// up no new connection, and refuses nothing.
    pub async fn stop(self) {
        self.flights.leave();
        futures_util::future::join_all(self.handed_over.iter().map(ServerHandle::pause)).await;
        let start = Instant::now();
        if self.ca.replica.part.serves() {
            tokio::time::sleep(self.leave).await;
        }
        if self.handed_over.is_empty() {
            self.flights.refuse();
        }
        let longest = self.leave.saturating_sub(LEAVE_MIN) + DRAIN_MAX;
        while self.flights.in_flight() > 0 && start.elapsed() < longest {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        futures_util::future::join_all(self.servers.iter().map(|server| server.stop(true))).await;
        if let Some(batches) = self.batches {
            batches.stop().await;
        }
        self.ca.tell_stopped().await;
        let hsm = self.hsm;
        // The HSM's threads are joined; that must not hold up the runtime.
        tokio::task::spawn_blocking(move || hsm.shutdown())
            .await
            .ok();
        tracing::info!(in_flight = self.flights.in_flight(), "stopped");
    }
}

/// Where a replica listens to others than operations.
fn listening(config: &Config, part: Part) -> Vec<SocketAddr> {
    let repository = config.raw.repository.as_ref();
    let addresses = std::iter::once(config.raw.http.listen).chain(repository.map(|it| it.listen));
    addresses.filter(|_| part.serves()).collect()
}

/// What is needed to listen to others than operations.
struct Front<'a> {
    config: &'a Config,
    database: &'a db::config::DbConfig,
    ca: &'a Arc<Ca>,
    shelf: &'a Arc<CrlShelf>,
    registry: &'a Registry,
    tls: &'a Tls,
    principals: Data<Principals>,
    around: Data<Around>,
}

/// What listens, and of which of them the sockets are somebody else's.
#[derive(Default)]
struct Listeners {
    servers: Vec<ServerHandle>,
    handed_over: Vec<ServerHandle>,
}

impl Front<'_> {
    /// Listens where its part is to.
    fn listen(self, mut sockets: Sockets) -> anyhow::Result<Listeners> {
        let mut listeners = Listeners::default();
        if !self.ca.replica.part.serves() {
            return Ok(listeners);
        }
        let (config, ca, crls) = (self.config, self.ca, self.shelf);
        let socket = sockets.take(config.raw.http.listen);
        let ours = socket.is_none();
        let routes = api_routes(config, ca, crls, self.principals);
        let http = &config.raw.http;
        let api = listener::serve(http, self.around, self.tls, routes, socket)?;
        listeners.add(api, ours);
        if let Some(section) = &config.raw.repository {
            let listen = section.listen;
            let socket = sockets.take(listen);
            let ours = socket.is_none();
            let (database, registry) = (self.database, self.registry);
            let server = repository::serve(listen, config, database, ca, crls, registry, socket)?;
            listeners.add(server, ours);
        }
        Ok(listeners)
    }
}

impl Listeners {
    fn add(&mut self, server: ServerHandle, ours: bool) {
        if !ours {
            self.handed_over.push(server.clone());
        }
        self.servers.push(server);
    }
}

/// An instance octet, and what this replica does first.
async fn take_place(
    config: &Config,
    database: &db::config::DbConfig,
    part: Part,
    ledger_metrics: &Arc<LedgerMetrics>,
    registry: &Registry,
) -> anyhow::Result<(Arc<Replica>, PgReplicas)> {
    let replica = Arc::new(Replica::new(part));
    let standing = PgReplicas::claim(
        database,
        Arc::clone(&replica),
        config.instance,
        ledger_metrics,
        ReplicaMetrics::new(registry)?,
    );
    let standing = standing.await;
    let standing = standing.context("taking a place among the replicas")?;
    Ok((replica, standing))
}

/// Connections of their own: no search, however slow, keeps a disabled station's row from being read.
fn watching(database: &db::config::DbConfig) -> anyhow::Result<Arc<dyn Archive>> {
    let watch = db::config::DbConfig {
        archive_connections_max: 2,
        ..database.clone()
    };
    Ok(Arc::new(db::archive::PgArchive::new(&watch)?))
}

/// The log, and the same for readers from outside.
fn log_books(
    database: &db::config::DbConfig,
    standby: Option<&Arc<db::standby::Standby>>,
    metrics: &Arc<LedgerMetrics>,
) -> anyhow::Result<[Arc<dyn LogBook>; 2]> {
    let book = db::log::PgLog::start(database, metrics)?;
    let shelf = db::log::PgLog::for_readers(database, standby)?;
    Ok([
        Arc::new(book),
        Arc::new(shelf.counted("log_readers", metrics)),
    ])
}

fn floor(
    database: &db::config::DbConfig,
    standby: Option<&Arc<db::standby::Standby>>,
) -> anyhow::Result<Arc<Floor>> {
    let book = db::floor::PgFloor::new(database, standby)?;
    Ok(Floor::new(Arc::new(book)))
}

fn start_hsm(config: &Config, registry: &Registry) -> anyhow::Result<Arc<hsm::Hsm>> {
    let metrics = Arc::new(HsmMetrics::new(registry)?);
    Ok(hsm::Hsm::start(token_configs(config), &metrics))
}

/// What takes a new configuration, which came from `path`, beside the one that the service starts with.
fn reloader(
    path: &Path,
    config: &Arc<Config>,
    ca: &Arc<Ca>,
    tls: &Arc<Tls>,
    level: Level,
    registry: &Registry,
) -> anyhow::Result<Reloader> {
    Ok(Reloader {
        path: path.to_owned(),
        files: reload::files(&config.raw),
        started: Arc::clone(config),
        ca: Arc::clone(ca),
        tls: Arc::clone(tls),
        level,
        metrics: ReloadMetrics::new(registry, ca.clock.now())?,
    })
}

fn by_name(config: &Config) -> HashMap<String, Arc<Issuer>> {
    let issuers = config.issuers.iter();
    issuers.map(|i| (i.name.clone(), i.clone())).collect()
}

/// Keeps this replica's place among the others; a new instance octet is told to the log.
fn keep_standing(standing: PgReplicas, ca: &Arc<Ca>, config: &Arc<Config>) {
    let (ca, config) = (Arc::clone(ca), Arc::clone(config));
    standing.keep(move || ca.tell(NoteKind::Configured, log::beginning(&config, &ca)));
}

/// Watches the standby from now on, where there is one. One that does not answer keeps nothing from
/// starting.
fn standby(
    config: &Config,
    database: &db::config::DbConfig,
    registry: &Registry,
) -> anyhow::Result<Option<Arc<db::standby::Standby>>> {
    let section = config.raw.database.archive.as_ref();
    let Some((section, there)) = section.zip(standby_config(config)?) else {
        return Ok(None);
    };
    let lag_max = Duration::from_secs(section.lag_max_seconds.into());
    let metrics = StandbyMetrics::new(registry)?;
    let standby = db::standby::Standby::start(database, there, lag_max, metrics)?;
    Ok(Some(standby))
}

/// The API's routes, with what they need.
fn api_routes(
    config: &Config,
    ca: &Arc<Ca>,
    shelf: &Arc<CrlShelf>,
    principals: Data<Principals>,
) -> impl Fn(&mut ServiceConfig) + Clone + Send + 'static {
    let clock: Data<dyn Clock> = Data::from(ca.clock.clone());
    let ca = Data::from(ca.clone());
    let shelf = Data::from(shelf.clone());
    let deadline = Data::new(Deadline(config.deadline));
    let batches = Data::new(Batches {
        directory: config.raw.batches.as_ref().map(|it| it.directory.clone()),
    });
    let limits = &config.raw.limits;
    let limits = Data::new(Limits::new(
        limits.station_requests_per_second,
        limits.station_requests_at_once,
    ));
    move |service| {
        service
            .app_data(clock.clone())
            .app_data(ca.clone())
            .app_data(shelf.clone())
            .app_data(deadline.clone())
            .app_data(batches.clone())
            .app_data(principals.clone())
            .app_data(limits.clone())
            .configure(http::api);
    }
}

fn ticket_trust(config: &Config) -> TicketTrust {
    TicketTrust {
        site: config.raw.site.id.clone(),
        keys: config.ticket_keys.clone(),
        required: config.raw.site.tickets_required,
    }
}

fn station_issuing(config: &Config) -> Option<StationIssuing> {
    let section = config.raw.stations.as_ref()?;
    Some(StationIssuing {
        issuer: section.issuer.clone(),
        days: section.days,
        four_eyes: section.four_eyes,
    })
}

/// Shows when each issuer's certificate ends.
fn show_ends(config: &Config, issuance: &IssuanceMetrics) {
    for issuer in &config.issuers {
        let gauge = issuance.issuer_not_after.with_label_values(&[&issuer.name]);
        gauge.set(issuer.validity.not_after.timestamp());
    }
}

async fn first_principals(ca: &Ca) -> anyhow::Result<Data<Principals>> {
    let principals = Data::new(Principals::default());
    let table = ca.archive.principals().await;
    principals.replace(table.context("reading the principals")?);
    Ok(principals)
}

fn first_tls(config: &Config, clock: &dyn Clock, registry: &Registry) -> anyhow::Result<Arc<Tls>> {
    let metrics = TlsMetrics::new(registry)?;
    let tls = Tls::load(tls_files(config), clock.now(), metrics)?;
    Ok(Arc::new(tls))
}

/// Refuses another site's database. What keeps head office from its rows keeps nobody from issuing.
async fn check_site(config: &Config, database: &db::config::DbConfig) -> anyhow::Result<()> {
    let site = &config.raw.site;
    match db::site::check(database, site.id.as_deref(), site.published).await? {
        Some(fault @ SiteFault::OtherSite { .. }) => Err(fault.into()),
        Some(fault) => {
            tracing::warn!(%fault, "head office gets nothing");
            Ok(())
        }
        None => Ok(()),
    }
}

/// Says to head office that the service runs, where it may know.
fn keep_beating(config: &Config, database: &db::config::DbConfig) -> anyhow::Result<()> {
    if !config.raw.site.published {
        return Ok(());
    }
    let heart = db::site::PgHeartbeat::new(database)?;
    tokio::spawn(async move {
        loop {
            // While the database is down head office hears nothing, and that is what it is to know.
            heart.beat().await.ok();
            tokio::time::sleep(HEARTBEAT_EVERY).await;
        }
    });
    Ok(())
}

/// Measures what nobody counts.
fn measure(
    config: &Config,
    database: &db::config::DbConfig,
    ca: &Arc<Ca>,
    archive: db::archive::PgArchive,
    registry: &Registry,
) -> anyhow::Result<()> {
    let measuring = Measuring {
        ca: Arc::clone(ca),
        archive,
        book: PgMeasures::new(database)?,
        directories: directories(config),
        metrics: StateMetrics::new(registry)?,
    };
    measuring.start();
    Ok(())
}

/// Where the service writes.
#[must_use]
pub fn directories(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let audit = config.raw.audit.as_ref();
    let journal = audit.and_then(|audit| audit.journal.as_ref());
    let journal = journal.map(|journal| ("journal", journal.directory.clone()));
    let batches = config.raw.batches.as_ref();
    let batches = batches.map(|batches| ("batches", batches.directory.clone()));
    journal.into_iter().chain(batches).collect()
}

/// Works on batches, where they are taken and this replica works.
fn batch_runner(
    config: &Config,
    ca: &Arc<Ca>,
    registry: &Registry,
) -> anyhow::Result<Option<Running>> {
    let works = ca.replica.part.works();
    let Some(section) = config.raw.batches.as_ref().filter(|_| works) else {
        return Ok(None);
    };
    let directory = &section.directory;
    let runner = BatchRunner {
        ca: Arc::clone(ca),
        directory: directory.clone(),
        site: config.raw.site.id.clone().unwrap_or_default(),
        retention_days: section.retention_days,
        metrics: BatchMetrics::new(registry)?,
        held: Mutex::default(),
        stopping: AtomicBool::new(false),
    };
    let running = runner.start();
    let running = running.with_context(|| format!("batches in {}", directory.display()))?;
    Ok(Some(running))
}

fn serve_operations(
    listen: SocketAddr,
    registry: Registry,
    flights: &Arc<Flights>,
    routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> anyhow::Result<(SocketAddr, ServerHandle)> {
    let registry = Data::new(registry);
    let flights = Data::new(flights.clone());
    let server = HttpServer::new(move || {
        Actix::new()
            .app_data(registry.clone())
            .app_data(flights.clone())
            .configure(routes.clone())
    });
    let server = server
        .workers(1)
        .max_connections(64)
        .client_request_timeout(Duration::from_secs(5))
        .shutdown_timeout(1)
        .disable_signals()
        .bind(listen)
        .with_context(|| format!("listening on {listen}"))?;
    let address = server.addrs().first().copied().unwrap_or(listen);
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok((address, handle))
}

#[cfg(target_os = "linux")]
fn register_process_metrics(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))
}
