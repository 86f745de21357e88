//! `/v1/certificates`: issue and show; searching and what may happen to a certificate are below.

pub mod confirmation;
pub mod export;
pub mod history;
mod parquet;
pub mod revocation;
pub mod scrap;
pub mod search;
pub mod supersession;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::http::header::HeaderMap;
use actix_web::web::{Data, Path};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::Intent;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::Status;
use crate::ca::export::Exported;
use crate::ca::issue::DeviceKey;
use crate::ca::issue::IssueRequest;
use crate::ca::issue::IssuedCertificate;
use crate::ca::life::REASON_LENGTH_MAX;
use crate::ca::log::Inclusion;
use crate::ca::order;
use crate::http::audit;
use crate::http::audit::InclusionBody;
use crate::http::body;
use crate::http::middleware::LogFields;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::name::each_name_once;
use crate::pki::pem;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;

/// How long an issuance may take; from the configuration.
#[derive(Clone, Copy)]
pub struct Deadline(pub Duration);

/// Body of an issue request.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IssueBody {
    /// Profile's name.
    profile: String,
    /// The certification request, PEM.
    csr: String,
    /// Subject attributes by short name: `CN C O OU ST L serialNumber dnQualifier`.
    #[serde(default, deserialize_with = "each_name_once")]
    subject: Option<BTreeMap<String, String>>,
    /// Work order.
    order: Option<String>,
}

/// Parameters of an issue request whose body is the bare certification request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueQuery {
    profile: String,
    order: Option<String>,
    wait: Option<Wait>,
}

/// The one parameter of an issue request in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    wait: Option<Wait>,
}

/// What the answer waits for beyond the certificate.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wait {
    /// A signed tree that holds it.
    Checkpoint,
}

/// A certificate as REST shows it.
#[derive(Serialize, ToSchema)]
pub struct CertificateBody<'a> {
    /// 32 lower-case hexadecimal digits.
    serial_number: String,
    /// `device`; `verification` for what proves to AWS IoT that a CA's key is ours; `station` for what
    /// somebody connects to this service with.
    kind: &'static str,
    /// PEM.
    #[schema(value_type = String)]
    certificate: Pem<'a>,
    /// The issuer's certificate and those above it, PEM; empty when it is no longer configured.
    #[schema(value_type = Vec<String>)]
    ca_chain: Chain<'a>,
    /// SHA-256 over the certificate's DER, 64 hexadecimal digits: AWS IoT's certificateId.
    fingerprint_sha256: String,
    /// Profile's name; `verification_certificate` or `station_certificate` where there is none.
    profile: &'a str,
    /// Issuer's name.
    issuer: &'a str,
    /// Who asked for it.
    station: &'a str,
    /// Work order.
    order: Option<&'a str>,
    /// Device identity: the value of the attribute that the profile names.
    device: &'a str,
    /// Subject attributes by short name.
    subject: BTreeMap<&'static str, &'a str>,
    /// How its key came here: `csr`, in a request that it signed; `public-key`, bare, on a batch's
    /// list; `made`, here.
    key_origin: &'static str,
    /// The thing AWS IoT makes of the device at its first connection.
    thing_name: Option<&'a str>,
    /// RFC 3339.
    not_before: String,
    /// RFC 3339.
    not_after: String,
    /// RFC 3339, database time.
    issued_at: String,
    /// `issued`, `confirmed`, `superseded`, `revoked` or `scrapped`.
    status: &'static str,
    /// Of a device's certificate that a search found and nobody has confirmed: for how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    unconfirmed_seconds: Option<i64>,
    /// Serial number of the certificate it is to replace.
    supersedes: Option<String>,
    /// Serial number of the certificate that is to replace it.
    superseded_by: Option<String>,
    /// Place of its entry in the log, from 0.
    log_index: i64,
    /// With `wait=checkpoint`: that a signed tree of the log holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    inclusion: Option<InclusionBody>,
}

/// Issue one certificate. The same request gets the same certificate, for ever.
#[utoipa::path(
    post, path = "/v1/certificates", tag = "certificates",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable ASCII characters"),
        ("profile" = Option<String>, Query, description = "with `application/pkcs10` only"),
        ("order" = Option<String>, Query, description = "with `application/pkcs10` only"),
        ("wait" = Option<String>, Query, description = "`checkpoint`: the answer waits until a signed tree of the log holds the certificate, and proves it in `inclusion`")
    ),
    request_body(content((IssueBody = "application/json"), (Vec<u8> = "application/pkcs10"))),
    responses(
        (status = 201, body = CertificateBody, description = "issued; `Location` names it"),
        (status = 200, body = CertificateBody, description = "issued before to the same request; `Idempotency-Replayed: true`"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "a neighbour is down; `Retry-After`")
    )
)]
pub async fn issue(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
    deadline: Data<Deadline>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + deadline.0;
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Station, Role::Operator])?;
    let form = Form::accepted(request.headers())?;
    let (command, wait) = command(&request, deadline)?;

    // A task of its own: when the station hangs up, the issuance still comes to a definite end.
    let spine = ca.clone().into_inner();
    let asks = principal.clone();
    let issued = tokio::spawn(async move { spine.issue(&asks, command).await })
        .await
        .map_err(internal)??;

    note(
        &request,
        &principal,
        &issued.record().intent.serial_number.to_hex(),
    );
    let inclusion = match wait {
        None => None,
        Some(Wait::Checkpoint) => {
            let index = u64::try_from(issued.record().log_index).map_err(internal)?;
            Some(audit::proved(&ca, index, deadline).await?)
        }
    };
    Ok(answer_issued(&issued, &ca, form, inclusion.as_ref()))
}

