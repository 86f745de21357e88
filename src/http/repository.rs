//! `/pki/…` on the repository listener: CRLs and issuer certificates, DER, as CRL distribution
//! points and authority information access name them (RFC 5280 4.2.1.13, RFC 2585).

use std::time::{Duration, SystemTime};

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::http::header::{EntityTag, Header, HttpDate, IfModifiedSince, IfNoneMatch};
use actix_web::web::{Bytes, Data, Path};
use chrono::{DateTime, Utc};

use crate::ca::Ca;
use crate::ca::crl::CrlId;
use crate::ca::crl::CrlShelf;
use crate::http::problem::Problem;
use crate::http::problem::Slug;
use crate::pki::crl::shard_number;
use crate::pki::hex;

/// `application/pkix-crl` and `application/pkix-cert`: RFC 2585 4.
pub const PKIX_CRL: &str = "application/pkix-crl";
const PKIX_CERT: &str = "application/pkix-cert";

/// How long a CA certificate may be kept by who fetched it: it never changes under its name.
const CERTIFICATE_KEPT: Duration = Duration::from_hours(24);

/// How long a CRL may be kept without asking again: as long as there may be no newer one.
#[derive(Clone, Copy)]
pub struct Freshness(pub Duration);

/// `{issuer}.crl`, `{issuer}-{shard}.crl`, `{issuer}.cer`.
pub async fn file(
    request: HttpRequest,
    name: Path<String>,
    ca: Data<Ca>,
    shelf: Data<CrlShelf>,
    freshness: Data<Freshness>,
) -> Result<HttpResponse, Problem> {
    let document = match name.rsplit_once('.') {
        Some((name, "crl")) => crl(name, &ca, &shelf, **freshness),
        Some((name, "cer")) => certificate(name, &ca),
        _ => None,
    };
    let document =
        document.ok_or_else(|| Problem::new(Slug::NotFound, "no such CRL or certificate"))?;
    Ok(document.answer(&request))
}

fn crl(name: &str, ca: &Ca, shelf: &CrlShelf, Freshness(every): Freshness) -> Option<Document> {
    let (issuer, shard) = if ca.issuers.contains_key(name) {
        (name, None)
    } else {
        let (issuer, shard) = name.rsplit_once('-')?;
        (issuer, Some(shard_number(shard)?))
    };
    let id = CrlId {
        issuer: issuer.to_owned(),
        shard,
    };
    let crl = shelf.get(&id)?;
    // Past nextUpdate nothing is left.
    let left = (crl.edition.next_update - ca.clock.now()).to_std();
    Some(Document {
        media_type: PKIX_CRL,
        modified: crl.edition.this_update,
        kept: left.unwrap_or_default().min(every),
        bytes: crl.der.clone(),
        tag: format!("{}-{}", crl.id, crl.edition.crl_number),
    })
}

fn certificate(name: &str, ca: &Ca) -> Option<Document> {
    let issuer = ca.issuers.get(name)?;
    Some(Document {
        media_type: PKIX_CERT,
        modified: issuer.validity.not_before,
        kept: CERTIFICATE_KEPT,
        bytes: Bytes::copy_from_slice(&issuer.certificate),
        tag: hex(&openssl::sha::sha256(&issuer.certificate)),
    })
}

/// Something public that changes under its name.
struct Document {
    media_type: &'static str,
    modified: DateTime<Utc>,
    kept: Duration,
    bytes: Bytes,
    /// Names the content: a CRL's number has one content for ever.
    tag: String,
}

impl Document {
    fn answer(self, request: &HttpRequest) -> HttpResponse {
        let tag = EntityTag::new_strong(self.tag.clone());
        let known = self.is_known(request, &tag);
        let mut answer = if known {
            HttpResponse::NotModified()
        } else {
            HttpResponse::Ok()
        };
        let kept = match self.kept.as_secs() {
            0 => "no-cache".to_owned(),
            seconds => format!("public, max-age={seconds}, must-revalidate"),
        };
        answer
            .insert_header(header::ETag(tag))
            .insert_header(header::LastModified(date(self.modified)))
            .insert_header((header::CACHE_CONTROL, kept));
        if known {
            return answer.finish();
        }
        answer.content_type(self.media_type).body(self.bytes)
    }

    /// RFC 9110 13.2.2: where there are tags, dates do not count.
    fn is_known(&self, request: &HttpRequest, tag: &EntityTag) -> bool {
        if request.headers().contains_key(header::IF_NONE_MATCH) {
            return match IfNoneMatch::parse(request) {
                Ok(IfNoneMatch::Any) => true,
                Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(tag)),
                Err(_) => false,
            };
        }
        let since = IfModifiedSince::parse(request).map(|IfModifiedSince(since)| since);
        since.is_ok_and(|since| SystemTime::from(since) >= SystemTime::from(date(self.modified)))
    }
}

fn date(time: DateTime<Utc>) -> HttpDate {
    HttpDate::from(SystemTime::from(time))
}
