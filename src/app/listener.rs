//! The API's listener: accept, the door, TLS, HTTP, the route table.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_http::HttpService;
use actix_server::Server;
use actix_service::IntoServiceFactory;
use actix_service::ServiceFactoryExt;
use actix_service::apply_fn_factory;
use actix_service::map_config;
use actix_tls::accept::openssl::TlsStream;
use actix_web::App as Actix;
use actix_web::dev::AppConfig;
use actix_web::dev::ServerHandle;
use actix_web::dev::Service;
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;
use actix_web::web::ServiceConfig;
use anyhow::Context;

use crate::config::HttpSection;
use crate::http;
use crate::http::door::Door;
use crate::http::middleware::Around;
use crate::http::tls::Tls;

/// TLS handshakes at a time, of each worker: more than one address may hold connections, so that
/// one that falls silent in the middle of them does not keep out the others.
const HANDSHAKES_MAX: usize = 1024;
/// Time for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a request's head.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent between two requests.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// Starts it, with these routes and what they need, on the socket that was handed over or one of its own; a
/// port of 0 takes a free one.
pub(super) fn serve(
    section: &HttpSection,
    around: Data<Around>,
    tls: &Tls,
    routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
    socket: Option<TcpListener>,
) -> anyhow::Result<ServerHandle> {
    let door = Door::new(
        section.connections_per_address_max,
        section.handshakes_per_second_max,
        around.http.connections_refused.clone(),
    );
    let acceptor = tls.acceptor()?;
    let listener = match socket {
        Some(socket) => Ok(socket),
        None => listen(section.listen),
    };
    let listener = listener.with_context(|| format!("listening on {}", section.listen))?;
    let address = listener.local_addr()?;
    actix_tls::accept::max_concurrent_tls_connect(HANDSHAKES_MAX);

    // As `HttpServer` does it, which has no place for a door.
    let server = Server::build();
    let stopping = server.graceful_shutdown_signal();
    let service = move || {
        let app = Actix::new()
            .app_data(around.clone())
            .wrap(from_fn(http::middleware::around))
            .configure(routes.clone());
        let app = app.into_factory().map_err(|error| error.error_response());
        let stopping = stopping.clone();
        let timeout = actix_http::TlsAcceptorConfig::default().handshake_timeout(HANDSHAKE_TIMEOUT);
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(REQUEST_TIMEOUT)
            .client_disconnect_timeout(Duration::from_secs(1))
            .local_addr(address)
            .on_connect_ext(|stream: &TlsStream<TcpStream>, data| {
                http::principal::remember_peer(stream, data);
            })
            .finish(map_config(app, |()| AppConfig::default()))
            .openssl_with_config(acceptor.clone(), timeout);
        let door = door.clone();
        apply_fn_factory(http, move |stream: TcpStream, http| {
            // The end of a long answer is not kept back until the client has confirmed what came before, for which
            // clients take 40 ms.
            if let Err(fault) = stream.set_nodelay(true) {
                tracing::debug!(%fault, "TCP_NODELAY");
            }
            let place = stream
                .peer_addr()
                .ok()
                .and_then(|peer| door.enter(peer.ip()));
            let turn = place.as_ref().and_then(|_| door.turn(Instant::now()));
            let connection = turn.is_some().then(|| http.call(stream));
            async move {
                let (Some(_place), Some(turn), Some(connection)) = (place, turn, connection) else {
                    return Ok(());
                };
                tokio::time::sleep_until(turn.into()).await;
                connection.await
            }
        })
    };
    let server = server
        .workers(if section.workers == 0 {
            std::thread::available_parallelism().map_or(2, usize::from)
        } else {
            section.workers
        })
        .max_concurrent_connections(section.connections_max)
        .shutdown_timeout(2)
        .disable_signals()
        .listen("api", listener, service)?
        .run();
    let handle = server.handle();
    tokio::spawn(server);
    tracing::info!(api = %address, "listening");
    Ok(handle)
}

/// A listener whose address can be taken again at once after a stop.
fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}
