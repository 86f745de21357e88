//! `/v1/orders`: create, list, show and close work orders.

pub mod devices;
pub mod report;
pub mod ticket;

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::http::header;
use actix_web::web::{Data, Path};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::device_pattern::DevicePattern;
use crate::ca::order;
use crate::ca::order::Created;
use crate::ca::order::OrderState;
use crate::ca::order::WorkOrder;
use crate::http::body;
use crate::http::certificates::note;
use crate::http::certificates::rfc3339;
use crate::http::certificates::rfc3339_millis;
use crate::http::orders::ticket::TicketBody;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::pki::Violation;

/// Where device lists go, the longest bodies there are.
pub(super) const DEVICES: &str = "/v1/orders/{name}/devices";
/// Largest quantity.
const QUANTITY_MAX: i64 = 1_000_000_000;
/// Most stations an order may name.
const STATIONS_MAX: usize = 1_000;
/// Longest device identity of a range: the longest subject attribute.
const DEVICE_LENGTH_MAX: usize = 128;
/// Orders on a page: without `limit`, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// Body of a request for a work order.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewOrderBody {
    /// Unique name: 1 to 64 printable ASCII characters but `/ ? # %`.
    name: String,
    /// The one profile it is for.
    profile: String,
    /// Certificates that may be live under it, 1 to 1,000,000,000.
    quantity: i64,
    /// Scrapped devices whose places may be given to others; 0 if absent.
    #[serde(default)]
    scrap_allowance: i64,
    /// Reworks it allows; without it, those that the profile allows each device.
    reworks_max: Option<i64>,
    /// First device identity; with `device_last`, of the same length. Compared octet by octet.
    device_first: Option<String>,
    /// Last device identity.
    device_last: Option<String>,
    /// What a device identity looks like, a character each: `#` digit, `@` letter, `?` any, `\` the next one itself.
    device_pattern: Option<String>,
    /// Stations that may book on it; without it, all.
    #[serde(default)]
    stations: Vec<String>,
    /// RFC 3339; before it the order takes nothing. To the second.
    #[schema(value_type = Option<String>)]
    opens_at: Option<DateTime<Utc>>,
    /// RFC 3339; from then on it takes nothing. To the second.
    #[schema(value_type = Option<String>)]
    closes_at: Option<DateTime<Utc>>,
}

/// A work order and where it stands.
#[derive(Serialize, ToSchema)]
pub struct OrderBody {
    /// Unique name.
    name: String,
    /// The one profile it is for.
    profile: String,
    /// Devices that may be certified under it, beside those that replace scrapped ones.
    quantity: i64,
    /// Scrapped devices whose places may be given to others.
    scrap_allowance: i64,
    /// Reworks it allows; null: those that the profile allows each device.
    reworks_max: Option<i64>,
    /// Devices certified: their first certificates.
    issued: i64,
    /// Intents that have no certificate yet; each holds a place.
    in_progress: i64,
    /// Intents that ended without a certificate and gave their place back.
    abandoned: i64,
    /// Devices that may still be certified.
    remaining: i64,
    /// Certificates of reworks, beside the first ones.
    reworked: i64,
    /// Certificates that are confirmed.
    confirmed: i64,
    /// Certificates that a confirmed rework replaced.
    superseded: i64,
    /// Certificates that were revoked.
    revoked: i64,
    /// Devices that were scrapped.
    scrapped: i64,
    /// Certificates that have not ended: issued + reworked - superseded - revoked - scrapped.
    live: i64,
    /// First device identity; null: any device.
    device_first: Option<String>,
    /// Last device identity.
    device_last: Option<String>,
    /// What a device identity looks like; null: anything.
    device_pattern: Option<String>,
    /// Identities on its device list; null: it has none.
    device_count: Option<i64>,
    /// Stations that may book on it; empty: all.
    stations: Vec<String>,
    /// RFC 3339.
    opens_at: Option<String>,
    /// RFC 3339.
    closes_at: Option<String>,
    /// The signed ticket it came by; null: it was created here.
    ticket: Option<TicketBody>,
    /// Who created it.
    created_by: String,
    /// RFC 3339, database time.
    created_at: String,
    /// Who closed it; null while nobody has.
    closed_by: Option<String>,
    /// RFC 3339, database time.
    closed_at: Option<String>,
}

/// A page of work orders.
#[derive(Serialize, ToSchema)]
struct OrdersBody {
    /// By name.
    items: Vec<OrderBody>,
    /// `cursor` of the next page; null at the end.
    next: Option<String>,
}

