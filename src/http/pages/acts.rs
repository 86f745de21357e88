//! `POST /ui/…`: what a button does. The same as the REST route of the same name, for the same roles, by
//! the same way; then back to the page.
//!
//! A client certificate is sent whoever's page asked for it, and has no `SameSite`. So a request is taken
//! only when the browser says, in `Origin`, that it comes from a page of this service.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::http::uri::Authority;
use actix_web::web::Data;
use actix_web::web::Path;

use crate::ca::Ca;
use crate::ca::Role;
use crate::ca::batch::BatchAct;
use crate::ca::batch::State;
use crate::ca::station::StationAct;
use crate::http::batches;
use crate::http::certificates::note;
use crate::http::pages::guard;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::http::stations;

/// Shut a station out, or a person.
pub async fn disable(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    station(&request, who, path, &ca, |name| StationAct::Disable {
        name,
    })
    .await
}

/// Let it in again; where two administrators are needed, propose it.
pub async fn enable(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    station(&request, who, path, &ca, |name| StationAct::Enable { name }).await
}

/// Begin no chunk of a batch until it is resumed.
pub async fn pause(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let act = |name: &str| BatchAct::Pause(format!("paused by {name}"));
    batch(&request, who, &path, &ca, act, State::Paused).await
}

/// Go on with a batch.
pub async fn resume(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let act = |_: &str| BatchAct::Resume;
    batch(&request, who, &path, &ca, act, State::Running).await
}

/// Begin no chunk of a batch any more.
pub async fn cancel(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let act = |name: &str| BatchAct::Cancel(format!("cancelled by {name}"));
    batch(&request, who, &path, &ca, act, State::Cancelled).await
}

async fn station(
    request: &HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: &Ca,
    act: impl Fn(String) -> StationAct,
) -> Result<HttpResponse, Problem> {
    note(request, &who.0, "");
    from_our_page(request)?;
    let administrator = who.require(&[Role::Administrator])?;
    let name = stations::named(path)?;
    let done = stations::administered(ca, act(name.clone()), &administrator).await?;
    ca.floor.changed();
    let word = match done {
        Some(it) if it.disabled => "disabled",
        Some(_) => "enabled",
        None => "proposed",
    };
    Ok(back(&format!("/ui/stations?{word}={name}")))
}

async fn batch(
    request: &HttpRequest,
    who: Authenticated,
    id: &str,
    ca: &Ca,
    act: impl Fn(&str) -> BatchAct,
    state: State,
) -> Result<HttpResponse, Problem> {
    note(request, &who.0, "");
    from_our_page(request)?;
    let operator = batches::operator(request, who)?;
    let batch = batches::acts::act(id, ca, act(&operator.name), state).await?;
    ca.floor.changed();
    Ok(back(&format!("/ui/batches#b-{}", batch.id)))
}

/// So that loading the page again repeats nothing.
fn back(address: &str) -> HttpResponse {
    guard(&mut HttpResponse::SeeOther())
        .insert_header((header::LOCATION, address))
        .finish()
}

/// Refuses what another site's page asks for. Every browser names the origin of what it posts.
fn from_our_page(request: &HttpRequest) -> Result<(), Problem> {
    let value = |name: &str| request.headers().get(name)?.to_str().ok();
    let host = value("host").or_else(|| request.uri().authority().map(Authority::as_str));
    let ours = host.map(|host| format!("https://{host}"));
    let origin = value("origin");
    // `Sec-Fetch-Site` is younger: where it is there, it has to agree.
    let site = value("sec-fetch-site").unwrap_or("same-origin");
    if origin.is_some() && origin == ours.as_deref() && site == "same-origin" {
        return Ok(());
    }
    Err(Problem::new(
        Slug::Forbidden,
        "only a page of this service may ask for this; programs use /v1/stations and /v1/batches",
    ))
}
