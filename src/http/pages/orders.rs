//! `GET /ui/orders`: how far the work orders are.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::Data;
use askama::Template;
use chrono::DateTime;
use chrono::Utc;

use crate::ca::Ca;
use crate::ca::floor::ORDERS_MAX;
use crate::ca::order::OrderState;
use crate::http::certificates::note;
use crate::http::pages::Frame;
use crate::http::pages::Moment;
use crate::http::pages::floor::Alert;
use crate::http::pages::floor::Bar;
use crate::http::pages::floor::alerts;
use crate::http::pages::floor::grouped;
use crate::http::pages::floor::percent;
use crate::http::pages::reader;
use crate::http::pages::search::filtered;
use crate::http::pages::write_live;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;

/// An order with fewer places left, of a hundred, is nearly used up.
const FEW_PERCENT: i64 = 5;

/// The page.
pub async fn show(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let reader = reader(who)?;
    let seen = ca.floor.orders().await;
    let now = ca.clock.now();
    let orders = seen.last.as_deref();
    let rows = |states: &[OrderState]| -> Result<Vec<Row>, Problem> {
        states.iter().map(|state| Row::new(state, now)).collect()
    };
    let more = orders.map_or(0, |orders| (orders.open_count - ORDERS_MAX).max(0));
    write_live(&OrdersPage {
        frame: Frame::new(&request, &reader),
        alerts: alerts(&ca, &seen),
        read: orders.is_some(),
        open: orders.map_or(Ok(Vec::new()), |orders| rows(&orders.open))?,
        more: (more > 0).then(|| grouped(more)),
        closed: orders.map_or(Ok(Vec::new()), |orders| rows(&orders.closed))?,
    })
}

#[derive(Template)]
#[template(path = "orders.html", config = "src/http/pages/askama.toml")]
struct OrdersPage {
    frame: Frame,
    alerts: Vec<Alert>,
    /// Something could be read.
    read: bool,
    open: Vec<Row>,
    /// Open ones that are not shown.
    more: Option<String>,
    closed: Vec<Row>,
}

struct Row {
    name: String,
    profile: String,
    /// Where its certificates are listed.
    address: String,
    /// Where those are that nothing has happened to.
    unconfirmed_address: String,
    bar: Bar,
    issued: String,
    quantity: String,
    percent: String,
    remaining: String,
    unconfirmed: String,
    confirmed: String,
    reworked: String,
    scrapped: String,
    /// The badge's class and word; `None`: it runs.
    state: Option<(&'static str, &'static str)>,
    created: Moment,
    closed: Option<Moment>,
}

impl Row {
    fn new(state: &OrderState, now: DateTime<Utc>) -> Result<Self, Problem> {
        let order = &state.order;
        let (issued, remaining) = (state.issued(), state.remaining());
        // What is neither confirmed nor at an end.
        let unconfirmed = (state.live() - state.confirmed).max(0);
        let whole = issued + state.in_progress + remaining;
        let confirmed = state.confirmed.min(issued);
        let label = format!(
            "{} of {} issued, {} confirmed, {} remaining",
            grouped(issued),
            grouped(whole),
            grouped(state.confirmed),
            grouped(remaining)
        );
        let parts = [
            ("confirmed", confirmed),
            ("issued", issued - confirmed),
            ("coming", state.in_progress),
        ];
        let early = order.opens_at.is_some_and(|at| now < at);
        let late = order.closes_at.is_some_and(|at| now >= at);
        let few = remaining * 100 < whole * FEW_PERCENT;
        let mut unconfirmed_address = filtered("order", &order.name)?;
        unconfirmed_address.push_str("&status=issued");
        Ok(Self {
            name: order.name.clone(),
            profile: order.profile.clone(),
            address: filtered("order", &order.name)?,
            unconfirmed_address,
            bar: Bar::new(label, whole, &parts),
            issued: grouped(issued),
            quantity: grouped(whole),
            percent: percent(issued, whole),
            remaining: grouped(remaining),
            unconfirmed: grouped(unconfirmed),
            confirmed: grouped(state.confirmed),
            reworked: grouped(state.reworked),
            scrapped: grouped(state.scrapped),
            state: match (&state.closed, early, late, remaining) {
                (Some(_), ..) => Some(("scrapped", "closed")),
                (None, true, ..) => Some(("scrapped", "not open yet")),
                (None, _, true, _) => Some(("superseded", "time is over")),
                (None, _, _, ..=0) => Some(("superseded", "used up")),
                _ if few => Some(("superseded", "nearly used up")),
                _ => None,
            },
            created: state.created.1.into(),
            closed: state.closed.as_ref().map(|(_, at)| (*at).into()),
        })
    }
}
