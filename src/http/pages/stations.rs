//! `GET /ui/stations`: who is at the line, how each does, and a button to shut one out.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::Data;
use askama::Template;
use chrono::DateTime;
use chrono::Utc;

use crate::ca::Ca;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::floor::Person;
use crate::ca::floor::tally::Station;
use crate::http::certificates::note;
use crate::http::certificates::search;
use crate::http::pages::Frame;
use crate::http::pages::floor::Alert;
use crate::http::pages::floor::Since;
use crate::http::pages::floor::alerts;
use crate::http::pages::floor::grouped;
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
    let (now, people) = (ca.floor.now().await, ca.floor.people().await);
    let hour = now.last.as_deref().map(|now| &now.hour);
    let time = ca.clock.now();
    let mut stations = Vec::new();
    let mut others = Vec::new();
    let read = people.last.as_deref();
    for person in read.into_iter().flatten() {
        let did = hour.and_then(|hour| hour.stations.get(&person.name));
        let row = Row::new(person, did, &reader, time)?;
        match person.role {
            Role::Station => stations.push(row),
            Role::Operator | Role::Auditor | Role::Administrator => others.push(row),
        }
    }
    write_live(&StationsPage {
        frame: Frame::new(&request, &reader),
        alerts: alerts(&ca, &people),
        told: told(request.query_string(), read.map_or(&[], Vec::as_slice))?,
        read: read.is_some(),
        acts: reader.role == Role::Administrator,
        stations,
        others,
    })
}

#[derive(Template)]
#[template(path = "stations.html", config = "src/http/pages/askama.toml")]
struct StationsPage {
    frame: Frame,
    alerts: Vec<Alert>,
    /// What was just done.
    told: Option<String>,
    /// Something could be read.
    read: bool,
    /// Who reads may shut out.
    acts: bool,
    stations: Vec<Row>,
    others: Vec<Row>,
}

struct Row {
    name: String,
    role: &'static str,
    /// Where its certificates are listed.
    address: String,
    /// The badge's class and word.
    state: (&'static str, &'static str),
    seen: Option<Since>,
    hour: String,
    per_hour: String,
    refused: String,
    disabled: bool,
    /// Who reads: nobody shuts themselves out by a slip.
    own: bool,
}

impl Row {
    fn new(
        person: &Person,
        did: Option<&Station>,
        reader: &Principal,
        now: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let did = did.cloned().unwrap_or_default();
        let seen = did.seen.max(person.last_intent);
        Ok(Self {
            name: person.name.clone(),
            role: person.role.as_str(),
            address: filtered("station", &person.name)?,
            state: match (person.disabled, person.enrolled) {
                (true, _) => ("revoked", "disabled"),
                (false, false) => ("superseded", "has no key"),
                (false, true) => ("confirmed", "may ask"),
            },
            seen: seen.map(|at| Since::new(at, now)),
            hour: grouped(did.issued),
            per_hour: grouped(did.per_hour),
            refused: grouped(did.refused),
            disabled: person.disabled,
            own: person.name == reader.name,
        })
    }
}

/// What the button before did: the address says it, and who is meant still stands so.
fn told(query: &str, people: &[Person]) -> Result<Option<String>, Problem> {
    let mut pairs = search::pairs(query)?.into_iter();
    let Some((word, name)) = pairs.next() else {
        return Ok(None);
    };
    let Some(person) = people.iter().find(|person| person.name == name) else {
        return Ok(None);
    };
    Ok(match (&*word, person.disabled) {
        ("disabled", true) => Some(format!("{name} is disabled: its next request is refused.")),
        ("enabled", false) => Some(format!("{name} is enabled.")),
        ("proposed", true) => Some(format!(
            "Another administrator has to approve that {name} is enabled."
        )),
        _ => None,
    })
}
