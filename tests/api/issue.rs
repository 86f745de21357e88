//! `POST /v1/certificates`: the certificate, and what a repeated request gets.

use serde_json::json;

use crate::support::device::Device;
use crate::support::world::{issued, shared};

#[test]
fn a_station_gets_a_certificate_that_is_as_the_contract_says() {
    let station = shared().client("station-01");
    let device = Device::p256();
    let response = station.issue(&device.request("lightbulb"));
    assert_eq!(response.status, 201, "{response:?}");
    let body = issued(&response);
    let serial = body["serial_number"].as_str().unwrap();
    assert_eq!(
        response.header("location").unwrap(),
        format!("/v1/certificates/{serial}")
    );
    assert!(
        serial.len() == 32
            && serial
                .chars()
                .all(|c| c.is_ascii_hexdigit() && !c.is_uppercase())
    );
    assert_eq!(body["profile"], "lightbulb");
    assert_eq!(body["issuer"], "line-ec");
    assert_eq!(body["station"], "station-01");
    assert_eq!(body["order"], json!(null));
    assert_eq!(body["status"], "issued");
    assert_eq!(body["thing_name"], device.name);
    assert_eq!(body["subject"], json!(device.subject()));
    assert!(body["log_index"].as_i64().is_some());
    let certificate =
        openssl::x509::X509::from_pem(body["certificate"].as_str().unwrap().as_bytes()).unwrap();
    let fingerprint: String = certificate
        .digest(openssl::hash::MessageDigest::sha256())
        .unwrap()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(body["fingerprint_sha256"], fingerprint);
    assert!(certificate.public_key().unwrap().public_eq(&device.key));
    assert_eq!(body["ca_chain"].as_array().unwrap().len(), 1);
}

#[test]
fn the_same_request_gets_the_same_bytes() {
    let station = shared().client("station-01");
    let device = Device::p256();
    let first = issued(&station.issue(&device.request("lightbulb")));
    // A new signature over the request, even: the meaning is the same.
    let second = station.issue(&device.request("lightbulb"));
    assert_eq!(second.status, 200);
    assert_eq!(second.header("idempotency-replayed"), Some("true"));
    assert_eq!(second.json(), first);
}