/// Parameters of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Create a work order. The same again is answered with 200; another under its name is refused.
#[utoipa::path(
    post, path = "/v1/orders", tag = "orders", request_body = NewOrderBody,
    responses(
        (status = 201, body = OrderBody, description = "created; `Location` names it"),
        (status = 200, body = OrderBody, description = "the same order was there"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn create(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, who)?;
    if ca.tickets.required {
        return Err(Problem::new(
            Slug::TicketRequired,
            "work orders come by ticket only here: POST /v1/orders/tickets",
        ));
    }
    let order = accepted(body::json(&request)?, &ca)?;
    match ca.orders.create(order, operator.name.clone()).await? {
        Created::New(state) => Ok(kept(HttpResponse::Created(), state)),
        Created::Same(state) => Ok(kept(HttpResponse::Ok(), state)),
        Created::Other => Err(Problem::new(
            Slug::OrderExists,
            "there is a work order of this name with another content; orders are never changed",
        )),
        Created::Overdrawn => Err(overdrawn()),
    }
}

/// The answer to whoever created an order.
fn kept(mut response: HttpResponseBuilder, state: OrderState) -> HttpResponse {
    // `is_name` leaves nothing in it that would mean something else in an address.
    let address = format!("/v1/orders/{}", state.order.name);
    response.insert_header((header::LOCATION, address));
    response.json(OrderBody::from(state))
}

fn overdrawn() -> Problem {
    Problem::new(
        Slug::OrderExhausted,
        "more was issued under this name, before there was such an order, than the order allows",
    )
}

/// The operator who asks, named on the log line; nobody else may.
fn operator(request: &HttpRequest, who: Authenticated) -> Result<Arc<Principal>, Problem> {
    note(request, &who.0, "");
    who.require(&[Role::Operator])
}

/// Work orders by name. A station sees those it may book on.
#[utoipa::path(
    get, path = "/v1/orders", tag = "orders",
    params(
        ("limit" = Option<u16>, Query, description = "1 to 1000, 100 if absent"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before")
    ),
    responses(
        (status = 200, body = OrdersBody),
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
    let query: ListQuery = serde_urlencoded::from_str(request.query_string())
        .map_err(|error| Problem::new(Slug::InvalidParameter, error.to_string()))?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::new(
            Slug::InvalidParameter,
            format!("limit: 1 to {LIMIT_MAX}"),
        ));
    }
    if query
        .cursor
        .as_ref()
        .is_some_and(|name| !order::is_name(name))
    {
        return Err(Problem::new(
            Slug::InvalidParameter,
            "cursor: not one of ours",
        ));
    }
    // One more than asked for: it tells whether there is another page.
    let mut found = ca.orders.list(query.cursor, limit + 1).await?;
    let full = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > full;
    found.truncate(full);
    let next = found
        .last()
        .filter(|_| more)
        .map(|last| last.order.name.clone());
    let visible = found.into_iter().filter(|state| sees(&who.0, state));
    Ok(HttpResponse::Ok().json(OrdersBody {
        items: visible.map(OrderBody::from).collect(),
        next,
    }))
}

/// One work order.
#[utoipa::path(
    get, path = "/v1/orders/{name}", tag = "orders",
    params(("name" = String, Path, description = "its name")),
    responses(
        (status = 200, body = OrderBody),
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
    let found = ca.orders.show(named(path)?).await?;
    let state = found
        .filter(|state| sees(&who.0, state))
        .ok_or_else(not_here)?;
    Ok(HttpResponse::Ok().json(OrderBody::from(state)))
}

