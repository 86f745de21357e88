//! What happens to a certificate after it was issued: `/confirmation`, `/challenge`,
//! `/supersession`, `/scrap`, `/revocation`, `/history`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::sign::Signer;
use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::{World, issued, shared};

fn post(world: &World, client: &str, serial: &str, what: &str, body: &Value) -> Response {
    let path = format!("/v1/certificates/{serial}/{what}");
    let headers = [("Content-Type", "application/json")];
    world
        .client(client)
        .send("POST", &path, &headers, Some(body.to_string().as_bytes()))
}

fn issue(world: &World, device: &Device) -> Value {
    issued(
        &world
            .client("station-01")
            .issue(&device.request("lightbulb")),
    )
}

fn serial(certificate: &Value) -> &str {
    certificate["serial_number"].as_str().unwrap()
}

fn confirm(world: &World, serial: &str, readback: &Value) -> Response {
    let body = json!({ "certificate": readback });
    post(world, "station-01", serial, "confirmation", &body)
}

fn rework(world: &World, serial: &str, device: &Device) -> Response {
    let body = json!({ "csr": device.csr(), "reason": "flash replaced" });
    post(world, "station-01", serial, "supersession", &body)
}

fn history(world: &World, serial: &str) -> Value {
    let path = format!("/v1/certificates/{serial}/history");
    let shown = world.client("station-01").get(&path);
    assert_eq!(shown.status, 200, "{shown:?}");
    shown.json()
}

fn events(life: &Value) -> Vec<&str> {
    let events = life["events"].as_array().unwrap();
    events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect()
}

/// The rules that a refused confirmation names.
fn rules(refused: &Response) -> Vec<String> {
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (422, "confirmation-mismatch"),
        "{refused:?}"
    );
    let violations = refused.json()["violations"].as_array().unwrap().clone();
    let rule = |violation: &Value| violation["rule"].as_str().unwrap().to_owned();
    violations.iter().map(rule).collect()
}

#[test]
fn a_unit_is_issued_confirmed_reworked_confirmed_again_and_scrapped() {
    let world = shared();
    let device = Device::p256();
    let first = issue(world, &device);
    let passed = confirm(world, serial(&first), &first["certificate"]);
    assert_eq!(passed.status, 200, "{passed:?}");
    assert_eq!(passed.json()["status"], "confirmed");
    let again = confirm(world, serial(&first), &first["certificate"]);
    assert_eq!(again.json(), passed.json(), "the first confirmation counts");

    let rekeyed = device.rekeyed();
    let made = rework(world, serial(&first), &rekeyed);
    assert_eq!(made.status, 201, "{made:?}");
    let second = made.json();
    assert_eq!(second["device"], device.name);
    assert_eq!(second["subject"], first["subject"]);
    assert_eq!(second["supersedes"], first["serial_number"]);
    let replayed = rework(world, serial(&first), &rekeyed);
    assert_eq!(
        (replayed.status, replayed.header("idempotency-replayed")),
        (200, Some("true"))
    );
    assert_eq!(replayed.json()["certificate"], second["certificate"]);
    // The same unit asked for in the plain way, with the key it has now, has its certificate, too.
    let plain = world
        .client("station-01")
        .issue(&rekeyed.request("lightbulb"));
    assert_eq!(plain.json()["certificate"], second["certificate"]);

    // Until the new one is confirmed the old one stays good.
    let old = history(world, serial(&first));
    assert_eq!(old["status"], "confirmed");
    assert_eq!(old["superseded_by"], second["serial_number"]);
    let passed = confirm(world, serial(&second), &second["certificate"]);
    assert_eq!(passed.status, 200, "{passed:?}");
    let old = history(world, serial(&first));
    assert_eq!(events(&old), ["issued", "confirmed", "superseded"]);
    assert_eq!(old["events"][2]["reason"], "superseded");
    assert_eq!(old["events"][2]["by"], "station-01");
    let new = history(world, serial(&second));
    assert_eq!(events(&new), ["issued", "confirmed"]);
    assert_eq!(new["events"][0]["comment"], "flash replaced");

    let reason = json!({ "reason": "case cracked" });
    let not_the_newest = post(world, "station-01", serial(&first), "scrap", &reason);
    assert_eq!(
        (not_the_newest.status, not_the_newest.slug().as_str()),
        (409, "rework-conflict")
    );
    for _ in 0..2 {
        let scrapped = post(world, "station-01", serial(&second), "scrap", &reason);
        assert_eq!(scrapped.status, 200, "{scrapped:?}");
        let life = scrapped.json();
        assert_eq!(events(&life), ["issued", "confirmed", "scrapped"]);
        assert_eq!(life["events"][2]["reason"], "cessationOfOperation");
        assert_eq!(life["events"][2]["comment"], "case cracked");
    }
    // A scrapped unit gets nothing any more, and what it had is still answered.
    let refused = rework(world, serial(&second), &device.rekeyed());
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (409, "rework-conflict")
    );
    let refused = world
        .client("station-01")
        .issue(&device.rekeyed().request("lightbulb"));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (409, "device-already-certified")
    );
    let replayed = world
        .client("station-01")
        .issue(&rekeyed.request("lightbulb"));
    assert_eq!(
        (replayed.status, &replayed.json()["status"]),
        (200, &json!("scrapped"))
    );
    let path = format!("/v1/certificates?device={}&status=scrapped", device.name);
    let found = world.client("auditor").get(&path).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let path = format!("/v1/certificates?device={}", device.name);
    let found = world.client("auditor").get(&path).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 2);
}

