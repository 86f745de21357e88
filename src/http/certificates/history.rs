//! `GET /v1/certificates/{serial_number}/history`: what happened to a certificate.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde::Serialize;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::Intent;
use crate::ca::life::Life;
use crate::http::certificates::named;
use crate::http::certificates::not_here;
use crate::http::certificates::note;
use crate::http::certificates::rfc3339_millis;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::pki::revocation::RevocationReason;

/// A certificate's life so far.
#[derive(Serialize, ToSchema)]
pub struct LifeBody {
    /// 32 lower-case hexadecimal digits.
    serial_number: String,
    /// Device identity.
    device: String,
    /// `issued`, `confirmed`, `superseded`, `revoked` or `scrapped`.
    status: &'static str,
    /// Work order.
    order: Option<String>,
    /// Serial number of the certificate it is to replace.
    supersedes: Option<String>,
    /// Serial number of the certificate that is to replace it.
    superseded_by: Option<String>,
    /// Oldest first; the first is that it was issued.
    events: Vec<EventBody>,
}

/// Something that happened to a certificate.
#[derive(Serialize, ToSchema)]
struct EventBody {
    /// The status it gave the certificate.
    event: &'static str,
    /// RFC 3339, database time.
    at: String,
    /// Name of the principal who did it.
    by: String,
    /// `CRLReason` by its name in RFC 5280; null where the certificate did not end.
    reason: Option<&'static str>,
    /// Why, in the words of who did it; of a confirmation, what was compared.
    comment: Option<String>,
}

/// What happened to a certificate, who did it, when and why. A station sees its own.
#[utoipa::path(
    get, path = "/v1/certificates/{serial_number}/history", tag = "certificates",
    params(("serial_number" = String, Path, description = "32 hexadecimal digits")),
    responses(
        (status = 200, body = LifeBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn history(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, &path);
    let life = ca.life(named(&path)?).await?.ok_or_else(not_here)?;
    let Intent {
        profile, principal, ..
    } = &life.record.intent;
    if !who.0.may_see(profile, principal) {
        return Err(not_here());
    }
    Ok(HttpResponse::Ok().json(LifeBody::from(life)))
}

impl From<Life> for LifeBody {
    fn from(Life { record, events }: Life) -> Self {
        let intent = record.intent;
        let issued = EventBody {
            event: "issued",
            at: rfc3339_millis(record.issued_at),
            by: intent.principal,
            reason: None,
            comment: intent.rework.as_ref().map(|rework| rework.reason.clone()),
        };
        let later = events.into_iter().map(|event| EventBody {
            event: event.kind.as_str(),
            at: rfc3339_millis(event.at),
            by: event.principal,
            reason: event.reason_code.map(RevocationReason::as_str),
            comment: event.reason,
        });
        Self {
            serial_number: intent.serial_number.to_hex(),
            device: intent.device,
            status: record.status.as_str(),
            order: intent.order,
            supersedes: intent.rework.map(|rework| rework.superseded.to_hex()),
            superseded_by: record.successor.map(|successor| successor.to_hex()),
            events: std::iter::once(issued).chain(later).collect(),
        }
    }
}
