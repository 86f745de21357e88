//! `POST /v1/issuers/{name}/verification-certificates`: for an administrator, for no device.

use std::process::Command;

use openssl::x509::{X509, X509VerifyResult};
use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::{OwnWorld, shared};

/// A registration code nobody else has: with capitals, to see them kept.
fn code() -> String {
    let mut octets = [0; 32];
    openssl::rand::rand_bytes(&mut octets).unwrap();
    let digits: String = octets.iter().map(|b| format!("{b:02x}")).collect();
    digits[..32].to_uppercase() + &digits[32..]
}

fn ask_as(who: &str, issuer: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let mut all = vec![("Content-Type", "application/json")];
    all.extend(headers);
    let path = format!("/v1/issuers/{issuer}/verification-certificates");
    shared().client(who).send("POST", &path, &all, Some(body))
}

fn ask(issuer: &str, headers: &[(&str, &str)], code: &str) -> Response {
    let body = json!({ "registration_code": code }).to_string();
    ask_as("administrator", issuer, headers, body.as_bytes())
}

fn made(response: &Response) -> Value {
    assert_eq!(response.status, 201, "{response:?}");
    response.json()
}

fn x509(body: &Value) -> X509 {
    X509::from_pem(body["certificate"].as_str().unwrap().as_bytes()).unwrap()
}

#[test]
fn an_administrator_gets_a_certificate_as_aws_iot_asks_for_it() {
    for issuer in ["line-ec", "line-rsa"] {
        let code = code();
        let answer = ask(issuer, &[], &code);
        let body = made(&answer);
        let serial = body["serial_number"].as_str().unwrap();
        assert_eq!(
            answer.header("location").unwrap(),
            format!("/v1/certificates/{serial}")
        );
        assert_eq!(body["kind"], "verification");
        assert_eq!(body["issuer"], issuer);
        assert_eq!(body["registration_code"], code);
        assert!(body["log_index"].as_i64().is_some());
        let time = |name: &str| {
            chrono::DateTime::parse_from_rfc3339(body[name].as_str().unwrap()).unwrap()
        };
        let seconds = (time("not_after") - time("not_before")).num_seconds();
        assert_eq!(seconds, 86_399, "both ends belong to it");
        assert!((time("issued_at") - time("not_before")).num_seconds().abs() <= 5);

        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("verification.pem");
        std::fs::write(&file, body["certificate"].as_str().unwrap()).unwrap();
        let authority = shared().dir.join(format!("issuers/{issuer}.pem"));
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-check_ss_sig", "-CAfile"])
            .arg(&authority)
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-text", "-nameopt", "oneline", "-in"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for expected in [
            &format!("Subject: CN = {code}\n"),
            "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "X509v3 Subject Key Identifier: \n",
            "X509v3 Authority Key Identifier: \n",
            "NIST CURVE: P-256\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(!text.contains("Extended Key Usage"), "{text}");
        assert!(text.contains("CRL Distribution"), "{text}");

        let authority = X509::from_pem(&std::fs::read(authority).unwrap()).unwrap();
        assert_eq!(authority.issued(&x509(&body)), X509VerifyResult::OK);
    }
}

#[test]
fn pem_and_der_are_the_certificate_alone() {
    let code = code();
    let pem = ask("line-ec", &[("Accept", "application/x-pem-file")], &code);
    assert_eq!(
        (pem.status, pem.header("content-type")),
        (201, Some("application/x-pem-file"))
    );
    assert_eq!(X509::stack_from_pem(&pem.body).unwrap().len(), 1);
    let der = ask("line-ec", &[("Accept", "application/pkix-cert")], &code);
    X509::from_der(&der.body).unwrap();
    let refused = ask("line-ec", &[("Accept", "image/png")], &code);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (406, "not-acceptable")
    );
}

#[test]
fn nobody_but_an_administrator_may() {
    let body = json!({ "registration_code": code() }).to_string();
    for who in ["station-01", "operator", "auditor"] {
        // Also for an issuer that is not there: who may not ask learns nothing.
        for issuer in ["line-ec", "nonesuch"] {
            let answer = ask_as(who, issuer, &[], body.as_bytes());
            assert_eq!(
                (answer.status, answer.slug().as_str()),
                (403, "forbidden"),
                "{who}"
            );
        }
    }
    let path = "/v1/issuers/line-ec/verification-certificates";
    let headers = [("Content-Type", "application/json")];
    let nobody = shared().nobody();
    let answer = nobody.send("POST", path, &headers, Some(body.as_bytes()));
    assert_eq!(
        (answer.status, answer.slug().as_str()),
        (401, "client-certificate-required")
    );
    let get = shared().client("administrator").get(path);
    assert_eq!(
        (get.status, get.slug().as_str(), get.header("allow")),
        (405, "method-not-allowed", Some("POST"))
    );
}

