//! What the service says of itself: OpenAPI, `/docs`, problem pages, the manual, runbooks. All offline.

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Json, Path};
use utoipa::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::http::Api;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::manual::PAGES;
use crate::manual::PROBLEMS;
use crate::manual::RUNBOOKS;
use crate::manual::RUNBOOKS_INTRODUCTION;

/// The API document.
pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}

/// The page that shows the API document; its scripts are in the binary.
#[must_use]
pub fn swagger_ui() -> SwaggerUi {
    SwaggerUi::new("/docs/{_:.*}").config(Config::from("/openapi.json"))
}

/// `/docs` without its slash.
pub async fn docs_redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, "/docs/"))
        .finish()
}

/// What a problem means and what to do.
#[utoipa::path(
    get, path = "/problems/{slug}", tag = "public", params(("slug" = String, Path)),
    responses((status = 200, content_type = "text/markdown", body = String), (status = 404, body = ProblemBody, content_type = "application/problem+json"))
)]
pub async fn problem_page(slug: Path<String>) -> Result<HttpResponse, Problem> {
    let page = problem_section(&slug).ok_or_else(|| {
        Problem::new(
            Slug::NotFound,
            "no such problem; /manual/problems has them all",
        )
    })?;
    Ok(markdown(page.to_owned()))
}

/// A page of the manual.
pub async fn manual_page(name: Path<String>) -> Result<HttpResponse, Problem> {
    let page = PAGES.iter().find(|(page, _)| *page == name.as_str());
    page.map(|(_, text)| markdown((*text).to_owned()))
        .ok_or_else(|| Problem::new(Slug::NotFound, "no such page"))
}

/// All runbooks, by title.
#[utoipa::path(
    get, path = "/runbooks/", tag = "public",
    responses((status = 200, content_type = "text/markdown", body = String))
)]
pub async fn runbooks() -> HttpResponse {
    let mut text = RUNBOOKS_INTRODUCTION.to_owned();
    text.push('\n');
    for (slug, page) in RUNBOOKS {
        let title = page.lines().next().unwrap_or_default();
        let title = title.trim_start_matches("# ");
        text.extend(["- [", title, "](/runbooks/", slug, ")\n"]);
    }
    markdown(text)
}

/// `/runbooks` without its slash.
pub async fn runbooks_redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, "/runbooks/"))
        .finish()
}

/// What to do when an alert fires, or when a problem is the service's own.
#[utoipa::path(
    get, path = "/runbooks/{slug}", tag = "public", params(("slug" = String, Path)),
    responses((status = 200, content_type = "text/markdown", body = String), (status = 404, body = ProblemBody, content_type = "application/problem+json"))
)]
pub async fn runbook_page(slug: Path<String>) -> Result<HttpResponse, Problem> {
    let page = RUNBOOKS.iter().find(|(name, _)| *name == slug.as_str());
    page.map(|(_, text)| markdown((*text).to_owned()))
        .ok_or_else(|| Problem::new(Slug::NotFound, "no such runbook; /runbooks/ has them all"))
}

pub(super) fn problem_section(slug: &str) -> Option<&'static str> {
    PROBLEMS
        .split("\n## ")
        .find(|section| section.lines().next() == Some(slug))
}

fn markdown(text: String) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/markdown; charset=utf-8")
        .body(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_its_page() {
        for slug in Slug::ALL {
            assert!(
                problem_section(slug.as_str()).is_some(),
                "no page for {}",
                slug.as_str()
            );
        }
    }
}
