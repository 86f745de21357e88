//! `/v1/audit`: the log's tree, for whoever wants proof and trusts nobody here.
//!
//! Checkpoints and tiles of hashes are public (C2SP tlog-tiles); what the entries say is not.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::Role;
use crate::ca::log::Inclusion;
use crate::ca::log::ProofError;
use crate::http::certificates::Deadline;
use crate::http::certificates::not_here;
use crate::http::certificates::note;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::http::problem::internal;
use crate::pki::hex;
use crate::pki::merkle::Hash;
use crate::pki::merkle::leaf_hash;
use crate::pki::serial::SerialNumber;
use crate::pki::tile::TileId;
use crate::pki::tile::TileLevel;
use crate::pki::tile::encode_bundle;

/// Hashes in a whole tile, and entries in a whole bundle.
const WIDTH: u64 = 256;

/// What never changes may be kept for ever.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// That an entry is in a signed tree, for a verifier with the log's public key and nothing else.
#[derive(Serialize, ToSchema)]
pub struct InclusionBody {
    /// Its place in the log.
    log_index: u64,
    /// Its octets, base64: what the log says of it, and the certificate.
    leaf: String,
    /// RFC 6962 hash of the leaf, 64 hexadecimal digits.
    leaf_hash: String,
    /// Hashes from the leaf to the root (RFC 9162, 2.1.3), base64.
    proof: Vec<String>,
    /// The signed checkpoint (C2SP tlog-checkpoint).
    checkpoint: String,
}

/// That a tree begins with another one.
#[derive(Serialize, ToSchema)]
pub struct ConsistencyBody {
    /// Entries of the smaller tree.
    from: u64,
    /// Entries of the larger one.
    to: u64,
    /// Hashes (RFC 9162, 2.1.4), base64.
    proof: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsistencyQuery {
    from: u64,
    to: u64,
}

/// The newest checkpoint: a signed note with the log's size and root hash, and the signatures of
/// witnesses.
#[utoipa::path(
    get, path = "/v1/audit/checkpoint", tag = "audit",
    responses(
        (status = 200, body = String, content_type = "text/plain; charset=utf-8"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "nothing is signed yet"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn checkpoint(ca: Data<Ca>) -> Result<HttpResponse, Problem> {
    let checkpoint = ca.log_shelf.checkpoint().await?;
    let checkpoint = checkpoint
        .ok_or_else(|| Problem::new(Slug::NotFound, "there is no checkpoint of the log yet"))?;
    Ok(HttpResponse::Ok()
        .content_type("text/plain; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(checkpoint.cosigned()))
}

/// A tile of the tree, or a bundle of entries (C2SP tlog-tiles). Tiles are for anyone; bundles hold
/// what the entries say, and are for people who may read everything.
#[utoipa::path(
    get, path = "/v1/audit/tile/{path}", tag = "audit",
    params(("path" = String, Path, description = "`0/x001/000`, `1/000.p/17`, `entries/x001/000`")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn tile(
    request: HttpRequest,
    path: Path<String>,
    who: Result<Authenticated, Problem>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let no_tile = || Problem::new(Slug::NotFound, "no such tile in a signed tree");
    let tile = TileId::parse(&path).ok_or_else(no_tile)?;
    let octets = match tile.level {
        TileLevel::Entries => {
            let who = who?;
            note(&request, &who.0, "");
            who.require(&[Role::Operator, Role::Auditor, Role::Administrator])?;
            let first = tile.index.checked_mul(WIDTH).ok_or_else(no_tile)?;
            let end = first.saturating_add(u64::from(tile.width));
            // Another replica may have signed more than this one knows of yet.
            if end > ca.log.proved() {
                let newest = ca.log_shelf.checkpoint().await?;
                newest.filter(|it| end <= it.size).ok_or_else(no_tile)?;
            }
            let leaves = ca.entries(first, u32::from(tile.width)).await?;
            let bundle = encode_bundle(leaves.iter().map(AsRef::as_ref));
            bundle.ok_or_else(|| internal("an entry is too long for a bundle"))?
        }
        TileLevel::Hashes(level) => {
            let id = vec![(level, tile.index)];
            let stored = ca.log_shelf.tiles(id).await?.pop().ok_or_else(no_tile)?;
            let wanted = usize::from(tile.width);
            let hashes = stored.hashes.get(..wanted).ok_or_else(no_tile)?;
            hashes.concat()
        }
    };
    Ok(HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header((header::CACHE_CONTROL, FOR_EVER))
        .body(octets))
}

/// That the log only grew: the tree of `from` entries is the beginning of that of `to`.
#[utoipa::path(
    get, path = "/v1/audit/consistency", tag = "audit",
    params(
        ("from" = u64, Query, description = "entries of the smaller tree"),
        ("to" = u64, Query, description = "entries of the larger one, at most those of the newest checkpoint")
    ),
    responses(
        (status = 200, body = ConsistencyBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn consistency(request: HttpRequest, ca: Data<Ca>) -> Result<HttpResponse, Problem> {
    let query: ConsistencyQuery = serde_urlencoded::from_str(request.query_string())
        .map_err(|e| Problem::new(Slug::InvalidParameter, e.to_string()))?;
    let ConsistencyQuery { from, to } = query;
    let proof = base64(&ca.consistency(from, to).await?);
    Ok(HttpResponse::Ok().json(ConsistencyBody { from, to, proof }))
}

/// That a certificate is in the log: its entry, and the proof that a signed tree holds it. A
/// certificate that has just been issued is waited for.
#[utoipa::path(
    get, path = "/v1/certificates/{serial_number}/inclusion", tag = "audit",
    params(("serial_number" = String, Path, description = "32 hexadecimal digits")),
    responses(
        (status = 200, body = InclusionBody),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "no checkpoint holds it yet, or the database is down")
    )
)]
pub async fn inclusion(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
    deadline: Data<Deadline>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + deadline.0;
    note(&request, &who.0, &path);
    let serial_number = SerialNumber::from_hex(&path).ok_or_else(not_here)?;
    let record = ca.archive.certificate(serial_number).await?;
    let record = record.ok_or_else(not_here)?;
    let intent = &record.intent;
    if !who.0.may_see(&intent.profile, &intent.principal) {
        return Err(not_here());
    }
    let index = u64::try_from(record.log_index).map_err(internal)?;
    let inclusion = proved(&ca, index, deadline).await?;
    Ok(HttpResponse::Ok().json(InclusionBody::from(&inclusion)))
}

/// The proof, once there is one.
pub(super) async fn proved(
    ca: &Ca,
    index: u64,
    deadline: Instant,
) -> Result<Inclusion, ProofError> {
    if ca.log.is_proved(index, deadline).await {
        ca.inclusion(index).await
    } else {
        Err(ProofError::NotYet(index))
    }
}

impl From<&Inclusion> for InclusionBody {
    fn from(inclusion: &Inclusion) -> Self {
        Self {
            log_index: inclusion.log_index,
            leaf: STANDARD.encode(&inclusion.leaf),
            leaf_hash: hex(&leaf_hash(&inclusion.leaf)),
            proof: base64(&inclusion.proof),
            checkpoint: inclusion.checkpoint.cosigned(),
        }
    }
}

fn base64(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| STANDARD.encode(hash)).collect()
}
