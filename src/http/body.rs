//! A request's body: bounded, and read before anything is answered.
//!
//! An answer that overtakes its request's body makes HTTP/2 clients see a broken stream instead of
//! the problem. So even a body that is refused is read, up to a point, and thrown away.

use std::time::Duration;

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::dev::ServiceRequest;
use actix_web::http::header;
use actix_web::web::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::ca::Role;
use crate::http::batches;
use crate::http::certificates::printable;
use crate::http::orders;
use crate::http::principal::role;
use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::http::problem::internal;

/// Longest body that is used, in octets.
const LENGTH_MAX: usize = 64 * 1024;
/// The same of an operator's device list: a million identities.
const LIST_LENGTH_MAX: usize = 32 * 1024 * 1024;
/// Longest body beyond it that is read to its end for the sake of a clean answer.
const DISCARD_MAX: usize = 4 * 1024 * 1024;
/// Time for the body to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a request, or why there is none that can be used.
pub struct Body(pub Result<Bytes, Problem>);

/// Takes the body of a request for `route`, but for an operator's list of a batch, which streams.
pub async fn take(request: &mut ServiceRequest, route: &str) -> Body {
    let is_list = route == orders::DEVICES && role(request.request()) == Some(Role::Operator);
    let length_max = if is_list { LIST_LENGTH_MAX } else { LENGTH_MAX };
    if route == batches::devices::ROUTE && role(request.request()) == Some(Role::Operator) {
        return Body(Err(internal("the list is read by who takes it")));
    }
    let payload = request.take_payload();
    if matches!(payload, Payload::None) {
        return Body(Ok(Bytes::new()));
    }
    let read = tokio::time::timeout(TIMEOUT, read(payload, length_max)).await;
    Body(read.unwrap_or_else(|_| {
        Err(Problem::new(
            Slug::RequestTimeout,
            "the body did not arrive in time",
        ))
    }))
}

/// The body, once, and which of the accepted media types its `Content-Type` says that it is.
pub(super) fn of_type(
    request: &HttpRequest,
    accepted: &[&'static str],
) -> Result<(&'static str, Bytes), Problem> {
    let plain = !request.headers().contains_key(header::CONTENT_ENCODING);
    let found = accepted
        .iter()
        .find(|accepted| **accepted == request.content_type());
    let media_type = found.filter(|_| plain).copied().ok_or_else(|| {
        Problem::new(
            Slug::UnsupportedMediaType,
            format!("send {} without Content-Encoding", accepted.join(" or ")),
        )
    })?;
    let taken = request.extensions_mut().remove::<Body>();
    let body = taken.ok_or_else(|| internal("the body was not taken"))?.0?;
    Ok((media_type, body))
}

/// A JSON body, whose `Content-Type` says that it is one.
pub(super) fn json<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    let (_, body) = of_type(request, &["application/json"])?;
    parse(&body)
}

/// JSON that was sent, or what is wrong with it.
pub(super) fn parse<T: DeserializeOwned>(octets: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(octets).map_err(|error| json_problem(&error))
}

/// What serde found, as a slug: no JSON at all, a field too many, or a field of the wrong kind.
fn json_problem(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let slug = match error.classify() {
        serde_json::error::Category::Data if text.starts_with("unknown field") => {
            Slug::UnknownField
        }
        serde_json::error::Category::Data => Slug::InvalidField,
        _ => Slug::MalformedJson,
    };
    Problem::new(slug, printable(&text))
}

async fn read(mut payload: Payload, length_max: usize) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    let mut length = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|e| {
            Problem::new(Slug::MalformedJson, "the body could not be read").with_cause(e)
        })?;
        length += chunk.len();
        if length > length_max + DISCARD_MAX {
            break;
        }
        if length <= length_max {
            body.extend_from_slice(&chunk);
        }
    }
    if length > length_max {
        let detail = format!("the body is over {length_max} octets");
        return Err(Problem::new(Slug::PayloadTooLarge, detail));
    }
    Ok(body.freeze())
}
