//! `POST /v1/orders/{name}/devices`: the list of the devices that an order is for.

use std::collections::HashMap;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web;
use actix_web::web::{Bytes, Data, Path};
use openssl::sha::Sha256;
use serde::Deserialize;

use crate::ca::Ca;
use crate::ca::order::DeviceList;
use crate::ca::order::Listed;
use crate::http::body;
use crate::http::certificates;
use crate::http::orders;
use crate::http::orders::OrderBody;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::Violation;

/// Identities on a list, at most.
const DEVICES_MAX: usize = 1_000_000;
/// Faults that are named, at most.
const FAULTS_MAX: usize = 100;
/// The three ways to write a list.
const MEDIA_TYPES: [&str; 3] = ["text/csv", "application/x-ndjson", "application/json"];

/// Give a work order its device list: whole, once, before its first device.
///
/// As CSV (a header line; the column `device` counts), NDJSON (a JSON string a line) or a JSON array
/// of strings, up to 1,000,000 identities and 32 MiB. The same list again is answered with 200.
#[utoipa::path(
    post, path = "/v1/orders/{name}/devices", tag = "orders",
    params(("name" = String, Path, description = "the order's name")),
    request_body(content(
        (Vec<String> = "application/json"), (String = "text/csv"), (String = "application/x-ndjson")
    )),
    responses(
        (status = 200, body = OrderBody, description = "in force, now or since before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused, and nothing of it is kept; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn list(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    orders::operator(&request, who)?;
    let name = orders::named(path)?;
    let (media_type, body) = body::of_type(&request, &MEDIA_TYPES)?;
    let list = web::block(move || read(media_type, &body))
        .await
        .map_err(internal)??;
    match ca.orders.list_devices(name, list).await? {
        Listed::InForce(state) => Ok(HttpResponse::Ok().json(OrderBody::from(*state))),
        Listed::Unknown => Err(orders::not_here()),
        Listed::Late(why) => Err(Problem::new(
            Slug::DeviceListLate,
            format!("the work order takes no device list: {why}"),
        )),
    }
}

/// The list, or the first faults in it.
fn read(media_type: &str, body: &Bytes) -> Result<DeviceList, Problem> {
    let lines = match media_type {
        "text/csv" => csv(body)?,
        "application/x-ndjson" => ndjson(body)?,
        _ => {
            let devices: Vec<String> = body::parse(body)?;
            (1..).zip(devices).collect()
        }
    };
    let mut faults = Faults(Vec::new());
    if !(1..=DEVICES_MAX).contains(&lines.len()) {
        faults.add("devices", format!("1 to {DEVICES_MAX} devices"));
    }
    let mut seen: HashMap<&str, u64> = HashMap::with_capacity(lines.len());
    for (line, device) in &lines {
        if faults.0.len() == FAULTS_MAX {
            break;
        }
        if !orders::is_device(device) {
            let detail = format!("line {line}: an identity is 1 to 128 printable ASCII characters");
            faults.add("devices", detail);
        } else if let Some(first) = seen.insert(device, *line) {
            faults.add(
                "duplicate",
                format!("line {line}: `{device}` is in line {first}, too"),
            );
        }
    }
    faults.none()?;
    let mut devices: Vec<String> = lines.into_iter().map(|(_, device)| device).collect();
    devices.sort_unstable();
    let mut sha256 = Sha256::new();
    for device in &devices {
        sha256.update(device.as_bytes());
        sha256.update(b"\n");
    }
    let sha256 = sha256.finish();
    Ok(DeviceList { devices, sha256 })
}

/// The column `device` of a table with a header line, each with its line's number.
fn csv(body: &[u8]) -> Result<Vec<(u64, String)>, Problem> {
    let unreadable = |error: csv::Error| {
        Problem::new(
            Slug::InvalidField,
            certificates::printable(&error.to_string()),
        )
    };
    let mut reader = csv::Reader::from_reader(body);
    let header = reader.headers().map_err(unreadable)?;
    let Some(column) = header.iter().position(|name| name == "device") else {
        return Err(Problem::new(
            Slug::InvalidField,
            "line 1: the header has no column `device`",
        ));
    };
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, csv::Position::line);
        lines.push((line, record.get(column).unwrap_or_default().to_owned()));
    }
    Ok(lines)
}

/// One line of a list.
#[derive(Deserialize)]
struct Line(String);

/// A JSON string a line, each with its line's number.
fn ndjson(body: &[u8]) -> Result<Vec<(u64, String)>, Problem> {
    let mut lines = Vec::new();
    let mut faults = Faults(Vec::new());
    for (number, line) in (1..).zip(body.split(|octet| *octet == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(Line(device)) => lines.push((number, device)),
            Err(_) if faults.0.len() < FAULTS_MAX => {
                faults.add("devices", format!("line {number}: is no JSON string"));
            }
            Err(_) => break,
        }
    }
    faults.none().map(|()| lines)
}

struct Faults(Vec<Violation>);

impl Faults {
    fn add(&mut self, rule: &'static str, detail: String) {
        self.0.push(Violation {
            rule,
            attribute: None,
            detail,
        });
    }

    fn none(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Ok(());
        }
        let detail = "the device list cannot be kept; nothing of it was";
        Err(Problem::new(Slug::InvalidField, detail).with_violations(self.0))
    }
}
