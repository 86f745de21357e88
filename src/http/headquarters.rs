//! Head office's addresses: plants and what was found of them, certificates of all plants, orders and the
//! tickets that bring them.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::Data;
use actix_web::web::Path;
use chrono::DateTime;
use chrono::Utc;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use crate::ca::Role;
use crate::ca::headquarters::Finding;
use crate::ca::headquarters::Headquarters;
use crate::ca::headquarters::OrderAtPlant;
use crate::ca::headquarters::PlantState;
use crate::ca::headquarters::Story;
use crate::ca::headquarters::StoryEntry;
use crate::ca::headquarters::tickets::TicketFault;
use crate::ca::headquarters::tickets::TicketWish;
use crate::http::body;
use crate::http::certificates;
use crate::http::certificates::CertificateBody;
use crate::http::certificates::search;
use crate::http::certificates::search::SearchQuery;
use crate::http::middleware::Flights;
use crate::http::orders;
use crate::http::orders::NewOrderBody;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::serial::SerialNumber;

/// Who may read: everybody whom head office knows.
const READERS: [Role; 2] = [Role::Operator, Role::Auditor];

/// Findings that are shown with the plants, and on their own.
const FINDINGS_WITH_PLANTS: i64 = 100;
const FINDINGS_MAX: i64 = 1_000;
/// Rows of orders on a page: one a plant.
const ORDERS_MAX: i64 = 1_000;
/// Tickets that are listed.
const TICKETS_MAX: i64 = 1_000;

/// All plants.
#[derive(Serialize)]
struct PlantsBody {
    /// By name.
    plants: Vec<PlantState>,
    /// The newest of all plants, those first that are not put right.
    findings: Vec<Finding>,
}

/// `GET /v1/plants`: how each plant's feed, log and rows stand.
pub async fn plants(
    request: HttpRequest,
    who: Authenticated,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    Ok(HttpResponse::Ok().json(PlantsBody {
        plants: office.book.plants().await?,
        findings: office.book.findings(None, FINDINGS_WITH_PLANTS).await?,
    }))
}

/// `GET /v1/plants/{site}/findings`: what was found of one plant.
pub async fn findings(
    request: HttpRequest,
    who: Authenticated,
    site: Path<String>,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    let plants = office.book.plants().await?;
    if plants.iter().all(|plant| plant.site != *site) {
        return Err(Problem::new(Slug::NotFound, "no plant of this name"));
    }
    let found = office.book.findings(Some(site.into_inner()), FINDINGS_MAX);
    Ok(HttpResponse::Ok().json(json!({ "items": found.await? })))
}

/// A certificate and the plant it is from.
#[derive(Serialize)]
struct PlacedBody<'a> {
    /// The plant.
    site: &'a str,
    #[serde(flatten)]
    certificate: CertificateBody<'a>,
}

/// `GET /v1/certificates`: search through all plants, or one with `site=`; newest first.
pub async fn search(
    request: HttpRequest,
    who: Authenticated,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    let SearchQuery {
        filter,
        limit,
        cursor,
    } = SearchQuery::parse(request.query_string())?;
    if filter.batch.is_some() {
        return Err(Problem::new(
            Slug::InvalidParameter,
            "batch: batches are the plants' own; ask there",
        ));
    }
    let page = office.book.search(filter, limit, cursor).await?;
    let items: Vec<PlacedBody<'_>> = page
        .items
        .iter()
        .map(|placed| PlacedBody {
            site: &placed.site,
            certificate: CertificateBody::new(&placed.certificate, None),
        })
        .collect();
    let next = page.next.map(|id| id.as_simple().to_string());
    let mut response = HttpResponse::Ok();
    if let Some(cursor) = &next {
        let address = search::next_page(request.query_string(), cursor);
        response.insert_header((header::LINK, format!("<{address}>; rel=\"next\"")));
    }
    Ok(response.json(json!({ "items": items, "next": next })))
}

/// A certificate's life, as its plant's log tells it.
#[derive(Serialize)]
struct StoryBody<'a> {
    #[serde(flatten)]
    placed: PlacedBody<'a>,
    /// Oldest first; the first is that it was issued.
    events: &'a [StoryEntry],
    /// What does not agree about its rows.
    findings: &'a [Finding],
}

/// `GET /v1/certificates/{serial_number}/history`: of each plant that has a certificate of this number.
pub async fn history(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    let not_here = || Problem::new(Slug::NotFound, "no plant has a certificate of this number");
    let serial_number = SerialNumber::from_hex(&path).ok_or_else(not_here)?;
    let stories = office.book.stories(serial_number).await?;
    if stories.is_empty() {
        return Err(not_here());
    }
    let items: Vec<StoryBody<'_>> = stories
        .iter()
        .map(
            |Story {
                 placed,
                 entries,
                 findings,
             }| StoryBody {
                placed: PlacedBody {
                    site: &placed.site,
                    certificate: CertificateBody::new(&placed.certificate, None),
                },
                events: entries,
                findings,
            },
        )
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "items": items })))
}

/// An order and what became of it, over all plants.
#[derive(Serialize)]
struct OrderTotal<'a> {
    order: &'a str,
    quantity: i64,
    reserved: i64,
    reworked: i64,
    confirmed: i64,
    superseded: i64,
    revoked: i64,
    scrapped: i64,
    /// Whether it is closed at every plant that has it.
    closed: bool,
    plants: &'a [OrderAtPlant],
}

