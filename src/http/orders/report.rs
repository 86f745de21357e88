//! `GET /v1/orders/{name}/report`: what a closed order came to, signed by the site.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Path};

use crate::ca::Ca;
use crate::ca::Role;
use crate::ca::report::ReportError;
use crate::http::certificates::Deadline;
use crate::http::certificates::note;
use crate::http::orders;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;

/// A closed work order's report: made at the first request after its last certificate, the same
/// bytes for ever.
///
/// A JWS in compact serialization (RFC 7515), `ES256`, by the site's report key.
#[utoipa::path(
    get, path = "/v1/orders/{name}/report", tag = "orders",
    params(("name" = String, Path, description = "the order's name")),
    responses(
        (status = 200, body = String, content_type = "application/jose"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the HSM or the database is down")
    )
)]
pub async fn report(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
    deadline: Data<Deadline>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    who.require(&[Role::Operator, Role::Auditor, Role::Administrator])?;
    let deadline = Instant::now() + deadline.0;
    match ca.closing_report(&orders::named(path)?, deadline).await {
        Ok(report) => Ok(HttpResponse::Ok()
            .content_type("application/jose")
            .body(report)),
        Err(ReportError::NotFound) => Err(orders::not_here()),
        Err(error) => Err(error.into()),
    }
}
