//! The REST front end: the route table and the middleware order, nothing else.

pub mod audit;
pub mod batches;
pub mod body;
pub mod certificates;
pub mod devices;
pub mod documents;
pub mod door;
pub mod headquarters;
pub mod issuers;
pub mod jitp;
pub mod limits;
pub mod middleware;
pub mod ocsp;
pub mod ops;
pub mod orders;
pub mod pages;
pub mod places;
pub mod principal;
pub mod problem;
pub mod repository;
pub mod stations;
pub mod tls;

use std::future::ready;

use actix_web::HttpResponse;
use actix_web::web;
use actix_web::web::PayloadConfig;
use actix_web::web::ServiceConfig;
use utoipa::OpenApi;

use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::pki::ocsp::REQUEST_LENGTH_MAX;

/// The API listener's routes.
pub fn api(config: &mut ServiceConfig) {
    config
        .configure(batch_routes)
        .service(
            web::resource("/v1/certificates")
                .route(web::post().to(certificates::issue))
                .route(web::get().to(certificates::search::search))
                .default_service(web::to(|| ready(not_allowed("GET, POST")))),
        )
        .service(
            readable("/v1/certificates/{serial_number}").route(web::get().to(certificates::show)),
        )
        .service(
            readable("/v1/certificates/{serial_number}/history")
                .route(web::get().to(certificates::history::history)),
        )
        .service(
            postable("/v1/certificates/{serial_number}/challenge")
                .route(web::post().to(certificates::confirmation::challenge)),
        )
        .service(
            postable("/v1/certificates/{serial_number}/confirmation")
                .route(web::post().to(certificates::confirmation::confirm)),
        )
        .service(
            postable("/v1/certificates/{serial_number}/supersession")
                .route(web::post().to(certificates::supersession::supersede)),
        )
        .service(
            postable("/v1/certificates/{serial_number}/revocation")
                .route(web::post().to(certificates::revocation::revoke)),
        )
        .service(
            postable("/v1/certificates/{serial_number}/scrap")
                .route(web::post().to(certificates::scrap::scrap)),
        )
        .service(readable("/v1/devices/{certificate_id}").route(web::get().to(devices::show)))
        .service(
            web::resource("/v1/orders")
                .route(web::post().to(orders::create))
                .route(web::get().to(orders::list))
                .default_service(web::to(|| ready(not_allowed("GET, POST")))),
        )
        .service(
            web::resource("/v1/orders/tickets")
                .route(web::post().to(orders::ticket::redeem))
                .default_service(web::to(|| ready(not_allowed("POST")))),
        )
        .service(readable("/v1/orders/{name}/report").route(web::get().to(orders::report::report)))
        .service(
            web::resource(orders::DEVICES)
                .route(web::post().to(orders::devices::list))
                .default_service(web::to(|| ready(not_allowed("POST")))),
        )
        .service(readable("/v1/orders/{name}").route(web::get().to(orders::show)))
        .service(postable("/v1/orders/{name}/closure").route(web::post().to(orders::close)))
        .service(
            web::resource("/v1/stations")
                .route(web::post().to(stations::create))
                .route(web::get().to(stations::list))
                .default_service(web::to(|| ready(not_allowed("GET, POST")))),
        )
        .service(readable("/v1/stations/{name}").route(web::get().to(stations::show)))
        .service(
            web::resource("/v1/stations/{name}/rights")
                .route(web::put().to(stations::set_rights))
                .default_service(web::to(|| ready(not_allowed("PUT")))),
        )
        .service(postable("/v1/stations/{name}/disable").route(web::post().to(stations::disable)))
        .service(postable("/v1/stations/{name}/enable").route(web::post().to(stations::enable)))
        .service(
            postable("/v1/stations/{name}/enrolment-code")
                .route(web::post().to(stations::enrolment_code)),
        )
        .service(postable("/v1/stations/{name}/enrolment").route(web::post().to(stations::enrol)))
        .service(postable("/v1/stations/{name}/renewal").route(web::post().to(stations::renew)))
        .service(readable("/v1/approvals").route(web::get().to(stations::proposals)))
        .service(postable("/v1/approvals/{id}").route(web::post().to(stations::approve)))
        .configure(audit_routes)
        .configure(page_routes)
        .configure(live_page_routes)
        .service(readable("/v1/profiles").route(web::get().to(issuers::profiles)))
        .service(readable("/v1/issuers").route(web::get().to(issuers::list)))
        .service(
            readable("/v1/issuers/{name}/certificate.pem")
                .route(web::get().to(issuers::certificate)),
        )
        .service(readable("/v1/issuers/{name}/chain.pem").route(web::get().to(issuers::chain)))
        .service(readable("/v1/issuers/{name}/crl").route(web::get().to(issuers::crl::show)))
        .service(
            postable("/v1/issuers/{name}/verification-certificates")
                .route(web::post().to(issuers::verification::issue)),
        )
        .configure(jitp_routes)
        .service(readable("/problems/{slug}").route(web::get().to(documents::problem_page)))
        .service(readable("/manual/{page}").route(web::get().to(documents::manual_page)))
        .configure(runbook_routes)
        .service(readable("/openapi.json").route(web::get().to(documents::openapi)))
        .service(readable("/docs").route(web::get().to(documents::docs_redirect)))
        .service(documents::swagger_ui())
        .default_service(web::to(not_found));
}

