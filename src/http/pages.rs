//! The pages, for people with a browser and a client certificate: at `/audit` what the log says, at
//! `/ui` how the line does now, and what an operator or administrator does about it.
//!
//! HTML that is made here and needs nothing else: no font, no other host. What the ledger holds came
//! from stations and people, so the templates escape all of it, and the policy that each page carries
//! would keep a browser from running it anyway. The pages at `/ui` keep themselves up to date by one
//! script of htmx, as it was published, and a few lines beside it; without scripts they load again.

pub mod acts;
pub mod batches;
pub mod certificate;
pub mod chart;
pub mod floor;
pub mod now;
pub mod orders;
pub mod problems;
pub mod search;
pub mod stations;

use std::sync::Arc;
use std::sync::LazyLock;

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::http::header;
use askama::Template;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::ca::Principal;
use crate::ca::Role;
use crate::http::middleware::RequestId;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::hex;

/// Who may read these pages: everything, or nothing.
const READERS: [Role; 3] = [Role::Operator, Role::Auditor, Role::Administrator];

/// A browser takes style and pictures from this service, sends forms to it, and does nothing else.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

/// The same of a page that keeps itself up to date.
const LIVE_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// htmx.org 2.0.11, `dist/htmx.min.js` of the npm registry's package (0BSD), octet for octet.
const HTMX: &str = include_str!("pages/htmx-2.0.11.min.js");
const SCRIPT: &str = include_str!("pages/live.js");
const STYLE: &str = include_str!("pages/style.css");
const ICON: &str = include_str!("pages/icon.svg");

