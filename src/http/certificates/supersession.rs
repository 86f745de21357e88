//! `POST /v1/certificates/{serial_number}/supersession`: rework.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::Role;
use crate::ca::rework::ReworkRequest;
use crate::http::body;
use crate::http::certificates::CertificateBody;
use crate::http::certificates::Deadline;
use crate::http::certificates::Form;
use crate::http::certificates::answer_issued;
use crate::http::certificates::idempotency_key;
use crate::http::certificates::named;
use crate::http::certificates::note;
use crate::http::certificates::words;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::internal;

/// Body of a rework.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SupersessionBody {
    /// The certification request, PEM, with a new key; its subject is empty or the device's.
    csr: String,
    /// Why, in words: 1 to 200 characters.
    reason: String,
}

/// Issue another certificate to the device of this one, its newest, for a new key. This one stays
/// good until the other one is confirmed. The same request gets the same certificate.
#[utoipa::path(
    post, path = "/v1/certificates/{serial_number}/supersession", tag = "certificates",
    params(
        ("serial_number" = String, Path, description = "32 hexadecimal digits: the certificate to replace"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable ASCII characters")
    ),
    request_body = SupersessionBody,
    responses(
        (status = 201, body = CertificateBody, description = "issued; `Location` names it"),
        (status = 200, body = CertificateBody, description = "issued before to the same request; `Idempotency-Replayed: true`"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "a neighbour is down; `Retry-After`")
    )
)]
pub async fn supersede(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
    deadline: Data<Deadline>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + deadline.0;
    note(&request, &who.0, &path);
    let principal = who.require(&[Role::Station, Role::Operator])?;
    let form = Form::accepted(request.headers())?;
    let idempotency_key = idempotency_key(request.headers())?;
    let serial_number = named(&path)?;
    let SupersessionBody { csr, reason } = body::json(&request)?;
    let rework = ReworkRequest {
        serial_number,
        csr: csr.into_bytes(),
        reason: words("reason", reason)?,
        idempotency_key,
        deadline,
    };
    // As of every issuance: it comes to its end even when the station hangs up.
    let spine = ca.clone().into_inner();
    let asks = principal.clone();
    let issued = tokio::spawn(async move { spine.supersede(&asks, rework).await })
        .await
        .map_err(internal)??;
    note(
        &request,
        &principal,
        &issued.record().intent.serial_number.to_hex(),
    );
    Ok(answer_issued(&issued, &ca, form, None))
}
