//! `/v1/profiles`, `/v1/issuers`: public PKI material, for anyone; [`verification`], for few.

pub mod crl;
pub mod verification;

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path};
use serde::Serialize;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::http::certificates::rfc3339;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::pem;
use crate::pki::validity::ValidityRule;

/// A profile as REST shows it.
#[derive(Serialize, ToSchema)]
struct ProfileBody {
    name: String,
    /// Which issuer signs now.
    issuer: String,
    /// Which issuer signs from `switch_at` on, where that is another one.
    next_issuer: Option<String>,
    /// RFC 3339.
    switch_at: Option<String>,
    /// Attribute that says which device it is.
    device_identity: &'static str,
    /// Kinds of device key.
    key_algorithms: Vec<&'static str>,
    /// Attributes every request must bring.
    required: Vec<&'static str>,
    /// Attributes a request may bring.
    optional: Vec<&'static str>,
    /// Attributes the profile sets.
    fixed: std::collections::BTreeMap<&'static str, String>,
    /// Days of validity; null for certificates that never expire.
    validity_days: Option<u32>,
    /// Whether a provisioning template is checked.
    jitp: bool,
    /// SHA-256 over the profile and its template.
    sha256: String,
}

/// An issuer as REST shows it.
#[derive(Serialize, ToSchema)]
pub struct IssuerBody {
    name: String,
    /// RFC 4514.
    subject: String,
    key_algorithm: &'static str,
    not_before: String,
    not_after: String,
    /// SHA-256 over the CA certificate: AWS IoT's caCertificateId.
    fingerprint_sha256: String,
}

impl IssuerBody {
    /// What REST and `issuer list` show of an issuer.
    #[must_use]
    pub fn new(issuer: &Issuer) -> Self {
        Self {
            name: issuer.name.clone(),
            subject: issuer.subject.clone(),
            key_algorithm: issuer.public_key.algorithm().name(),
            not_before: rfc3339(issuer.validity.not_before),
            not_after: rfc3339(issuer.validity.not_after),
            fingerprint_sha256: hex(&openssl::sha::sha256(&issuer.certificate)),
        }
    }
}

/// All profiles.
#[utoipa::path(get, path = "/v1/profiles", tag = "public", responses((status = 200, body = Vec<ProfileBody>)))]
pub async fn profiles(ca: Data<Ca>) -> Json<impl Serialize> {
    let profiles: Vec<ProfileBody> = ca
        .profiles
        .all()
        .iter()
        .map(|profile| ProfileBody {
            name: profile.name.clone(),
            issuer: profile.issuer_at(ca.clock.now()).to_owned(),
            next_issuer: profile.succession.as_ref().map(|(_, next)| next.clone()),
            switch_at: profile.succession.as_ref().map(|(at, _)| rfc3339(*at)),
            device_identity: profile.device_identity.short_name(),
            key_algorithms: profile.key_algorithms.iter().map(|k| k.name()).collect(),
            required: profile.required.iter().map(|a| a.short_name()).collect(),
            optional: profile.optional.iter().map(|a| a.short_name()).collect(),
            fixed: profile
                .fixed
                .iter()
                .map(|(a, v)| (a.short_name(), v.clone()))
                .collect(),
            validity_days: match profile.validity {
                ValidityRule::Days(days) => Some(days),
                ValidityRule::NoExpiry => None,
            },
            jitp: profile.jitp.is_some(),
            sha256: hex(&profile.sha256),
        })
        .collect();
    Json(profiles)
}

/// All issuers.
#[utoipa::path(get, path = "/v1/issuers", tag = "public", responses((status = 200, body = Vec<IssuerBody>)))]
pub async fn list(ca: Data<Ca>) -> Json<impl Serialize> {
    let mut issuers: Vec<IssuerBody> = ca
        .issuers
        .values()
        .map(|issuer| IssuerBody::new(issuer))
        .collect();
    issuers.sort_by(|a, b| a.name.cmp(&b.name));
    Json(issuers)
}

/// An issuer's own certificate, PEM.
#[utoipa::path(
    get, path = "/v1/issuers/{name}/certificate.pem", tag = "public", params(("name" = String, Path)),
    responses((status = 200, content_type = "application/x-pem-file", body = String), (status = 404, body = ProblemBody, content_type = "application/problem+json"))
)]
pub async fn certificate(path: Path<String>, ca: Data<Ca>) -> Result<HttpResponse, Problem> {
    let issuer = find(&ca, &path)?;
    Ok(HttpResponse::Ok()
        .content_type("application/x-pem-file")
        .body(pem::certificate(&issuer.certificate)))
}

/// An issuer's certificate and those above it, PEM.
#[utoipa::path(
    get, path = "/v1/issuers/{name}/chain.pem", tag = "public", params(("name" = String, Path)),
    responses((status = 200, content_type = "application/x-pem-file", body = String), (status = 404, body = ProblemBody, content_type = "application/problem+json"))
)]
pub async fn chain(path: Path<String>, ca: Data<Ca>) -> Result<HttpResponse, Problem> {
    let issuer = find(&ca, &path)?;
    Ok(HttpResponse::Ok()
        .content_type("application/x-pem-file")
        .body(issuer.pem.concat()))
}

fn find<'a>(ca: &'a Ca, name: &str) -> Result<&'a Issuer, Problem> {
    ca.issuers.get(name).map(AsRef::as_ref).ok_or_else(|| {
        Problem::new(
            Slug::NotFound,
            "no issuer of this name; /v1/issuers lists them",
        )
    })
}
