//! `GET /audit/certificates/{serial_number}`: the whole story of one certificate; and its files.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path};
use askama::Template;
use chrono::{DateTime, Datelike, Utc};
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::KeyOrigin;
use crate::ca::KindFilter;
use crate::ca::SearchFilter;
use crate::ca::Status;
use crate::ca::life::Life;
use crate::ca::log::ProofError;
use crate::http::certificates::not_here;
use crate::http::certificates::note;
use crate::http::pages::Frame;
use crate::http::pages::Moment;
use crate::http::pages::guard;
use crate::http::pages::now::NO_END;
use crate::http::pages::reader;
use crate::http::pages::search::filtered;
use crate::http::pages::write;
use crate::http::principal::Authenticated;
use crate::http::problem::Problem;
use crate::http::problem::internal;
use crate::pki::hex;
use crate::pki::pem;
use crate::pki::revocation::RevocationReason;
use crate::pki::serial::SerialNumber;

/// Certificates of one device that are shown, at most. A profile bounds reworks far below.
const CHAIN_MAX: i64 = 100;
/// Batches that are looked through for the one that a certificate came from, at most.
const BATCHES_MAX: i64 = 20;

/// The story of one certificate.
pub async fn show(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    note(&request, &who.0, &path);
    let reader = reader(who)?;
    let serial_number = SerialNumber::from_hex(&path).ok_or_else(not_here)?;
    let life = ca.life(serial_number).await?.ok_or_else(not_here)?;
    let chain = chain(&ca, &life.record).await?;
    let batch = batch(&ca, &life.record).await?;
    let proof = proof(&ca, life.record.log_index).await?;
    let intent = &life.record.intent;
    let order = intent.order.as_ref();
    let page = CertificatePage {
        frame: Frame::new(&request, &reader),
        serial: intent.serial_number.to_hex(),
        device: intent.device.clone(),
        kind: intent.kind.as_str(),
        status: life.record.status.as_str(),
        order: order.map(|name| Link::new("order", name)).transpose()?,
        batch,
        steps: steps(&life, &chain, ca.clock.now()),
        chain: generations(&life.record, &chain),
        proof,
        facts: facts(&life.record),
    };
    write(&mut HttpResponse::Ok(), &page)
}

/// The certificate and its chain, PEM.
pub async fn pem(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let record = wanted(&request, who, &path, &ca).await?;
    let issuer = ca.issuers.get(&record.intent.issuer);
    let chain = issuer.map_or_else(String::new, |issuer| issuer.pem.concat());
    let text = pem::certificate(&record.der) + &chain;
    Ok(download(
        &record,
        "pem",
        "application/x-pem-file",
        text.into(),
    ))
}

/// The certificate alone, DER.
pub async fn der(
    request: HttpRequest,
    who: Authenticated,
    path: Path<String>,
    ca: Data<Ca>,
) -> Result<HttpResponse, Problem> {
    let record = wanted(&request, who, &path, &ca).await?;
    let octets = record.der.clone();
    Ok(download(&record, "der", "application/pkix-cert", octets))
}

async fn wanted(
    request: &HttpRequest,
    who: Authenticated,
    path: &str,
    ca: &Ca,
) -> Result<CertificateRecord, Problem> {
    note(request, &who.0, path);
    reader(who)?;
    let serial_number = SerialNumber::from_hex(path).ok_or_else(not_here)?;
    let record = ca.archive.certificate(serial_number).await?;
    record.ok_or_else(not_here)
}

fn download(
    record: &CertificateRecord,
    extension: &str,
    content_type: &'static str,
    octets: Vec<u8>,
) -> HttpResponse {
    let serial = record.intent.serial_number.to_hex();
    let name = format!("attachment; filename=\"{serial}.{extension}\"");
    guard(&mut HttpResponse::Ok())
        .insert_header((header::CONTENT_DISPOSITION, name))
        .content_type(content_type)
        .body(octets)
}

#[derive(Template)]
#[template(path = "certificate.html", config = "src/http/pages/askama.toml")]
struct CertificatePage {
    frame: Frame,
    serial: String,
    device: String,
    kind: &'static str,
    status: &'static str,
    order: Option<Link>,
    /// `Err`: none was found, in so many words.
    batch: Result<Link, String>,
    /// What happened, oldest first.
    steps: Vec<Step>,
    /// All certificates of the device, oldest first; empty where this is the only one.
    chain: Vec<Generation>,
    proof: Proof,
    facts: Vec<Fact>,
}

/// A filter that finds what belongs together.
struct Link {
    text: String,
    address: String,
}

impl Link {
    fn new(name: &str, value: &str) -> Result<Self, Problem> {
        Ok(Self {
            text: value.to_owned(),
            address: filtered(name, value)?,
        })
    }
}