/// Whether an address is that of a page: what is wrong there is told in HTML.
#[must_use]
pub fn are_at(path: &str) -> bool {
    ["/audit", "/ui"].into_iter().any(|top| {
        let rest = path.strip_prefix(top);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// A problem as a page. Whoever asked may be nobody.
#[must_use]
pub fn problem(problem: &Problem, request_id: &str) -> HttpResponse {
    let page = ProblemPage {
        frame: Frame {
            who: None,
            here: "",
            request_id: request_id.to_owned(),
        },
        slug: problem.slug.as_str(),
        title: problem.slug.title(),
        status: problem.slug.status().as_u16(),
        detail: &problem.detail,
        advice: advice(problem.slug),
    };
    match write(&mut problem.head(request_id), &page) {
        Ok(response) => response,
        Err(plain) => plain.response(request_id),
    }
}

/// The one stylesheet of all pages.
pub async fn style(request: HttpRequest) -> HttpResponse {
    static TAG: LazyLock<String> = LazyLock::new(|| tag(STYLE));
    file(&request, "text/css; charset=utf-8", STYLE, &TAG)
}

/// The picture on a browser's tab.
pub async fn icon(request: HttpRequest) -> HttpResponse {
    static TAG: LazyLock<String> = LazyLock::new(|| tag(ICON));
    file(&request, "image/svg+xml", ICON, &TAG)
}

/// Somebody else's script, which keeps pages up to date.
pub async fn htmx(request: HttpRequest) -> HttpResponse {
    static TAG: LazyLock<String> = LazyLock::new(|| tag(HTMX));
    file(&request, "text/javascript; charset=utf-8", HTMX, &TAG)
}

/// What the pages say of their being up to date.
pub async fn script(request: HttpRequest) -> HttpResponse {
    static TAG: LazyLock<String> = LazyLock::new(|| tag(SCRIPT));
    file(&request, "text/javascript; charset=utf-8", SCRIPT, &TAG)
}

/// What every page says around what it is about.
struct Frame {
    /// Whose client certificate it is; `None` where nobody's was taken.
    who: Option<Reader>,
    /// Which of [`Self::PLACES`] it belongs to.
    here: &'static str,
    /// As in `X-Request-Id` and in the log.
    request_id: String,
}

/// Somebody who reads.
struct Reader {
    name: String,
    role: &'static str,
}

#[derive(Template)]
#[template(path = "problem.html", config = "src/http/pages/askama.toml")]
struct ProblemPage<'a> {
    frame: Frame,
    slug: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    advice: &'static str,
}

/// A point in time, for people and for machines.
struct Moment {
    /// RFC 3339.
    iso: String,
    /// To the second; it is UTC.
    text: String,
}

impl Moment {
    /// The hour and minute alone.
    fn minute(&self) -> &str {
        self.text.get(11..16).unwrap_or_default()
    }

    /// The day alone.
    fn date(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }
}

impl From<DateTime<Utc>> for Moment {
    fn from(time: DateTime<Utc>) -> Self {
        Self {
            iso: time.to_rfc3339_opts(SecondsFormat::Millis, true),
            text: time.format("%Y-%m-%d %H:%M:%S").to_string(),
        }
    }
}

impl Frame {
    /// Where there is something to see: address and name.
    const PLACES: [(&str, &str); 6] = [
        ("/ui", "Now"),
        ("/ui/stations", "Stations"),
        ("/ui/orders", "Orders"),
        ("/ui/batches", "Batches"),
        ("/audit", "Certificates"),
        ("/ui/problems", "Problems"),
    ];

    fn new(request: &HttpRequest, reader: &Principal) -> Self {
        let id = request.extensions().get::<RequestId>().cloned();
        let path = request.path();
        let within = |(place, _): &(&'static str, &str)| path.starts_with(place);
        // The longest that fits.
        let here = Self::PLACES
            .into_iter()
            .filter(within)
            .max_by_key(|it| it.0.len());
        Self {
            here: here.map_or("", |(place, _)| place),
            who: Some(Reader {
                name: reader.name.clone(),
                role: reader.role.as_str(),
            }),
            request_id: id.map_or_else(String::new, |id| id.0.to_string()),
        }
    }
}

/// Refuses whoever may not read everything.
fn reader(who: Authenticated) -> Result<Arc<Principal>, Problem> {
    who.require(&READERS)
}

/// Writes a page into a response; with all that keeps it to itself.
fn write(
    response: &mut HttpResponseBuilder,
    page: &impl Template,
) -> Result<HttpResponse, Problem> {
    let html = page.render().map_err(internal)?;
    Ok(guard(response)
        .content_type("text/html; charset=utf-8")
        .body(html))
}

/// The same of a page that keeps itself up to date. Its forms say where they are: see [`acts`].
fn write_live(page: &impl Template) -> Result<HttpResponse, Problem> {
    let html = page.render().map_err(internal)?;
    let mut response = HttpResponse::Ok();
    Ok(guard(&mut response)
        .insert_header((header::CONTENT_SECURITY_POLICY, LIVE_POLICY))
        .insert_header((header::REFERRER_POLICY, "same-origin"))
        .content_type("text/html; charset=utf-8")
        .body(html))
}

/// Nobody keeps it, frames it, guesses what it is or learns where it was linked from.
fn guard(response: &mut HttpResponseBuilder) -> &mut HttpResponseBuilder {
    response
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::X_FRAME_OPTIONS, "DENY"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header(("cross-origin-opener-policy", "same-origin"))
        .insert_header(("cross-origin-resource-policy", "same-origin"))
}

/// A file of the pages': public, and asked for again each time, so that an upgrade shows at once.
fn file(
    request: &HttpRequest,
    content_type: &'static str,
    text: &'static str,
    tag: &str,
) -> HttpResponse {
    let known = request.headers().get(header::IF_NONE_MATCH);
    let mut response = if known.is_some_and(|known| known == tag) {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    guard(&mut response)
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::ETAG, tag))
        .content_type(content_type);
    if known.is_some_and(|known| known == tag) {
        response.finish()
    } else {
        response.body(text)
    }
}

fn tag(text: &str) -> String {
    let digest = openssl::sha::sha256(text.as_bytes());
    format!("\"{}\"", &hex(&digest)[..32])
}

/// What a reader of the pages can do about it.
fn advice(slug: Slug) -> &'static str {
    match slug {
        Slug::ClientCertificateRequired => {
            "Your client certificate is the login here. Import it into the browser, close all its \
             windows, open this page again, and choose the certificate when the browser asks."
        }
        Slug::StationUnknown | Slug::StationDisabled => {
            "Ask an administrator. Another client certificate may be chosen after all windows of \
             the browser were closed."
        }
        Slug::Forbidden => {
            "These pages are for auditors, operators and administrators. Stations see their own \
             certificates through the API. Another client certificate may be chosen after all \
             windows of the browser were closed."
        }
        Slug::NotFound => "Check the address, or search for what you have.",
        Slug::InvalidParameter => "Go back and correct it.",
        slug if slug.status().is_server_error() || slug == Slug::RateLimited => {
            "Try again in a moment. If it stays, give the operator the request number below."
        }
        _ => "If you did not expect this, give the operator the request number below.",
    }
}
