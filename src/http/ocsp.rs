//! `/ocsp/{issuer}` on the repository listener: OCSP over HTTP (RFC 6960 A, RFC 5019).

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::ca::ocsp::OcspAnswer;
use crate::ca::ocsp::OcspService;
use crate::http::problem::Problem;
use crate::http::problem::Slug;

const OCSP_REQUEST: &str = "application/ocsp-request";
const OCSP_RESPONSE: &str = "application/ocsp-response";

/// The request in the body, DER.
pub async fn post(
    request: HttpRequest,
    issuer: Path<String>,
    body: Bytes,
    service: Data<OcspService>,
) -> Result<HttpResponse, Problem> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    if media_type.is_none_or(|media_type| media_type != OCSP_REQUEST) {
        return Err(Problem::new(
            Slug::UnsupportedMediaType,
            format!("the body must be {OCSP_REQUEST}"),
        ));
    }
    answer(&service, &issuer, &body).await
}

/// The request in the address, base64 of the DER, percent-encoded or not.
pub async fn get(
    path: Path<(String, String)>,
    service: Data<OcspService>,
) -> Result<HttpResponse, Problem> {
    let (issuer, text) = path.into_inner();
    // What the router leaves encoded, since it would mean something else in an address.
    let text = text.replace("%2F", "/").replace("%2f", "/");
    let request = STANDARD.decode(text.trim_start_matches('/'));
    // What is not base64 is no request either.
    answer(&service, &issuer, &request.unwrap_or_default()).await
}

async fn answer(
    service: &OcspService,
    issuer: &str,
    request: &[u8],
) -> Result<HttpResponse, Problem> {
    let answer = service.answer(issuer, request).await;
    let OcspAnswer { der, kept } = answer.ok_or_else(|| {
        Problem::new(
            Slug::NotFound,
            "no OCSP responder of an issuer of this name",
        )
    })?;
    let kept = match kept {
        Some(kept) => format!("public, max-age={}, must-revalidate", kept.as_secs()),
        None => "no-store".to_owned(),
    };
    Ok(HttpResponse::Ok()
        .content_type(OCSP_RESPONSE)
        .insert_header((header::CACHE_CONTROL, kept))
        .body(der))
}
