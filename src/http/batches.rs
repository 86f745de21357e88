//! `/v1/batches`: order devices ahead of a run, follow them, take their package.

pub mod acts;
pub mod devices;
pub mod package;

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web;
use actix_web::web::{Data, Path};
use futures_util::future::join;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::KeyOrigin;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::batch::Batch;
use crate::ca::batch::Created;
use crate::ca::batch::Definition;
use crate::ca::batch::Forms;
use crate::ca::batch::Intake;
use crate::ca::batch::KeyOrder;
use crate::ca::batch::NewBatch;
use crate::ca::batch::State;
use crate::ca::batch::intake;
use crate::ca::batch::intake::Refused;
use crate::ca::batch::intake::Rules;
use crate::ca::batch::list::Row;
use crate::ca::batch::list::RowFault;
use crate::ca::batch::list::RowKey;
use crate::ca::batch::pattern::Pattern;
use crate::ca::batch::pattern::RawPattern;
use crate::ca::device_key::EnvelopeForm;
use crate::ca::device_key::KeyType;
use crate::ca::order::OrderRefusal;
use crate::ca::order::WorkOrder;
use crate::http::body;
use crate::http::certificates::idempotency_key;
use crate::http::certificates::note;
use crate::http::certificates::rfc3339_millis;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::Violation;
use crate::pki::envelope::Recipient;
use crate::pki::hex;
use crate::pki::name::AttributeType;
use crate::pki::profile::Profile;

/// Batches on a page: without `limit`, and at most.
const LIMIT_DEFAULT: i64 = 20;
const LIMIT_MAX: i64 = 100;
/// Chunks between judgement and book.
const PARTS_MAX: usize = 4;
/// Columns that are no subject attribute.
const COLUMNS: [&str; 8] = [
    "row",
    "device",
    "serial_number",
    "fingerprint_sha256",
    "thing_name",
    "certificate_file",
    "key_file",
    "not_after",
];

/// Body of a request for a batch.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBatchBody {
    /// Profile's name.
    profile: String,
    /// Work order that all of them are booked on.
    order: Option<String>,
    /// `{"count", "start", "subject": {"CN": "lamp-{seq:08}", …}}`; without it a list is uploaded.
    #[schema(value_type = Option<Object>)]
    devices: Option<RawPattern>,
    /// Keys to be made here; without it each device on the list has its own.
    keys: Option<KeysBody>,
    /// Certificate files of the package, `pem` and `der`; `pem` if absent.
    forms: Option<Vec<String>>,
    /// Columns of the package's `devices.csv`.
    columns: Option<Vec<String>>,
}

/// Keys to be made here.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeysBody {
    /// `p256` (if absent), `p384`, `rsa2048`, `rsa3072`.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Certificate of who may read them: an EC key for key agreement. PEM.
    recipient: String,
    /// `chunk` (if absent): an envelope a thousand devices; `device`: one each.
    envelope: Option<String>,
}

/// A batch and how far it is.
#[derive(Serialize, ToSchema)]
pub struct BatchBody {
    /// Its name, a UUID.
    id: String,
    /// `awaiting-devices`, `running`, `paused`, `packing`, `done`, `cancelled`.
    state: &'static str,
    /// Why it is paused or was cancelled.
    reason: Option<String>,
    /// Profile's name.
    profile: String,
    /// Work order.
    order: Option<String>,
    /// `made`: keys are made here; `csr`, `public-key`: the list has them. Null until the devices are known.
    key_origin: Option<&'static str>,
    /// Kind of the keys that are made here.
    key_type: Option<&'static str>,
    /// What one envelope holds.
    envelope: Option<&'static str>,
    /// SHA-256 over the recipient's certificate.
    recipient_sha256: Option<String>,
    /// Devices.
    count: i64,
    /// Of them, those with a certificate. Counted by the thousand.
    issued: i64,
    /// Those that got none; the package names them.
    failed: i64,
    /// Those without an outcome.
    remaining: i64,
    /// Mean of the last ten seconds; null when nothing moves.
    devices_per_second: Option<f64>,
    /// At that rate; null when nothing moves.
    eta_seconds: Option<i64>,
    /// Whether it runs and has come nowhere for a minute.
    stalled: bool,
    /// The last fault of a neighbour that it met.
    last_error: Option<String>,
    /// Who created it.
    created_by: String,
    /// RFC 3339, database time.
    created_at: String,
    /// RFC 3339, database time.
    finished_at: Option<String>,
    /// The closed package.
    package: Option<PackageBody>,
    /// RFC 3339, database time: since then nobody can take its keys.
    keys_destroyed_at: Option<String>,
}

