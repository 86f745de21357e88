//! `GET /ui/batches`: how far the batches are, and buttons to pause, resume and cancel one.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::Data;
use askama::Template;

use crate::ca::Ca;
use crate::ca::Role;
use crate::ca::batch::Batch;
use crate::ca::batch::State;
use crate::ca::floor::BATCHES_MAX;
use crate::http::certificates::note;
use crate::http::pages::Frame;
use crate::http::pages::Moment;
use crate::http::pages::floor::Alert;
use crate::http::pages::floor::Bar;
use crate::http::pages::floor::alerts;
use crate::http::pages::floor::grouped;
use crate::http::pages::floor::left;
use crate::http::pages::floor::percent;
use crate::http::pages::reader;
use crate::http::pages::search::filtered;
use crate::http::pages::write_live;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;

/// The page.
pub async fn show(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let reader = reader(who)?;
    let seen = ca.floor.batches().await;
    let batches = seen.last.as_deref();
    let rows = batches.map_or(Ok(Vec::new()), |batches| batches.iter().map(row).collect())?;
    write_live(&BatchesPage {
        frame: Frame::new(&request, &reader),
        alerts: alerts(&ca, &seen),
        read: batches.is_some(),
        acts: reader.role == Role::Operator,
        full: i64::try_from(rows.len()) == Ok(BATCHES_MAX),
        rows,
    })
}

#[derive(Template)]
#[template(path = "batches.html", config = "src/http/pages/askama.toml")]
struct BatchesPage {
    frame: Frame,
    alerts: Vec<Alert>,
    /// Something could be read.
    read: bool,
    /// Who reads may pause, resume and cancel.
    acts: bool,
    /// There may be older ones.
    full: bool,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    /// Its first digits and its last ones.
    short: String,
    /// Where its certificates are listed.
    address: String,
    profile: String,
    order: Option<String>,
    by: String,
    created: Moment,
    /// The badge's class and word.
    state: (&'static str, &'static str),
    /// Why it stands where it stands.
    why: Option<String>,
    bar: Bar,
    percent: String,
    issued: String,
    count: String,
    failed: String,
    remaining: String,
    /// Devices an hour, and how long it takes at that.
    rate: Option<(String, String)>,
    pauses: bool,
    resumes: bool,
    cancels: bool,
}

fn row(batch: &Batch) -> Result<Row, Problem> {
    let remaining = batch.remaining();
    let running = batch.state == State::Running;
    let state = match batch.state {
        State::AwaitingDevices => ("scrapped", "awaits its devices"),
        State::Running if batch.hindrance.is_some() => ("superseded", "held up"),
        State::Running if batch.stalled => ("revoked", "stalled"),
        State::Running if remaining == 0 => ("issued", "is packed"),
        State::Running => ("issued", "running"),
        State::Paused => ("superseded", "paused"),
        State::Done => ("confirmed", "done"),
        State::Cancelled => ("revoked", "cancelled"),
    };
    // Of the last ten seconds.
    let per_hour = batch.recent * 360;
    let seconds = (per_hour > 0).then(|| remaining * 3600 / per_hour);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let rate = seconds.filter(|_| running && remaining > 0);
    let label = format!(
        "{} of {} issued, {} failed",
        grouped(batch.issued),
        grouped(batch.device_count),
        grouped(batch.failed)
    );
    let parts = [("confirmed", batch.issued), ("bad", batch.failed)];
    let id = batch.id.as_simple().to_string();
    let stalled = batch.last_error.as_ref().filter(|_| batch.stalled);
    let why = batch.hindrance.as_ref().or(batch.reason.as_ref());
    Ok(Row {
        short: format!("{}…{}", &id[..8], &id[26..]),
        id: batch.id.to_string(),
        address: filtered("batch", &batch.id.to_string())?,
        profile: batch.definition.profile.clone(),
        order: batch.definition.order.clone(),
        by: batch.created.0.clone(),
        created: batch.created.1.into(),
        state,
        why: why.or(stalled).cloned(),
        bar: Bar::new(label, batch.device_count, &parts),
        percent: percent(batch.issued + batch.failed, batch.device_count),
        issued: grouped(batch.issued),
        count: grouped(batch.device_count),
        failed: grouped(batch.failed),
        remaining: grouped(remaining),
        rate: rate.map(|seconds| (grouped(per_hour), left(Duration::from_secs(seconds)))),
        pauses: running,
        resumes: batch.state == State::Paused,
        cancels: !matches!(batch.state, State::Done | State::Cancelled),
    })
}