/// Close a work order, for ever. What was issued under it is still answered.
#[utoipa::path(
    post, path = "/v1/orders/{name}/closure", tag = "orders",
    params(("name" = String, Path, description = "its name")),
    responses(
        (status = 200, body = OrderBody, description = "closed, now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn close(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let operator = operator(&request, who)?;
    let closed = ca.orders.close(named(path)?, operator.name.clone()).await?;
    Ok(HttpResponse::Ok().json(OrderBody::from(closed.ok_or_else(not_here)?)))
}

fn named(path: Path<String>) -> Result<String, Problem> {
    Some(path.into_inner())
        .filter(|name| order::is_name(name))
        .ok_or_else(not_here)
}

fn not_here() -> Problem {
    Problem::new(
        Slug::NotFound,
        "no work order of this name that you may see",
    )
}

/// A station sees the orders it may book on, the others see all.
fn sees(principal: &Principal, state: &OrderState) -> bool {
    let stations = &state.order.stations;
    principal.role != Role::Station || stations.is_empty() || stations.contains(&principal.name)
}

/// Whether a device could have this identity.
fn is_device(text: &str) -> bool {
    (1..=DEVICE_LENGTH_MAX).contains(&text.len())
        && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

/// A range of device identities, where both ends are there.
fn range(
    first: Option<String>,
    last: Option<String>,
) -> Result<Option<(String, String)>, &'static str> {
    match (first, last) {
        (None, None) => Ok(None),
        (Some(first), Some(last)) => {
            let one_length = first.len() == last.len();
            if is_device(&first) && is_device(&last) && one_length && first <= last {
                return Ok(Some((first, last)));
            }
            Err(
                "first and last must be printable ASCII of one length, the first not above the last",
            )
        }
        _ => Err("device_first and device_last come together"),
    }
}

/// An order that can be kept here, or everything that is wrong with it.
fn accepted(body: NewOrderBody, ca: &Ca) -> Result<WorkOrder, Problem> {
    if ca.profiles.get(&body.profile).is_none() {
        return Err(Problem::new(
            Slug::UnknownProfile,
            "there is no profile of this name; /v1/profiles lists them",
        ));
    }
    checked(body)
}

/// An order of a profile that may be somewhere else, or everything that is wrong with it.
pub(super) fn checked(body: NewOrderBody) -> Result<WorkOrder, Problem> {
    let mut violations = Vec::new();
    let mut wrong = |rule, detail: String| {
        violations.push(Violation {
            rule,
            attribute: None,
            detail,
        });
    };
    if !order::is_name(&body.name) {
        wrong(
            "name",
            "1 to 64 printable ASCII characters without space or / ? # %".to_owned(),
        );
    }
    if !(1..=QUANTITY_MAX).contains(&body.quantity) {
        wrong("quantity", format!("1 to {QUANTITY_MAX}"));
    }
    if !(0..=QUANTITY_MAX).contains(&body.scrap_allowance) {
        wrong("scrap_allowance", format!("0 to {QUANTITY_MAX}"));
    }
    if !(0..=QUANTITY_MAX).contains(&body.reworks_max.unwrap_or(0)) {
        wrong("reworks_max", format!("0 to {QUANTITY_MAX}"));
    }
    if body.stations.len() > STATIONS_MAX {
        wrong("stations", format!("at most {STATIONS_MAX}"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    for station in &body.stations {
        if !(1..=64).contains(&station.len()) || !station.bytes().all(plain) {
            wrong(
                "stations",
                "a name is 1 to 64 of A-Z a-z 0-9 . _ -".to_owned(),
            );
        }
    }
    let devices = range(body.device_first, body.device_last).unwrap_or_else(|fault| {
        wrong("devices", fault.to_owned());
        None
    });
    let device_pattern = body
        .device_pattern
        .as_deref()
        .and_then(DevicePattern::parse);
    if body.device_pattern.is_some() && device_pattern.is_none() {
        wrong(
            "device_pattern",
            "1 to 256 printable ASCII characters; `\\` is never the last".to_owned(),
        );
    }
    // What the database keeps is what was sent: the same request is then the same order.
    let whole = |time: &DateTime<Utc>| time.timestamp_subsec_nanos() == 0;
    if !body.opens_at.iter().chain(&body.closes_at).all(whole) {
        wrong(
            "times",
            "opens_at and closes_at are to the second".to_owned(),
        );
    }
    if let (Some(opens), Some(closes)) = (body.opens_at, body.closes_at)
        && opens >= closes
    {
        wrong("times", "opens_at must be before closes_at".to_owned());
    }
    if !violations.is_empty() {
        return Err(
            Problem::new(Slug::InvalidField, "the work order cannot be kept")
                .with_violations(violations),
        );
    }
    Ok(WorkOrder {
        name: body.name,
        profile: body.profile,
        quantity: body.quantity,
        scrap_allowance: body.scrap_allowance,
        reworks_max: body.reworks_max,
        devices,
        device_pattern,
        stations: body.stations,
        opens_at: body.opens_at,
        closes_at: body.closes_at,
    })
}

impl From<OrderState> for OrderBody {
    fn from(state: OrderState) -> Self {
        let (issued, remaining, live) = (state.issued(), state.remaining(), state.live());
        let (created_by, created_at) = state.created;
        let (closed_by, closed_at) = state.closed.unzip();
        let order = state.order;
        let (device_first, device_last) = order.devices.unzip();
        Self {
            name: order.name,
            profile: order.profile,
            quantity: order.quantity,
            scrap_allowance: order.scrap_allowance,
            reworks_max: order.reworks_max,
            issued,
            in_progress: state.in_progress,
            abandoned: state.abandoned,
            remaining,
            reworked: state.reworked,
            confirmed: state.confirmed,
            superseded: state.superseded,
            revoked: state.revoked,
            scrapped: state.scrapped,
            live,
            device_first,
            device_last,
            device_pattern: order.device_pattern.map(|p| p.as_str().to_owned()),
            device_count: state.device_count,
            stations: order.stations,
            opens_at: order.opens_at.map(rfc3339),
            closes_at: order.closes_at.map(rfc3339),
            ticket: state.ticket.map(TicketBody::from),
            created_by,
            created_at: rfc3339_millis(created_at),
            closed_by,
            closed_at: closed_at.map(rfc3339_millis),
        }
    }
}
