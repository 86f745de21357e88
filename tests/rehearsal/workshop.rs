//! The workshop of AWS, end to end: OpenSSL makes the device, the service issues, mosquitto connects.

use std::process::Command;

use crate::bench::{Bench, Endpoint, Identity, certificate_id, openssl};
use crate::support::world::{issued, shared};

#[test]
fn the_workshops_device_fails_at_the_first_connect_and_succeeds_at_the_second() {
    let (world, bench) = (shared(), Bench::new());
    let (key, csr) = (bench.path("device.key"), bench.path("device.csr"));
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        &key,
        "-out",
        &csr,
        "-subj",
        "/C=DE/CN=my-jitp-device",
    ]);
    let station = world.client("station-01");
    let csr = std::fs::read_to_string(csr).unwrap();
    let answer = issued(&station.issue(&serde_json::json!({ "profile": "workshop", "csr": csr })));
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    // leaf and CA, as DOC-1 of the workshop has the device send
    let chain = format!(
        "{}{}",
        text("certificate"),
        answer["ca_chain"][0].as_str().unwrap()
    );
    bench.write("device.pem", &chain);
    let device = Identity {
        certificate: bench.file("device.pem"),
        key: bench.file("device.key"),
    };
    assert_eq!(
        certificate_id(&device.certificate),
        text("fingerprint_sha256")
    );

    let policy = format!("FactoryDevicePolicy={}", bench.path("policy.json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_certfactory"));
    command
        .env("CERTFACTORY_CONFIG", world.dir.join("config.toml"))
        .args([
            "jitp",
            "rehearse",
            "--profile",
            "workshop",
            "--policy",
            &policy,
        ]);
    let endpoint = Endpoint::start(command, bench.file("endpoint-ca.pem"));
    let (id, topic) = ("my-jitp-device", "factory/my-jitp-device/state");

    let first = endpoint.publish(&device, id, topic);
    assert!(!first.status.success(), "{first:?}");
    let made = endpoint.wait("provisioned");
    assert_eq!(made["thing_name"], answer["thing_name"]);
    assert_eq!(made["certificate_id"], answer["fingerprint_sha256"]);
    assert_eq!(made["groups"], serde_json::json!(["bulk-group"]));
    assert_eq!(made["attributes"], serde_json::json!({ "Country": "DE" }));
    assert_eq!(made["policies"], serde_json::json!(["FactoryDevicePolicy"]));
    assert_eq!(made["certificate_status"], "ACTIVE");
    assert_eq!(endpoint.count("connected"), 0);

    let second = endpoint.publish(&device, id, topic);
    assert!(
        second.status.success(),
        "{second:?} {:#?}",
        endpoint.steps()
    );
    let connected = endpoint.wait("connected");
    assert_eq!(connected["client_id"], id);
    assert_eq!(connected["thing_name"], answer["thing_name"]);
    assert_eq!(endpoint.wait("published")["topic"], topic);

    let accepted = endpoint.wait("tls-accepted");
    assert_eq!(accepted["sni"], "localhost");
    assert_eq!(accepted["issuer"], "line-rsa");
    assert_eq!(accepted["subject"], "C=DE, CN=my-jitp-device");
}