#[test]
fn what_differs_at_the_end_of_the_line_is_named_and_nothing_is_confirmed() {
    let world = shared();
    let (device, other) = (Device::p256(), Device::p256());
    let certificate = issue(world, &device);
    let others = issue(world, &other);
    let number = serial(&certificate);
    let pem = |certificate: &Value| certificate["certificate"].as_str().unwrap().to_owned();
    let chain = certificate["ca_chain"][0].as_str().unwrap().to_owned();

    let swapped = confirm(world, number, &others["certificate"]);
    assert_eq!(rules(&swapped), ["wrong-unit"]);
    let detail = swapped.json()["violations"][0]["detail"].to_string();
    assert!(detail.contains(&other.name), "{detail}");
    let foreign = confirm(world, number, &json!(chain));
    assert_eq!(rules(&foreign), ["wrong-key"]);
    let both = pem(&others) + &pem(&others);
    assert_eq!(
        rules(&confirm(world, number, &json!(both))),
        ["wrong-unit", "wrong-chain"]
    );
    // One octet of the signature is another one.
    let mut der = STANDARD
        .decode(
            pem(&certificate)
                .lines()
                .filter(|l| !l.starts_with('-'))
                .collect::<String>(),
        )
        .unwrap();
    *der.last_mut().unwrap() ^= 1;
    let path = format!("/v1/certificates/{number}/confirmation");
    let headers = [("Content-Type", "application/pkix-cert")];
    let altered = world
        .client("station-01")
        .send("POST", &path, &headers, Some(&der));
    assert_eq!(rules(&altered), ["altered-certificate"]);
    assert_eq!(events(&history(world, number)), ["issued"]);
    let path = format!("/v1/certificates?status=issued&device={}", device.name);
    let waiting = world.client("operator").get(&path).json();
    assert_eq!(waiting["items"][0]["serial_number"], number);
    assert!(waiting["items"][0]["unconfirmed_seconds"].as_i64().unwrap() < 60);

    for (body, slug) in [
        (json!({ "certificate": "hello" }), "invalid-field"),
        (
            json!({ "certificate": pem(&certificate), "nonce": "00" }),
            "invalid-field",
        ),
        (
            json!({ "certificate": pem(&certificate), "pass": true }),
            "unknown-field",
        ),
        (json!({}), "invalid-field"),
    ] {
        let refused = post(world, "station-01", number, "confirmation", &body);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (400, slug),
            "{body}"
        );
    }

    // An earlier certificate of the same unit.
    let rekeyed = device.rekeyed();
    let second = rework(world, number, &rekeyed).json();
    let old = confirm(world, serial(&second), &certificate["certificate"]);
    assert_eq!(rules(&old), ["old-certificate"]);
    let whole = pem(&second) + &chain;
    let passed = confirm(world, serial(&second), &json!(whole));
    assert_eq!(passed.status, 200, "{passed:?}");
    assert_eq!(
        passed.json()["events"][1]["comment"],
        "compared: certificate, chain"
    );
    let superseded = confirm(world, number, &certificate["certificate"]);
    assert_eq!(rules(&superseded), ["old-certificate"]);
}

