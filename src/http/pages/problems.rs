//! `GET /ui/problems`: what each refusal means and what to do, as `/problems/{slug}` has it for programs.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use askama::Template;

use crate::http::certificates::note;
use crate::http::documents;
use crate::http::pages::Frame;
use crate::http::pages::reader;
use crate::http::pages::write;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::Slug;

/// The page.
pub async fn show(request: HttpRequest, who: Authenticated) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let reader = reader(who)?;
    let mut explained: Vec<_> = Slug::ALL.iter().copied().map(explain).collect();
    explained.sort_by_key(|it| it.slug);
    let page = ProblemsPage {
        frame: Frame::new(&request, &reader),
        explained,
    };
    write(&mut HttpResponse::Ok(), &page)
}

#[derive(Template)]
#[template(path = "problems.html", config = "src/http/pages/askama.toml")]
struct ProblemsPage {
    frame: Frame,
    /// By name.
    explained: Vec<Explained>,
}

struct Explained {
    slug: &'static str,
    title: &'static str,
    status: u16,
    /// Paragraphs, each of pieces that are code or are not.
    paragraphs: Vec<Vec<(bool, &'static str)>>,
}

fn explain(slug: Slug) -> Explained {
    let section = documents::problem_section(slug.as_str()).unwrap_or_default();
    let paragraphs = section.split("\n\n").skip(1).map(str::trim);
    let paragraphs = paragraphs.filter(|paragraph| !paragraph.is_empty());
    Explained {
        slug: slug.as_str(),
        title: slug.title(),
        status: slug.status().as_u16(),
        paragraphs: paragraphs.map(pieces).collect(),
    }
}

/// Every other piece between back-ticks is code.
fn pieces(paragraph: &'static str) -> Vec<(bool, &'static str)> {
    let pieces = paragraph.split('`').enumerate();
    pieces
        .map(|(place, piece)| (place % 2 == 1, piece))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_explained_in_paragraphs_that_this_page_can_show() {
        for slug in Slug::ALL {
            let explained = explain(*slug);
            assert!(explained.paragraphs.len() >= 2, "{}", explained.slug);
            for paragraph in &explained.paragraphs {
                assert_eq!(paragraph.len() % 2, 1, "a lonely back-tick: {paragraph:?}");
                let text: String = paragraph.iter().map(|(_, piece)| *piece).collect();
                let plain = !text.starts_with(['#', '|', '-', '*', '>']) && !text.contains("](");
                assert!(plain, "more than a paragraph: {text}");
            }
        }
    }
}