fn jitp_routes(config: &mut ServiceConfig) {
    config
        .service(postable("/v1/jitp/lint").route(web::post().to(jitp::lint)))
        .service(postable("/v1/jitp/evaluate").route(web::post().to(jitp::evaluate)));
}

fn batch_routes(config: &mut ServiceConfig) {
    config
        .service(
            web::resource("/v1/batches")
                .route(web::post().to(batches::create))
                .route(web::get().to(batches::list))
                .default_service(web::to(|| ready(not_allowed("GET, POST")))),
        )
        .service(readable("/v1/batches/{id}").route(web::get().to(batches::show)))
        .service(postable(batches::devices::ROUTE).route(web::post().to(batches::devices::list)))
        .service(readable("/v1/batches/{id}/events").route(web::get().to(batches::package::events)))
        .service(
            readable("/v1/batches/{id}/package").route(web::get().to(batches::package::package)),
        )
        .service(postable("/v1/batches/{id}/pause").route(web::post().to(batches::acts::pause)))
        .service(postable("/v1/batches/{id}/resume").route(web::post().to(batches::acts::resume)))
        .service(
            postable("/v1/batches/{id}/cancellation").route(web::post().to(batches::acts::cancel)),
        )
        .service(
            postable("/v1/batches/{id}/confirmation").route(web::post().to(batches::acts::confirm)),
        );
}

fn audit_routes(config: &mut ServiceConfig) {
    config
        .service(readable("/v1/audit/checkpoint").route(web::get().to(audit::checkpoint)))
        .service(readable("/v1/audit/consistency").route(web::get().to(audit::consistency)))
        .service(readable("/v1/audit/tile/{path:.*}").route(web::get().to(audit::tile)))
        .service(
            readable("/v1/certificates/{serial_number}/inclusion")
                .route(web::get().to(audit::inclusion)),
        );
}

fn page_routes(config: &mut ServiceConfig) {
    config
        .service(readable("/audit").route(web::get().to(pages::search::show)))
        .service(readable("/audit/export.csv").route(web::get().to(pages::search::export_csv)))
        .service(
            readable("/audit/export.ndjson").route(web::get().to(pages::search::export_ndjson)),
        )
        .service(
            readable("/audit/export.parquet").route(web::get().to(pages::search::export_parquet)),
        )
        .service(readable("/audit/style.css").route(web::get().to(pages::style)))
        .service(readable("/audit/icon.svg").route(web::get().to(pages::icon)))
        .service(
            readable("/audit/certificates/{serial_number}")
                .route(web::get().to(pages::certificate::show)),
        )
        .service(
            readable("/audit/certificates/{serial_number}/certificate.pem")
                .route(web::get().to(pages::certificate::pem)),
        )
        .service(
            readable("/audit/certificates/{serial_number}/certificate.der")
                .route(web::get().to(pages::certificate::der)),
        );
}

/// On both listeners: whoever is called looks where the alert points, or where the line asks.
fn runbook_routes(config: &mut ServiceConfig) {
    config
        .service(readable("/runbooks").route(web::get().to(documents::runbooks_redirect)))
        .service(readable("/runbooks/").route(web::get().to(documents::runbooks)))
        .service(readable("/runbooks/{slug}").route(web::get().to(documents::runbook_page)));
}

fn live_page_routes(config: &mut ServiceConfig) {
    config
        .service(readable("/ui").route(web::get().to(pages::now::show)))
        .service(readable("/ui/htmx.js").route(web::get().to(pages::htmx)))
        .service(readable("/ui/live.js").route(web::get().to(pages::script)))
        .service(readable("/ui/stations").route(web::get().to(pages::stations::show)))
        .service(
            postable("/ui/stations/{name}/disable").route(web::post().to(pages::acts::disable)),
        )
        .service(postable("/ui/stations/{name}/enable").route(web::post().to(pages::acts::enable)))
        .service(readable("/ui/orders").route(web::get().to(pages::orders::show)))
        .service(readable("/ui/batches").route(web::get().to(pages::batches::show)))
        .service(postable("/ui/batches/{id}/pause").route(web::post().to(pages::acts::pause)))
        .service(postable("/ui/batches/{id}/resume").route(web::post().to(pages::acts::resume)))
        .service(
            postable("/ui/batches/{id}/cancellation").route(web::post().to(pages::acts::cancel)),
        )
        .service(readable("/ui/problems").route(web::get().to(pages::problems::show)));
}