#[test]
fn a_device_proves_its_key_by_signing_a_nonce() {
    let world = shared();
    for (device, profile) in [
        (Device::p256(), "lightbulb"),
        (Device::rsa2048(), "workshop"),
    ] {
        let certificate = issued(&world.client("station-01").issue(&device.request(profile)));
        let number = serial(&certificate);
        let challenge = post(world, "station-01", number, "challenge", &json!({}));
        assert_eq!(challenge.status, 200, "{challenge:?}");
        let nonce = challenge.json()["nonce"].as_str().unwrap().to_owned();
        let octets: Vec<u8> = (0..32)
            .map(|n| u8::from_str_radix(&nonce[2 * n..2 * n + 2], 16).unwrap())
            .collect();
        let sign = |key: &Device| {
            let mut signer = Signer::new(MessageDigest::sha256(), &key.key).unwrap();
            STANDARD.encode(signer.sign_oneshot_to_vec(&octets).unwrap())
        };
        let body = |nonce: &str, signature: String| json!({ "certificate": certificate["certificate"], "nonce": nonce, "signature": signature });
        let send = |body: &Value| post(world, "station-01", number, "confirmation", body);
        let foreign = send(&body(&nonce, sign(&Device::p256())));
        assert_eq!(rules(&foreign), ["wrong-key"]);
        let stale = send(&body(&"ab".repeat(32), sign(&device)));
        assert_eq!(rules(&stale), ["nonce"]);
        let passed = send(&body(&nonce, sign(&device)));
        assert_eq!(passed.status, 200, "{passed:?}");
        assert_eq!(
            passed.json()["events"][1]["comment"],
            "compared: certificate, signature"
        );
    }
}

#[test]
fn an_operator_revokes_once_with_a_reason_that_concerns_a_device() {
    let world = shared();
    let certificate = issue(world, &Device::p256());
    let number = serial(&certificate);
    for reason in ["certificateHold", "cACompromise", "removeFromCRL", "", "1"] {
        let refused = post(
            world,
            "operator",
            number,
            "revocation",
            &json!({ "reason": reason }),
        );
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (400, "invalid-field"),
            "{reason}"
        );
    }
    let body = json!({ "reason": "keyCompromise", "comment": "key found in a log" });
    let revoked = post(world, "operator", number, "revocation", &body);
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert_eq!(events(&revoked.json()), ["issued", "revoked"]);
    assert_eq!(revoked.json()["events"][1]["reason"], "keyCompromise");
    let other = json!({ "reason": "unspecified" });
    let again = post(world, "operator", number, "revocation", &other);
    assert_eq!(again.json(), revoked.json(), "the first end counts");
    assert_eq!(
        rules(&confirm(world, number, &certificate["certificate"])),
        ["ended-certificate"]
    );
    let nothing = post(world, "operator", &"01".repeat(16), "revocation", &body);
    assert_eq!(
        (nothing.status, nothing.slug().as_str()),
        (404, "not-found")
    );
    let shown = world
        .client("auditor")
        .get(&format!("/v1/certificates/{number}"));
    assert_eq!(shown.json()["status"], "revoked");

    // Scrapped all the same: the device gets nothing any more.
    let scrapped = post(
        world,
        "station-01",
        number,
        "scrap",
        &json!({ "reason": "shredded" }),
    );
    assert_eq!(events(&scrapped.json()), ["issued", "revoked", "scrapped"]);
    assert_eq!(scrapped.json()["status"], "scrapped");
    assert_eq!(
        rework(world, number, &Device::p256()).slug(),
        "rework-conflict"
    );

    // The way back to a good certificate is a rework.
    let device = Device::p256();
    let lost = issue(world, &device);
    post(world, "operator", serial(&lost), "revocation", &body);
    let second = rework(world, serial(&lost), &device.rekeyed());
    assert_eq!(second.status, 201, "{second:?}");
}

