//! `GET /audit`: one box that finds a certificate by what is printed or scanned, filters, a page of
//! what they find, and how far the log is; `GET /audit/export.csv`, `.ndjson`, `.parquet`: all of it.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::Data;
use askama::Template;
use chrono::NaiveDateTime;
use chrono::Timelike;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::KindFilter;
use crate::ca::SearchFilter;
use crate::ca::Status;
use crate::ca::log::LogHead;
use crate::ca::log::StoredCheckpoint;
use crate::ca::searches::AsOf;
use crate::http::certificates::export;
use crate::http::certificates::export::Rows;
use crate::http::certificates::note;
use crate::http::certificates::search;
use crate::http::certificates::search::SearchQuery;
use crate::http::pages::Frame;
use crate::http::pages::Moment;
use crate::http::pages::guard;
use crate::http::pages::reader;
use crate::http::pages::write;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::internal;
use crate::pki::hex;
use crate::pki::note::Checkpoint;
use crate::pki::note::Note;
use crate::pki::parse_hex;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;

/// Rows on a page, unless `limit` says otherwise.
const ROWS: &str = "50";
/// Certificates that the box finds by one name, at most.
const FOUND_MAX: i64 = 50;
/// Longest text in the box, octets.
const TEXT_LENGTH_MAX: usize = 256;

/// The search page. What is in the box goes straight to a certificate when it is one's alone.
pub async fn show(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let reader = reader(who)?;
    let frame = Frame::new(&request, &reader);
    let mut given = given(request.query_string())?;
    let mut page = SearchPage::new(frame, &ca, &given, log(&ca).await?);
    if let Some(place) = given.iter().position(|(name, _)| name == "q") {
        let (_, text) = given.remove(place);
        page.look_up(&ca, text, &given).await?;
        if let (Some([only]), []) = (page.found.as_deref(), &*page.more) {
            let address = format!("/audit/certificates/{}", only.serial);
            return Ok(guard(&mut HttpResponse::SeeOther())
                .insert_header((header::LOCATION, address))
                .finish());
        }
    } else {
        page.filter(&ca, given).await?;
    }
    let status = if page.fault.is_some() {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::OK
    };
    write(&mut HttpResponse::build(status), &page)
}

/// All rows of a filter, CSV.
pub async fn export_csv(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    saved(&request, who, ca, Rows::Table, "csv").await
}

/// All rows of a filter, NDJSON.
pub async fn export_ndjson(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    saved(&request, who, ca, Rows::Lines, "ndjson").await
}

/// All rows of a filter, Parquet.
pub async fn export_parquet(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    saved(&request, who, ca, Rows::Parquet, "parquet").await
}

async fn saved(
    request: &HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
    rows: Rows,
    extension: &str,
) -> Result<HttpResponse, Problem> {
    note(request, &who.0, "");
    let reader = reader(who)?;
    let query = SearchQuery::from_pairs(given(request.query_string())?)?;
    export::tell(request, &ca, &reader);
    let name = format!("attachment; filename=\"certificates.{extension}\"");
    let mut response = HttpResponse::Ok();
    guard(&mut response).insert_header((header::CONTENT_DISPOSITION, name));
    export::all(&mut response, ca, query, None, rows).await
}

