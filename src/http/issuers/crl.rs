//! `GET /v1/issuers/{name}/crl`: the newest CRL, for anyone.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path, Query};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::ca::Ca;
use crate::ca::crl::CrlId;
use crate::ca::crl::CrlShelf;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::repository::PKIX_CRL;
use crate::pki::pem;

/// Which one.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct CrlQuery {
    /// A shard, as the certificates' CRL distribution point numbers it; without it: the complete CRL.
    shard: Option<u16>,
}

/// An issuer's newest CRL: DER, or PEM where that is what is accepted.
#[utoipa::path(
    get, path = "/v1/issuers/{name}/crl", tag = "public", params(("name" = String, Path), CrlQuery),
    responses((status = 200, content_type = "application/pkix-crl", body = Vec<u8>), (status = 404, body = ProblemBody, content_type = "application/problem+json"))
)]
pub async fn show(
    request: HttpRequest,
    path: Path<String>,
    query: Result<Query<CrlQuery>, actix_web::Error>,
    ca: Data<Ca>,
    shelf: Data<CrlShelf>,
) -> Result<HttpResponse, Problem> {
    let query = query.map_err(|error| Problem::new(Slug::InvalidParameter, error.to_string()))?;
    let id = CrlId {
        issuer: super::find(&ca, &path)?.name.clone(),
        shard: query.shard,
    };
    let crl = shelf
        .get(&id)
        .ok_or_else(|| Problem::new(Slug::NotFound, "there is no such CRL, or not yet"))?;
    let accept = request.headers().get(header::ACCEPT);
    let wants_pem = accept
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/x-pem-file"));
    Ok(if wants_pem {
        HttpResponse::Ok()
            .content_type("application/x-pem-file")
            .body(pem::crl(&crl.der))
    } else {
        HttpResponse::Ok()
            .content_type(PKIX_CRL)
            .body(crl.der.clone())
    })
}
