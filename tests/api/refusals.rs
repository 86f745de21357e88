//! Bad input: every kind gets its slug, and the HSM never sees it.

use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::{data, shared};

fn refused(response: &Response, status: u16, slug: &str) {
    assert_eq!(
        (response.status, response.slug().as_str()),
        (status, slug),
        "{}",
        response.text()
    );
}

#[test]
fn every_hostile_request_gets_the_slug_of_its_own_fault() {
    let world = crate::support::world::shared();
    let station = world.client("station-01");
    let expected: Vec<(String, String)> = serde_json::from_slice::<serde_json::Map<String, Value>>(
        &std::fs::read(data("csr-slugs.json")).unwrap(),
    )
    .unwrap()
    .into_iter()
    .map(|(file, slug)| (file, slug.as_str().unwrap().to_owned()))
    .collect();
    let files = std::fs::read_dir(data("csr"))
        .unwrap()
        .filter(|e| {
            e.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|x| x == "der")
        })
        .count();
    assert_eq!(files, expected.len(), "each file has its line");
    for (file, slug) in expected {
        let der = std::fs::read(data("csr").join(&file)).unwrap();
        // With PEM around it and every attribute supplied, nothing but its own fault can refuse it.
        let bare = station.send(
            "POST",
            "/v1/certificates?profile=workshop",
            &[("Content-Type", "application/pkcs10")],
            Some(&der),
        );
        let full = station.issue(&request_with_what_it_lacks(&der));
        if slug == "issued" {
            assert!(matches!(full.status, 200 | 201), "{file}: {}", full.text());
        } else {
            assert_eq!(full.slug(), slug, "{file}: {}", full.text());
            assert!([400, 413, 422].contains(&full.status), "{file}");
            assert_eq!(bare.slug(), slug, "{file}, bare: {}", bare.text());
        }
    }
}

fn request_with_what_it_lacks(der: &[u8]) -> Value {
    let pem = pem(der);
    let mut subject = json!({ "C": "DE", "serialNumber": "SN0001", "CN": "dev-1" });
    // What the request says itself is not said again.
    if let Ok(request) = openssl::x509::X509Req::from_der(der) {
        for entry in request.subject_name().entries() {
            let name = entry
                .object()
                .nid()
                .short_name()
                .unwrap_or_default()
                .to_owned();
            subject.as_object_mut().unwrap().remove(&name);
        }
    }
    json!({ "profile": "workshop", "csr": pem, "subject": subject })
}

fn pem(der: &[u8]) -> String {
    let text = openssl::base64::encode_block(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    )
}

#[test]
fn a_refused_request_makes_no_hsm_call() {
    // A world of its own: others issue in the shared one.
    let own = crate::support::world::OwnWorld::running();
    let calls = || {
        own.world
            .metric("certfactory_hsm_calls_total{purpose=\"certificate\"}")
    };
    let station = own.world.client("station-01");
    let before = calls();
    for entry in std::fs::read_dir(data("csr")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|x| x == "der")
            && !["good.der", "empty_subject.der"].contains(&name.as_str())
        {
            let response =
                station.issue(&request_with_what_it_lacks(&std::fs::read(&path).unwrap()));
            assert!((400..500).contains(&response.status), "{name}");
        }
    }
    for case in bad_subjects() {
        let device = Device::p256();
        let response = station.issue(
            &json!({ "profile": case["profile"], "csr": device.csr(), "subject": case["subject"] }),
        );
        assert_eq!(response.status, 422, "{case}");
    }
    assert_eq!(calls(), before);
    assert_eq!(own.world.sql("SELECT count(*) FROM intent"), "0");
    let issued = station.issue(&Device::p256().request("lightbulb"));
    assert_eq!(issued.status, 201);
    assert_eq!(calls(), before + 1.0);
}

fn bad_subjects() -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(data("bad_subjects.json")).unwrap()).unwrap()
}

#[test]
fn every_bad_subject_gets_its_rule() {
    let station = shared().client("station-01");
    let cases = bad_subjects();
    assert!(cases.len() >= 40);
    for case in cases {
        let device = Device::p256();
        let response = station.issue(
            &json!({ "profile": case["profile"], "csr": device.csr(), "subject": case["subject"] }),
        );
        assert_eq!(
            response.slug(),
            case["problem"].as_str().unwrap(),
            "{case}: {}",
            response.text()
        );
        let problem = response.json();
        let found = problem["violations"]
            .as_array()
            .unwrap()
            .iter()
            .any(|v| v["rule"] == case["rule"] && v["attribute"] == case["attribute"]);
        assert!(found, "{case}: {problem}");
    }
}