/// The operations listener's routes.
pub fn operations(config: &mut ServiceConfig) {
    config
        .configure(runbook_routes)
        .service(readable("/metrics").route(web::get().to(ops::metrics)))
        .service(readable("/livez").route(web::get().to(ops::livez)))
        .service(readable("/readyz").route(web::get().to(ops::readyz)))
        .service(readable("/version").route(web::get().to(ops::version)))
        .default_service(web::to(not_found));
}

/// Head office's routes: it reads, and signs orders; it issues nothing.
pub fn headquarters_api(config: &mut ServiceConfig) {
    config
        .service(readable("/v1/plants").route(web::get().to(headquarters::plants)))
        .service(
            readable("/v1/plants/{site}/findings").route(web::get().to(headquarters::findings)),
        )
        .service(readable("/v1/certificates").route(web::get().to(headquarters::search)))
        .service(
            readable("/v1/certificates/{serial_number}/history")
                .route(web::get().to(headquarters::history)),
        )
        .service(readable("/v1/orders").route(web::get().to(headquarters::orders)))
        .service(readable("/v1/orders/{name}").route(web::get().to(headquarters::order)))
        .service(
            web::resource("/v1/tickets")
                .route(web::post().to(headquarters::sign_ticket))
                .route(web::get().to(headquarters::tickets))
                .default_service(web::to(|| ready(not_allowed("GET, POST")))),
        )
        .service(readable("/problems/{slug}").route(web::get().to(documents::problem_page)))
        .service(readable("/manual/{page}").route(web::get().to(documents::manual_page)))
        .configure(runbook_routes)
        .default_service(web::to(not_found));
}

/// The routes of head office's operations listener.
pub fn headquarters_operations(config: &mut ServiceConfig) {
    config
        .configure(runbook_routes)
        .service(readable("/metrics").route(web::get().to(ops::metrics)))
        .service(readable("/livez").route(web::get().to(ops::livez)))
        .service(readable("/readyz").route(web::get().to(headquarters::readyz)))
        .service(readable("/version").route(web::get().to(ops::version)))
        .default_service(web::to(not_found));
}

/// The repository listener's routes: for devices and their verifiers, who need no certificate.
pub fn repository(config: &mut ServiceConfig) {
    config
        .service(
            readable("/pki/{file}")
                .route(web::get().to(repository::file))
                .route(web::head().to(repository::file)),
        )
        .app_data(PayloadConfig::new(REQUEST_LENGTH_MAX))
        .service(
            web::resource("/ocsp/{issuer}")
                .route(web::post().to(ocsp::post))
                .default_service(web::to(|| ready(not_allowed("POST")))),
        )
        .service(readable("/ocsp/{issuer}/{request:.*}").route(web::get().to(ocsp::get)))
        .default_service(web::to(not_found));
}

fn readable(path: &str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(|| ready(not_allowed("GET"))))
}

fn postable(path: &str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(|| ready(not_allowed("POST"))))
}

async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(
        Slug::NotFound,
        "no such address; /docs shows what there is",
    ))
}

fn not_allowed(allow: &'static str) -> Result<HttpResponse, Problem> {
    Err(Problem {
        allow: Some(allow),
        ..Problem::new(
            Slug::MethodNotAllowed,
            format!("this address takes {allow}"),
        )
    })
}

/// The API, as `/openapi.json` says it.
#[derive(OpenApi)]
#[openapi(
    info(title = "certfactory", description = "Issues one X.509 certificate per device. All routes but the public ones need a client certificate."),
    paths(
        certificates::issue,
        certificates::search::search,
        certificates::show,
        certificates::history::history,
        certificates::confirmation::challenge,
        certificates::confirmation::confirm,
        certificates::supersession::supersede,
        certificates::revocation::revoke,
        certificates::scrap::scrap,
        devices::show,
        orders::create,
        orders::ticket::redeem,
        orders::devices::list,
        orders::report::report,
        orders::list,
        orders::show,
        orders::close,
        batches::create,
        batches::list,
        batches::show,
        batches::devices::list,
        batches::package::package,
        batches::package::events,
        batches::acts::pause,
        batches::acts::resume,
        batches::acts::cancel,
        batches::acts::confirm,
        audit::checkpoint,
        audit::tile,
        audit::consistency,
        audit::inclusion,
        stations::create,
        stations::list,
        stations::show,
        stations::set_rights,
        stations::disable,
        stations::enable,
        stations::enrolment_code,
        stations::enrol,
        stations::renew,
        stations::proposals,
        stations::approve,
        issuers::profiles,
        issuers::list,
        issuers::certificate,
        issuers::chain,
        issuers::crl::show,
        issuers::verification::issue,
        jitp::lint,
        jitp::evaluate,
        documents::problem_page,
        documents::runbooks,
        documents::runbook_page
    ),
    tags((name = "certificates"), (name = "orders"), (name = "batches"), (name = "audit"), (name = "stations"), (name = "public"), (name = "jitp"))
)]
pub struct Api;
