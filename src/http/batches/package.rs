//! `GET /v1/batches/{id}/package` and `/events`: what a batch gives, and how it gets on.

use std::time::Duration;

use actix_files::NamedFile;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web;
use actix_web::web::{Bytes, Data, Path};
use futures_util::stream;
use serde_json::json;

use crate::ca::Ca;
use crate::ca::batch::Batch;
use crate::ca::batch::State;
use crate::ca::log::NoteKind;
use crate::http::batches;
use crate::http::batches::BatchBody;
use crate::http::batches::Batches;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::hex;

/// How often a follower is told.
const EVERY: Duration = Duration::from_secs(1);

/// The package: a tar, in full or by ranges. It never changes once it is there.
#[utoipa::path(
    get, path = "/v1/batches/{id}/package", tag = "batches",
    params(("id" = String, Path, description = "its id"), ("Range" = Option<String>, Header)),
    responses(
        (status = 200, content_type = "application/x-tar", body = Vec<u8>),
        (status = 206, content_type = "application/x-tar", body = Vec<u8>, description = "a range of it"),
        (status = 409, body = ProblemBody, content_type = "application/problem+json", description = "it is not closed yet"),
        (status = 410, body = ProblemBody, content_type = "application/problem+json", description = "its keys were destroyed"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn package(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
    here: Data<Batches>,
) -> Result<HttpResponse, Problem> {
    let by = batches::operator(&request, who)?.name.clone();
    let directory = here.directory()?.to_owned();
    let batch = batches::found(&path, &ca).await?;
    if batch.keys_destroyed.is_some() {
        return Err(Problem::new(
            Slug::Gone,
            "the package was confirmed or kept for its time; its keys are destroyed",
        ));
    }
    let Some(packed) = &batch.package else {
        return Err(Problem::new(
            Slug::BatchNotReady,
            "the package is not closed yet",
        ));
    };
    let name = format!("batch-{}.tar", batch.id);
    let path = directory.join(format!("{}.tar", batch.id));
    let file = web::block(move || NamedFile::open(path)).await;
    let file = file.map_err(internal)?.map_err(|error| {
        Problem::new(
            Slug::BatchElsewhere,
            "the package lies with the replica that made it",
        )
        .with_cause(error)
    })?;
    if i64::try_from(file.metadata().len()).ok() != Some(packed.length) {
        return Err(internal("the package's file is not what was recorded"));
    }
    let event = json!({ "batch": batch.id, "by": by, "sha256": hex(&packed.sha256) });
    ca.tell(NoteKind::Delivered, event);
    let tar = "application/x-tar".parse().map_err(internal)?;
    let file = file
        .use_etag(true)
        .set_content_type(tar)
        .set_content_disposition(header::ContentDisposition::attachment(name));
    Ok(file.into_response(&request))
}

/// How a batch gets on, about once a second until its end: server-sent events, each a batch as JSON.
#[utoipa::path(
    get, path = "/v1/batches/{id}/events", tag = "batches",
    params(("id" = String, Path, description = "its id")),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn events(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    batches::reader(&request, who)?;
    let batch = batches::found(&path, &ca).await?;
    let ca = ca.into_inner();
    let events = stream::unfold(Some(batch), move |batch| {
        let ca = ca.clone();
        async move {
            let batch = batch?;
            let id = batch.id;
            let ended = is_over(&batch);
            let event = event(batch);
            let next = if ended {
                None
            } else {
                tokio::time::sleep(EVERY).await;
                // A follower whose stream ends asks again.
                ca.batches.show(id).await.ok().flatten()
            };
            Some((Ok::<_, Problem>(event), next))
        }
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .streaming(Box::pin(events)))
}

fn is_over(batch: &Batch) -> bool {
    match batch.state {
        State::Done => true,
        State::Cancelled => batch.package.is_some() || batch.begun == 0,
        State::AwaitingDevices | State::Running | State::Paused => false,
    }
}

fn event(batch: Batch) -> Bytes {
    let body = serde_json::to_string(&BatchBody::from(batch)).unwrap_or_default();
    Bytes::from(format!("data: {body}\n\n"))
}
