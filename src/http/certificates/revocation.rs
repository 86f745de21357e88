//! `POST /v1/certificates/{serial_number}/revocation`.

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
use crate::http::problem::Slug;
use crate::pki::revocation::RevocationReason;

/// Body of a revocation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RevocationBody {
    /// `CRLReason` by its name in RFC 5280 5.3.1: `unspecified`, `keyCompromise`,
    /// `affiliationChanged`, `superseded`, `cessationOfOperation` or `privilegeWithdrawn`.
    reason: String,
    /// Why, in words: at most 200 characters.
    comment: Option<String>,
}

/// Revoke one certificate, for ever. It is on its issuer's next CRL. The first end of a certificate
/// counts: the answer says what it was.
#[utoipa::path(
    post, path = "/v1/certificates/{serial_number}/revocation", tag = "certificates",
    params(("serial_number" = String, Path, description = "32 hexadecimal digits")),
    request_body = RevocationBody,
    responses(
        (status = 200, body = LifeBody, description = "it has ended, now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn revoke(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, &path);
    let principal = who.require(&[Role::Operator])?;
    let serial = named(&path)?;
    let RevocationBody { reason, comment } = body::json(&request)?;
    let reason = RevocationReason::from_word(&reason).ok_or_else(|| {
        let words = RevocationReason::ALL
            .map(RevocationReason::as_str)
            .join(", ");
        Problem::new(
            Slug::InvalidField,
            format!("reason: must be one of {words}"),
        )
    })?;
    let comment = comment.map(|text| words("comment", text)).transpose()?;
    let life = ca.revoke(&principal, serial, reason, comment).await?;
    Ok(HttpResponse::Ok().json(LifeBody::from(life)))
}
