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
use crate::ca::Archive;
use crate::ca::Clock;
use crate::ca::headquarters::Headquarters;
use crate::config::headquarters::HeadquartersConfig;
use crate::config::secret;
use crate::db;
use crate::db::headquarters::PgPlants;
use crate::http;
use crate::http::limits::Limits;
use crate::http::middleware::Around;
use crate::http::middleware::Flights;
use crate::http::principal::Principals;
use crate::http::tls::Tls;
use crate::jobs::headquarters::Checking;
use crate::metrics::HttpMetrics;
use crate::metrics::IssuanceMetrics;
use crate::metrics::PlantMetrics;
use crate::metrics::TlsMetrics;

/// How far the clocks of this machine and of the database may be apart at the start.
const CLOCK_DIFFERENCE_MAX: TimeDelta = TimeDelta::seconds(5);
/// Requests a second, and at once, of one person.
const REQUESTS: (u32, usize) = (50, 16);

/// A running head office.
pub struct Office {
    flights: Arc<Flights>,
    servers: Vec<ServerHandle>,
    /// Where the API listens.
    pub api: SocketAddr,
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
        let database = app::service_config(&config.database, password.as_ref())?;
        db::check::headquarters(&database, clock.as_ref(), CLOCK_DIFFERENCE_MAX).await?;
        let plants = PgPlants::new(&database)?;
        let watch: Arc<dyn Archive> = Arc::new(db::archive::PgArchive::new(&database)?);
        let principals = Data::new(Principals::default());
        let table = watch.principals().await.context("reading the principals")?;
        principals.replace(table);
        let tls = Arc::new(Tls::load(
            app::files_of(&config.http),
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
        let office = Data::new(Headquarters {
            book: Arc::new(plants.clone()),
            clock: clock.clone(),
        });
        Checking {
            plants,
            metrics: PlantMetrics::new(&registry)?,
        }
        .start();
        tokio::spawn(app::keep_principals(watch, principals.clone()));
        tokio::spawn(app::keep_tls_files(clock.clone(), tls.clone()));

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
        let (api, api_handle) = listener::serve(&config.http, around, &tls, routes)?;
        let listen = config.operations.listen;
        let (operations, operations_handle) =
            app::serve_operations(listen, registry, &flights, move |service| {
                service
                    .app_data(office.clone())
                    .configure(http::headquarters_operations);
            })?;
        tracing::info!(%api, %operations, version = env!("CARGO_PKG_VERSION"), "head office listens");
        Ok(Self {
            flights,
            servers: vec![api_handle, operations_handle],
            api,
            operations,
        })
    }

    /// Answers what is in flight, then stops.
    pub async fn stop(self) {
        self.flights.drain();
        let start = Instant::now();
        while start.elapsed() < app::DRAIN_MIN
            || (self.flights.in_flight() > 0 && start.elapsed() < app::DRAIN_MAX)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        futures_util::future::join_all(self.servers.iter().map(|server| server.stop(true))).await;
    }
}