/// A step of a certificate's life.
struct Step {
    /// What kind, for the style.
    kind: &'static str,
    title: String,
    at: Moment,
    by: Option<String>,
    /// What is known of it; a word for each.
    details: Vec<(&'static str, String)>,
    /// Another certificate that it is about.
    other: Option<String>,
}

/// One of the certificates that a device had.
struct Generation {
    number: i16,
    serial: String,
    status: &'static str,
    issued: Moment,
    reason: Option<String>,
    /// It is the one that is shown.
    here: bool,
}

/// Whether a signed tree holds it.
enum Proof {
    /// It was just proved.
    Held {
        index: u64,
        entries: u64,
        signed: Moment,
        witnesses: usize,
        hashes: usize,
        root: String,
    },
    /// A checkpoint is still to come.
    NotYet { index: i64 },
    /// Its entry is in an archive.
    Archived { index: i64 },
    /// The log does not bear out what the ledger says.
    Broken { index: i64, why: String },
}

/// Something that is so.
struct Fact {
    name: &'static str,
    value: String,
    /// Digits, or a name as it stands in a certificate.
    exact: bool,
    /// It needs a line of its own.
    long: bool,
}

/// All certificates of the same device, oldest first.
async fn chain(ca: &Ca, record: &CertificateRecord) -> Result<Vec<CertificateRecord>, Problem> {
    let filter = SearchFilter {
        kind: KindFilter::Only(record.intent.kind),
        device: Some(record.intent.device.clone()),
        ..SearchFilter::default()
    };
    let mut chain = ca.archive.search(filter, CHAIN_MAX, None).await?.items;
    chain.retain(|other| other.intent.slot == record.intent.slot);
    chain.sort_by_key(CertificateRecord::generation);
    Ok(chain)
}

fn generations(record: &CertificateRecord, chain: &[CertificateRecord]) -> Vec<Generation> {
    if chain.len() < 2 {
        return Vec::new();
    }
    let generation = |it: &CertificateRecord| Generation {
        number: it.generation() + 1,
        serial: it.intent.serial_number.to_hex(),
        status: it.status.as_str(),
        issued: it.issued_at.into(),
        reason: it.intent.rework.as_ref().map(|it| it.reason.clone()),
        here: it.intent.id == record.intent.id,
    };
    chain.iter().map(generation).collect()
}

/// The batch that a certificate was issued for: one that was created before it, by whoever asked for
/// it, for the same, and not ended before it.
async fn batch(ca: &Ca, record: &CertificateRecord) -> Result<Result<Link, String>, Problem> {
    let intent = &record.intent;
    let batches = ca.batches.list(Some(intent.id), BATCHES_MAX).await?;
    let looked_at = batches.len();
    for batch in batches {
        let definition = &batch.definition;
        let may_be = batch.created.0 == intent.principal
            && definition.profile == intent.profile
            && definition.order == intent.order
            && batch.finished_at.is_none_or(|end| end >= record.issued_at);
        if !may_be {
            continue;
        }
        let filter = SearchFilter {
            serial_number: Some(intent.serial_number),
            batch: Some(batch.id),
            ..SearchFilter::default()
        };
        if !ca.archive.search(filter, 1, None).await?.items.is_empty() {
            return Ok(Ok(Link::new("batch", &batch.id.to_string())?));
        }
    }
    Ok(Err(if i64::try_from(looked_at) == Ok(BATCHES_MAX) {
        format!("none of the {BATCHES_MAX} before it")
    } else {
        "none".to_owned()
    }))
}

async fn proof(ca: &Ca, index: i64) -> Result<Proof, Problem> {
    let place = u64::try_from(index).map_err(internal)?;
    match ca.inclusion(place).await {
        Ok(inclusion) => Ok(Proof::Held {
            index: inclusion.log_index,
            entries: inclusion.checkpoint.size,
            signed: inclusion.checkpoint.created_at.into(),
            witnesses: inclusion.checkpoint.cosignatures.len(),
            hashes: inclusion.proof.len(),
            root: hex(&inclusion.checkpoint.root),
        }),
        Err(ProofError::NotYet(_)) => Ok(Proof::NotYet { index }),
        Err(ProofError::Archived(..)) => Ok(Proof::Archived { index }),
        Err(ProofError::NotFound(why) | ProofError::Broken(why)) => {
            tracing::error!(index, why, "the log does not bear out the ledger");
            Ok(Proof::Broken { index, why })
        }
        Err(ProofError::Ledger(fault)) => Err(fault.into()),
    }
}

/// What happened, in the order in which it did.
fn steps(life: &Life, chain: &[CertificateRecord], now: DateTime<Utc>) -> Vec<Step> {
    let record = &life.record;
    let intent = &record.intent;
    let mut steps = Vec::new();
    if let Some(at) = asked_at(intent.id) {
        let mut details = vec![("key", key(intent.key_origin).to_owned())];
        details.extend(intent.order.iter().map(|order| ("order", order.clone())));
        details.extend(intent.rework.iter().map(|it| ("reason", it.reason.clone())));
        let rework = intent.rework.as_ref();
        steps.push(Step {
            kind: "requested",
            title: match rework {
                None => "Requested".to_owned(),
                Some(_) => "Rework requested, to replace".to_owned(),
            },
            at: at.into(),
            by: Some(intent.principal.clone()),
            details,
            other: rework.map(|rework| rework.superseded.to_hex()),
        });
    }
    steps.push(Step {
        kind: "issued",
        title: "Issued".to_owned(),
        at: record.issued_at.into(),
        by: None,
        details: vec![
            ("issuer", intent.issuer.clone()),
            ("log entry", record.log_index.to_string()),
        ],
        other: None,
    });
    // All that follows has the database's time.
    let mut later: Vec<(DateTime<Utc>, Step)> = Vec::new();
    let successor = chain
        .iter()
        .find(|other| Some(other.intent.serial_number) == record.successor);
    if let Some(next) = successor {
        let rework = next.intent.rework.as_ref();
        let reason = rework.map(|rework| ("reason", rework.reason.clone()));
        let step = Step {
            kind: "rework",
            title: "Rework issued:".to_owned(),
            at: next.issued_at.into(),
            by: Some(next.intent.principal.clone()),
            details: reason.into_iter().collect(),
            other: Some(next.intent.serial_number.to_hex()),
        };
        later.push((next.issued_at, step));
    }
    for event in &life.events {
        let code = event.reason_code.map(RevocationReason::as_str);
        let code = code.map(|code| ("CRL reason", code.to_owned()));
        let comment = event.reason.iter().map(|words| {
            let compared = words.strip_prefix("compared: ");
            match compared.filter(|_| event.kind == Status::Confirmed) {
                Some(compared) => ("compared", compared.to_owned()),
                None => ("comment", words.clone()),
            }
        });
        let step = Step {
            kind: event.kind.as_str(),
            title: title(event.kind).to_owned(),
            at: event.at.into(),
            by: Some(event.principal.clone()),
            details: code.into_iter().chain(comment).collect(),
            other: None,
        };
        later.push((event.at, step));
    }
    later.sort_by_key(|(at, _)| *at);
    steps.extend(later.into_iter().map(|(_, step)| step));
    let end = intent.validity.not_after;
    let title = match (end < now, record.status.has_ended()) {
        (true, _) => "Expired",
        (false, false) if end.year() == NO_END => "Valid without end",
        (false, false) => "Valid until",
        (false, true) => "Would have been valid until",
    };
    steps.push(Step {
        kind: if end < now { "expired" } else { "to-come" },
        title: title.to_owned(),
        at: end.into(),
        by: None,
        details: Vec::new(),
        other: None,
    });
    steps
}

/// An intent's id holds the service's time of the request.
fn asked_at(id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}

fn title(status: Status) -> &'static str {
    match status {
        Status::Issued => "Issued",
        Status::Confirmed => "Confirmed at the end of the line",
        Status::Superseded => "Superseded",
        Status::Revoked => "Revoked",
        Status::Scrapped => "Scrapped",
    }
}

