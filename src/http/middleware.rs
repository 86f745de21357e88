//! What happens around every handler: request id, time, metric, one log line, problem bodies, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use actix_http::ConnectionType;
use actix_web::Error;
use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::dev::ServiceRequest;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use serde_json::json;
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::log::NoteKind;
use crate::http::body;
use crate::http::certificates;
use crate::http::pages;
use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::metrics::HttpMetrics;
use crate::metrics::IssuanceMetrics;

/// Requests in flight, and whether the service is on its way down.
#[derive(Default)]
pub struct Flights {
    in_flight: AtomicUsize,
    leaving: AtomicBool,
    refusing: AtomicBool,
}

impl Flights {
    /// From now on every answer closes its connection.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// From now on new work is refused.
    pub fn refuse(&self) {
        self.refusing.store(true, Ordering::SeqCst);
    }

    /// Whether the service is on its way down.
    #[must_use]
    pub fn leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    fn refusing(&self) -> bool {
        self.refusing.load(Ordering::SeqCst)
    }

    /// Requests whose answer is not complete.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }
}

struct Flight<'a>(&'a Flights);

impl<'a> Flight<'a> {
    fn begin(flights: &'a Flights) -> Self {
        flights.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(flights)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The routes that issue, by `POST`.
const ISSUING: [&str; 3] = [
    "/v1/certificates",
    "/v1/certificates/{serial_number}/supersession",
    "/v1/issuers/{name}/verification-certificates",
];

/// What the middleware needs.
pub struct Around {
    /// Shared with the shutdown.
    pub flights: Arc<Flights>,
    /// Request times.
    pub http: Arc<HttpMetrics>,
    /// Refusals.
    pub issuance: Arc<IssuanceMetrics>,
}

/// A request's id: in its answer, its problem and its log line.
#[derive(Clone)]
pub struct RequestId(pub Arc<str>);

/// What a handler wants on its request's log line.
#[derive(Clone, Default)]
pub struct LogFields {
    /// The principal's name.
    pub station: String,
    /// The certificate's serial number.
    pub serial: String,
}

/// Wraps every request of the API listener.
pub async fn around(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let start = Instant::now();
    let around = request
        .app_data::<Data<Around>>()
        .cloned()
        .ok_or_else(|| internal("no middleware state"))?;
    let _flight = Flight::begin(&around.flights);
    let id: Arc<str> = Uuid::now_v7().as_simple().to_string().into();
    request.extensions_mut().insert(RequestId(id.clone()));
    let route = request.match_pattern().unwrap_or_else(|| "none".into());
    let method = request.method().clone();
    let refusing = around.flights.refusing();
    let body = body::take(&mut request, &route).await;
    request.extensions_mut().insert(body);

    let response = if refusing {
        let problem = Problem::new(Slug::Overloaded, "the service is shutting down; try again");
        let answer = refusal(&problem, request.path(), &id);
        Ok(request.into_response(answer))
    } else {
        next.call(request).await
    };
    let mut response = match response {
        Ok(response) => response,
        Err(error) => return Err(error),
    };
    let problem = response
        .response()
        .error()
        .and_then(|e| e.as_error::<Problem>())
        .map(|p| {
            let answer = refusal(p, response.request().path(), &id);
            (p.slug, p.cause.clone(), p.leaves_at, answer)
        });
    let mut slug = "";
    let mut cause = None;
    if let Some((kind, because, leaves_at, with_id)) = problem {
        slug = kind.as_str();
        cause = because;
        if let Some(at) = leaves_at {
            tokio::time::sleep_until(at.into()).await;
        }
        if ISSUING.contains(&&*route) && method == "POST" {
            around.issuance.refused.with_label_values(&[slug]).inc();
        }
        response = response.into_response(with_id);
    }
    let status = response.status();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    if around.flights.leaving() {
        // A header of this name would be left out: the connection's own end is what says so.
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    let elapsed = start.elapsed();
    around
        .http
        .seconds
        .with_label_values(&[&route, method_label(&method), status.as_str()])
        .observe(elapsed.as_secs_f64());
    let fields = response
        .request()
        .extensions()
        .get::<LogFields>()
        .cloned()
        .unwrap_or_default();
    tell_refused(response.request(), &id, status, slug, &fields);
    log(&Line {
        id: &id,
        method: method.as_str(),
        route: &route,
        status,
        elapsed_ms: elapsed.as_secs_f64() * 1e3,
        slug,
        cause,
        fields,
    });
    Ok(response)
}

/// That somebody known asked to change something and was refused, for the log of everything. A
/// flood is not told: its rate is limited, and counted elsewhere.
fn tell_refused(
    request: &HttpRequest,
    id: &str,
    status: StatusCode,
    slug: &str,
    fields: &LogFields,
) {
    let told = status.is_client_error()
        && status != StatusCode::TOO_MANY_REQUESTS
        && !request.method().is_safe()
        && !fields.station.is_empty();
    if let Some(ca) = request.app_data::<Data<Ca>>().filter(|_| told) {
        let event = json!({
            "by": fields.station, "method": request.method().as_str(),
            "path": certificates::printable(request.path()), "problem": slug, "request": id,
        });
        ca.tell(NoteKind::Refused, event);
    }
}

/// A problem in the form that whoever asked can read: a person at a page, or a program.
fn refusal(problem: &Problem, path: &str, id: &str) -> HttpResponse {
    if pages::are_at(path) {
        pages::problem(problem, id)
    } else {
        problem.response(id)
    }
}

/// A closed set: a client may invent methods.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

struct Line<'a> {
    id: &'a str,
    method: &'a str,
    route: &'a str,
    status: StatusCode,
    elapsed_ms: f64,
    slug: &'a str,
    cause: Option<String>,
    fields: LogFields,
}

fn log(line: &Line<'_>) {
    let Line {
        id,
        method,
        route,
        status,
        elapsed_ms,
        slug,
        cause,
        fields,
    } = line;
    let (status, cause) = (status.as_u16(), cause.as_deref().unwrap_or_default());
    let LogFields { station, serial } = fields;
    if status >= 500 {
        tracing::error!(
            request_id = id,
            method,
            route,
            status,
            elapsed_ms,
            problem = slug,
            cause,
            station,
            serial,
            "request"
        );
    } else {
        tracing::info!(
            request_id = id,
            method,
            route,
            status,
            elapsed_ms,
            problem = slug,
            cause,
            station,
            serial,
            "request"
        );
    }
}
