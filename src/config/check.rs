//! What a configuration may say, section by section and of one beside another.

use std::sync::Arc;

use openssl::x509::X509;

use crate::config::RawConfig;
use crate::config::decode_hex;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::issuer::Issuer;
use crate::pki::profile::Profile;
use crate::pki::report;

/// Each section alone, and names that sections have of each other.
pub(super) fn sections(raw: &RawConfig, faults: &mut Vec<String>) {
    if let Err(fault) = crate::telemetry::check(&raw.log.level) {
        faults.push(format!("log.level: {fault}"));
    }
    for path in [
        &raw.http.certificate,
        &raw.http.private_key,
        &raw.http.client_ca,
    ] {
        if let Err(e) = std::fs::File::open(path) {
            faults.push(format!("http: {}: {e}", path.display()));
        }
    }
    if !(100..=60_000).contains(&raw.issuance.deadline_ms) {
        faults.push("issuance.deadline_ms: must be 100 to 60000".into());
    }
    if !(100..=60_000).contains(&raw.issuance.clock_difference_max_ms) {
        faults.push("issuance.clock_difference_max_ms: must be 100 to 60000".into());
    }
    if raw.http.connections_per_address_max == 0 || raw.http.handshakes_per_second_max == 0 {
        faults.push(
            "http: connections_per_address_max and handshakes_per_second_max must be 1 or more"
                .into(),
        );
    }
    if raw.http.drain_seconds > 600 {
        faults.push("http.drain_seconds: must be 0 to 600".into());
    }
    if !(1..=3600).contains(&raw.crl.every_seconds) {
        faults.push("crl.every_seconds: must be 1 to 3600".into());
    }
    if !(1..=8760).contains(&raw.crl.next_update_hours) {
        faults.push("crl.next_update_hours: must be 1 to 8760".into());
    }
    if let Some(batches) = &raw.batches {
        if !(1..=3650).contains(&batches.retention_days) {
            faults.push("batches.retention_days: must be 1 to 3650".into());
        }
        if raw.site.report_key.is_none() {
            faults.push(
                "batches: a package's manifest is signed by [site.report_key]; name one".into(),
            );
        }
    }
    unique("hsm", raw.hsm.iter().map(|h| &h.name), faults);
    unique("issuer", raw.issuer.iter().map(|i| &i.name), faults);
    for name in [report::KEY_NAME, LOG_KEY_NAME] {
        if raw.issuer.iter().any(|issuer| issuer.name == name) {
            faults.push(format!("issuer `{name}`: this name is the {name} key's"));
        }
    }
    for hsm in &raw.hsm {
        if hsm
            .environment
            .keys()
            .any(|name| name.is_empty() || name.contains(['=', '\0']))
        {
            faults.push(format!("hsm `{}`: a variable's name is not one", hsm.name));
        }
        if !(1..=64).contains(&hsm.sessions) || !(1..=65_536).contains(&hsm.queue_depth_max) {
            faults.push(format!(
                "hsm `{}`: sessions must be 1 to 64, queue_depth_max 1 to 65536",
                hsm.name
            ));
        }
    }
    for issuer in &raw.issuer {
        if issuer
            .key_id
            .as_deref()
            .is_some_and(|id| decode_hex(id).is_none())
        {
            faults.push(format!(
                "issuer `{}`: key_id is not hexadecimal",
                issuer.name
            ));
        }
        if !raw.hsm.iter().any(|h| h.name == issuer.hsm) {
            faults.push(format!(
                "issuer `{}`: no [[hsm]] is named `{}`",
                issuer.name, issuer.hsm
            ));
        }
    }
}

/// A client certificate is no device's, and a device's is no client's: their issuers are different
/// ones, and only the clients' is a trust anchor of clients.
pub(super) fn stations(
    raw: &RawConfig,
    issuers: &[Arc<Issuer>],
    profiles: &[Arc<Profile>],
    faults: &mut Vec<String>,
) {
    let station_issuer = raw.stations.as_ref().map(|it| it.issuer.as_str());
    let anchors = std::fs::read(&raw.http.client_ca).unwrap_or_default();
    let anchors = X509::stack_from_pem(&anchors).unwrap_or_default();
    let trusted = |issuer: &Issuer| {
        let same = |anchor: &X509| {
            let key = anchor.public_key().and_then(|key| key.public_key_to_der());
            key.is_ok_and(|key| key == issuer.public_key.as_der())
        };
        anchors.iter().any(same)
    };
    for issuer in issuers {
        match (
            Some(issuer.name.as_str()) == station_issuer,
            trusted(issuer),
        ) {
            (true, false) => faults.push(format!(
                "stations.issuer: the certificate of `{}` is not in http.client_ca",
                issuer.name
            )),
            (false, true) => faults.push(format!(
                "http.client_ca: holds issuer `{}`, so its devices could connect as clients",
                issuer.name
            )),
            (true, true) | (false, false) => {}
        }
    }
    let Some(stations) = &raw.stations else {
        return;
    };
    if !raw.issuer.iter().any(|it| it.name == stations.issuer) {
        faults.push(format!(
            "stations.issuer: no [[issuer]] is named `{}`",
            stations.issuer
        ));
    }
    if !(1..=3_650).contains(&stations.days) {
        faults.push("stations.days: must be 1 to 3650".into());
    }
    for profile in profiles {
        if profile.issuers().any(|issuer| issuer == stations.issuer) {
            faults.push(format!(
                "profile `{}`: its issuer `{}` is the stations', which issues to no device",
                profile.name, stations.issuer
            ));
        }
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a String>, faults: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    let mut none = true;
    for name in names {
        none = false;
        if !seen.insert(name) {
            faults.push(format!("{what} `{name}` is there twice"));
        }
    }
    if none {
        faults.push(format!("no [[{what}]] is configured"));
    }
}