fn key(origin: KeyOrigin) -> &'static str {
    match origin {
        KeyOrigin::Request => "the device’s, in a request that it signed",
        KeyOrigin::PublicKey => "the device’s, on a list",
        KeyOrigin::Made => "made here, encrypted to the batch’s recipient",
    }
}

fn facts(record: &CertificateRecord) -> Vec<Fact> {
    let intent = &record.intent;
    let fact = |name, value: &str| Fact {
        name,
        value: value.to_owned(),
        exact: false,
        long: false,
    };
    let exact = |name, value: &str| Fact {
        exact: true,
        ..fact(name, value)
    };
    let long = |name, value: &str| Fact {
        long: true,
        ..exact(name, value)
    };
    let subject = intent.subject.iter();
    let subject = subject.map(|(kind, value)| format!("{}={value}", kind.short_name()));
    let subject: Vec<String> = subject.collect();
    let time = |time: DateTime<Utc>| format!("{} UTC", Moment::from(time).text);
    let thing = intent.thing_name.as_deref();
    vec![
        long("Subject", &subject.join(", ")),
        long("Serial number", &intent.serial_number.to_hex()),
        long(
            "Fingerprint (SHA-256), AWS IoT’s certificateId",
            &hex(&record.fingerprint),
        ),
        long("Public key (SHA-256)", &hex(&intent.spki_sha256)),
        exact("Device identity", &intent.device),
        thing.map_or_else(
            || fact("AWS IoT thing", "none"),
            |thing| exact("AWS IoT thing", thing),
        ),
        fact("Kind", intent.kind.as_str()),
        fact("Issuer", &intent.issuer),
        fact("Asked for by", &intent.principal),
        fact("Valid from", &time(intent.validity.not_before)),
        fact("Valid until", &time(intent.validity.not_after)),
        fact("Log entry", &record.log_index.to_string()),
        fact("Profile", &intent.profile),
        long("Profile as it was (SHA-256)", &hex(&intent.profile_sha256)),
    ]
}