#[test]
fn sixty_four_identical_requests_at_once_make_one_certificate() {
    let world = shared();
    let device = Device::p256();
    let request = device.request("lightbulb");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|_| scope.spawn(|| world.client("station-01").issue(&request)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let created = answers.iter().filter(|a| a.status == 201).count();
    assert_eq!(created, 1);
    let first = issued(&answers[0]);
    for answer in &answers {
        assert_eq!(issued(answer), first);
    }
    assert_eq!(
        world.sql(&format!(
            "SELECT count(*) FROM intent WHERE device = '{}'",
            device.name
        )),
        "1"
    );
}

#[test]
fn another_key_for_the_same_device_is_a_conflict_that_names_the_serial() {
    let station = shared().client("station-01");
    let device = Device::p256();
    let first = issued(&station.issue(&device.request("lightbulb")));
    let response = station.issue(&device.rekeyed().request("lightbulb"));
    assert_eq!(
        (response.status, response.slug().as_str()),
        (409, "device-already-certified")
    );
    assert!(
        response
            .text()
            .contains(first["serial_number"].as_str().unwrap())
    );
}

#[test]
fn the_same_key_for_another_device_is_a_conflict() {
    let station = shared().client("station-01");
    let device = Device::p256();
    issued(&station.issue(&device.request("lightbulb")));
    let other = Device {
        name: format!("{}-b", device.name),
        key: device.key.clone(),
    };
    let response = station.issue(&other.request("lightbulb"));
    assert_eq!(
        (response.status, response.slug().as_str()),
        (409, "public-key-already-certified")
    );
}

#[test]
fn an_idempotency_key_stands_for_one_request() {
    let world = shared();
    let station = world.client("station-01");
    let device = Device::p256();
    fn headers(key: &str) -> [(&str, &str); 2] {
        [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        ]
    }
    let key = device.name.clone();
    let post = |body: &serde_json::Value, key: &str| {
        station.send(
            "POST",
            "/v1/certificates",
            &headers(key),
            Some(body.to_string().as_bytes()),
        )
    };
    let first = post(&device.request("lightbulb"), &key);
    assert_eq!(first.status, 201);
    let again = post(&device.request("lightbulb"), &key);
    assert_eq!((again.status, again.json()), (200, first.json()));
    let other = post(&Device::p256().request("lightbulb"), &key);
    assert_eq!(
        (other.status, other.slug().as_str()),
        (422, "idempotency-key-reused")
    );
    // Order and white space are no content.
    let body = device.request("lightbulb");
    let turned = format!(
        "{{ \"subject\": {}, \"csr\": {},\r\n\t\"profile\": {} }}",
        body["subject"], body["csr"], body["profile"]
    );
    let same = station.send(
        "POST",
        "/v1/certificates",
        &headers(&key),
        Some(turned.as_bytes()),
    );
    assert_eq!((same.status, same.json()), (200, first.json()));
    // What was refused has no memory: put right, the same key will do.
    let late = Device::p256();
    let mut wrong = late.request("lightbulb");
    wrong["subject"]["C"] = "Germany".into();
    assert_eq!(post(&wrong, &late.name).status, 422);
    assert_eq!(post(&late.request("lightbulb"), &late.name).status, 201);
    // The key is the principal's own.
    let operator = world.client("operator").send(
        "POST",
        "/v1/certificates",
        &headers(&key),
        Some(Device::p256().request("lightbulb").to_string().as_bytes()),
    );
    assert_eq!(operator.status, 201);
    for bad in ["", &"x".repeat(129), "caf\u{e9}"] {
        let refused = post(&Device::p256().request("lightbulb"), bad);
        // curl drops a header without a value.
        if !bad.is_empty() {
            assert_eq!(
                (refused.status, refused.slug().as_str()),
                (400, "invalid-idempotency-key")
            );
        }
    }
}

#[test]
fn names_of_devices_are_compared_octet_by_octet() {
    let station = shared().client("station-01");
    let device = Device::p256();
    let (lower, upper) = (device.name.clone(), device.name.to_uppercase());
    let mut serials = std::collections::BTreeSet::new();
    for name in [
        &lower,
        &upper,
        &format!("{lower}-0"),
        &format!("{lower}-00"),
    ] {
        let mut request = Device::p256().request("lightbulb");
        request["subject"]["CN"] = name.as_str().into();
        let body = issued(&station.issue(&request));
        assert_eq!(body["subject"]["CN"], name.as_str());
        serials.insert(body["serial_number"].as_str().unwrap().to_owned());
    }
    assert_eq!(serials.len(), 4);
}

#[test]
fn a_bare_request_will_do_in_pem_and_in_der() {
    let station = shared().client("station-01");
    for der in [false, true] {
        let device = Device::p256();
        let subject = device.subject();
        let pem = device.csr_with(&[
            ("CN", &subject["CN"]),
            ("C", "DE"),
            ("serialNumber", &subject["serialNumber"]),
        ]);
        let body = if der {
            openssl::x509::X509Req::from_pem(pem.as_bytes())
                .unwrap()
                .to_der()
                .unwrap()
        } else {
            pem.into_bytes()
        };
        shared().order("WO-17", "lightbulb");
        let response = station.send(
            "POST",
            "/v1/certificates?profile=lightbulb&order=WO-17",
            &[("Content-Type", "application/pkcs10")],
            Some(&body),
        );
        assert_eq!(response.status, 201, "{response:?}");
        assert_eq!(issued(&response)["order"], "WO-17");
    }
}

#[test]
fn the_certificate_comes_in_the_form_that_is_accepted() {
    let station = shared().client("station-01");
    let device = Device::p256();
    let headers = [
        ("Content-Type", "application/json"),
        ("Accept", "application/x-pem-file"),
    ];
    let pem = station.send(
        "POST",
        "/v1/certificates",
        &headers,
        Some(device.request("workshop").to_string().as_bytes()),
    );
    assert_eq!(
        (pem.status, pem.header("content-type")),
        (201, Some("application/x-pem-file"))
    );
    assert_eq!(pem.text().matches("BEGIN CERTIFICATE").count(), 2);
    let path = pem.header("location").unwrap().to_owned();
    let der = station.get_as(&path, "application/pkix-cert");
    let leaf = openssl::x509::X509::from_der(&der.body).unwrap();
    assert_eq!(
        openssl::x509::X509::stack_from_pem(&pem.body).unwrap()[0],
        leaf
    );
    let json = station.get(&path).json();
    assert_eq!(
        openssl::x509::X509::from_pem(json["certificate"].as_str().unwrap().as_bytes()).unwrap(),
        leaf
    );
    assert_eq!(json["not_after"], "9999-12-31T23:59:59Z");
    let refused = station.get_as(&path, "image/png");
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (406, "not-acceptable")
    );
}