pub(super) fn answer_issued(
    issued: &IssuedCertificate,
    ca: &Ca,
    form: Form,
    inclusion: Option<&Inclusion>,
) -> HttpResponse {
    let record = issued.record();
    let mut response = if issued.replayed() {
        HttpResponse::Ok()
    } else {
        HttpResponse::Created()
    };
    if issued.replayed() {
        response.insert_header(("Idempotency-Replayed", "true"));
    }
    response.insert_header((
        header::LOCATION,
        format!("/v1/certificates/{}", record.intent.serial_number.to_hex()),
    ));
    form.write(&mut response, record, issuer(ca, record), inclusion)
}

/// One certificate: JSON, PEM with its chain, or DER, by `Accept`.
#[utoipa::path(
    get, path = "/v1/certificates/{serial_number}", tag = "certificates",
    params(("serial_number" = String, Path, description = "32 hexadecimal digits")),
    responses(
        (status = 200, content((CertificateBody = "application/json"), (String = "application/x-pem-file"), (Vec<u8> = "application/pkix-cert")), description = "the certificate"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn show(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, &path);
    let form = Form::accepted(request.headers())?;
    let record = ca
        .archive
        .certificate(named(&path)?)
        .await?
        .ok_or_else(not_here)?;
    let Intent {
        profile, principal, ..
    } = &record.intent;
    if !who.0.may_see(profile, principal) {
        return Err(not_here());
    }
    let (response, issuer) = (&mut HttpResponse::Ok(), issuer(&ca, &record));
    Ok(form.write(response, &record, issuer, None))
}

/// The serial number in an address.
fn named(path: &str) -> Result<SerialNumber, Problem> {
    SerialNumber::from_hex(path).ok_or_else(not_here)
}

/// A text in words: 1 to 200 characters, none of which is a control character.
fn words(name: &str, text: String) -> Result<String, Problem> {
    let length = text.chars().count();
    let plain = |c: char| !c.is_control() && c != '\u{fffd}';
    if (1..=REASON_LENGTH_MAX).contains(&length) && text.chars().all(plain) {
        Ok(text)
    } else {
        Err(Problem::new(
            Slug::InvalidField,
            format!(
                "{name}: must be 1 to {REASON_LENGTH_MAX} characters without control characters"
            ),
        ))
    }
}

/// No certificate, or none that the principal may see.
pub fn not_here() -> Problem {
    Problem::new(
        Slug::NotFound,
        "no certificate with this serial number that you may see",
    )
}

/// A station's request, out of either kind of body.
fn command(
    request: &HttpRequest,
    deadline: Instant,
) -> Result<(IssueRequest, Option<Wait>), Problem> {
    let idempotency_key = idempotency_key(request.headers())?;
    let accepted = ["application/json", "application/pkcs10"];
    let (media_type, body) = body::of_type(request, &accepted)?;
    let json = media_type == "application/json";
    let parameters = request.query_string();
    let wrong = |e: serde::de::value::Error| Problem::new(Slug::InvalidParameter, e.to_string());
    let (profile, csr, subject, order, wait) = if json {
        let query: WaitQuery = serde_urlencoded::from_str(parameters).map_err(wrong)?;
        let body: IssueBody = body::parse(&body)?;
        (
            body.profile,
            body.csr.into_bytes(),
            body.subject,
            body.order,
            query.wait,
        )
    } else {
        let query: IssueQuery = serde_urlencoded::from_str(parameters).map_err(wrong)?;
        (query.profile, body.to_vec(), None, query.order, query.wait)
    };
    if order.as_deref().is_some_and(|name| !order::is_name(name)) {
        let slug = if json {
            Slug::InvalidField
        } else {
            Slug::InvalidParameter
        };
        return Err(Problem::new(
            slug,
            "order: must be 1 to 64 printable ASCII characters without space or / ? # %",
        ));
    }
    let request = IssueRequest {
        profile,
        key: DeviceKey::Request(csr),
        subject,
        order,
        idempotency_key,
        deadline,
    };
    Ok((request, wait))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = value.to_str().ok().filter(|key| {
        (1..=128).contains(&key.len()) && key.bytes().all(|b| (0x20..=0x7e).contains(&b))
    });
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(Problem::new(
            Slug::InvalidIdempotencyKey,
            "Idempotency-Key: once, 1 to 128 printable ASCII characters",
        )),
    }
}

