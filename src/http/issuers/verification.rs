//! `POST /v1/issuers/{name}/verification-certificates`: proof to AWS IoT that a CA's key is ours.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path};
use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::Role;
use crate::ca::issue::IssuedCertificate;
use crate::ca::verification::VerificationRequest;
use crate::http::body;
use crate::http::certificates;
use crate::http::certificates::Deadline;
use crate::http::certificates::Form;
use crate::http::certificates::rfc3339;
use crate::http::issuers::find;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::name::AttributeType;
use crate::pki::pem;
use crate::pki::verification::RegistrationCode;

/// Body of the request.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VerificationBody {
    /// What `aws iot get-registration-code` prints: 64 hexadecimal digits.
    registration_code: String,
}

/// A verification certificate as REST shows it when it is made.
#[derive(Serialize, ToSchema)]
struct VerificationCertificateBody {
    /// 32 lower-case hexadecimal digits; `/v1/certificates/{serial_number}` shows it again.
    serial_number: String,
    /// Always `verification`.
    kind: &'static str,
    /// PEM, without the chain: what `--verification-certificate` of the AWS CLI takes.
    certificate: String,
    /// SHA-256 over the certificate's DER, 64 hexadecimal digits.
    fingerprint_sha256: String,
    /// Issuer's name.
    issuer: String,
    /// As it was given; the certificate's CN.
    registration_code: String,
    /// RFC 3339.
    not_before: String,
    /// RFC 3339; a day after `not_before` at most.
    not_after: String,
    /// RFC 3339, database time.
    issued_at: String,
    /// Gapless position in the log.
    log_index: i64,
}

/// Issue a verification certificate, by which AWS IoT lets an account register the issuer's CA.
///
/// Its key pair is made for it and thrown away, it is no device's, and it is in no list of devices.
/// Each call makes another one; with an `Idempotency-Key`, the same request gets the same one.
#[utoipa::path(
    post, path = "/v1/issuers/{name}/verification-certificates", tag = "certificates",
    params(
        ("name" = String, Path, description = "issuer's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable ASCII characters")
    ),
    request_body(content((VerificationBody = "application/json"))),
    responses(
        (status = 201, content((VerificationCertificateBody = "application/json"), (String = "application/x-pem-file"), (Vec<u8> = "application/pkix-cert")), description = "issued; `Location` names it; PEM and DER are the certificate alone"),
        (status = 200, body = VerificationCertificateBody, description = "issued before to the same idempotency key; `Idempotency-Replayed: true`"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "a neighbour is down; `Retry-After`")
    )
)]
pub async fn issue(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
    deadline: Data<Deadline>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + deadline.0;
    certificates::note(&request, &who.0, "");
    let principal = who.require(&[Role::Administrator])?;
    let form = Form::accepted(request.headers())?;
    let command = command(&request, find(&ca, &path)?, deadline)?;

    // A task of its own, as for a device: it comes to a definite end when the caller hangs up.
    let spine = ca.into_inner();
    let asks = principal.clone();
    let issued = tokio::spawn(async move { spine.issue_verification(&asks, command).await })
        .await
        .map_err(internal)??;

    let serial = issued.record().intent.serial_number.to_hex();
    certificates::note(&request, &principal, &serial);
    Ok(answer(&issued, &serial, form))
}

fn command(
    request: &HttpRequest,
    issuer: &Issuer,
    deadline: Instant,
) -> Result<VerificationRequest, Problem> {
    let idempotency_key = certificates::idempotency_key(request.headers())?;
    if !request.query_string().is_empty() {
        return Err(Problem::new(
            Slug::InvalidParameter,
            "there are no parameters; the code goes into the body",
        ));
    }
    let body: VerificationBody = body::json(request)?;
    // What was sent is not repeated: it may be anything, and a wrong code helps nobody.
    let code = RegistrationCode::parse(&body.registration_code).ok_or_else(|| {
        Problem::new(
            Slug::InvalidField,
            "registration_code: must be the 64 hexadecimal digits that `aws iot get-registration-code` prints",
        )
    })?;
    Ok(VerificationRequest {
        issuer: issuer.name.clone(),
        code,
        idempotency_key,
        deadline,
    })
}

fn answer(issued: &IssuedCertificate, serial: &str, form: Form) -> HttpResponse {
    let record = issued.record();
    let mut response = if issued.replayed() {
        HttpResponse::Ok()
    } else {
        HttpResponse::Created()
    };
    if issued.replayed() {
        response.insert_header(("Idempotency-Replayed", "true"));
    }
    response.insert_header((header::LOCATION, format!("/v1/certificates/{serial}")));
    match form {
        Form::Json => response.json(VerificationCertificateBody::new(record)),
        Form::Pem => response
            .content_type("application/x-pem-file")
            .body(pem::certificate(&record.der)),
        Form::Der => response
            .content_type("application/pkix-cert")
            .body(record.der.clone()),
    }
}

impl VerificationCertificateBody {
    fn new(record: &CertificateRecord) -> Self {
        let intent = &record.intent;
        Self {
            serial_number: intent.serial_number.to_hex(),
            kind: intent.kind.as_str(),
            certificate: pem::certificate(&record.der),
            fingerprint_sha256: hex(&record.fingerprint),
            issuer: intent.issuer.clone(),
            registration_code: intent
                .subject
                .get(AttributeType::CommonName)
                .unwrap_or_default()
                .to_owned(),
            not_before: rfc3339(intent.validity.not_before),
            not_after: rfc3339(intent.validity.not_after),
            issued_at: record
                .issued_at
                .to_rfc3339_opts(SecondsFormat::Millis, true),
            log_index: record.log_index,
        }
    }
}
