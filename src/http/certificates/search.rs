//! `GET /v1/certificates`: search by page, or all matches (see [`super::export`]).

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::http::header;
use actix_web::http::header::HeaderMap;
use actix_web::web::Data;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::KindFilter;
use crate::ca::Role;
use crate::ca::SearchFilter;
use crate::ca::Status;
use crate::ca::export::Exported;
use crate::ca::searches::AsOf;
use crate::ca::searches::Moment;
use crate::http::certificates::CertificateBody;
use crate::http::certificates::export;
use crate::http::certificates::export::Rows;
use crate::http::certificates::note;
use crate::http::certificates::parquet;
use crate::http::certificates::printable;
use crate::http::certificates::rfc3339_millis;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::pki::parse_hex;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;

/// Items on a page of a search: without `limit`, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// A page of a search.
#[derive(Serialize, ToSchema)]
struct PageBody<'a> {
    /// Newest first.
    items: Vec<CertificateBody<'a>>,
    /// `cursor` of the next page; null at the end.
    next: Option<String>,
    /// RFC 3339. There when a standby of the database answered: everything committed until then was
    /// looked through.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<String>,
}

/// Search, newest first. A station sees its own, up to the last one it was given; to others a standby of
/// the database may answer, as of a time that `as_of` and the header `As-Of` say.
#[utoipa::path(
    get, path = "/v1/certificates", tag = "certificates",
    params(
        ("cn" = Option<String>, Query), ("device" = Option<String>, Query), ("device_serial" = Option<String>, Query),
        ("serial_number" = Option<String>, Query), ("fingerprint" = Option<String>, Query), ("spki" = Option<String>, Query),
        ("profile" = Option<String>, Query), ("issuer" = Option<String>, Query), ("station" = Option<String>, Query),
        ("order" = Option<String>, Query), ("site" = Option<String>, Query, description = "site that made it; for head office, which has several"), ("batch" = Option<String>, Query), ("status" = Option<String>, Query),
        ("kind" = Option<String>, Query, description = "`device` if absent, `verification`, `station`, or `any` for the whole log"),
        ("issued_after" = Option<String>, Query, description = "RFC 3339, inclusive"),
        ("issued_before" = Option<String>, Query, description = "RFC 3339, exclusive"),
        ("limit" = Option<u16>, Query, description = "1 to 1000, 100 if absent"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before")
    ),
    responses(
        (status = 200, content((PageBody = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.parquet")), description = "one page; as NDJSON, CSV or Parquet, all matches, streamed"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn search(
    request: HttpRequest,
    who: Authenticated,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let principal = who.require(&[Role::Station, Role::Operator, Role::Auditor])?;
    let mut query = SearchQuery::parse(request.query_string())?;
    if principal.role == Role::Station {
        if query
            .filter
            .station
            .as_ref()
            .is_some_and(|station| *station != principal.name)
        {
            return Err(Problem::new(
                Slug::Forbidden,
                "a station sees its own certificates only",
            ));
        }
        query.filter.station = Some(principal.name.clone());
    }
    // What a station was given a moment ago is among what it finds.
    let since = (principal.role == Role::Station).then(Instant::now);
    match Form::accepted(request.headers())? {
        Form::Page => page(&request, &ca, query, since).await,
        Form::All(rows) => {
            export::tell(&request, &ca, &principal);
            export::all(&mut HttpResponse::Ok(), ca, query, since, rows).await
        }
    }
}

/// Says as of when an answer is, where a standby gave it.
pub(in crate::http) fn date(response: &mut HttpResponseBuilder, moment: &Moment) {
    if let Some(time) = moment.time {
        response.insert_header(("as-of", rfc3339_millis(time)));
    }
}

async fn page(
    request: &HttpRequest,
    ca: &Ca,
    query: SearchQuery,
    since: Option<Instant>,
) -> Result<HttpResponse, Problem> {
    let AsOf {
        found: page,
        moment,
    } = ca
        .searches
        .search(query.filter, query.limit, query.cursor, since)
        .await?;
    let now = ca.clock.now();
    let items: Vec<Exported> = page.items.iter().map(Exported::from).collect();
    let items = items.iter();
    let items = items
        .map(|it| CertificateBody::found(ca, now, it))
        .collect();
    let next = page.next.map(|id| id.as_simple().to_string());
    let mut response = HttpResponse::Ok();
    date(&mut response, &moment);
    if let Some(cursor) = &next {
        let address = next_page(request.query_string(), cursor);
        response.insert_header((header::LINK, format!("<{address}>; rel=\"next\"")));
    }
    let as_of = moment.time.map(rfc3339_millis);
    Ok(response.json(PageBody { items, next, as_of }))
}

/// What `Accept` asks for.
enum Form {
    Page,
    All(Rows),
}

impl Form {
    fn accepted(headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(accept) = headers.get(header::ACCEPT) else {
            return Ok(Self::Page);
        };
        for range in accept.to_str().unwrap_or_default().split(',') {
            match range.split(';').next().unwrap_or_default().trim() {
                "application/json" | "application/*" | "*/*" => return Ok(Self::Page),
                "application/x-ndjson" => return Ok(Self::All(Rows::Lines)),
                "text/csv" => return Ok(Self::All(Rows::Table)),
                parquet::MEDIA_TYPE => return Ok(Self::All(Rows::Parquet)),
                _ => {}
            }
        }
        Err(Problem::new(
            Slug::NotAcceptable,
            "choose application/json, application/x-ndjson, text/csv or application/vnd.apache.parquet",
        ))
    }
}

pub(in crate::http) fn next_page(query: &str, cursor: &str) -> String {
    let rest = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let pairs: Vec<String> = rest
        .map(str::to_owned)
        .chain([format!("cursor={cursor}")])
        .collect();
    format!("/v1/certificates?{}", pairs.join("&"))
}

/// A search's parameters, each checked.
pub(in crate::http) struct SearchQuery {
    /// What must hold.
    pub(in crate::http) filter: SearchFilter,
    /// Items on a page.
    pub(in crate::http) limit: i64,
    /// Where the page starts.
    pub(in crate::http) cursor: Option<Uuid>,
}

impl SearchQuery {
    /// From the query of an address.
    pub(in crate::http) fn parse(query: &str) -> Result<Self, Problem> {
        Self::from_pairs(pairs(query)?)
    }

    /// From a query's names and values.
    pub(in crate::http) fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let invalid = |name: &str, why: &str| {
            Problem::new(
                Slug::InvalidParameter,
                format!("{}: {why}", printable(name)),
            )
        };
        let mut seen = std::collections::BTreeSet::new();
        let mut parsed = Self {
            filter: SearchFilter::default(),
            limit: LIMIT_DEFAULT,
            cursor: None,
        };
        let filter = &mut parsed.filter;
        for (name, value) in pairs {
            // PostgreSQL text cannot hold NUL; nothing recorded has a control character either, and
            // what was no UTF-8 comes as U+FFFD.
            if value.chars().any(|c| c.is_control() || c == '\u{fffd}') || value.len() > 256 {
                return Err(invalid(
                    &name,
                    "must be at most 256 characters without control characters",
                ));
            }
            match name.as_str() {
                "cn" => filter.cn = Some(value),
                "device" => filter.device = Some(value),
                "device_serial" => filter.device_serial = Some(value),
                "serial_number" => {
                    filter.serial_number = Some(
                        SerialNumber::from_hex(&value)
                            .ok_or_else(|| invalid(&name, "must be 32 hexadecimal digits"))?,
                    );
                }
                "fingerprint" | "spki" => {
                    let digest = parse_hex(&value)
                        .ok_or_else(|| invalid(&name, "must be 64 hexadecimal digits"))?;
                    match &*name {
                        "spki" => filter.spki = Some(digest),
                        _ => filter.fingerprint = Some(digest),
                    }
                }
                "profile" => filter.profile = Some(value),
                "issuer" => filter.issuer = Some(value),
                "station" => filter.station = Some(value),
                "order" => filter.order = Some(value),
                "site" => filter.site = Some(value),
                "batch" => {
                    let id = Uuid::parse_str(&value).ok();
                    filter.batch = Some(id.ok_or_else(|| invalid(&name, "must be a batch's id"))?);
                }
                "status" => {
                    let words = "must be issued, confirmed, superseded, revoked or scrapped";
                    let status = Status::from_word(&value).ok_or_else(|| invalid(&name, words))?;
                    filter.status = Some(status);
                }
                "kind" => {
                    filter.kind = kind(&value).ok_or_else(|| {
                        invalid(
                            &name,
                            "must be `device`, `verification`, `station` or `any`",
                        )
                    })?;
                }
                "issued_after" => {
                    filter.issued_after = Some(
                        time(&value)
                            .ok_or_else(|| invalid(&name, "must be a time as in RFC 3339"))?,
                    );
                }
                "issued_before" => {
                    filter.issued_before = Some(
                        time(&value)
                            .ok_or_else(|| invalid(&name, "must be a time as in RFC 3339"))?,
                    );
                }
                "limit" => {
                    parsed.limit = value
                        .parse()
                        .ok()
                        .filter(|n| (1..=LIMIT_MAX).contains(n))
                        .ok_or_else(|| invalid(&name, "must be 1 to 1000"))?;
                }
                "cursor" => {
                    parsed.cursor = Some(
                        Uuid::try_parse(&value)
                            .map_err(|_| invalid(&name, "must be the `next` of another page"))?,
                    );
                }
                _ => return Err(invalid(&name, "is no parameter of a search")),
            }
            if !seen.insert(name.clone()) {
                return Err(invalid(&name, "must be there once"));
            }
        }
        if let (Some(after), Some(before)) = (filter.issued_after, filter.issued_before)
            && after >= before
        {
            return Err(invalid("issued_after", "must be before issued_before"));
        }
        Ok(parsed)
    }
}

/// The names and values of an address's query.
pub(in crate::http) fn pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    serde_urlencoded::from_str(query)
        .map_err(|e| Problem::new(Slug::InvalidParameter, e.to_string()))
}

fn kind(word: &str) -> Option<KindFilter> {
    match word {
        "any" => Some(KindFilter::Any),
        _ => LeafKind::from_word(word).map(KindFilter::Only),
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    // In an address `+` means a space.
    DateTime::parse_from_rfc3339(&text.replace(' ', "+"))
        .ok()
        .map(|t| t.with_timezone(&Utc))
}
