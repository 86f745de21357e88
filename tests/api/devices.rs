//! `GET /v1/devices/{certificate_id}`: the look-up a Lambda makes.

use openssl::x509::X509;
use serde_json::json;

use crate::support::device::Device;
use crate::support::world::{issued, shared};

#[test]
fn a_device_is_found_by_the_hash_of_its_certificate() {
    let world = shared();
    let device = Device::p256();
    let mut request = device.request("lightbulb");
    world.order(&format!("WO-{}", device.name), "lightbulb");
    request["order"] = format!("WO-{}", device.name).into();
    let body = issued(&world.client("station-01").issue(&request));
    let der = X509::from_pem(body["certificate"].as_str().unwrap().as_bytes())
        .unwrap()
        .to_der()
        .unwrap();
    let id: String = openssl::sha::sha256(&der)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let expected = json!({
        "certificate_id": id,
        "serial_number": body["serial_number"],
        "status": "issued",
        "device": device.name,
        "thing_name": device.name,
        "subject": device.subject(),
        "profile": "lightbulb",
        "issuer": "line-ec",
        "order": format!("WO-{}", device.name),
        "not_after": body["not_after"],
        "issued_at": body["issued_at"],
    });
    for name in ["station-01", "operator", "auditor", "administrator"] {
        let answer = world.client(name).get(&format!("/v1/devices/{id}"));
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json(), expected, "{name}");
        assert!(answer.body.len() < 600, "made for a small answer");
    }
}

#[test]
fn a_station_sees_its_own_and_nobody_sees_nothing() {
    let world = shared();
    let body = issued(
        &world
            .client("operator")
            .issue(&Device::p256().request("lightbulb")),
    );
    let path = format!(
        "/v1/devices/{}",
        body["fingerprint_sha256"].as_str().unwrap()
    );
    let answer = world.client("station-01").get(&path);
    assert_eq!((answer.status, answer.slug().as_str()), (404, "not-found"));
    let answer = world.nobody().get(&path);
    assert_eq!(
        (answer.status, answer.slug().as_str()),
        (401, "client-certificate-required")
    );
}

#[test]
fn what_was_never_issued_is_not_found_and_what_is_no_certificate_id_is_refused() {
    let auditor = shared().client("auditor");
    let unknown = auditor.get(&format!("/v1/devices/{}", "5e".repeat(32)));
    assert_eq!(
        (unknown.status, unknown.slug().as_str()),
        (404, "not-found")
    );
    for bad in [
        "5e".repeat(31),
        "5E".repeat(32),
        "+5".repeat(32),
        format!("0x{}", "5e".repeat(31)),
        format!("{}%00", "5e".repeat(32)),
        "%C3%A9".repeat(32),
    ] {
        let answer = auditor.get(&format!("/v1/devices/{bad}"));
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (400, "invalid-parameter"),
            "{bad}"
        );
    }
    let posted = auditor.send(
        "POST",
        &format!("/v1/devices/{}", "5e".repeat(32)),
        &[],
        None,
    );
    assert_eq!(posted.slug(), "method-not-allowed");
    assert_eq!(posted.header("allow"), Some("GET"));
}
