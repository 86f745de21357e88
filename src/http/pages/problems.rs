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
    paragraphs: Vec<Vec<Piece>>,
}

/// A piece of a paragraph.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(&'static str),
    Code(&'static str),
    /// Its text, and where it leads on this service.
    Link(&'static str, &'static str),
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

/// Every other piece between back-ticks is code; the others may hold links.
fn pieces(paragraph: &'static str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (place, piece) in paragraph.split('`').enumerate() {
        if place % 2 == 1 {
            pieces.push(Piece::Code(piece));
            continue;
        }
        let mut rest = piece;
        while let Some((before, text, address, after)) = link(rest) {
            pieces.extend([Piece::Text(before), Piece::Link(text, address)]);
            rest = after;
        }
        pieces.push(Piece::Text(rest));
    }
    pieces
}

/// What is before the first link, its text and address, and what is after it.
fn link(text: &'static str) -> Option<(&'static str, &'static str, &'static str, &'static str)> {
    let (before, rest) = text.split_once('[')?;
    let (name, rest) = rest.split_once("](/")?;
    let (address, after) = rest.split_once(')')?;
    Some((before, name, address, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_explained_in_paragraphs_that_this_page_can_show() {
        for slug in Slug::ALL {
            let explained = explain(*slug);
            assert!(!explained.paragraphs.is_empty(), "{}", explained.slug);
            for paragraph in &explained.paragraphs {
                let texts = paragraph.iter().filter_map(|piece| match piece {
                    Piece::Text(text) => Some(*text),
                    Piece::Code(_) | Piece::Link(..) => None,
                });
                let text: String = texts.collect();
                let plain = !text.starts_with(['#', '|', '-', '*', '>']) && !text.contains("](");
                assert!(plain, "more than a paragraph: {text}");
            }
        }
        let section = documents::problem_section("forbidden").unwrap();
        assert_eq!(section.matches('`').count() % 2, 0, "a lonely back-tick");
    }

    #[test]
    fn code_and_links_are_told_from_text() {
        let found = pieces("see ([the log](/manual/audit)), then `audit verify`.");
        let expected = [
            Piece::Text("see ("),
            Piece::Link("the log", "manual/audit"),
            Piece::Text("), then "),
            Piece::Code("audit verify"),
            Piece::Text("."),
        ];
        assert_eq!(found, expected);
    }
}
