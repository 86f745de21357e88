//! The repository listener, and the task that keeps what it serves up to date.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use actix_web::App as Actix;
use actix_web::HttpServer;
use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use anyhow::Context;
use chrono::TimeDelta;
use prometheus::Registry;

use crate::ca::Ca;
use crate::ca::crl::CrlPublisher;
use crate::ca::crl::CrlShelf;
use crate::ca::ocsp::OcspService;
use crate::config::Config;
use crate::db;
use crate::http;
use crate::http::repository::Freshness;
use crate::metrics::CrlMetrics;
use crate::metrics::OcspMetrics;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// First pause after a failed round; it doubles. At the start the HSM is still being opened.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Publishes the CRLs that are stored, and keeps them up to date from then on.
pub(super) async fn publish(
    config: &Config,
    database: &db::config::DbConfig,
    ca: &Arc<Ca>,
    registry: &Registry,
) -> anyhow::Result<Arc<CrlShelf>> {
    let shelf = Arc::new(CrlShelf::default());
    let publisher = CrlPublisher {
        ca: Arc::clone(ca),
        store: Arc::new(db::crls::PgCrlStore::new(database)?),
        shelf: Arc::clone(&shelf),
        life: TimeDelta::hours(config.raw.crl.next_update_hours.into()),
        metrics: Arc::new(CrlMetrics::new(registry)?),
        waited: AtomicU32::new(0),
    };
    publisher
        .publish_stored()
        .await
        .context("reading the CRLs")?;
    tokio::spawn(keep_publishing(publisher, every(config)));
    Ok(shelf)
}

/// The listener, on the socket that was handed over or one of its
/// own. Plain HTTP: a CRL that could only be fetched over TLS
/// would need itself (RFC 5280 8).
pub(super) fn serve(
    listen: SocketAddr,
    config: &Config,
    database: &db::config::DbConfig,
    ca: &Arc<Ca>,
    shelf: &Arc<CrlShelf>,
    registry: &Registry,
    socket: Option<TcpListener>,
) -> anyhow::Result<ServerHandle> {
    let responders = config.responders.iter();
    let ocsp = OcspService::new(
        Arc::clone(ca),
        responders.map(|r| (r.issuer.clone(), r.clone())).collect(),
        // Of their own: neither a search nor the line waits for who asks here.
        Arc::new(db::archive::PgArchive::new(database)?),
        every(config),
        Arc::new(OcspMetrics::new(registry)?),
    );
    let ca = Data::from(Arc::clone(ca));
    let shelf = Data::from(Arc::clone(shelf));
    let ocsp = Data::new(ocsp);
    let freshness = Data::new(Freshness(every(config)));
    let server = HttpServer::new(move || {
        Actix::new()
            .app_data(ca.clone())
            .app_data(shelf.clone())
            .app_data(ocsp.clone())
            .app_data(freshness.clone())
            .configure(http::repository)
    });
    let server = server
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(Duration::from_secs(5))
        .keep_alive(Duration::from_secs(15))
        .shutdown_timeout(1)
        .disable_signals();
    let server = match socket {
        Some(socket) => server.listen(socket),
        None => server.bind(listen),
    };
    let server = server.with_context(|| format!("listening on {listen}"))?;
    tracing::info!(repository = ?server.addrs(), "listening");
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(handle)
}

fn every(config: &Config) -> Duration {
    Duration::from_secs(config.raw.crl.every_seconds.into())
}

/// One round after the other; sooner after one that failed. While HSM or database are down what
/// was published stays.
async fn keep_publishing(publisher: CrlPublisher, every: Duration) {
    let mut retry = RETRY_FIRST;
    loop {
        let failed = match publisher.round().await {
            Ok(failed) => failed > 0,
            Err(error) => {
                tracing::warn!(%error, "no CRL was looked at");
                true
            }
        };
        let pause = if failed { retry.min(every) } else { every };
        retry = if failed { retry * 2 } else { RETRY_FIRST };
        retry = retry.min(every);
        tokio::time::sleep(pause).await;
    }
}
