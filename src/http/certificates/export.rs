//! All matches of a search: NDJSON, CSV or Parquet, streamed while they are read.

use std::io;
use std::io::Write as _;
use std::time::Instant;
use std::vec;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::web;
use actix_web::web::{Bytes, Data};
use futures_util::stream;
use serde_json::json;

use crate::ca::Ca;
use crate::ca::Page;
use crate::ca::Principal;
use crate::ca::export::Exported;
use crate::ca::log::NoteKind;
use crate::ca::searches::AsOf;
use crate::ca::searches::ExportedPages;
use crate::ca::searches::Moment;
use crate::http::certificates::CertificateBody;
use crate::http::certificates::parquet;
use crate::http::certificates::parquet::ParquetFile;
use crate::http::certificates::printable;
use crate::http::certificates::search::SearchQuery;
use crate::http::certificates::search::date;
use crate::http::problem::Problem;
use crate::http::problem::internal;

/// Octets of text after which it is handed over, while a processor's first cache still has it. Other requests of the
/// worker wait for three of these, which go out together.
const PIECE_LENGTH: usize = 13 * 1024;
/// What a row may go beyond them without a larger buffer.
const ROW_LENGTH: usize = 3 * 1024;

/// How all matches are written.
#[derive(Clone, Copy)]
pub(in crate::http) enum Rows {
    /// NDJSON, a line each.
    Lines,
    /// CSV, with a header.
    Table,
    /// A Parquet file.
    Parquet,
}

/// Tells the log who takes which rows out of the house.
pub(in crate::http) fn tell(request: &HttpRequest, ca: &Ca, principal: &Principal) {
    let filter = printable(request.query_string());
    let event = json!({ "what": "certificates", "by": principal.name, "filter": filter });
    ca.tell(NoteKind::Exported, event);
}

/// Sends all matches as the client takes them; memory holds four pages of the archive's, and a
/// row group of a Parquet file.
///
/// Should the database fail on the way, the connection breaks: a client never takes a part for the
/// whole. `since` as in [`Searches`](crate::ca::searches::Searches).
pub(in crate::http) async fn all(
    response: &mut HttpResponseBuilder,
    ca: Data<Ca>,
    query: SearchQuery,
    since: Option<Instant>,
    rows: Rows,
) -> Result<HttpResponse, Problem> {
    let mut pages = Pages {
        coming: Some(ca.searches.export(query.filter, query.cursor, since)),
        first: None,
    };
    date(response, &pages.begin().await?);
    let (content_type, head, row): (_, _, Write) = match rows {
        Rows::Lines => ("application/x-ndjson", "", line),
        Rows::Table => ("text/csv; charset=utf-8", CSV_HEADER, csv_row),
        Rows::Parquet => {
            let file = ParquetFile::new().map_err(internal)?;
            let file = stream::try_unfold((pages, file), parquet_piece);
            return Ok(response.content_type(parquet::MEDIA_TYPE).streaming(file));
        }
    };
    let text = Text {
        ca,
        pages,
        page: Vec::new().into_iter(),
        head,
        row,
    };
    let pieces = stream::try_unfold(text, async |mut text| {
        let piece = text.piece().await?;
        Ok::<_, Problem>((!piece.is_empty()).then(|| (Bytes::from(piece), text)))
    });
    Ok(response.content_type(content_type).streaming(pieces))
}

/// The archive's pages, until the last.
struct Pages {
    coming: Option<ExportedPages>,
    first: Option<Vec<Exported>>,
}

impl Pages {
    /// Waits for the first page; as of when all are.
    async fn begin(&mut self) -> Result<Moment, Problem> {
        let page = self.read().await?;
        let page = page.ok_or_else(|| internal("the archive began with its end"))?;
        self.first = Some(page.found.items);
        Ok(page.moment)
    }

