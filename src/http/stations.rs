//! `/v1/stations`, `/v1/approvals`: who may use the service, and how they come by their keys.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::station::Acted;
use crate::ca::station::Administered;
use crate::ca::station::Approved;
use crate::ca::station::EnrolError;
use crate::ca::station::Proposal;
use crate::ca::station::Registration;
use crate::ca::station::Rights;
use crate::ca::station::StationAct;
use crate::http::body;
use crate::http::certificates;
use crate::http::certificates::CertificateBody;
use crate::http::certificates::Deadline;
use crate::http::certificates::Form;
use crate::http::certificates::note;
use crate::http::certificates::rfc3339_millis;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::Violation;
use crate::pki::hex;

/// Hours an enrolment code is good for.
const CODE_HOURS: u32 = 24;

/// Body of a registration.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewStationBody {
    /// Unique name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    name: String,
    /// `station` if absent, `operator`, `auditor` or `administrator`.
    #[serde(default = "station")]
    role: String,
    /// What it may do of what its role may.
    #[serde(default)]
    #[schema(value_type = Object)]
    rights: Rights,
}

fn station() -> String {
    Role::Station.as_str().to_owned()
}

/// Somebody who is registered.
#[derive(Serialize, ToSchema)]
pub struct StationBody {
    /// Unique name.
    name: String,
    /// `station`, `operator`, `auditor` or `administrator`.
    role: &'static str,
    /// What it may do of what its role may; what is not said is not limited.
    #[schema(value_type = Object)]
    rights: Rights,
    /// True: may do nothing.
    disabled: bool,
    /// Who registered it; null for one registered by command.
    created_by: Option<String>,
    /// RFC 3339, database time.
    created_at: String,
    /// SHA-256 over the public keys it may connect with, 64 hexadecimal digits each; empty before
    /// its enrolment.
    keys: Vec<String>,
    /// By which it enrols a key, once; shown now and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment_code: Option<String>,
    /// How long the code is good for.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment_code_hours: Option<u32>,
}

/// All who are registered.
#[derive(Serialize, ToSchema)]
struct StationsBody {
    /// By name.
    items: Vec<StationBody>,
}

/// What waits for another administrator.
#[derive(Serialize, ToSchema)]
pub struct ProposalBody {
    /// 32 hexadecimal digits.
    id: String,
    /// What is to be done.
    #[schema(value_type = Object)]
    act: StationAct,
    /// Who wants it.
    proposed_by: String,
    /// RFC 3339, database time.
    proposed_at: String,
    /// Who approved it; null while nobody has.
    approved_by: Option<String>,
    /// RFC 3339, database time.
    approved_at: Option<String>,
}

/// Proposals that nobody has approved.
#[derive(Serialize, ToSchema)]
struct ProposalsBody {
    /// Oldest first.
    items: Vec<ProposalBody>,
}

/// Register a station, or a person. The answer has a code by which it enrols its key.
#[utoipa::path(
    post, path = "/v1/stations", tag = "stations", request_body = NewStationBody,
    responses(
        (status = 201, body = StationBody, description = "registered; `Location` names it"),
        (status = 202, body = ProposalBody, description = "another administrator has to approve it"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn create(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Administrator])?;
    let body: NewStationBody = body::json(&request)?;
    if !is_name(&body.name) || Role::from_word(&body.role).is_none() {
        return Err(Problem::new(
            Slug::InvalidField,
            "name: 1 to 64 of A-Z a-z 0-9 . _ -; role: station, operator, auditor or administrator",
        ));
    }
    let act = StationAct::Add {
        name: body.name,
        role: body.role,
        rights: possible(body.rights)?,
    };
    administer(&ca, act, &principal, true).await
}

