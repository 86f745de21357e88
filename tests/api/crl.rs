//! `/pki/…` on the repository listener, and `/v1/issuers/{name}/crl`.

use std::time::{Duration, Instant};

use openssl::pkey::{PKey, Public};
use openssl::x509::{CrlStatus, ReasonCode, X509, X509Crl};
use serde_json::json;

use crate::support::device::Device;
use crate::support::world::{World, issued, leaf, shared};

fn issuer_key(world: &World, issuer: &str) -> PKey<Public> {
    let pem = std::fs::read(world.dir.join(format!("issuers/{issuer}.pem"))).unwrap();
    X509::from_pem(&pem).unwrap().public_key().unwrap()
}

/// The first CRL of a world is made soon after its start.
fn first(world: &World, path: &str) -> X509Crl {
    let start = Instant::now();
    loop {
        let answer = world.repository().get(path);
        if answer.status == 200 {
            return X509Crl::from_der(&answer.body).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{answer:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_revoked_certificate_is_on_its_issuers_crl_soon_with_its_reason() {
    let world = shared();
    let body = issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    let leaf = leaf(&body);
    // The certificate itself says where the list is.
    let points = leaf.crl_distribution_points().unwrap();
    let name = points[0].distpoint().unwrap().fullname().unwrap();
    let url = name[0].uri().unwrap();
    let path = url.strip_prefix(&world.repository).unwrap();
    assert_eq!(path, "/pki/line-ec.crl");
    let before = first(world, path);
    assert!(matches!(before.get_by_cert(&leaf), CrlStatus::NotRevoked));
    let number = world.metric("certfactory_crl_number{issuer=\"line-ec\"");
    world.revoke(&body, "keyCompromise");
    // The development world looks every two seconds.
    let crl = world.wait_revoked(path, &leaf, Duration::from_secs(10));
    let parsed = X509Crl::from_der(&crl).unwrap();
    assert!(parsed.verify(&issuer_key(world, "line-ec")).unwrap());
    let CrlStatus::Revoked(entry) = parsed.get_by_cert(&leaf) else {
        panic!("it was on the CRL");
    };
    let (critical, reason) = entry.extension::<ReasonCode>().unwrap().unwrap();
    assert_eq!((critical, reason.get_i64().unwrap()), (false, 1));
    assert!(world.metric("certfactory_crl_number{issuer=\"line-ec\"") > number);
    assert!(world.metric("certfactory_crl_entries{issuer=\"line-ec\"") >= 1.0);
    assert!(
        world.metric("certfactory_hsm_calls_total{purpose=\"crl\"}") >= 1.0,
        "CRLs are counted as certificates"
    );

    // The same list from the API, for anyone, in both forms.
    let der = world.nobody().get("/v1/issuers/line-ec/crl");
    assert_eq!(der.header("content-type"), Some("application/pkix-crl"));
    let der = X509Crl::from_der(&der.body).unwrap();
    assert!(matches!(der.get_by_cert(&leaf), CrlStatus::Revoked(_)));
    let pem = world
        .nobody()
        .get_as("/v1/issuers/line-ec/crl", "application/x-pem-file");
    assert!(X509Crl::from_pem(&pem.body).is_ok());
}

#[test]
fn who_has_the_newest_crl_is_not_sent_it_again() {
    let repository = shared().repository();
    let ask = |headers: &[(&str, &str)]| repository.send("GET", "/pki/line-rsa.crl", headers, None);
    let first = ask(&[]);
    let header = |name: &str| first.header(name).unwrap().to_owned();
    let (tag, modified) = (header("etag"), header("last-modified"));
    // Until the next look for revocations, which the development world takes every two seconds.
    assert_eq!(
        header("cache-control"),
        "public, max-age=2, must-revalidate"
    );
    let listed = format!("\"other\", W/{tag}");
    for known in [
        &[("If-None-Match", tag.as_str())][..],
        &[("If-None-Match", &listed)],
        &[("If-None-Match", "*")],
        &[("If-Modified-Since", &modified)],
    ] {
        let answer = ask(known);
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{known:?}");
        assert_eq!(answer.header("etag"), Some(tag.as_str()));
    }
    for stale in [
        &[("If-None-Match", "\"other\"")][..],
        &[("If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT")],
        // A tag that differs counts, whatever the date says (RFC 9110 13.2.2).
        &[
            ("If-None-Match", "\"other\""),
            ("If-Modified-Since", &modified),
        ],
        &[("If-Modified-Since", "yesterday")],
    ] {
        let answer = ask(stale);
        assert_eq!(
            (answer.status, &answer.body),
            (200, &first.body),
            "{stale:?}"
        );
    }
}

#[test]
fn the_repository_holds_issuer_certificates_and_nothing_else() {
    let world = shared();
    for issuer in ["line-ec", "line-rsa"] {
        let answer = world.repository().get(&format!("/pki/{issuer}.cer"));
        assert_eq!(answer.header("content-type"), Some("application/pkix-cert"));
        let pem = std::fs::read(world.dir.join(format!("issuers/{issuer}.pem"))).unwrap();
        let ours = X509::from_pem(&pem).unwrap();
        assert_eq!(answer.body, ours.to_der().unwrap());
    }
    for nothing in [
        "/",
        "/pki/",
        "/pki/line-ec",
        "/pki/line-ec.pem",
        "/pki/line-ec-0.crl",
        "/pki/line-ec-01.crl",
        "/pki/nobody.crl",
        "/pki/..%2fconfig.toml",
        "/pki/line-ec.crl/",
        "/v1/certificates",
        "/metrics",
    ] {
        assert_eq!(world.repository().get(nothing).status, 404, "{nothing}");
    }
    let posted = world
        .repository()
        .send("POST", "/pki/line-ec.crl", &[], Some(b"x"));
    assert_eq!(posted.status, 405);
    let nobody = world.nobody();
    for (path, slug) in [
        ("/v1/issuers/nobody/crl", "not-found"),
        ("/v1/issuers/line-ec/crl?shard=0", "not-found"),
        ("/v1/issuers/line-ec/crl?shard=x", "invalid-parameter"),
        ("/v1/issuers/line-ec/crl?part=0", "invalid-parameter"),
    ] {
        assert_eq!(nobody.get(path).slug(), slug, "{path}");
    }
}

#[test]
fn a_scrapped_devices_certificate_is_on_the_crl_too() {
    let world = shared();
    let body = issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    let path = format!(
        "/v1/certificates/{}/scrap",
        body["serial_number"].as_str().unwrap()
    );
    let comment = json!({ "reason": "burnt" }).to_string();
    let headers = [("Content-Type", "application/json")];
    let scrapped = world
        .client("operator")
        .send("POST", &path, &headers, Some(comment.as_bytes()));
    assert!(scrapped.status < 300, "{scrapped:?}");
    let leaf = leaf(&body);
    world.wait_revoked("/pki/line-ec.crl", &leaf, Duration::from_secs(10));
}