/// A closed package.
#[derive(Serialize, ToSchema)]
struct PackageBody {
    /// Octets.
    length: i64,
    /// SHA-256 over all of it, hexadecimal.
    sha256: String,
}

/// A page of batches.
#[derive(Serialize, ToSchema)]
struct BatchesBody {
    items: Vec<BatchBody>,
    /// Cursor of the next page.
    next: Option<String>,
}

/// Whether batches are taken here.
pub struct Batches {
    /// Where packages lie; `None`: none are taken.
    pub directory: Option<std::path::PathBuf>,
}

impl Batches {
    fn directory(&self) -> Result<&std::path::Path, Problem> {
        self.directory.as_deref().ok_or_else(|| {
            Problem::new(
                Slug::NotFound,
                "batches are not taken here: no [batches] is configured",
            )
        })
    }
}

/// Order a batch. With a pattern it runs at once; without one it awaits its list.
///
/// All devices are judged before the first key is made: by profile and provisioning template, against
/// each other and against what is certified already. What is wrong is told by row, the first hundred
/// of it, and then nothing is kept. The same request with the same Idempotency-Key is the same batch.
#[utoipa::path(
    post, path = "/v1/batches", tag = "batches",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable ASCII characters")),
    request_body = NewBatchBody,
    responses(
        (status = 202, body = BatchBody, description = "it runs, or awaits its list"),
        (status = 200, body = BatchBody, description = "the same batch was there"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused, and nothing of it is kept; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn create(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
    batches: Data<Batches>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, who)?;
    batches.directory()?;
    let idempotency_key = idempotency_key(request.headers())?;
    let definition = accepted(body::json(&request)?, &ca)?;
    if let Some(key) = &idempotency_key {
        let found = ca.batches.find(operator.name.clone(), key.clone()).await?;
        match found {
            Some(batch) if batch.definition == definition => {
                return Ok(shown(HttpResponse::Ok(), batch));
            }
            Some(_) => return Err(reused()),
            None => {}
        }
    }
    let order = order_of(&definition, &operator, &ca).await?;
    let new = NewBatch {
        id: Uuid::now_v7(),
        definition,
        by: operator.name.clone(),
        idempotency_key,
    };
    let Some(pattern) = new.definition.devices.clone() else {
        return answered(ca.batches.create(new).await?);
    };
    let rows = move || {
        (0..pattern.count()).map(move |index| {
            Ok(Row {
                number: index + 1,
                subject: pattern.row(index),
                key: RowKey::None,
            })
        })
    };
    let definition = new.definition.clone();
    let admitted = Admitted {
        ca: ca.into_inner(),
        definition,
        order,
        operator,
    };
    admitted.take_in(Intake::Create(Box::new(new)), rows).await
}

/// A batch whose devices may come in.
struct Admitted {
    ca: Arc<Ca>,
    definition: Definition,
    order: Option<WorkOrder>,
    operator: Arc<Principal>,
}

impl Admitted {
    /// Judges the rows and keeps them, all or none. `rows` is called where it may wait.
    async fn take_in<R: Iterator<Item = Result<Row, RowFault>>>(
        self,
        intake: Intake,
        rows: impl FnOnce() -> R + Send + 'static,
    ) -> Result<HttpResponse, Problem> {
        let profile = profile(&self.definition.profile, &self.ca)?;
        let (sender, parts) = mpsc::channel(PARTS_MAX);
        let taken = self.ca.batches.take_in(intake, profile.slot.clone(), parts);
        let judged = web::block({
            let profile = Arc::clone(&profile);
            move || {
                let rules = Rules {
                    profile: &profile,
                    order: self.order.as_ref(),
                    principal: &self.operator,
                    made: self
                        .definition
                        .keys
                        .as_ref()
                        .map(|keys| keys.kind.algorithm()),
                    listed: self.definition.devices.is_none(),
                };
                intake::judge(&rules, rows(), &sender)
            }
        });
        let (taken, judged) = join(taken, judged).await;
        if let Err(Refused::Rows(faults)) = judged.map_err(internal)? {
            return Err(refused(faults));
        }
        answered(taken?)
    }
}

/// What the book says, as an answer.
fn answered(created: Created) -> Result<HttpResponse, Problem> {
    match created {
        Created::New(batch) => Ok(shown(HttpResponse::Accepted(), *batch)),
        Created::Same(batch) => Ok(shown(HttpResponse::Ok(), *batch)),
        Created::KeyReused => Err(reused()),
        Created::Taken(rows) => {
            let violations = rows.iter().map(|taken| Violation {
                rule: if taken.key {
                    "public-key-already-certified"
                } else {
                    "device-already-certified"
                },
                attribute: None,
                detail: format!(
                    "row {}: certificate {} holds it",
                    taken.row,
                    taken.serial_number.to_hex()
                ),
            });
            let violations = violations.collect();
            let problem = Problem::new(
                Slug::DeviceAlreadyCertified,
                "some of the devices or their keys are certified already; nothing was kept",
            );
            Err(problem.with_violations(violations))
        }
        Created::Late(_) => Err(Problem::new(
            Slug::DeviceListLate,
            "the batch has its devices, or takes none any more",
        )),
        Created::Unknown => Err(not_here()),
        Created::Withdrawn => Err(internal("the intake ended early")),
    }
}

fn refused(faults: Vec<RowFault>) -> Problem {
    let slug = match faults.first() {
        Some(fault) if fault.rule == "private-key-submitted" => Slug::PrivateKeySubmitted,
        Some(fault)
            if matches!(
                fault.rule,
                "too-many-rows" | "field-too-long" | "record-too-long"
            ) =>
        {
            Slug::PayloadTooLarge
        }
        Some(fault) if fault.rule == "order-exhausted" => Slug::OrderExhausted,
        _ => Slug::BatchRefused,
    };
    let violations = faults.into_iter().map(|fault| Violation {
        rule: fault.rule,
        attribute: fault.attribute,
        detail: match fault.row {
            0 => fault.detail,
            row => format!("row {row}: {}", fault.detail),
        },
    });
    let violations = violations.collect();
    let detail = "the devices cannot all be certified; nothing was kept and no key was made";
    Problem::new(slug, detail).with_violations(violations)
}

fn reused() -> Problem {
    Problem::new(
        Slug::IdempotencyKeyReused,
        "this Idempotency-Key was used for another batch",
    )
}

/// The operator who asks, named on the log line; nobody else may.
pub(super) fn operator(
    request: &HttpRequest,
    who: Authenticated,
) -> Result<Arc<Principal>, Problem> {
    note(request, &who.0, "");
    who.require(&[Role::Operator])
}

fn shown(mut response: actix_web::HttpResponseBuilder, batch: Batch) -> HttpResponse {
    response.insert_header((header::LOCATION, format!("/v1/batches/{}", batch.id)));
    response.json(BatchBody::from(batch))
}

fn profile(name: &str, ca: &Ca) -> Result<Arc<Profile>, Problem> {
    ca.profiles.get(name).ok_or_else(|| {
        Problem::new(
            Slug::UnknownProfile,
            "there is no profile of this name; /v1/profiles lists them",
        )
    })
}

/// The work order, where one is named, and that it takes so many.
async fn order_of(
    definition: &Definition,
    operator: &Principal,
    ca: &Ca,
) -> Result<Option<WorkOrder>, Problem> {
    operator.may_issue(&definition.profile, definition.order.as_deref())?;
    let profile = profile(&definition.profile, ca)?;
    let Some(name) = &definition.order else {
        if profile.order_required {
            let detail = format!("profile `{}` needs a work order", profile.name);
            return Err(Problem::new(Slug::OrderRequired, detail));
        }
        return Ok(None);
    };
    let state = ca.orders.show(name.clone()).await?;
    let state = state.ok_or_else(|| OrderRefusal::Unknown(name.clone()))?;
    if state.closed.is_some() {
        return Err(OrderRefusal::Closed(name.clone(), "is closed").into());
    }
    let count = definition.devices.as_ref().map_or(1, Pattern::count);
    let remaining = state.remaining();
    if remaining < i64::from(count) {
        return Err(OrderRefusal::Exhausted(name.clone()).into());
    }
    // What is left of it is what the batch may take.
    Ok(Some(WorkOrder {
        quantity: remaining,
        ..state.order
    }))
}

/// A batch that can be ordered, or everything that is wrong with it.
fn accepted(body: NewBatchBody, ca: &Ca) -> Result<Definition, Problem> {
    let profile = profile(&body.profile, ca)?;
    let mut violations = Vec::new();
    let mut wrong = |rule, detail: String| {
        violations.push(Violation {
            rule,
            attribute: None,
            detail,
        });
    };
    let mut forms = Forms {
        pem: false,
        der: false,
    };
    for form in body.forms.unwrap_or_else(|| vec!["pem".to_owned()]) {
        match form.as_str() {
            "pem" => forms.pem = true,
            "der" => forms.der = true,
            _ => wrong("forms", "pem and der".to_owned()),
        }
    }
    if !forms.pem && !forms.der {
        wrong("forms", "at least one of pem and der".to_owned());
    }
    let columns = body.columns.unwrap_or_default();
    for (place, column) in columns.iter().enumerate() {
        let known =
            COLUMNS.contains(&column.as_str()) || AttributeType::from_short_name(column).is_some();
        if !known || columns[..place].contains(column) {
            wrong(
                "columns",
                format!("{} and subject attributes, each once", COLUMNS.join(", ")),
            );
            break;
        }
    }
    let devices = body.devices.map(Pattern::new).transpose();
    let devices = devices.unwrap_or_else(|faults| {
        violations.extend(faults);
        None
    });
    if !violations.is_empty() {
        let problem = Problem::new(Slug::InvalidField, "the batch cannot be ordered");
        return Err(problem.with_violations(violations));
    }
    if devices.is_some() && body.keys.is_none() {
        return Err(Problem::new(
            Slug::InvalidField,
            "keys: devices of a pattern have no keys of their own; say who may read those that are made",
        ));
    }
    let keys = body
        .keys
        .map(|keys| key_order(keys, &profile, ca))
        .transpose()?;
    Ok(Definition {
        profile: profile.name.clone(),
        order: body.order,
        devices,
        keys,
        forms,
        columns,
    })
}

fn key_order(keys: KeysBody, profile: &Profile, ca: &Ca) -> Result<KeyOrder, Problem> {
    let kind = keys.kind.as_deref().unwrap_or("p256");
    let kind = KeyType::from_word(kind).ok_or_else(|| {
        Problem::new(
            Slug::InvalidField,
            "keys.type: p256, p384, rsa2048 or rsa3072",
        )
    })?;
    profile.admit_key(kind.algorithm())?;
    let envelope = keys.envelope.as_deref().unwrap_or("chunk");
    let envelope = EnvelopeForm::from_word(envelope)
        .ok_or_else(|| Problem::new(Slug::InvalidField, "keys.envelope: chunk or device"))?;
    let now = ca.clock.now();
    let recipient = Recipient::parse(keys.recipient.as_bytes(), now)
        .map_err(|fault| Problem::new(Slug::RecipientKey, format!("keys.recipient: {fault}")))?;
    Ok(KeyOrder {
        kind,
        recipient_sha256: hex(recipient.sha256()),
        recipient: keys.recipient,
        envelope,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<Uuid>,
}

/// Batches, newest first.
#[utoipa::path(
    get, path = "/v1/batches", tag = "batches",
    params(
        ("limit" = Option<u16>, Query, description = "1 to 100, 20 if absent"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before")
    ),
    responses(
        (status = 200, body = BatchesBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn list(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    let query: ListQuery = serde_urlencoded::from_str(request.query_string())
        .map_err(|error| Problem::new(Slug::InvalidParameter, error.to_string()))?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::new(
            Slug::InvalidParameter,
            format!("limit: 1 to {LIMIT_MAX}"),
        ));
    }
    // One more than asked for: it tells whether there is another page.
    let mut found = ca.batches.list(query.cursor, limit + 1).await?;
    let full = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > full;
    found.truncate(full);
    let next = found
        .last()
        .filter(|_| more)
        .map(|last| last.id.to_string());
    Ok(HttpResponse::Ok().json(BatchesBody {
        items: found.into_iter().map(BatchBody::from).collect(),
        next,
    }))
}

/// One batch.
#[utoipa::path(
    get, path = "/v1/batches/{id}", tag = "batches",
    params(("id" = String, Path, description = "its id")),
    responses(
        (status = 200, body = BatchBody),
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
    reader(&request, who)?;
    Ok(HttpResponse::Ok().json(BatchBody::from(found(&path, &ca).await?)))
}

/// Who may see batches: a station has no business with them.
fn reader(request: &HttpRequest, who: Authenticated) -> Result<Arc<Principal>, Problem> {
    note(request, &who.0, "");
    who.require(&[Role::Operator, Role::Auditor, Role::Administrator])
}

async fn found(id: &str, ca: &Ca) -> Result<Batch, Problem> {
    let id = Uuid::try_parse(id).map_err(|_| not_here())?;
    ca.batches.show(id).await?.ok_or_else(not_here)
}

fn not_here() -> Problem {
    Problem::new(Slug::NotFound, "no batch of this id")
}

impl From<Batch> for BatchBody {
    fn from(batch: Batch) -> Self {
        let remaining = batch.remaining();
        let state = match batch.state {
            State::Running if batch.hindrance.is_some() => "paused",
            State::Running if remaining == 0 => "packing",
            state => state.as_str(),
        };
        #[expect(clippy::cast_precision_loss, reason = "a million at most")]
        let rate =
            Some(batch.recent as f64 / 10.0).filter(|rate| *rate > 0.0 && state == "running");
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "a million at most"
        )]
        let eta = rate.map(|rate| (remaining as f64 / rate).ceil() as i64);
        let definition = batch.definition;
        let keys = definition.keys.as_ref();
        Self {
            id: batch.id.to_string(),
            state,
            reason: batch.hindrance.or(batch.reason),
            profile: definition.profile,
            order: definition.order,
            key_origin: batch.key_origin.map(KeyOrigin::as_str),
            key_type: keys.map(|keys| keys.kind.as_str()),
            envelope: keys.map(|keys| keys.envelope.as_str()),
            recipient_sha256: keys.map(|keys| keys.recipient_sha256.clone()),
            count: batch.device_count,
            issued: batch.issued,
            failed: batch.failed,
            remaining,
            devices_per_second: rate,
            eta_seconds: eta,
            stalled: batch.stalled,
            last_error: batch.last_error,
            created_by: batch.created.0,
            created_at: rfc3339_millis(batch.created.1),
            finished_at: batch.finished_at.map(rfc3339_millis),
            package: batch.package.map(|package| PackageBody {
                length: package.length,
                sha256: hex(&package.sha256),
            }),
            keys_destroyed_at: batch.keys_destroyed.map(|(_, at)| rfc3339_millis(at)),
        }
    }
}