#[test]
fn what_is_no_registration_code_is_refused_for_its_own_fault() {
    let code = code();
    let with = |code: &str| json!({ "registration_code": code }).to_string();
    for (body, slug) in [
        (with(""), "invalid-field"),
        (with(&code[1..]), "invalid-field"),
        (with(&format!("{code}0")), "invalid-field"),
        (with(&format!("0x{}", &code[2..])), "invalid-field"),
        (with(&format!("{}g", &code[1..])), "invalid-field"),
        (with(&format!("{}\n", &code[1..])), "invalid-field"),
        (with(&format!("{}\u{0}", &code[1..])), "invalid-field"),
        (with(&"\u{ff11}".repeat(64)), "invalid-field"),
        (with(&"a".repeat(60_000)), "invalid-field"),
        (
            json!({ "registration_code": 7 }).to_string(),
            "invalid-field",
        ),
        (
            json!({ "registration_code": null }).to_string(),
            "invalid-field",
        ),
        ("{}".to_owned(), "invalid-field"),
        (
            format!("{{\"registration_code\":\"{code}\",\"registration_code\":\"{code}\"}}"),
            "invalid-field",
        ),
        (
            json!({ "registration_code": code, "csr": "x" }).to_string(),
            "unknown-field",
        ),
        (
            json!({ "registration_code": code, "days": 500 }).to_string(),
            "unknown-field",
        ),
        ("{".to_owned(), "malformed-json"),
        (String::new(), "malformed-json"),
    ] {
        let answer = ask_as("administrator", "line-ec", &[], body.as_bytes());
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (400, slug),
            "{body:.200}"
        );
    }
    let good = with(&code);
    let administrator = shared().client("administrator");
    let path = "/v1/issuers/line-ec/verification-certificates";
    let json = [("Content-Type", "application/json")];
    for (path, headers, status, slug) in [
        (
            "/v1/issuers/nonesuch/verification-certificates",
            &json[..],
            404,
            "not-found",
        ),
        (
            &format!("{path}?days=500"),
            &json[..],
            400,
            "invalid-parameter",
        ),
        (
            path,
            &[("Content-Type", "text/plain")][..],
            415,
            "unsupported-media-type",
        ),
        (
            path,
            &[json[0], ("Content-Encoding", "gzip")][..],
            415,
            "unsupported-media-type",
        ),
        (
            path,
            &[json[0], ("Idempotency-Key", &"x".repeat(129))][..],
            400,
            "invalid-idempotency-key",
        ),
    ] {
        let answer = administrator.send("POST", path, headers, Some(good.as_bytes()));
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (status, slug),
            "{path}"
        );
    }
}

#[test]
fn a_code_is_used_as_often_as_it_is_needed_and_by_no_device() {
    let code = code();
    let mut device = Device::p256();
    device.name = code.clone();
    let before = made(&ask("line-ec", &[], &code));
    let station = shared().client("station-01");
    let refused = station.issue(&device.request("lightbulb"));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (422, "subject-invalid")
    );
    assert_eq!(refused.json()["violations"][0]["rule"], "registration-code");
    let bodies: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| made(&ask("line-ec", &[], &code))))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut serials: Vec<_> = bodies
        .iter()
        .map(|b| b["serial_number"].to_string())
        .collect();
    let mut keys: Vec<_> = bodies
        .iter()
        .map(|body| {
            x509(body)
                .public_key()
                .unwrap()
                .public_key_to_der()
                .unwrap()
        })
        .collect();
    serials.push(before["serial_number"].to_string());
    serials.sort();
    serials.dedup();
    keys.sort();
    keys.dedup();
    assert_eq!((serials.len(), keys.len()), (9, 8));
    // And a device that is called by a serial number of theirs.
    let mut other = Device::p256();
    other.name = before["serial_number"].as_str().unwrap().to_owned();
    assert_eq!(station.issue(&other.request("lightbulb")).status, 201);
}

#[test]
fn an_idempotency_key_stands_for_one_certificate() {
    let (code, key) = (code(), Device::p256().name);
    let headers = [("Idempotency-Key", key.as_str())];
    let first = made(&ask("line-ec", &headers, &code));
    let again = ask("line-ec", &headers, &code);
    assert_eq!(
        (again.status, again.header("idempotency-replayed")),
        (200, Some("true"))
    );
    assert_eq!(again.json(), first);
    for other in [
        ask("line-rsa", &headers, &code),
        ask("line-ec", &headers, &self::code()),
    ] {
        assert_eq!(
            (other.status, other.slug().as_str()),
            (422, "idempotency-key-reused")
        );
    }
}

