//! `POST /v1/certificates/{serial_number}/scrap`.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::Role;
use crate::http::body;
use crate::http::certificates::history::LifeBody;
use crate::http::certificates::named;
use crate::http::certificates::note;
use crate::http::certificates::words;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;

/// Body of a scrapping.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScrapBody {
    /// Why, in words: 1 to 200 characters.
    reason: String,
}

/// Scrap a device, named by its newest certificate. All its certificates end, and it never gets
/// another one. Within the order's scrap allowance its place is free for another device.
#[utoipa::path(
    post, path = "/v1/certificates/{serial_number}/scrap", tag = "certificates",
    params(("serial_number" = String, Path, description = "32 hexadecimal digits")),
    request_body = ScrapBody,
    responses(
        (status = 200, body = LifeBody, description = "it has ended, now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn scrap(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, &path);
    let principal = who.require(&[Role::Station, Role::Operator])?;
    let serial = named(&path)?;
    let ScrapBody { reason } = body::json(&request)?;
    let reason = words("reason", reason)?;
    let life = ca.scrap(&principal, serial, Some(reason)).await?;
    Ok(HttpResponse::Ok().json(LifeBody::from(life)))
}
