//! `POST /v1/certificates/{serial_number}/confirmation`: the end of the line; and the nonce that a
//! device may sign for it.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::Role;
use crate::ca::life::EndOfLine;
use crate::http::body;
use crate::http::certificates::history::LifeBody;
use crate::http::certificates::named;
use crate::http::certificates::note;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::pki::hex;
use crate::pki::parse_hex;
use crate::pki::readback::Readback;

/// Body of a confirmation. The bare certificate, PEM or DER, is one, too.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConfirmationBody {
    /// What was read back from the device, PEM: its certificate, then the chain that it keeps, if any.
    certificate: String,
    /// A nonce of `/challenge`, 64 hexadecimal digits; with `signature`.
    nonce: Option<String>,
    /// The nonce's 32 octets, signed by the device's key (ECDSA or RSA PKCS#1 v1.5, SHA-256), base64.
    signature: Option<String>,
}

/// A nonce.
#[derive(Serialize, ToSchema)]
struct ChallengeBody {
    /// 32 octets, 64 hexadecimal digits.
    nonce: String,
    /// How long it is good for.
    expires_in_seconds: u32,
}

/// Confirm that the device holds this certificate and no other: it is compared with what was read
/// back. What the certificate replaces is superseded in the same moment.
#[utoipa::path(
    post, path = "/v1/certificates/{serial_number}/confirmation", tag = "certificates",
    params(("serial_number" = String, Path, description = "32 hexadecimal digits")),
    request_body(content((ConfirmationBody = "application/json"), (String = "application/x-pem-file"), (Vec<u8> = "application/pkix-cert"))),
    responses(
        (status = 200, body = LifeBody, description = "pass; now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn confirm(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, &path);
    let principal = who.require(&[Role::Station, Role::Operator])?;
    let serial = named(&path)?;
    let found = found(&request)?;
    let life = ca.confirm(&principal, serial, found).await?;
    Ok(HttpResponse::Ok().json(LifeBody::from(life)))
}

/// A nonce for the device to sign, so that its confirmation proves that it has the private key.
#[utoipa::path(
    post, path = "/v1/certificates/{serial_number}/challenge", tag = "certificates",
    params(("serial_number" = String, Path, description = "32 hexadecimal digits")),
    responses(
        (status = 200, body = ChallengeBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn challenge(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, &path);
    let principal = who.require(&[Role::Station, Role::Operator])?;
    let nonce = ca.challenge(&principal, named(&path)?).await?;
    Ok(HttpResponse::Ok().json(ChallengeBody {
        nonce: hex(&nonce),
        expires_in_seconds: 600,
    }))
}

fn found(request: &HttpRequest) -> Result<EndOfLine, Problem> {
    let invalid = |what: String| Problem::new(Slug::InvalidField, what);
    let readback = |octets: &[u8]| {
        Readback::parse(octets).map_err(|fault| invalid(format!("certificate: {fault}")))
    };
    let accepted = [
        "application/json",
        "application/x-pem-file",
        "application/pkix-cert",
    ];
    let (media_type, body) = body::of_type(request, &accepted)?;
    if media_type != "application/json" {
        return Ok(EndOfLine {
            readback: readback(&body)?,
            proof: None,
        });
    }
    let body: ConfirmationBody = body::parse(&body)?;
    let proof = match (body.nonce, body.signature) {
        (None, None) => None,
        (Some(nonce), Some(signature)) => {
            let nonce = parse_hex(&nonce)
                .ok_or_else(|| invalid("nonce: must be 64 hexadecimal digits".to_owned()))?;
            let signature = STANDARD
                .decode(signature)
                .map_err(|_| invalid("signature: must be base64".to_owned()))?;
            Some((nonce, signature))
        }
        _ => return Err(invalid("nonce and signature come together".to_owned())),
    };
    Ok(EndOfLine {
        readback: readback(body.certificate.as_bytes())?,
        proof,
    })
}