#[test]
fn it_is_in_no_list_of_devices_and_an_auditor_finds_it() {
    let world = shared();
    let code = code();
    let body = made(&ask("line-ec", &[], &code));
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let spki = openssl::sha::sha256(
        &x509(&body)
            .public_key()
            .unwrap()
            .public_key_to_der()
            .unwrap(),
    );
    let spki: String = spki.iter().map(|b| format!("{b:02x}")).collect();
    let auditor = world.client("auditor");
    let queries = [
        format!("cn={code}"),
        format!("device={}", text("serial_number")),
        format!("serial_number={}", text("serial_number")),
        format!("fingerprint={}", text("fingerprint_sha256")),
        format!("spki={spki}"),
        format!("station=administrator&issued_after={}", text("issued_at")),
        "profile=verification_certificate".to_owned(),
    ];
    for query in &queries {
        for accept in ["application/json", "application/x-ndjson", "text/csv"] {
            for who in ["auditor", "operator"] {
                let path = format!("/v1/certificates?limit=1000&{query}");
                let found = world.client(who).get_as(&path, accept);
                assert_eq!(found.status, 200);
                assert!(
                    !found.text().contains(&text("serial_number")),
                    "{who} {query} {accept}"
                );
            }
        }
        for kind in ["verification", "any"] {
            let path = format!("/v1/certificates?limit=1000&{query}&kind={kind}");
            let page = auditor.get(&path).json();
            let items = page["items"].as_array().unwrap();
            let found = items
                .iter()
                .find(|i| i["serial_number"] == body["serial_number"]);
            assert_eq!(found.unwrap()["kind"], "verification", "{query}");
            if kind == "verification" {
                assert!(items.iter().all(|item| item["kind"] == "verification"));
            }
        }
    }
    let everything = auditor
        .get_as("/v1/certificates", "application/x-ndjson")
        .text();
    assert!(!everything.contains("\"kind\":\"verification\""));
    let refused = auditor.get("/v1/certificates?kind=claim");
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (400, "invalid-parameter")
    );
    let own = world
        .client("station-01")
        .get(&format!("/v1/certificates?kind=any&cn={code}"))
        .json();
    assert_eq!(own["items"], json!([]), "a station sees its own");

    let path = format!("/v1/certificates/{}", text("serial_number"));
    for who in ["auditor", "operator", "administrator"] {
        let shown = world.client(who).get(&path).json();
        assert_eq!(shown["kind"], "verification", "{who}");
        assert_eq!(shown["certificate"], body["certificate"]);
        assert_eq!(shown["log_index"], body["log_index"]);
        assert_eq!(shown["profile"], "verification_certificate");
        assert_eq!(shown["station"], "administrator");
        assert_eq!(shown["thing_name"], json!(null));
    }
    assert_eq!(world.client("station-01").get(&path).status, 404);
}

#[test]
fn it_takes_its_place_in_the_log_and_is_counted() {
    let own = OwnWorld::running();
    let administrator = own.world.client("administrator");
    let body = json!({ "registration_code": code() }).to_string();
    let verification = || {
        let answer = administrator.send(
            "POST",
            "/v1/issuers/line-ec/verification-certificates",
            &[("Content-Type", "application/json")],
            Some(body.as_bytes()),
        );
        made(&answer)["log_index"].as_i64().unwrap()
    };
    let station = own.world.client("station-01");
    let device = || {
        let answer = station.issue(&Device::p256().request("lightbulb"));
        made(&answer)["log_index"].as_i64().unwrap()
    };
    let first = device();
    let indexes = [
        verification(),
        device(),
        verification(),
        verification(),
        device(),
    ];
    // with what else happens between them
    assert!(first < indexes[0] && indexes.is_sorted(), "{indexes:?}");
    let lines = own
        .world
        .client("auditor")
        .get_as("/v1/certificates?kind=any", "application/x-ndjson")
        .text();
    let mut log: Vec<i64> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["log_index"]
                .as_i64()
                .unwrap()
        })
        .collect();
    log.sort_unstable();
    assert!(indexes.iter().all(|index| log.contains(index)), "{log:?}");
    let entries = "SELECT string_agg(log_index::text, ',' ORDER BY log_index) FROM log_entry
        WHERE leaf LIKE '%\"kind\":\"issued\"%'";
    let all: Vec<String> = log.iter().map(i64::to_string).collect();
    assert_eq!(own.world.sql(entries), all.join(","));

    let refused = own
        .world
        .metric("certfactory_issuance_refused_total{problem=\"forbidden\"}");
    station.send(
        "POST",
        "/v1/issuers/line-ec/verification-certificates",
        &[("Content-Type", "application/json")],
        Some(body.as_bytes()),
    );
    assert_eq!(
        own.world
            .metric("certfactory_issuance_refused_total{problem=\"forbidden\"}"),
        refused + 1.0
    );
    assert_eq!(
        own.world.metric(
            "certfactory_certificates_issued_total{issuer=\"line-ec\",profile=\"verification_certificate\"}"
        ),
        3.0
    );
    // The log has the request, and no PEM of a key.
    assert_eq!(
        own.world
            .sql("SELECT count(*) FROM intent WHERE kind = 'verification'"),
        "3"
    );
    assert!(
        !own.log().to_lowercase().contains("private"),
        "{}",
        own.log()
    );
}