    /// The certificates of the next page; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Exported>>, Problem> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => Ok(self.read().await?.map(|page| page.found.items)),
        }
    }

    async fn read(&mut self) -> Result<Option<AsOf<Page<Exported>>>, Problem> {
        let Some(coming) = &mut self.coming else {
            return Ok(None);
        };
        let page = coming.recv().await;
        let page = page.ok_or_else(|| internal("the archive ended before its last page"))??;
        if page.found.next.is_none() {
            self.coming = None;
        }
        Ok(Some(page))
    }
}

/// Writes a row.
type Write = fn(&mut Vec<u8>, &CertificateBody) -> io::Result<()>;

/// Rows that are text.
struct Text {
    ca: Data<Ca>,
    pages: Pages,
    /// What is left of a page.
    page: vec::IntoIter<Exported>,
    /// What stands before the first row, until it is sent.
    head: &'static str,
    row: Write,
}

impl Text {
    /// The next piece; empty at the end.
    async fn piece(&mut self) -> Result<Vec<u8>, Problem> {
        let mut piece = Vec::with_capacity(PIECE_LENGTH + ROW_LENGTH);
        piece.extend_from_slice(std::mem::take(&mut self.head).as_bytes());
        let now = self.ca.clock.now();
        loop {
            for it in self.page.by_ref() {
                let body = CertificateBody::found(&self.ca, now, &it);
                (self.row)(&mut piece, &body).map_err(internal)?;
                if piece.len() >= PIECE_LENGTH {
                    return Ok(piece);
                }
            }
            match self.pages.next().await? {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(piece),
            }
        }
    }
}

fn line(text: &mut Vec<u8>, body: &CertificateBody) -> io::Result<()> {
    serde_json::to_writer(&mut *text, body)?;
    text.push(b'\n');
    Ok(())
}

const CSV_HEADER: &str = "serial_number,fingerprint_sha256,profile,issuer,station,order,CN,serialNumber,C,thing_name,not_before,not_after,issued_at,status,log_index\r\n";

fn csv_row(text: &mut Vec<u8>, body: &CertificateBody) -> io::Result<()> {
    let subject = |name: &str| body.subject.get(name).copied().unwrap_or_default();
    let log_index = body.log_index.to_string();
    let cells = [
        body.serial_number.as_str(),
        &body.fingerprint_sha256,
        body.profile,
        body.issuer,
        body.station,
        body.order.unwrap_or_default(),
        subject("CN"),
        subject("serialNumber"),
        subject("C"),
        body.thing_name.unwrap_or_default(),
        &body.not_before,
        &body.not_after,
        &body.issued_at,
        body.status,
        &log_index,
    ];
    for (n, cell) in cells.into_iter().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        csv_cell(text, cell);
    }
    text.write_all(b"\r\n")
}

/// A cell as RFC 4180 has it. One that a spreadsheet would run as a formula is shown as text.
fn csv_cell(text: &mut Vec<u8>, cell: &str) {
    let formula = cell.starts_with(['=', '+', '-', '@']);
    if !formula && !cell.contains([',', '"', '\r', '\n']) {
        text.extend_from_slice(cell.as_bytes());
        return;
    }
    text.push(b'"');
    if formula {
        text.push(b'\'');
    }
    text.extend_from_slice(cell.replace('"', "\"\"").as_bytes());
    text.push(b'"');
}

/// The next row group of a file, or the last one with the file's end.
async fn parquet_piece(
    (mut pages, mut file): (Pages, ParquetFile),
) -> Result<Option<(Bytes, (Pages, ParquetFile))>, Problem> {
    if file.is_whole() {
        return Ok(None);
    }
    let mut rows = Vec::new();
    let mut last = false;
    while rows.len() < parquet::GROUP_ROWS && !last {
        match pages.next().await? {
            Some(page) => rows.extend(page),
            None => last = true,
        }
    }
    // Thousands of rows are compressed: not where others wait for answers.
    let write = move || {
        file.group(&rows)?;
        if last {
            file.finish()?;
        }
        Ok::<_, parquet::Fault>((file.take()?, file))
    };
    let (octets, file) = web::block(write)
        .await
        .map_err(internal)?
        .map_err(internal)?;
    Ok(Some((octets, (pages, file))))
}