#[test]
fn a_rework_needs_a_new_key_the_newest_certificate_and_a_reason_and_has_a_limit() {
    let world = shared();
    let device = Device::p256();
    let first = issue(world, &device);
    let refuse = |serial: &str, device: &Device, status: u16, slug: &str| {
        let refused = rework(world, serial, device);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (status, slug),
            "{refused:?}"
        );
    };
    refuse(serial(&first), &device, 409, "public-key-already-certified");
    let body = json!({ "csr": device.rekeyed().csr(), "reason": "" });
    let silent = post(world, "station-01", serial(&first), "supersession", &body);
    assert_eq!(
        (silent.status, silent.slug().as_str()),
        (400, "invalid-field")
    );
    let stranger = json!({ "csr": device.rekeyed().csr_with(&[("CN", "another")]), "reason": "x" });
    let stranger = post(
        world,
        "station-01",
        serial(&first),
        "supersession",
        &stranger,
    );
    assert_eq!(
        (stranger.status, stranger.slug().as_str()),
        (422, "subject-mismatch")
    );

    let more = json!({ "csr": device.rekeyed().csr_with(&[("O", "Another Ltd")]), "reason": "x" });
    let more = post(world, "station-01", serial(&first), "supersession", &more);
    assert_eq!(more.status, 422, "{more:?}");

    let mut newest = first.clone();
    for _ in 0..3 {
        let next = rework(world, serial(&newest), &device.rekeyed());
        assert_eq!(next.status, 201, "{next:?}");
        refuse(serial(&newest), &device.rekeyed(), 409, "rework-conflict");
        newest = next.json();
    }
    refuse(serial(&newest), &device.rekeyed(), 403, "rework-limit");
    // Confirming the last one supersedes all that came before, confirmed or not.
    let passed = confirm(world, serial(&newest), &newest["certificate"]);
    assert_eq!(passed.status, 200, "{passed:?}");
    let path = format!("/v1/certificates?device={}&status=superseded", device.name);
    let found = world.client("auditor").get(&path).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 3);
}

#[test]
fn who_may_do_what_to_a_certificate() {
    let world = shared();
    let certificate = issue(world, &Device::p256());
    let number = serial(&certificate);
    let readback = json!({ "certificate": certificate["certificate"] });
    let acts = [
        ("challenge", json!({})),
        ("confirmation", readback),
        (
            "supersession",
            json!({ "csr": Device::p256().csr(), "reason": "x" }),
        ),
        ("scrap", json!({ "reason": "x" })),
        ("revocation", json!({ "reason": "unspecified" })),
    ];
    for (act, body) in &acts {
        for client in ["auditor", "administrator"] {
            let refused = post(world, client, number, act, body);
            assert_eq!(
                (refused.status, refused.slug().as_str()),
                (403, "forbidden"),
                "{client} {act}"
            );
        }
        let headers = [("Content-Type", "application/json")];
        let path = format!("/v1/certificates/{number}/{act}");
        let refused =
            world
                .nobody()
                .send("POST", &path, &headers, Some(body.to_string().as_bytes()));
        assert_eq!(refused.status, 401, "{act}");
    }
    let refused = post(world, "station-01", number, "revocation", &acts[4].1);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (403, "forbidden")
    );
    // Another's: a station sees and touches its own.
    let by_operator = issued(
        &world
            .client("operator")
            .issue(&Device::p256().request("lightbulb")),
    );
    for (act, body) in &acts[..4] {
        let refused = post(world, "station-01", serial(&by_operator), act, body);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (404, "not-found"),
            "{act}"
        );
    }
    assert_eq!(events(&history(world, number)), ["issued"]);
}

#[test]
fn an_order_counts_what_became_of_its_units() {
    let world = shared();
    let order = format!("WO-{}", Device::p256().name);
    let body = json!({ "name": order, "profile": "lightbulb", "quantity": 2, "scrap_allowance": 1, "reworks_max": 1 });
    let headers = [("Content-Type", "application/json")];
    let made = world.client("operator").send(
        "POST",
        "/v1/orders",
        &headers,
        Some(body.to_string().as_bytes()),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let issue = || {
        let mut request = Device::p256().request("lightbulb");
        request["order"] = order.clone().into();
        world.client("station-01").issue(&request)
    };
    let (kept, broken) = (issued(&issue()), issued(&issue()));
    assert_eq!(issue().slug(), "order-exhausted");
    post(
        world,
        "station-01",
        serial(&broken),
        "scrap",
        &json!({ "reason": "dropped" }),
    );
    assert_eq!(issue().status, 201);
    assert_eq!(issue().slug(), "order-exhausted");
    let device = Device::p256();
    let again = rework(world, serial(&kept), &device);
    assert_eq!(again.status, 201, "{again:?}");
    assert_eq!(again.json()["order"], order);
    let again = again.json();
    confirm(world, serial(&again), &again["certificate"]);
    let limit = rework(world, serial(&again), &Device::p256());
    assert_eq!((limit.status, limit.slug().as_str()), (403, "rework-limit"));
    let shown = world
        .client("auditor")
        .get(&format!("/v1/orders/{order}"))
        .json();
    for (field, value) in [
        ("issued", 3),
        ("reworked", 1),
        ("confirmed", 1),
        ("superseded", 1),
        ("scrapped", 1),
        ("revoked", 0),
        ("live", 2),
        ("remaining", 0),
    ] {
        assert_eq!(shown[field], value, "{field}: {shown}");
    }
}