/// All who are registered, by name.
#[utoipa::path(
    get, path = "/v1/stations", tag = "stations",
    responses(
        (status = 200, body = StationsBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn list(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    who.require(&[Role::Administrator, Role::Auditor])?;
    let all = ca.station_book.registrations(None).await?;
    Ok(HttpResponse::Ok().json(StationsBody {
        items: all.into_iter().map(StationBody::from).collect(),
    }))
}

/// One of them. Everybody sees themselves.
#[utoipa::path(
    get, path = "/v1/stations/{name}", tag = "stations",
    params(("name" = String, Path, description = "its name")),
    responses(
        (status = 200, body = StationBody),
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
    note(&request, &who.0, "");
    let name = named(path)?;
    if who.0.name != name {
        who.require(&[Role::Administrator, Role::Auditor])?;
    }
    let mut found = ca.station_book.registrations(Some(name)).await?;
    let found = found.pop().ok_or_else(not_here)?;
    Ok(HttpResponse::Ok().json(StationBody::from(found)))
}

/// Give it other rights, all of them.
#[utoipa::path(
    put, path = "/v1/stations/{name}/rights", tag = "stations",
    params(("name" = String, Path, description = "its name")),
    request_body(content((Object = "application/json"))),
    responses(
        (status = 200, body = StationBody),
        (status = 202, body = ProposalBody, description = "another administrator has to approve it"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn set_rights(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Administrator])?;
    let act = StationAct::Rights {
        name: named(path)?,
        rights: possible(body::json(&request)?)?,
    };
    administer(&ca, act, &principal, false).await
}

/// Shut it out: at its next request, on every connection it has.
#[utoipa::path(
    post, path = "/v1/stations/{name}/disable", tag = "stations",
    params(("name" = String, Path, description = "its name")),
    responses(
        (status = 200, body = StationBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn disable(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Administrator])?;
    let act = StationAct::Disable { name: named(path)? };
    administer(&ca, act, &principal, false).await
}

/// Let it in again.
#[utoipa::path(
    post, path = "/v1/stations/{name}/enable", tag = "stations",
    params(("name" = String, Path, description = "its name")),
    responses(
        (status = 200, body = StationBody),
        (status = 202, body = ProposalBody, description = "another administrator has to approve it"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn enable(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Administrator])?;
    let act = StationAct::Enable { name: named(path)? };
    administer(&ca, act, &principal, false).await
}

/// Another enrolment code, for a station that lost its key. Earlier codes are good for nothing; its
/// keys die when the code is used.
#[utoipa::path(
    post, path = "/v1/stations/{name}/enrolment-code", tag = "stations",
    params(("name" = String, Path, description = "its name")),
    responses(
        (status = 200, body = StationBody),
        (status = 202, body = ProposalBody, description = "another administrator has to approve it"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn enrolment_code(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Administrator])?;
    let act = StationAct::Code { name: named(path)? };
    administer(&ca, act, &principal, false).await
}

/// Enrol a key: the code of the registration, and a certification request by that key, with an empty
/// subject or the name as CN. Needs no client certificate; the answer is one. The same request gets
/// the same certificate until the code expires.
#[utoipa::path(
    post, path = "/v1/stations/{name}/enrolment", tag = "stations",
    params(
        ("name" = String, Path, description = "its name"),
        ("Authorization" = String, Header, description = "`Bearer`, then the enrolment code")
    ),
    request_body(content((Vec<u8> = "application/pkcs10"))),
    responses(
        (status = 201, content((CertificateBody = "application/json"), (String = "application/x-pem-file"), (Vec<u8> = "application/pkix-cert")), description = "enrolled"),
        (status = 200, body = CertificateBody, description = "enrolled before with the same key"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "a neighbour is down; `Retry-After`")
    )
)]
pub async fn enrol(
    request: HttpRequest,
    path: Path<String>,
    ca: Data<Ca>,
    deadline: Data<Deadline>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + deadline.0;
    let form = Form::accepted(request.headers())?;
    let name = Some(path.into_inner()).filter(|name| is_name(name));
    // Whether there is such a name is nobody's to learn here.
    let name = name.ok_or(EnrolError::Code)?;
    let code = code(&request).ok_or(EnrolError::Code)?;
    let (_, csr) = body::of_type(&request, &["application/pkcs10"])?;
    let spine = ca.clone().into_inner();
    let issued = tokio::spawn(async move { spine.enrol(&name, code, &csr, deadline).await })
        .await
        .map_err(internal)??;
    Ok(certificates::answer_issued(&issued, &ca, form, None))
}

/// Another certificate for another key, before the present one expires. The present key is good for
/// one more hour. The same request gets the same certificate.
#[utoipa::path(
    post, path = "/v1/stations/{name}/renewal", tag = "stations",
    params(("name" = String, Path, description = "its own name")),
    request_body(content((Vec<u8> = "application/pkcs10"))),
    responses(
        (status = 201, content((CertificateBody = "application/json"), (String = "application/x-pem-file"), (Vec<u8> = "application/pkix-cert")), description = "renewed"),
        (status = 200, body = CertificateBody, description = "renewed before with the same key"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "a neighbour is down; `Retry-After`")
    )
)]
pub async fn renew(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
    deadline: Data<Deadline>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + deadline.0;
    note(&request, &who.0, "");
    let form = Form::accepted(request.headers())?;
    if named(path)? != who.0.name {
        return Err(Problem::new(Slug::Forbidden, "everybody renews their own"));
    }
    let (_, csr) = body::of_type(&request, &["application/pkcs10"])?;
    let (spine, asks) = (ca.clone().into_inner(), who.0.clone());
    let issued = tokio::spawn(async move { spine.renew_station(&asks, &csr, deadline).await })
        .await
        .map_err(internal)??;
    Ok(certificates::answer_issued(&issued, &ca, form, None))
}

