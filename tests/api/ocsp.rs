//! `/ocsp/{issuer}` on the repository listener, asked by `openssl ocsp`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::{World, issued, shared};

fn issue(world: &World, profile: &str) -> Value {
    let station = world.client("station-01");
    issued(&station.issue(&Device::p256().request(profile)))
}

/// Runs `openssl ocsp` about an issuer's certificates; returns all that it says.
fn ask(world: &World, issuer: &str, more: &[&str]) -> String {
    let ca = world.dir.join(format!("issuers/{issuer}.pem"));
    let output = Command::new("openssl")
        .args(["ocsp", "-issuer"])
        .arg(&ca)
        .arg("-CAfile")
        .arg(&ca)
        .args(more)
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn status(world: &World, issuer: &str, serial: &str, more: &[&str]) -> String {
    let url = format!("{}/ocsp/{issuer}", world.repository);
    let serial = format!("0x{serial}");
    let asked = ["-url", &url, "-serial", &serial];
    let said = ask(world, issuer, &[more, &asked[..]].concat());
    assert!(said.contains("Response verify OK"), "{said}");
    let line = said.lines().find(|line| line.starts_with(&serial));
    let (_, status) = line
        .unwrap_or_else(|| panic!("{said}"))
        .split_once(": ")
        .unwrap();
    assert!(!said.contains("no nonce"), "{said}");
    status.to_owned()
}

/// A request in a file, as `openssl ocsp` makes it.
fn request(world: &World, issuer: &str, serial: &str, dir: &Path) -> Vec<u8> {
    let file = dir.join("request.der");
    let serial = format!("0x{serial}");
    let written = [
        "-serial",
        &serial,
        "-no_nonce",
        "-reqout",
        file.to_str().unwrap(),
    ];
    ask(world, issuer, &written);
    std::fs::read(file).unwrap()
}

fn post(world: &World, issuer: &str, request: &[u8]) -> Response {
    let headers = [("Content-Type", "application/ocsp-request")];
    let path = format!("/ocsp/{issuer}");
    world
        .repository()
        .send("POST", &path, &headers, Some(request))
}

#[test]
fn openssl_is_told_good_revoked_and_unknown_with_and_without_a_nonce() {
    let world = shared();
    for (profile, issuer) in [("lightbulb", "line-ec"), ("workshop", "line-rsa")] {
        let body = issue(world, profile);
        let serial = body["serial_number"].as_str().unwrap();
        for more in [&[][..], &["-no_nonce"], &["-sha256"]] {
            let said = status(world, issuer, serial, more);
            assert_eq!(said, "good", "{more:?}");
        }
        world.revoke(&body, "keyCompromise");
        // Who brings a nonce gets the state of the moment, who does not within two seconds.
        assert_eq!(status(world, issuer, serial, &[]), "revoked");
        let start = Instant::now();
        while status(world, issuer, serial, &["-no_nonce"]) != "revoked" {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(100));
        }
        let stranger = "01000000000000000000000000000001";
        for serial in [stranger, "7fffffff"] {
            assert_eq!(status(world, issuer, serial, &[]), "unknown");
        }
        // The other issuer's certificate is not this one's.
        let other = issue(
            world,
            if profile == "workshop" {
                "lightbulb"
            } else {
                "workshop"
            },
        );
        let serial = other["serial_number"].as_str().unwrap();
        assert_eq!(status(world, issuer, serial, &[]), "unknown");
    }
}

#[test]
fn the_same_question_gets_the_same_answer_by_get_and_by_post() {
    let world = shared();
    let dir = TempDir::new().unwrap();
    let body = issue(world, "lightbulb");
    let serial = body["serial_number"].as_str().unwrap();
    let request = request(world, "line-ec", serial, dir.path());
    let posted = post(world, "line-ec", &request);
    assert_eq!(posted.status, 200);
    assert_eq!(
        posted.header("content-type"),
        Some("application/ocsp-response")
    );
    assert_eq!(
        posted.header("cache-control"),
        Some("public, max-age=2, must-revalidate")
    );
    let encoded = STANDARD.encode(&request);
    let percent = encoded
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    for text in [&encoded, &percent] {
        let got = world.repository().get(&format!("/ocsp/line-ec/{text}"));
        assert_eq!((got.status, &got.body), (200, &posted.body), "{text}");
    }
    // Past the next look at the ledger it is the same still: nothing was signed anew.
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(post(world, "line-ec", &request).body, posted.body);
    assert!(
        world.metric("certfactory_ocsp_answers_total{issuer=\"line-ec\",source=\"kept\"}") >= 3.0
    );
}

#[test]
fn what_cannot_be_answered_is_refused_without_a_signature() {
    let world = shared();
    let dir = TempDir::new().unwrap();
    let refused = |answer: Response| {
        assert_eq!((answer.status, answer.body.len()), (200, 5), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer.body[4]
    };
    let serial = "01000000000000000000000000000001";
    let request = request(world, "line-rsa", serial, dir.path());
    // About another issuer's certificates: unauthorized.
    assert_eq!(refused(post(world, "line-ec", &request)), 6);
    // malformedRequest
    assert_eq!(refused(post(world, "line-ec", b"")), 1);
    assert_eq!(refused(post(world, "line-ec", &request[1..])), 1);
    let got = world.repository().get("/ocsp/line-ec/not-base64!");
    assert_eq!(refused(got), 1);
    let repository = world.repository();
    let send = |path: &str, media_type: &str, body: &[u8]| {
        repository
            .send("POST", path, &[("Content-Type", media_type)], Some(body))
            .status
    };
    assert_eq!(send("/ocsp/line-ec", "application/json", &request), 415);
    assert_eq!(
        send("/ocsp/nobody", "application/ocsp-request", &request),
        404
    );
    let long = vec![0; 5_000];
    assert_eq!(
        send("/ocsp/line-ec", "application/ocsp-request", &long),
        413
    );
    assert_eq!(repository.get("/ocsp/line-ec").status, 405);
}