#[derive(Template)]
#[template(path = "search.html", config = "src/http/pages/askama.toml")]
struct SearchPage {
    frame: Frame,
    /// What was in the box. It comes back empty: a scanner types, and clears nothing.
    text: String,
    /// What is wrong with what was asked.
    fault: Option<String>,
    /// What the box found; `None`: nothing was in it.
    found: Option<Vec<Row>>,
    /// Where there is more of that: a name, and the filter's address.
    more: Vec<(&'static str, String)>,
    fields: Vec<Field>,
    /// Filters in use.
    active: Vec<Active>,
    rows: Vec<Row>,
    /// Not the first page.
    later: bool,
    /// The first page's address.
    newest: String,
    /// The next page's address.
    next: Option<String>,
    /// The filter in use, as the query of an address.
    filter: String,
    log: Log,
    /// Until when everything was looked through; `None`: until now.
    as_of: Option<Moment>,
}

/// A certificate in the table.
struct Row {
    serial: String,
    device: String,
    kind: &'static str,
    profile: String,
    station: String,
    order: Option<String>,
    issued: Moment,
    status: &'static str,
    log_index: i64,
}

/// A filter's place in the form.
struct Field {
    name: &'static str,
    label: &'static str,
    value: String,
    input: Input,
    /// Beside those that everybody needs.
    rare: bool,
}

enum Input {
    Text,
    Time,
    /// Free text, with what is known now.
    Known(Vec<String>),
    /// One of these; the empty one is that none is chosen.
    Choice(Vec<&'static str>),
}

/// A filter in use, and the address without it.
struct Active {
    label: &'static str,
    value: String,
    without: String,
}

/// How far the log is.
struct Log {
    size: u64,
    halted: Option<String>,
    checkpoint: Option<LastCheckpoint>,
}

struct LastCheckpoint {
    origin: String,
    size: u64,
    root: String,
    signed: Moment,
    witnesses: usize,
    /// Entries since.
    behind: u64,
}

impl SearchPage {
    /// The page before anything is searched.
    fn new(frame: Frame, ca: &Ca, given: &[(String, String)], log: Log) -> Self {
        Self {
            frame,
            text: String::new(),
            fault: None,
            found: None,
            more: Vec::new(),
            fields: fields(ca, given),
            active: Vec::new(),
            rows: Vec::new(),
            later: false,
            newest: "/audit".to_owned(),
            next: None,
            filter: String::new(),
            log,
            as_of: None,
        }
    }

    /// Filters that nobody needs every day and that are in use.
    fn rare_in_use(&self) -> bool {
        let used = |field: &Field| field.rare && !field.value.is_empty();
        self.fields.iter().any(used)
    }

    /// Shows a page of what a filter finds.
    async fn filter(&mut self, ca: &Ca, given: Vec<(String, String)>) -> Result<(), Problem> {
        self.later = given.iter().any(|(name, _)| name == "cursor");
        let filter: Vec<_> = without(&given, &["cursor"]);
        self.newest = address(&filter)?;
        self.filter = encoded(&without(&filter, &["limit"]))?;
        for field in self.fields.iter().filter(|field| !field.value.is_empty()) {
            self.active.push(Active {
                label: field.label,
                value: field.shown(),
                without: address(&without(&filter, &[field.name]))?,
            });
        }
        let query = match parse(given) {
            Ok(query) => query,
            Err(problem) => {
                self.fault = Some(problem.detail);
                return Ok(());
            }
        };
        let AsOf {
            found: page,
            moment,
        } = ca
            .searches
            .search(query.filter, query.limit, query.cursor, None)
            .await?;
        self.as_of = moment.time.map(Moment::from);
        self.rows = page.items.iter().map(Row::from).collect();
        if let Some(next) = page.next {
            let cursor = ("cursor".to_owned(), next.as_simple().to_string());
            self.next = Some(address(&[filter, vec![cursor]].concat())?);
        }
        Ok(())
    }

