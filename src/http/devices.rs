//! `GET /v1/devices/{certificate_id}`: what a function in the cloud asks about a certificate it has
//! never seen, by the only name the cloud gives it.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde::Serialize;
use utoipa::ToSchema;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::Role;
use crate::ca::SearchFilter;
use crate::http::certificates::note;
use crate::http::certificates::rfc3339;
use crate::http::certificates::rfc3339_millis;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::ProblemBody;
use crate::http::problem::Slug;
use crate::pki::hex;

/// What just-in-time registration needs to know of a certificate, in about 400 octets.
#[derive(Serialize, ToSchema)]
struct DeviceBody {
    /// SHA-256 over the certificate's DER, 64 lower-case hexadecimal digits.
    certificate_id: String,
    /// 32 lower-case hexadecimal digits.
    serial_number: String,
    /// Where the certificate stands in its life. Only `issued` is a reason to let it in.
    status: &'static str,
    /// Device identity: the value of the attribute that the profile names.
    device: String,
    /// The thing to make; null when the profile has no provisioning template.
    thing_name: Option<String>,
    /// Subject attributes by short name.
    subject: BTreeMap<&'static str, String>,
    /// Profile's name.
    profile: String,
    /// Issuer's name.
    issuer: String,
    /// Work order.
    order: Option<String>,
    /// RFC 3339.
    not_after: String,
    /// RFC 3339, database time.
    issued_at: String,
}

impl From<CertificateRecord> for DeviceBody {
    fn from(record: CertificateRecord) -> Self {
        let intent = record.intent;
        Self {
            certificate_id: hex(&record.fingerprint),
            serial_number: intent.serial_number.to_hex(),
            status: record.status.as_str(),
            device: intent.device,
            thing_name: intent.thing_name,
            subject: intent
                .subject
                .iter()
                .map(|(kind, value)| (kind.short_name(), value.to_owned()))
                .collect(),
            profile: intent.profile,
            issuer: intent.issuer,
            order: intent.order,
            not_after: rfc3339(intent.validity.not_after),
            issued_at: rfc3339_millis(record.issued_at),
        }
    }
}

/// One device by AWS IoT's certificateId, in short. A station sees its own.
///
/// An answer of 404 says that no such certificate was issued here: a service that cannot tell
/// answers 503, so that an outage is never taken for a forgery.
#[utoipa::path(
    get, path = "/v1/devices/{certificate_id}", tag = "certificates",
    params(("certificate_id" = String, Path, description = "SHA-256 over the certificate's DER, 64 lower-case hexadecimal digits")),
    responses(
        (status = 200, body = DeviceBody, description = "the device"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "no such certificate was issued here, or not to this station"),
        (status = "4XX", body = ProblemBody, content_type = "application/problem+json", description = "refused; the slug says why"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "the database is down")
    )
)]
pub async fn show(
    request: HttpRequest,
    who: Authenticated,
    certificate_id: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, "");
    let fingerprint = certificate_id_octets(&certificate_id).ok_or_else(|| {
        Problem::new(
            Slug::InvalidParameter,
            "certificate_id: must be 64 lower-case hexadecimal digits",
        )
    })?;
    let filter = SearchFilter {
        fingerprint: Some(fingerprint),
        station: (who.0.role == Role::Station).then(|| who.0.name.clone()),
        ..SearchFilter::default()
    };
    let found = ca.archive.search(filter, 1, None).await?.items.pop();
    let record = found.ok_or_else(|| {
        Problem::new(
            Slug::NotFound,
            "no certificate with this certificateId that you may see",
        )
    })?;
    note(&request, &who.0, &record.intent.serial_number.to_hex());
    Ok(HttpResponse::Ok().json(DeviceBody::from(record)))
}

/// AWS IoT writes a certificateId in one way only; another way of writing it is another name.
fn certificate_id_octets(text: &str) -> Option<[u8; 32]> {
    fn digit(character: u8) -> Option<u8> {
        match character {
            b'0'..=b'9' => Some(character - b'0'),
            b'a'..=b'f' => Some(character - b'a' + 10),
            _ => None,
        }
    }
    let mut octets = [0; 32];
    if text.len() != 2 * octets.len() {
        return None;
    }
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *octet = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_id_is_read_in_one_way_only() {
        let id = "00ff10a1".repeat(8);
        let octets = certificate_id_octets(&id).unwrap_or_default();
        assert_eq!(hex(&octets), id);
        for bad in [
            "",
            &id[1..],
            &id.to_uppercase(),
            &id.replace("00", "+0"),
            &id.replace("00", "é"),
            &format!("{id}0"),
        ] {
            assert_eq!(certificate_id_octets(bad), None, "{bad}");
        }
    }
}
