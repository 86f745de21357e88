//! `POST /v1/orders/tickets`: a work order that was signed at head office.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::Data;
use chrono::{DateTime, Utc};
use openssl::sha::sha256;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::ticket;
use crate::ca::ticket::Redeemed;
use crate::ca::ticket::Ticket;
use crate::ca::ticket::TicketMark;
use crate::http::body;
use crate::http::certificates;
use crate::http::orders;
use crate::http::orders::NewOrderBody;
use crate::http::orders::OrderBody;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::pki::hex;
use crate::pki::jws;
use crate::pki::jws::JwsFault;

/// Longest `iss`, in characters.
const ISSUER_LENGTH_MAX: usize = 128;

/// What a ticket says (RFC 7519, 4.1). Everything else is refused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TicketClaims {
    /// Who made it.
    iss: String,
    /// The one site it is for: its `[site] id`.
    aud: String,
    /// Its own number: 1 to 64 printable ASCII characters without space, unique for ever.
    jti: String,
    /// When it was made, in seconds since 1970.
    iat: i64,
    /// From when it may be used.
    nbf: Option<i64>,
    /// From when it may no longer be used.
    exp: i64,
    /// What it orders.
    order: NewOrderBody,
}

/// The ticket an order came by.
#[derive(Serialize, ToSchema)]
pub(super) struct TicketBody {
    /// Its own number.
    jti: String,
    /// Name of the key that verified it.
    kid: String,
    /// SHA-256 over the whole ticket, hexadecimal.
    sha256: String,
}

impl From<TicketMark> for TicketBody {
    fn from(mark: TicketMark) -> Self {
        Self {
            jti: mark.jti,
            kid: mark.kid,
            sha256: hex(&mark.sha256),
        }
    }
}

/// Create the work order that a ticket brings. The same ticket again is answered with 200.
///
/// The body is a JWS in compact serialization (RFC 7515); its payload is a `TicketClaims`.
#[utoipa::path(
    post, path = "/v1/orders/tickets", tag = "orders",
    request_body(content = String, content_type = "application/jose"),
    responses(
        (status = 201, body = OrderBody, description = "created; `Location` names it"),
        (status = 200, body = OrderBody, description = "this ticket was used before; its order"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn redeem(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let operator = orders::operator(&request, who)?;
    let ticket = honoured(&compact(&request)?, &ca)?;
    let refused = |slug, detail| Err(Problem::new(slug, detail));
    match ca.orders.redeem(ticket, operator.name.clone()).await? {
        Redeemed::New(state) => Ok(orders::kept(HttpResponse::Created(), state)),
        Redeemed::Same(state) => Ok(orders::kept(HttpResponse::Ok(), state)),
        Redeemed::Replayed => refused(
            Slug::TicketReplayed,
            "another ticket of this number (jti) was used before",
        ),
        Redeemed::Widened => refused(
            Slug::TicketWidened,
            "there is a work order of this name already; a ticket never changes one",
        ),
        Redeemed::Early => refused(Slug::TicketExpired, "the ticket is not good yet (nbf)"),
        Redeemed::Expired => refused(Slug::TicketExpired, "the ticket is not good any more (exp)"),
        Redeemed::Overdrawn => Err(orders::overdrawn()),
    }
}

/// The body: one ticket. A line feed at its end, which shells add, is no part of it.
fn compact(request: &HttpRequest) -> Result<String, Problem> {
    let (_, body) = body::of_type(request, &["application/jose"])?;
    std::str::from_utf8(body.trim_ascii_end())
        .map(str::to_owned)
        .map_err(|_| malformed("it is not ASCII"))
}

/// A ticket that was signed by somebody trusted, for this site, and orders what can be ordered.
fn honoured(compact: &str, ca: &Ca) -> Result<Ticket, Problem> {
    let trust = &ca.tickets;
    let verified = jws::verify(compact, ticket::TYP, &trust.keys).map_err(|fault| match fault {
        JwsFault::Malformed(detail) => malformed(&detail),
        JwsFault::Signature(detail) => Problem::new(Slug::TicketSignatureInvalid, detail),
    })?;
    let claims: TicketClaims = jws::object(&verified.payload)
        .map_err(|fault| malformed(&certificates::printable(&fault.to_string())))?;
    if Some(&claims.aud) != trust.site.as_ref() {
        let site = trust.site.as_deref().unwrap_or_default();
        return Err(Problem::new(
            Slug::TicketAudience,
            format!("the ticket is for another site; this is `{site}`"),
        ));
    }
    let (issued_at, expires_at) = (time(claims.iat)?, time(claims.exp)?);
    let not_before = claims.nbf.map(time).transpose()?;
    if issued_at >= expires_at || not_before.is_some_and(|time| time >= expires_at) {
        return Err(malformed("iat and nbf must be before exp"));
    }
    let word = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !(1..=64).contains(&claims.jti.len()) || !word(&claims.jti) {
        return Err(malformed(
            "jti: 1 to 64 printable ASCII characters without space",
        ));
    }
    if !(1..=ISSUER_LENGTH_MAX).contains(&claims.iss.chars().count())
        || claims.iss.chars().any(char::is_control)
    {
        return Err(malformed("iss: 1 to 128 characters"));
    }
    Ok(Ticket {
        jti: claims.jti,
        iss: claims.iss,
        kid: verified.kid,
        issued_at,
        not_before,
        expires_at,
        order: orders::accepted(claims.order, ca)?,
        sha256: sha256(compact.as_bytes()),
        compact: compact.to_owned(),
    })
}

/// `NumericDate` (RFC 7519, 2), in whole seconds, within what every calendar here can hold.
fn time(seconds: i64) -> Result<DateTime<Utc>, Problem> {
    const YEAR_10000: i64 = 253_402_300_800;
    Some(seconds)
        .filter(|seconds| (0..YEAR_10000).contains(seconds))
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .ok_or_else(|| malformed("iat, nbf, exp: whole seconds since 1970, before the year 10000"))
}

fn malformed(detail: &str) -> Problem {
    Problem::new(Slug::TicketMalformed, detail)
}
