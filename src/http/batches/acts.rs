//! `POST /v1/batches/{id}/pause|resume|cancellation|confirmation`: what an operator does to a batch.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Path};

use crate::ca::Ca;
use crate::ca::batch::Batch;
use crate::ca::batch::BatchAct;
use crate::ca::batch::State;
use crate::http::batches;
use crate::http::batches::BatchBody;
use crate::http::batches::Batches;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;

/// Begin no chunk until it is resumed. Devices of chunks that were begun still get their certificates.
#[utoipa::path(
    post, path = "/v1/batches/{id}/pause", tag = "batches",
    params(("id" = String, Path, description = "its id")),
    responses(
        (status = 200, body = BatchBody, description = "paused, now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn pause(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let operator = batches::operator(&request, who)?;
    let act = BatchAct::Pause(format!("paused by {}", operator.name));
    done(&path, &ca, act, State::Paused).await
}

/// Go on.
#[utoipa::path(
    post, path = "/v1/batches/{id}/resume", tag = "batches",
    params(("id" = String, Path, description = "its id")),
    responses(
        (status = 200, body = BatchBody, description = "running, now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn resume(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    batches::operator(&request, who)?;
    done(&path, &ca, BatchAct::Resume, State::Running).await
}

/// Begin no chunk any more. What was begun comes to its end, stays listed, and can be revoked; its
/// package is closed.
#[utoipa::path(
    post, path = "/v1/batches/{id}/cancellation", tag = "batches",
    params(("id" = String, Path, description = "its id")),
    responses(
        (status = 200, body = BatchBody, description = "cancelled, now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn cancel(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let operator = batches::operator(&request, who)?;
    let act = BatchAct::Cancel(format!("cancelled by {}", operator.name));
    done(&path, &ca, act, State::Cancelled).await
}

/// Confirm that the package arrived: the keys in it are destroyed here, for ever.
#[utoipa::path(
    post, path = "/v1/batches/{id}/confirmation", tag = "batches",
    params(("id" = String, Path, description = "its id")),
    responses(
        (status = 200, body = BatchBody, description = "destroyed, now or before"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn confirm(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
    here: Data<Batches>,
) -> Result<HttpResponse, Problem> {
    let operator = batches::operator(&request, who)?;
    let directory = here.directory()?.to_owned();
    let batch = batches::found(&path, &ca).await?;
    if batch.package.is_none() {
        return Err(Problem::new(
            Slug::BatchNotReady,
            "there is no package yet that could have arrived",
        ));
    }
    let act = BatchAct::DestroyKeys(operator.name.clone());
    let batch = ca.batches.act(batch.id, act).await?;
    let batch = batch.ok_or_else(batches::not_here)?;
    // Where it cannot be deleted now, the runner does it later.
    let file = directory.join(format!("{}.tar", batch.id));
    tokio::fs::remove_file(file).await.ok();
    Ok(HttpResponse::Ok().json(BatchBody::from(batch)))
}

async fn done(id: &str, ca: &Ca, act: BatchAct, state: State) -> Result<HttpResponse, Problem> {
    let batch = self::act(id, ca, act, state).await?;
    Ok(HttpResponse::Ok().json(BatchBody::from(batch)))
}

/// Does it, and says how the batch stands; where it stands elsewhere, that.
pub(in crate::http) async fn act(
    id: &str,
    ca: &Ca,
    act: BatchAct,
    state: State,
) -> Result<Batch, Problem> {
    let batch: Batch = batches::found(id, ca).await?;
    let batch = ca.batches.act(batch.id, act).await?;
    let batch = batch.ok_or_else(batches::not_here)?;
    if batch.state != state {
        return Err(Problem::new(
            Slug::BatchState,
            format!("the batch is {}", batch.state.as_str()),
        ));
    }
    Ok(batch)
}