impl<'a> OrderTotal<'a> {
    /// Of rows of one name; at least one.
    fn of(plants: &'a [OrderAtPlant]) -> Self {
        let sum = |count: fn(&OrderAtPlant) -> i64| plants.iter().map(count).sum();
        Self {
            order: plants.first().map_or("", |it| &it.order),
            quantity: sum(|it| it.quantity),
            reserved: sum(|it| it.reserved),
            reworked: sum(|it| it.reworked),
            confirmed: sum(|it| it.confirmed),
            superseded: sum(|it| it.superseded),
            revoked: sum(|it| it.revoked),
            scrapped: sum(|it| it.scrapped),
            closed: plants.iter().all(|it| it.closed),
            plants,
        }
    }
}

/// `GET /v1/orders`: totals of each order across the plants, by name; `cursor=` is the last name before.
pub async fn orders(
    request: HttpRequest,
    who: Authenticated,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    let mut after = None;
    for (name, value) in search::pairs(request.query_string())? {
        if name != "cursor" {
            let what = certificates::printable(&name);
            let detail = format!("{what}: is no parameter here");
            return Err(Problem::new(Slug::InvalidParameter, detail));
        }
        after = Some(value);
    }
    let mut rows = office.book.orders(None, after, ORDERS_MAX).await?;
    let mut next = None;
    if i64::try_from(rows.len()) == Ok(ORDERS_MAX) {
        // The last name may have more rows: it begins the next page.
        let last = rows.last().map(|it| it.order.clone());
        rows.retain(|it| Some(&it.order) != last.as_ref());
        next = rows.last().map(|it| it.order.clone());
    }
    let items: Vec<OrderTotal<'_>> = rows
        .chunk_by(|one, other| one.order == other.order)
        .map(OrderTotal::of)
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "items": items, "next": next })))
}

/// `GET /v1/orders/{name}`: one order across the plants.
pub async fn order(
    request: HttpRequest,
    who: Authenticated,
    name: Path<String>,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    let rows = office
        .book
        .orders(Some(name.into_inner()), None, ORDERS_MAX)
        .await?;
    if rows.is_empty() {
        return Err(Problem::new(
            Slug::NotFound,
            "no plant has an order of this name",
        ));
    }
    Ok(HttpResponse::Ok().json(OrderTotal::of(&rows)))
}

/// A wish for a ticket.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WishBody {
    /// The plant it is for.
    site: String,
    /// RFC 3339; from when it may be used.
    not_before: Option<DateTime<Utc>>,
    /// RFC 3339; from when it may no longer be used.
    expires_at: DateTime<Utc>,
    /// The order, as `POST /v1/orders` of a plant takes it.
    order: serde_json::Value,
}

/// `POST /v1/tickets`: an order for one plant, signed in the HSM. The same again is answered with 200.
pub async fn sign_ticket(
    request: HttpRequest,
    who: Authenticated,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    certificates::note(&request, &who.0, "");
    let planner = who.require(&[Role::Operator])?;
    let wish: WishBody = body::json(&request)?;
    // Whether the plant has the profile, it says when it gets the ticket.
    let checked: NewOrderBody = body::parse(wish.order.to_string().as_bytes())?;
    let name = orders::checked(checked)?.name;
    let wish = TicketWish {
        site: wish.site,
        name,
        order: wish.order,
        not_before: wish.not_before,
        expires_at: wish.expires_at,
        by: planner.name.clone(),
    };
    let (ticket, is_new) = office.sign_ticket(wish).await?;
    let mut response = if is_new {
        HttpResponse::Created()
    } else {
        HttpResponse::Ok()
    };
    Ok(response.json(ticket))
}

/// `GET /v1/tickets`: what was signed, the newest first.
pub async fn tickets(
    request: HttpRequest,
    who: Authenticated,
    office: Data<Headquarters>,
) -> Result<HttpResponse, Problem> {
    reader(&request, who)?;
    let tickets = office.book.tickets(TICKETS_MAX).await?;
    Ok(HttpResponse::Ok().json(json!({ "items": tickets })))
}

impl From<TicketFault> for Problem {
    fn from(fault: TicketFault) -> Self {
        let detail = fault.to_string();
        match fault {
            TicketFault::NoKey | TicketFault::UnknownPlant => Self::new(Slug::NotFound, detail),
            TicketFault::Differs => Self::new(Slug::TicketWidened, detail),
            TicketFault::Expired => Self::new(Slug::InvalidField, detail),
            TicketFault::Signer(fault) => fault.into(),
            TicketFault::Ledger(fault) => fault.into(),
            TicketFault::Internal(detail) => internal(detail),
        }
    }
}

/// `/readyz`: whether it answers. A plant that is late is a warning: head office answers for the others.
pub async fn readyz(office: Data<Headquarters>, flights: Data<Arc<Flights>>) -> HttpResponse {
    let mut reasons = Vec::new();
    if flights.leaving() {
        reasons.push(json!({ "component": "service", "reason": "shutting down" }));
    }
    let mut warnings = Vec::new();
    match office.book.plants().await {
        Ok(plants) => {
            for plant in plants {
                let mut warn = |reason: String| {
                    let site = &plant.site;
                    warnings.push(json!({ "component": "plant", "plant": site, "reason": reason }));
                };
                if plant.late {
                    warn(heard(plant.heard_at));
                }
                if plant.findings_open > 0 {
                    warn(format!("{} rows do not agree", plant.findings_open));
                }
            }
        }
        Err(fault) => {
            reasons.push(json!({ "component": "database", "reason": fault.to_string() }));
        }
    }
    let mut response = if reasons.is_empty() {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    response.json(json!({ "ready": reasons.is_empty(), "reasons": reasons, "warnings": warnings }))
}

fn heard(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(
        || "never heard of".to_owned(),
        |at| format!("last heard of at {at}"),
    )
}

fn reader(request: &HttpRequest, who: Authenticated) -> Result<(), Problem> {
    certificates::note(request, &who.0, "");
    who.require(&READERS)?;
    Ok(())
}
