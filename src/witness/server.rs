//! `POST /add-checkpoint`, for logs; `GET /healthz`, for whoever looks after the witness.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::SystemTime;

use actix_web::App;
use actix_web::HttpResponse;
use actix_web::HttpServer;
use actix_web::dev::Server;
use actix_web::web;
use actix_web::web::Bytes;
use actix_web::web::Data;
use actix_web::web::PayloadConfig;
use openssl::ssl::SslAcceptorBuilder;

use crate::witness::Refusal;
use crate::witness::Witness;

/// Longest request, octets: 63 hashes and a note.
const REQUEST_LENGTH_MAX: usize = 64 * 1024;

/// Listens; with `tls`, for HTTPS. The address it got, and the server to wait for.
pub fn serve(
    witness: Witness,
    listen: SocketAddr,
    tls: Option<SslAcceptorBuilder>,
) -> std::io::Result<(SocketAddr, Server)> {
    let witness = Data::new(witness);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(witness.clone())
            .app_data(PayloadConfig::new(REQUEST_LENGTH_MAX))
            .route("/add-checkpoint", web::post().to(add_checkpoint))
            .route("/healthz", web::get().to(async || "ok\n"))
    })
    .workers(1)
    .client_request_timeout(Duration::from_secs(5));
    let server = match tls {
        Some(tls) => server.bind_openssl(listen, tls)?,
        None => server.bind(listen)?,
    };
    let address = server.addrs().first().copied().unwrap_or(listen);
    Ok((address, server.run()))
}

async fn add_checkpoint(witness: Data<Witness>, body: Bytes) -> HttpResponse {
    #[allow(clippy::disallowed_methods, reason = "a witness says when it saw")]
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let Ok(text) = String::from_utf8(body.to_vec()) else {
        return HttpResponse::BadRequest().body("not UTF-8\n");
    };
    let answered = web::block(move || witness.add_checkpoint(&text, seconds)).await;
    let refusal = match answered {
        Ok(Ok(line)) => {
            return HttpResponse::Ok()
                .content_type("text/plain; charset=utf-8")
                .body(line);
        }
        Ok(Err(refusal)) => refusal,
        Err(error) => Refusal::Storage(error.to_string()),
    };
    tracing::warn!(%refusal, "a checkpoint is not co-signed");
    let mut answer = match &refusal {
        Refusal::Malformed(_) => HttpResponse::BadRequest(),
        Refusal::Unsigned(_) => HttpResponse::Forbidden(),
        Refusal::UnknownLog => HttpResponse::NotFound(),
        Refusal::Conflict(size) => {
            return HttpResponse::Conflict()
                .content_type("text/x.tlog.size")
                .body(format!("{size}\n"));
        }
        Refusal::AnotherRoot(_) => HttpResponse::Conflict(),
        Refusal::Inconsistent(_) => HttpResponse::UnprocessableEntity(),
        Refusal::Storage(_) => HttpResponse::InternalServerError(),
    };
    answer
        .content_type("text/plain; charset=utf-8")
        .body(format!("{refusal}\n"))
}
