//! Who is asking: client certificate → [`Principal`], decided on every request from a live table.
//!
//! TLS proves possession of a key under the clients' trust anchor; what that key may do is in the
//! table, by the key's hash. So disabling a row works at once, on open connections and resumed
//! sessions alike, and a name in a certificate gives no rights.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_tls::accept::openssl::TlsStream;
use actix_web::FromRequest;
use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::dev::Payload;
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;
use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};

use crate::ca::Clock;
use crate::ca::Principal;
use crate::ca::Role;
use crate::http::limits::Limits;
use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::http::tls::unix_time;

/// The connection's verified client certificate.
#[derive(Clone, Copy, Debug)]
struct PeerKey {
    /// SHA-256 over its public key.
    spki_sha256: [u8; 32],
    /// Its last second. TLS looks at it when the connection begins; a connection may live longer.
    not_after: DateTime<Utc>,
}

/// Remembers a new connection's client key. For `HttpService::on_connect_ext`.
pub fn remember_peer(stream: &TlsStream<TcpStream>, data: &mut Extensions) {
    let Some(certificate) = stream.ssl().peer_certificate() else {
        return;
    };
    let spki = certificate
        .public_key()
        .and_then(|key| key.public_key_to_der());
    let not_after = unix_time(certificate.not_after())
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    if let (Ok(spki), Some(not_after)) = (spki, not_after) {
        data.insert(PeerKey {
            spki_sha256: openssl::sha::sha256(&spki),
            not_after,
        });
    }
}

/// The live table of principals, by key hash.
#[derive(Default)]
pub struct Principals(ArcSwap<HashMap<[u8; 32], Arc<Principal>>>);

impl Principals {
    /// Replaces the table; the next request sees it.
    pub fn replace(&self, principals: Vec<Principal>) {
        self.0.store(Arc::new(
            principals
                .into_iter()
                .map(|p| (p.spki_sha256, Arc::new(p)))
                .collect(),
        ));
    }

    fn find(&self, key: &[u8; 32]) -> Option<Arc<Principal>> {
        self.0.load().get(key).cloned()
    }
}

/// A request's principal: known and not disabled.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Arc<Principal>);

impl Authenticated {
    /// Refuses every role but those named.
    pub fn require(self, roles: &[Role]) -> Result<Arc<Principal>, Problem> {
        if roles.contains(&self.0.role) {
            Ok(self.0)
        } else {
            Err(Problem::new(
                Slug::Forbidden,
                format!(
                    "a principal of role `{}` may not do this",
                    self.0.role.as_str()
                ),
            ))
        }
    }
}

impl FromRequest for Authenticated {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authenticate(request))
    }
}

/// The role of who asks, where it is somebody.
pub(super) fn role(request: &HttpRequest) -> Option<Role> {
    identify(request).ok().map(|principal| principal.role)
}

fn authenticate(request: &HttpRequest) -> Result<Authenticated, Problem> {
    let principal = identify(request)?;
    let limits = request
        .app_data::<Data<Limits>>()
        .ok_or_else(|| internal("no limits"))?;
    // It ends with the request.
    if let Some(place) = limits.take(&principal)? {
        request.extensions_mut().insert(place);
    }
    Ok(Authenticated(principal))
}

/// Who asks, and that they may ask now and from there. Counts nothing.
fn identify(request: &HttpRequest) -> Result<Arc<Principal>, Problem> {
    let Some(peer) = request.conn_data::<PeerKey>() else {
        return Err(Problem::new(
            Slug::ClientCertificateRequired,
            "connect with a client certificate",
        ));
    };
    let principals = request
        .app_data::<Data<Principals>>()
        .ok_or_else(|| internal("no table of principals"))?;
    let clock = request
        .app_data::<Data<dyn Clock>>()
        .ok_or_else(|| internal("no clock"))?;
    let Some(principal) = principals.find(&peer.spki_sha256) else {
        return Err(Problem::new(
            Slug::StationUnknown,
            "this client certificate's key is not registered",
        ));
    };
    if principal.disabled {
        return Err(Problem::new(
            Slug::StationDisabled,
            format!("`{}` is disabled", principal.name),
        ));
    }
    let now = clock.now();
    if now > peer.not_after {
        return Err(Problem::new(
            Slug::StationDisabled,
            format!("the client certificate of `{}` has expired", principal.name),
        ));
    }
    let from = request.peer_addr().map(|address| address.ip());
    if let Err(why) = principal.may_ask(from, now) {
        return Err(Problem::new(
            Slug::Forbidden,
            format!("`{}` may not ask {why}", principal.name),
        ));
    }
    Ok(principal)
}
