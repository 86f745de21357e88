//! Who is asking: client certificate → [`Principal`], decided on every request from a live table.
//!
//! TLS proves possession of a key under the clients' trust anchor; what that key may do is in the
//! table, by the key's hash. So disabling a row works at once, on open connections and resumed
//! sessions alike, and a name in a certificate gives no rights.

use std::any::Any;
use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::Arc;

use actix_web::FromRequest;
use actix_web::HttpRequest;
use actix_web::dev::Extensions;
use actix_web::dev::Payload;
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;
use arc_swap::ArcSwap;

use crate::ca::Principal;
use crate::ca::Role;
use crate::http::problem::Problem;
use crate::http::problem::Slug;

/// SHA-256 over the public key of the connection's verified client certificate.
#[derive(Clone, Copy, Debug)]
struct PeerKey([u8; 32]);

/// Remembers a new connection's client key. For `HttpServer::on_connect`.
pub fn remember_peer(connection: &dyn Any, data: &mut Extensions) {
    let Some(stream) =
        connection.downcast_ref::<actix_tls::accept::openssl::TlsStream<TcpStream>>()
    else {
        return;
    };
    let Some(certificate) = stream.ssl().peer_certificate() else {
        return;
    };
    if let Ok(spki) = certificate
        .public_key()
        .and_then(|key| key.public_key_to_der())
    {
        data.insert(PeerKey(openssl::sha::sha256(&spki)));
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

fn authenticate(request: &HttpRequest) -> Result<Authenticated, Problem> {
    let Some(PeerKey(key)) = request.conn_data::<PeerKey>() else {
        return Err(Problem::new(
            Slug::ClientCertificateRequired,
            "connect with a client certificate",
        ));
    };
    let principals = request
        .app_data::<Data<Principals>>()
        .ok_or_else(|| crate::http::problem::internal("no table of principals"))?;
    let Some(principal) = principals.find(key) else {
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
    Ok(Authenticated(principal))
}
