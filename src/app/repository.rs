//! The repository listener, and the task that keeps what it serves up to date.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::App as Actix;
use actix_web::HttpServer;
use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use anyhow::Context;

use crate::ca::Ca;
use crate::ca::crl::CrlPublisher;
use crate::ca::crl::CrlShelf;
use crate::ca::ocsp::OcspService;
use crate::http;
use crate::http::repository::Freshness;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// First pause after a failed round; it doubles. At the start the HSM is still being opened.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Plain HTTP: a CRL that could only be fetched over TLS would need itself (RFC 5280 8).
pub(super) fn serve(
    listen: SocketAddr,
    ca: &Arc<Ca>,
    shelf: &Arc<CrlShelf>,
    ocsp: OcspService,
    every: Duration,
) -> anyhow::Result<ServerHandle> {
    let ca = Data::from(Arc::clone(ca));
    let shelf = Data::from(Arc::clone(shelf));
    let ocsp = Data::new(ocsp);
    let freshness = Data::new(Freshness(every));
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
        .disable_signals()
        .bind(listen)
        .with_context(|| format!("listening on {listen}"))?;
    tracing::info!(repository = ?server.addrs(), "listening");
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(handle)
}

/// One round after the other; sooner after one that failed. While HSM or database are down what
/// was published stays.
pub(super) async fn keep_publishing(publisher: CrlPublisher, every: Duration) {
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
