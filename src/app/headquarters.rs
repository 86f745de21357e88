//! Head office: its configuration → a running service that reads what the plants published.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use anyhow::Context;
use chrono::TimeDelta;
use prometheus::Registry;

use crate::app;
use crate::app::SystemClock;
use crate::app::listener;
use crate::app::settings;
use crate::app::sockets::Sockets;
use crate::app::upkeep;
use crate::ca::Archive;
use crate::ca::Clock;
use crate::ca::Signer;
use crate::ca::headquarters::Headquarters;
use crate::ca::headquarters::tickets::TicketDesk;
use crate::config::headquarters::HeadquartersConfig;
use crate::config::headquarters::TicketsSection;
use crate::config::secret;
use crate::db;
use crate::db::headquarters::PgPlants;
use crate::hsm;
use crate::http;
use crate::http::limits::Limits;
use crate::http::middleware::Around;
use crate::http::middleware::Flights;
use crate::http::principal::Principals;
use crate::http::tls::Tls;
use crate::jobs::headquarters::Checking;
use crate::metrics::HsmMetrics;
use crate::metrics::HttpMetrics;
use crate::metrics::IssuanceMetrics;
use crate::metrics::PlantMetrics;
use crate::metrics::TlsMetrics;
use crate::pki::jws::JwsKey;
use crate::pki::key_policy::SignatureAlgorithm;
use crate::pki::report;
use crate::pki::report::ReportKey;

/// How far the clocks of this machine and of the database may be apart at the start.
const CLOCK_DIFFERENCE_MAX: TimeDelta = TimeDelta::seconds(5);
/// Requests a second, and at once, of one person.
const REQUESTS: (u32, usize) = (50, 16);

/// A running head office.
pub struct Office {
    hsm: Arc<hsm::Hsm>,
    tls: Arc<Tls>,
    flights: Arc<Flights>,
    servers: Vec<ServerHandle>,
    /// Where operations listens.
    pub operations: SocketAddr,
}

impl Office {
    /// Checks the database, starts the job and the listeners.
    pub async fn start(config: &HeadquartersConfig) -> anyhow::Result<Self> {
        let registry = Registry::new();
        app::register_process_metrics(&registry)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let password = config.database.password_file.as_deref();
        let password = password.map(secret).transpose()?;
        let database = settings::service_config(&config.database, password.as_ref())?;
        db::check::headquarters(&database, clock.as_ref(), CLOCK_DIFFERENCE_MAX).await?;
        let plants = PgPlants::new(&database)?;
        let watch: Arc<dyn Archive> = Arc::new(db::archive::PgArchive::new(&database)?);
        let principals = Data::new(Principals::default());
        let table = watch.principals().await.context("reading the principals")?;
        principals.replace(table);
        let tls = Arc::new(Tls::load(
            settings::files_of(&config.http),
            clock.now(),
            TlsMetrics::new(&registry)?,
        )?);

        let flights = Arc::new(Flights::default());
        let around = Data::new(Around {
            flights: flights.clone(),
            http: Arc::new(HttpMetrics::new(&registry)?),
            // Nothing is issued here, and nothing of it shown.
            issuance: Arc::new(IssuanceMetrics::new(&Registry::new())?),
        });
        let hsm = hsm::Hsm::start(tokens(config)?, &Arc::new(HsmMetrics::new(&registry)?));
        let office = Data::new(Headquarters {
            book: Arc::new(plants.clone()),
            tickets: ticket_desk(config, &hsm)?,
            clock: clock.clone(),
        });
        Checking {
            plants,
            metrics: PlantMetrics::new(&registry)?,
        }
        .start();
        tokio::spawn(upkeep::reread_principals(watch, principals.clone()));
        tokio::spawn(upkeep::reread_tls_files(clock.clone(), tls.clone()));

        let clock: Data<dyn Clock> = Data::from(clock);
        let limits = Data::new(Limits::new(REQUESTS.0, REQUESTS.1));
        let about = office.clone();
        let routes = move |service: &mut actix_web::web::ServiceConfig| {
            service
                .app_data(clock.clone())
                .app_data(principals.clone())
                .app_data(limits.clone())
                .app_data(about.clone())
                .configure(http::headquarters_api);
        };
        let mut sockets = Sockets::handed_over(&[config.http.listen])?;
        let socket = sockets.take(config.http.listen);
        let api = listener::serve(&config.http, around, &tls, routes, socket)?;
        let listen = config.operations.listen;
        let (operations, operations_handle) =
            app::serve_operations(listen, registry, &flights, move |service| {
                service
                    .app_data(office.clone())
                    .configure(http::headquarters_operations);
            })?;
        tracing::info!(role = "headquarters", %operations, version = env!("CARGO_PKG_VERSION"), "listening");
        Ok(Self {
            hsm,
            tls,
            flights,
            servers: vec![api, operations_handle],
            operations,
        })
    }

    /// Looks at the TLS files at once; what else the configuration says is taken at the next start.
    pub fn reload(&self) {
        self.tls.reload(SystemClock.now());
    }

    /// Answers what is in flight, then stops.
    pub async fn stop(self) {
        self.flights.leave();
        tokio::time::sleep(app::LEAVE_MIN).await;
        self.flights.refuse();
        let start = Instant::now();
        while self.flights.in_flight() > 0 && start.elapsed() < app::DRAIN_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        futures_util::future::join_all(self.servers.iter().map(|server| server.stop(true))).await;
        let hsm = self.hsm;
        // The HSM's threads are joined; that must not hold up the runtime.
        tokio::task::spawn_blocking(move || hsm.shutdown())
            .await
            .ok();
    }
}

/// The tokens; the ticket key is what they sign reports with.
fn tokens(config: &HeadquartersConfig) -> anyhow::Result<Vec<hsm::TokenConfig>> {
    let mut tokens = Vec::new();
    for section in &config.hsm {
        let mut keys = Vec::new();
        if let Some(tickets) = config.tickets.as_ref().filter(|it| it.hsm == section.name) {
            keys.push(hsm::KeyConfig {
                issuer: report::KEY_NAME.to_owned(),
                label: tickets.key_label.clone(),
                id: None,
                spki_der: ticket_key(tickets)?.public_key.as_der().to_vec(),
                algorithm: SignatureAlgorithm::EcdsaWithSha256,
            });
        }
        let pin = secret(&section.pin_file)?;
        tokens.push(settings::token_config(section, pin, keys));
    }
    Ok(tokens)
}

fn ticket_key(tickets: &TicketsSection) -> anyhow::Result<ReportKey> {
    let path = &tickets.public_key;
    let pem = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let key = ReportKey::from_pem(&pem);
    key.map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

fn ticket_desk(
    config: &HeadquartersConfig,
    hsm: &Arc<hsm::Hsm>,
) -> anyhow::Result<Option<TicketDesk>> {
    let Some(tickets) = &config.tickets else {
        return Ok(None);
    };
    let pem = std::fs::read(&tickets.public_key)?;
    let reader = JwsKey::from_pem(&tickets.kid, &pem);
    Ok(Some(TicketDesk {
        signer: Arc::clone(hsm) as Arc<dyn Signer>,
        key: ticket_key(tickets)?,
        reader: reader.map_err(anyhow::Error::msg)?,
        iss: tickets.iss.clone(),
    }))
}