/// What waits for another administrator, oldest first.
#[utoipa::path(
    get, path = "/v1/approvals", tag = "stations",
    responses(
        (status = 200, body = ProposalsBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn proposals(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    who.require(&[Role::Administrator, Role::Auditor])?;
    let found = ca.station_book.proposals().await?;
    Ok(HttpResponse::Ok().json(ProposalsBody {
        items: found.into_iter().map(ProposalBody::from).collect(),
    }))
}

/// Approve what another administrator proposed: it is done in the same moment.
#[utoipa::path(
    post, path = "/v1/approvals/{id}", tag = "stations",
    params(("id" = String, Path, description = "the proposal's id")),
    responses(
        (status = 200, body = StationBody, description = "approved and done"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; `approval-required` for one's own"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn approve(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Administrator])?;
    let unknown = || Problem::new(Slug::NotFound, "there is no such proposal");
    let id = Uuid::try_parse(&path).map_err(|_| unknown())?;
    let (approved, code) = ca.approve(id, &principal).await?;
    match approved {
        Approved::Acted(acted, coded) => {
            let body = StationBody::with_code(done(acted)?, Some(code).filter(|_| coded));
            Ok(HttpResponse::Ok().json(body))
        }
        Approved::Unknown => Err(unknown()),
        Approved::Own => Err(Problem::new(
            Slug::ApprovalRequired,
            "your own proposal needs another administrator's approval",
        )),
        Approved::Before(proposal) => Ok(HttpResponse::Ok().json(ProposalBody::from(*proposal))),
    }
}

async fn administer(
    ca: &Ca,
    act: StationAct,
    by: &Principal,
    creates: bool,
) -> Result<HttpResponse, Problem> {
    let (acted, code) = match ca.administer(act, by).await? {
        Administered::Acted(acted, code) => (acted, code),
        Administered::Proposed(proposal) => {
            return Ok(HttpResponse::Accepted().json(ProposalBody::from(*proposal)));
        }
    };
    let body = done(acted)?;
    let mut response = if creates {
        HttpResponse::Created()
    } else {
        HttpResponse::Ok()
    };
    response.insert_header((header::LOCATION, format!("/v1/stations/{}", body.name)));
    Ok(response.json(StationBody::with_code(body, code)))
}

/// The same for who needs no code of it; `None`: another administrator has to approve it.
pub(super) async fn administered(
    ca: &Ca,
    act: StationAct,
    by: &Principal,
) -> Result<Option<Registration>, Problem> {
    match ca.administer(act, by).await? {
        Administered::Acted(acted, _) => done(acted).map(Some),
        Administered::Proposed(_) => Ok(None),
    }
}

fn done(acted: Acted) -> Result<Registration, Problem> {
    match acted {
        Acted::Done(registration) => Ok(*registration),
        Acted::Unknown => Err(not_here()),
        Acted::NameTaken => Err(Problem::new(
            Slug::StationExists,
            "this name is registered with another role or other rights",
        )),
    }
}

fn possible(rights: Rights) -> Result<Rights, Problem> {
    let faults = rights.faults();
    if faults.is_empty() {
        return Ok(rights);
    }
    let violation = |detail| Violation {
        rule: "rights",
        attribute: None,
        detail,
    };
    Err(
        Problem::new(Slug::InvalidField, "the rights cannot be given")
            .with_violations(faults.into_iter().map(violation).collect()),
    )
}

/// SHA-256 over the code in `Authorization: Bearer CODE`.
fn code(request: &HttpRequest) -> Option<[u8; 32]> {
    let value = request
        .headers()
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let code = value.strip_prefix("Bearer ")?.trim();
    (code.len() == 64).then(|| openssl::sha::sha256(code.as_bytes()))
}

pub(super) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

pub(super) fn named(path: Path<String>) -> Result<String, Problem> {
    Some(path.into_inner())
        .filter(|name| is_name(name))
        .ok_or_else(not_here)
}

fn not_here() -> Problem {
    Problem::new(Slug::NotFound, "nobody of this name is registered")
}

impl StationBody {
    fn with_code(found: Registration, code: Option<SecretString>) -> Self {
        Self {
            enrolment_code_hours: code.is_some().then_some(CODE_HOURS),
            enrolment_code: code.map(|code| code.expose_secret().to_owned()),
            ..Self::from(found)
        }
    }
}

impl From<Registration> for StationBody {
    fn from(found: Registration) -> Self {
        let (created_by, created_at) = found.created;
        Self {
            name: found.name,
            role: found.role.as_str(),
            rights: found.rights,
            disabled: found.disabled,
            created_by,
            created_at: rfc3339_millis(created_at),
            keys: found.keys.iter().map(|key| hex(key)).collect(),
            enrolment_code: None,
            enrolment_code_hours: None,
        }
    }
}

impl From<Proposal> for ProposalBody {
    fn from(proposal: Proposal) -> Self {
        let (proposed_by, proposed_at) = proposal.proposed;
        let (approved_by, approved_at) = proposal.approved.unzip();
        Self {
            id: proposal.id.as_simple().to_string(),
            act: proposal.act,
            proposed_by,
            proposed_at: rfc3339_millis(proposed_at),
            approved_by,
            approved_at: approved_at.map(rfc3339_millis),
        }
    }
}