    /// Shows what the box finds.
    async fn look_up(
        &mut self,
        ca: &Ca,
        text: String,
        beside: &[(String, String)],
    ) -> Result<(), Problem> {
        self.text.clone_from(&text);
        if !beside.is_empty() {
            self.fault = Some("what is in the box is searched without filters".to_owned());
        } else if text.len() > TEXT_LENGTH_MAX || text.chars().any(char::is_control) {
            self.fault = Some(format!(
                "the box takes at most {TEXT_LENGTH_MAX} characters without control characters"
            ));
        } else {
            let (mut records, mut more) = find(ca, &text, None).await?;
            if records.is_empty() && ca.searches.standby().is_some() {
                // What is scanned was perhaps issued a moment ago.
                (records, more) = find(ca, &text, Some(Instant::now())).await?;
            }
            self.found = Some(records.iter().map(Row::from).collect());
            self.more = more;
        }
        Ok(())
    }
}

impl Field {
    /// As it stands among the filters in use.
    fn shown(&self) -> String {
        match self.input {
            Input::Time => format!("{} UTC", self.value.replace('T', " ")),
            Input::Text | Input::Known(_) | Input::Choice(_) => self.value.clone(),
        }
    }
}

impl From<&CertificateRecord> for Row {
    fn from(record: &CertificateRecord) -> Self {
        let intent = &record.intent;
        Self {
            serial: intent.serial_number.to_hex(),
            device: intent.device.clone(),
            kind: intent.kind.as_str(),
            profile: intent.profile.clone(),
            station: intent.principal.clone(),
            order: intent.order.clone(),
            issued: record.issued_at.into(),
            status: record.status.as_str(),
            log_index: record.log_index,
        }
    }
}

/// Certificates by any of their names, newest first, and filters for what is beyond them; `since` as in
/// [`Searches`](crate::ca::searches::Searches).
async fn find(
    ca: &Ca,
    text: &str,
    since: Option<Instant>,
) -> Result<(Vec<CertificateRecord>, Vec<(&'static str, String)>), Problem> {
    // As OpenSSL and browsers print numbers: `01:A3:84…`.
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    let digits = digits.to_lowercase();
    let any = || SearchFilter {
        kind: KindFilter::Any,
        ..SearchFilter::default()
    };
    // What only one certificate has.
    let mut alone = Vec::new();
    if let Some(serial_number) = SerialNumber::from_hex(&digits) {
        alone.push(SearchFilter {
            serial_number: Some(serial_number),
            ..any()
        });
    }
    if let Some(digest) = parse_hex(&digits) {
        alone.push(SearchFilter {
            fingerprint: Some(digest),
            ..any()
        });
        alone.push(SearchFilter {
            spki: Some(digest),
            ..any()
        });
    }
    for filter in alone {
        let items = ca
            .searches
            .search(filter, 1, None, since)
            .await?
            .found
            .items;
        if !items.is_empty() {
            return Ok((items, Vec::new()));
        }
    }
    // What several may have: those of a reworked device, for instance.
    let names = [("device", "device identity"), ("cn", "CN")];
    let names = names.into_iter();
    let names = names.chain([("device_serial", "device serial number")]);
    let mut found: Vec<CertificateRecord> = Vec::new();
    let mut more = Vec::new();
    for (name, label) in names {
        let value = || Some(text.to_owned());
        let filter = match name {
            "device" => SearchFilter {
                device: value(),
                ..any()
            },
            "cn" => SearchFilter {
                cn: value(),
                ..any()
            },
            _ => SearchFilter {
                device_serial: value(),
                ..any()
            },
        };
        let page = ca.searches.search(filter, FOUND_MAX, None, since);
        let page = page.await?.found;
        found.extend(page.items);
        if page.next.is_some() {
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let address = address(&[pair("kind", "any"), pair(name, text)])?;
            more.push((label, address));
        }
    }
    found.sort_by_key(|record| std::cmp::Reverse(record.intent.id));
    found.dedup_by_key(|record| record.intent.id);
    Ok((found, more))
}

async fn log(ca: &Ca) -> Result<Log, Problem> {
    let LogHead { size, halted } = ca.log_shelf.head().await?;
    let checkpoint = ca.log_shelf.checkpoint().await?;
    let checkpoint = checkpoint.map(|it| last(&it, size)).transpose()?;
    Ok(Log {
        size,
        halted,
        checkpoint,
    })
}

fn last(stored: &StoredCheckpoint, size: u64) -> Result<LastCheckpoint, Problem> {
    let said = Note::parse(&stored.note).and_then(|note| Checkpoint::parse(&note.text));
    Ok(LastCheckpoint {
        origin: said.map_err(internal)?.origin,
        size: stored.size,
        root: hex(&stored.root),
        signed: stored.created_at.into(),
        witnesses: stored.cosignatures.len(),
        behind: size.saturating_sub(stored.size),
    })
}

/// What a form sent: fields that were left empty are none, and a time is one of UTC.
fn given(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let pairs = search::pairs(query)?.into_iter();
    let pairs = pairs.map(|(name, value)| (name, value.trim().to_owned()));
    Ok(pairs
        .filter(|(_, value)| !value.is_empty())
        .map(utc)
        .collect())
}

/// A browser's field for times knows no zone.
fn utc((name, value): (String, String)) -> (String, String) {
    let time = matches!(&*name, "issued_after" | "issued_before");
    let forms = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f"];
    let local = |form| NaiveDateTime::parse_from_str(&value, form).ok();
    match forms.into_iter().find_map(local).filter(|_| time) {
        Some(local) => {
            let form = chrono::SecondsFormat::AutoSi;
            (name, local.and_utc().to_rfc3339_opts(form, true))
        }
        None => (name, value),
    }
}

/// The same back, for the field.
fn local(value: &str) -> String {
    let time = chrono::DateTime::parse_from_rfc3339(&value.replace(' ', "+"));
    time.map_or_else(
        |_| value.to_owned(),
        |time| {
            let time = time.naive_utc();
            let form = match (time.nanosecond(), time.second()) {
                (0, 0) => "%Y-%m-%dT%H:%M",
                (0, _) => "%Y-%m-%dT%H:%M:%S",
                _ => "%Y-%m-%dT%H:%M:%S%.3f",
            };
            time.format(form).to_string()
        },
    )
}

fn parse(mut given: Vec<(String, String)>) -> Result<SearchQuery, Problem> {
    if !given.iter().any(|(name, _)| name == "limit") {
        given.push(("limit".to_owned(), ROWS.to_owned()));
    }
    SearchQuery::from_pairs(given)
}

fn without(given: &[(String, String)], names: &[&str]) -> Vec<(String, String)> {
    let others = given.iter().filter(|(name, _)| !names.contains(&&**name));
    others.cloned().collect()
}

fn encoded(given: &[(String, String)]) -> Result<String, Problem> {
    serde_urlencoded::to_string(given).map_err(internal)
}

fn address(given: &[(String, String)]) -> Result<String, Problem> {
    Ok(if given.is_empty() {
        "/audit".to_owned()
    } else {
        format!("/audit?{}", encoded(given)?)
    })
}

/// The address of all certificates that have this.
pub(super) fn filtered(name: &str, value: &str) -> Result<String, Problem> {
    address(&[(name.to_owned(), value.to_owned())])
}

/// The form, as it was sent.
fn fields(ca: &Ca, given: &[(String, String)]) -> Vec<Field> {
    let value = |name: &str| {
        let pair = given.iter().find(|(given, _)| given == name);
        pair.map_or_else(String::new, |(_, value)| value.clone())
    };
    let field = |name, label, input| {
        let value = match input {
            Input::Time => local(&value(name)),
            Input::Text | Input::Known(_) | Input::Choice(_) => value(name),
        };
        Field {
            name,
            label,
            value,
            input,
            rare: false,
        }
    };
    let rare = |name, label| Field {
        rare: true,
        ..field(name, label, Input::Text)
    };
    let profiles = ca.profiles.all();
    let profiles = profiles.iter().map(|it| it.name.clone()).collect();
    let mut issuers: Vec<String> = ca.issuers.keys().cloned().collect();
    issuers.sort();
    let status = Status::ALL.iter().map(|status| status.as_str()).collect();
    let kinds = vec![
        LeafKind::Device.as_str(),
        LeafKind::Verification.as_str(),
        LeafKind::Station.as_str(),
        "any",
    ];
    vec![
        field("order", "Order", Input::Text),
        field("batch", "Batch", Input::Text),
        field("profile", "Profile", Input::Known(profiles)),
        field("issuer", "Issuer", Input::Known(issuers)),
        field("station", "Station", Input::Text),
        field("status", "Status", Input::Choice(status)),
        field("issued_after", "Issued at or after (UTC)", Input::Time),
        field("issued_before", "Issued before (UTC)", Input::Time),
        field("kind", "Kind", Input::Choice(kinds)),
        rare("device", "Device identity"),
        rare("cn", "CN"),
        rare("device_serial", "Device serial number"),
        rare("serial_number", "Certificate serial number"),
        rare("fingerprint", "Fingerprint (SHA-256)"),
        rare("spki", "Public key (SHA-256)"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_a_zone_is_utc_and_comes_back_as_it_was() {
        for (sent, means) in [
            ("2026-11-29T06:48", "2026-11-29T06:48:00Z"),
            ("2026-11-29T06:48:35", "2026-11-29T06:48:35Z"),
            ("2026-11-29T06:48:35.125", "2026-11-29T06:48:35.125Z"),
        ] {
            let pairs = given(&format!("issued_after={sent}&order=&cn=+")).unwrap();
            assert_eq!(pairs, [("issued_after".to_owned(), means.to_owned())]);
            assert_eq!(local(means), sent);
        }
        // What has a zone keeps it; what is no time is for the search to refuse.
        for kept in ["2026-11-29T06:48:00+01:00", "yesterday"] {
            let query = serde_urlencoded::to_string([("issued_before", kept)]).unwrap();
            let pairs = given(&query).unwrap();
            assert_eq!(pairs, [("issued_before".to_owned(), kept.to_owned())]);
        }
        assert_eq!(local("2026-11-29T06:48:00+01:00"), "2026-11-29T05:48");
    }
}