#[test]
fn bodies_that_are_no_request_are_told_apart() {
    let station = shared().client("station-01");
    let csr = Device::p256().csr();
    let with = |extra: Value| {
        let mut body = json!({ "profile": "lightbulb", "csr": csr });
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        body.to_string()
    };
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let cases: Vec<(String, u16, &str)> = vec![
        (String::new(), 400, "malformed-json"),
        ("{".into(), 400, "malformed-json"),
        (with(json!({})) + "x", 400, "malformed-json"),
        ("\u{feff}{}".into(), 400, "malformed-json"),
        ("NaN".into(), 400, "malformed-json"),
        (deep, 400, "invalid-field"),
        (with(json!({ "ca": true })), 400, "unknown-field"),
        (with(json!({ "not_after": "2099" })), 400, "unknown-field"),
        (
            json!({ "profile": "lightbulb" }).to_string(),
            400,
            "invalid-field",
        ),
        (with(json!({ "profile": 1 })), 400, "invalid-field"),
        (with(json!({ "csr": null })), 400, "invalid-field"),
        (
            format!(
                "{{\"profile\":\"a\",\"profile\":\"b\",\"csr\":{}}}",
                json!(csr)
            ),
            400,
            "invalid-field",
        ),
        (
            with(json!({ "subject": { "CN": 7 } })),
            400,
            "invalid-field",
        ),
        (
            // Two values for one attribute: neither is taken.
            format!(
                "{{\"profile\":\"lightbulb\",\"csr\":{},\"subject\":{{\"CN\":\"a\",\"CN\":\"b\"}}}}",
                json!(csr)
            ),
            400,
            "invalid-field",
        ),
        (with(json!({ "order": "" })), 400, "invalid-field"),
        (with(json!({ "order": "a b" })), 400, "invalid-field"),
        (
            with(json!({ "profile": "nonesuch" })),
            422,
            "unknown-profile",
        ),
        (with(json!({ "csr": "hello" })), 400, "malformed-csr"),
        (
            with(json!({ "csr": format!("{csr}{csr}") })),
            400,
            "malformed-csr",
        ),
        (
            with(json!({ "csr": format!("note\n{csr}") })),
            400,
            "malformed-csr",
        ),
    ];
    for (body, status, slug) in cases {
        let response = station.post(body.as_bytes());
        assert_eq!(
            (response.status, response.slug().as_str()),
            (status, slug),
            "{}: {}",
            &body[..body.len().min(120)],
            response.text()
        );
    }
    refused(&station.post(&[b'a'; 70_000]), 413, "payload-too-large");
    let chunked = station.send(
        "POST",
        "/v1/certificates",
        &[
            ("Content-Type", "application/json"),
            ("Transfer-Encoding", "chunked"),
        ],
        Some(&[b'a'; 70_000]),
    );
    refused(&chunked, 413, "payload-too-large");
}

#[test]
fn a_private_key_is_an_incident_of_its_own() {
    let station = shared().client("station-01");
    let device = Device::p256();
    let key = String::from_utf8(device.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    for csr in [
        key.clone(),
        device.csr() + &key,
        String::from_utf8(device.key.ec_key().unwrap().private_key_to_pem().unwrap()).unwrap(),
    ] {
        refused(
            &station.issue(&json!({ "profile": "lightbulb", "csr": csr })),
            422,
            "private-key-submitted",
        );
    }
    let der = device.key.private_key_to_der().unwrap();
    let bare = station.send(
        "POST",
        "/v1/certificates?profile=lightbulb",
        &[("Content-Type", "application/pkcs10")],
        Some(&der),
    );
    refused(&bare, 422, "private-key-submitted");
}

#[test]
fn media_types_methods_and_addresses_have_their_problems() {
    let station = shared().client("station-01");
    let post =
        |headers: &[(&str, &str)], path: &str| station.send("POST", path, headers, Some(b"{}"));
    refused(
        &post(&[("Content-Type", "text/plain")], "/v1/certificates"),
        415,
        "unsupported-media-type",
    );
    refused(
        &post(
            &[
                ("Content-Type", "application/json"),
                ("Content-Encoding", "gzip"),
            ],
            "/v1/certificates",
        ),
        415,
        "unsupported-media-type",
    );
    refused(
        &post(
            &[
                ("Content-Type", "application/json"),
                ("Accept", "text/html"),
            ],
            "/v1/certificates",
        ),
        406,
        "not-acceptable",
    );
    refused(
        &post(
            &[("Content-Type", "application/pkcs10")],
            "/v1/certificates",
        ),
        400,
        "invalid-parameter",
    );
    refused(
        &post(
            &[("Content-Type", "application/pkcs10")],
            "/v1/certificates?profile=lightbulb&x=1",
        ),
        400,
        "invalid-parameter",
    );
    refused(&station.get("/nonesuch"), 404, "not-found");
    refused(&station.get("/metrics"), 404, "not-found");
    refused(&station.get("/v1/certificates/00"), 404, "not-found");
    refused(&station.get("/v1/certificates/%00"), 404, "not-found");
    let response = station.send("DELETE", "/v1/certificates", &[], None);
    refused(&response, 405, "method-not-allowed");
    assert_eq!(response.header("allow"), Some("GET, POST"));
    assert_eq!(
        station.send("POST", "/v1/issuers", &[], Some(b"")).slug(),
        "method-not-allowed"
    );
}

#[test]
fn a_subject_named_twice_must_agree() {
    let station = shared().client("station-01");
    let device = Device::p256();
    let csr = device.csr_with(&[("CN", "someone-else")]);
    refused(
        &station.issue(&json!({ "profile": "lightbulb", "csr": csr, "subject": device.subject() })),
        422,
        "subject-mismatch",
    );
}

#[test]
fn a_key_of_another_kind_than_the_profile_takes_is_refused() {
    let station = shared().client("station-01");
    refused(
        &station.issue(&Device::rsa2048().request("lightbulb")),
        422,
        "key-type",
    );
    assert_eq!(
        station.issue(&Device::rsa2048().request("workshop")).status,
        201
    );
}
