//! `POST /v1/batches/{id}/devices`: a batch's list, judged as it streams in, kept whole or not at all.

use std::io;
use std::io::Read;
use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path, Payload};
use futures_util::StreamExt;
use futures_util::future::join;
use tokio::sync::mpsc;

use crate::ca::Ca;
use crate::ca::batch::Intake;
use crate::ca::batch::State;
use crate::ca::batch::list;
use crate::ca::batch::list::ListMedia;
use crate::http::batches;
use crate::http::batches::Admitted;
use crate::http::batches::BatchBody;
use crate::http::batches::Batches;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;

/// Its route: the one whose body no middleware takes.
pub const ROUTE: &str = "/v1/batches/{id}/devices";
/// Longest list in octets: a million certification requests.
const LENGTH_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// How long the next octets may take.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Pieces of the body between network and reader.
const PIECES_MAX: usize = 16;
/// Octets that are read on after the reader has given up, for the sake of a clean answer.
const DISCARD_MAX: u64 = 64 * 1024 * 1024;

/// Give a batch its list: whole, once.
///
/// As CSV (a header line of subject attributes and, where the devices have keys, one column `csr` or
/// `public_key`) or NDJSON (`{"subject": {…}, "csr": "…"}` a line), up to 1,000,000 rows and 2 GiB, which
/// are judged as they come. What is wrong is told by row, the first hundred of it.
#[utoipa::path(
    post, path = "/v1/batches/{id}/devices", tag = "batches",
    params(("id" = String, Path, description = "the batch's id")),
    request_body(content((String = "text/csv"), (String = "application/x-ndjson"))),
    responses(
        (status = 202, body = BatchBody, description = "it runs"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused, and nothing of it is kept; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn list(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    payload: Payload,
    ca: Data<Ca>,
    here: Data<Batches>,
) -> Result<HttpResponse, Problem> {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let taken = async {
        let body = Body {
            pieces,
            piece: Bytes::new(),
        };
        let operator = batches::operator(&request, who)?;
        here.directory()?;
        let media = media(&request)?;
        let batch = batches::found(&path, &ca).await?;
        if batch.state != State::AwaitingDevices {
            return Err(Problem::new(
                Slug::DeviceListLate,
                "the batch has its devices, or takes none any more",
            ));
        }
        let order = batches::order_of(&batch.definition, &operator, &ca).await?;
        let admitted = Admitted {
            ca: ca.into_inner(),
            definition: batch.definition,
            order,
            operator,
        };
        let rows = move || list::read(media, body);
        admitted.take_in(Intake::List(batch.id), rows).await
    };
    // A body that nobody wants is read on, too: an answer must not overtake it.
    let (taken, ()) = join(taken, pump(payload, sender)).await;
    taken
}

fn media(request: &HttpRequest) -> Result<ListMedia, Problem> {
    let plain = !request.headers().contains_key(header::CONTENT_ENCODING);
    match request.content_type() {
        "text/csv" if plain => Ok(ListMedia::Csv),
        "application/x-ndjson" if plain => Ok(ListMedia::Ndjson),
        _ => Err(Problem::new(
            Slug::UnsupportedMediaType,
            "send text/csv or application/x-ndjson without Content-Encoding",
        )),
    }
}

/// Hands the body on as it comes; what breaks off is no end.
async fn pump(mut payload: Payload, sender: mpsc::Sender<io::Result<Bytes>>) {
    let mut length = 0;
    let mut discarded = 0;
    loop {
        let piece = match tokio::time::timeout(SILENCE_MAX, payload.next()).await {
            Ok(None) => return,
            Ok(Some(Ok(piece))) => Ok(piece),
            Ok(Some(Err(error))) => Err(io::Error::other(error.to_string())),
            Err(_) => Err(io::Error::other("the body did not arrive in time")),
        };
        length += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        let piece = match piece {
            Ok(_) if length > LENGTH_MAX => Err(io::Error::other("the list is longer than 2 GiB")),
            other => other,
        };
        let (ended, octets) = (piece.is_err(), piece.as_ref().map_or(0, Bytes::len));
        if sender.send(piece).await.is_err() {
            discarded += octets as u64;
        }
        if ended || discarded > DISCARD_MAX {
            return;
        }
    }
}

/// The body, for whoever reads it in a thread of its own.
struct Body {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}