/// Text of the caller's, safe to repeat: printable ASCII, at most 200 characters.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect()
}

/// What `Accept` asks for.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Json,
    Pem,
    Der,
}

impl Form {
    pub(super) fn accepted(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(accept) = headers.get(header::ACCEPT) else {
            return Ok(Self::Json);
        };
        for range in accept.to_str().unwrap_or_default().split(',') {
            match range.split(';').next().unwrap_or_default().trim() {
                "application/json" | "application/*" | "*/*" => return Ok(Self::Json),
                "application/x-pem-file" => return Ok(Self::Pem),
                "application/pkix-cert" => return Ok(Self::Der),
                _ => {}
            }
        }
        Err(Problem::new(
            Slug::NotAcceptable,
            "choose application/json, application/x-pem-file or application/pkix-cert",
        ))
    }

    fn write(
        self,
        response: &mut actix_web::HttpResponseBuilder,
        record: &CertificateRecord,
        issuer: Option<&Issuer>,
        inclusion: Option<&Inclusion>,
    ) -> HttpResponse {
        match self {
            Self::Json => response.json(CertificateBody {
                inclusion: inclusion.map(InclusionBody::from),
                ..CertificateBody::new(&Exported::from(record), issuer)
            }),
            Self::Pem => {
                let chain = issuer.map_or_else(String::new, |issuer| issuer.pem.concat());
                response
                    .content_type("application/x-pem-file")
                    .body(pem::certificate(&record.der) + &chain)
            }
            Self::Der => response
                .content_type("application/pkix-cert")
                .body(record.der.clone()),
        }
    }
}

impl<'a> CertificateBody<'a> {
    pub(in crate::http) fn new(it: &'a Exported, issuer: Option<&'a Issuer>) -> Self {
        Self {
            serial_number: it.serial_number.to_hex(),
            kind: it.kind.as_str(),
            certificate: Pem(&it.der),
            ca_chain: Chain(issuer),
            fingerprint_sha256: hex(&it.fingerprint),
            profile: &it.profile,
            issuer: &it.issuer,
            station: &it.principal,
            order: it.order.as_deref(),
            device: &it.device,
            subject: it
                .subject
                .iter()
                .map(|(kind, value)| (kind.short_name(), value))
                .collect(),
            key_origin: it.key_origin.as_str(),
            thing_name: it.thing_name.as_deref(),
            not_before: rfc3339(it.validity.not_before),
            not_after: rfc3339(it.validity.not_after),
            issued_at: rfc3339_millis(it.issued_at),
            status: it.status.as_str(),
            unconfirmed_seconds: None,
            supersedes: it.superseded.map(|superseded| superseded.to_hex()),
            superseded_by: it.successor.map(|successor| successor.to_hex()),
            log_index: it.log_index,
            inclusion: None,
        }
    }

    /// One that a search found.
    fn found(ca: &'a Ca, now: DateTime<Utc>, it: &'a Exported) -> Self {
        let waits = it.status == Status::Issued && it.kind == LeafKind::Device;
        let issuer = ca.issuers.get(&it.issuer).map(AsRef::as_ref);
        Self {
            unconfirmed_seconds: waits.then(|| (now - it.issued_at).num_seconds().max(0)),
            ..Self::new(it, issuer)
        }
    }
}

/// A certificate, DER, that is shown as PEM.
struct Pem<'a>(&'a [u8]);

impl Serialize for Pem<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Nothing is looked for in it that would have to be escaped: most of a row's time.
        let text = RawValue::from_string(pem::certificate_json(self.0));
        text.map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// An issuer's certificate and those above it, as a list of PEM; empty for none.
struct Chain<'a>(Option<&'a Issuer>);

impl Serialize for Chain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(issuer) => issuer.pem_json.serialize(serializer),
            None => [(); 0].serialize(serializer),
        }
    }
}

/// The issuer of a recorded certificate; `None` when it is no longer configured.
fn issuer<'a>(ca: &'a Ca, record: &CertificateRecord) -> Option<&'a Issuer> {
    ca.issuers.get(&record.intent.issuer).map(AsRef::as_ref)
}

/// To the second.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// To the millisecond.
pub(super) fn rfc3339_millis(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Who asks and about what, for the log line.
pub(super) fn note(request: &HttpRequest, principal: &Principal, serial: &str) {
    request.extensions_mut().insert(LogFields {
        station: principal.name.clone(),
        serial: serial.to_owned(),
    });
}
