//! `/livez`, `/readyz`, `/metrics`, `/version`, on the operations listener alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{Data, Json};
use chrono::{DateTime, Utc};
use prometheus::Registry;
use prometheus::TextEncoder;
use serde_json::Value;
use serde_json::json;

use crate::ca::Ca;
use crate::http::middleware::Flights;
use crate::http::problem::Problem;
use crate::http::problem::internal;

/// Prometheus text.
pub async fn metrics(registry: Data<Registry>) -> Result<HttpResponse, Problem> {
    let text = TextEncoder::new()
        .encode_to_string(&registry.gather())
        .map_err(internal)?;
    Ok(HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4")
        .body(text))
}

/// The process is alive; says nothing of its neighbours.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// "Could issue now", and why not; what keeps issuers from issuing while a profile can, what will keep one from
/// it within 90 days, what no replica does, and whether searches are read where they should be.
///
/// An HSM or a CA certificate is that of all replicas: were each of them red for one issuer, the lines of
/// the others would stand still with it.
pub async fn readyz(ca: Data<Ca>, flights: Data<Arc<Flights>>) -> HttpResponse {
    let mut reasons = Vec::new();
    if flights.leaving() {
        reasons.push(json!({ "component": "service", "reason": "shutting down" }));
    }
    if let Err(reason) = ca.replica.octet() {
        reasons.push(json!({ "component": "instance", "reason": reason }));
    }
    if let Err(reason) = ca.ledger.ready() {
        reasons.push(json!({ "component": "database", "reason": reason }));
    }
    if let Err(reason) = ca.clock_trusted() {
        reasons.push(json!({ "component": "clock", "reason": reason }));
    }
    if let Err(reason) = ca.random_watch.trusted() {
        reasons.push(json!({ "component": "random", "reason": reason }));
    }
    if let Err(reason) = ca.log.ready() {
        reasons.push(json!({ "component": "log", "reason": reason }));
    }
    let now = ca.clock.now();
    let faulty = faulty_issuers(&ca, now);
    let mut profiles = ca.profiles.all().into_iter();
    let (lame, lacking) = if profiles.any(|profile| !faulty.contains_key(profile.issuer_at(now))) {
        (faulty, BTreeMap::new())
    } else {
        (BTreeMap::new(), faulty)
    };
    reasons.extend(lacking.into_values().flatten());
    let mut response = if reasons.is_empty() {
        HttpResponse::Ok()
    } else {
        HttpResponse::ServiceUnavailable()
    };
    let refusing = ca.log.refusing_witnesses().into_iter();
    let refusing = refusing.map(
        |(witness, reason)| json!({ "component": "witness", "witness": witness, "reason": reason }),
    );
    let missing = ca.replica.missing().into_iter();
    let missing = missing.map(|reason| json!({ "component": "replicas", "reason": reason }));
    let warnings: Vec<_> = ca
        .endings(now)
        .into_iter()
        .map(|ending| {
            let reason = format!(
                "after {} its certificates would outlive issuer `{}`: switch to another",
                ending.last, ending.issuer
            );
            json!({ "component": "issuer", "profile": ending.profile, "reason": reason, "within_days": ending.within_days })
        })
        .chain(lame.into_values().flatten())
        .chain(refusing)
        .chain(missing)
        .chain(ca.searches.standby().and_then(|standby| {
            let reason = format!("searches are read on the primary: {}", standby.fault?);
            Some(json!({ "component": "standby", "reason": reason, "lag_seconds": standby.lag.as_secs() }))
        }))
        .collect();
    response.json(json!({ "ready": reasons.is_empty(), "reasons": reasons, "warnings": warnings }))
}

/// Issuers that can sign no certificate now, and why.
fn faulty_issuers(ca: &Ca, now: DateTime<Utc>) -> BTreeMap<&str, Vec<Value>> {
    let mut faulty: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (name, issuer) in &ca.issuers {
        let silent = ca.signer.ready(name).err();
        let silent = silent.map(|reason| ("hsm", reason));
        let ended = now < issuer.validity.not_before || now > issuer.validity.not_after;
        let ended = ended.then(|| ("issuer", "its certificate is not valid now".to_owned()));
        for (component, reason) in silent.into_iter().chain(ended) {
            let fault = json!({ "component": component, "issuer": name, "reason": reason });
            faulty.entry(name).or_default().push(fault);
        }
    }
    faulty
}

/// What is running, and as which process of its machine.
pub async fn version() -> Json<serde_json::Value> {
    Json(
        json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "openssl": openssl::version::version(), "pid": std::process::id() }),
    )
}
