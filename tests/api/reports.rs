//! `/v1/orders/{name}/report`: what a closed order came to.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;
use openssl::pkey::PKey;
use openssl::sha::sha256;
use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::ticket::{claims, ticket};
use crate::support::world::{World, issued, shared};

fn post(world: &World, path: &str, media_type: &str, body: &str) -> Response {
    let headers = [("Content-Type", media_type)];
    world
        .client("operator")
        .send("POST", path, &headers, Some(body.as_bytes()))
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Header and payload of a report that the world's report key signed.
fn verified(world: &World, report: &str) -> (Value, Value) {
    let pem = std::fs::read(world.dir.join("head-office/report.pem")).unwrap();
    let key = PKey::public_key_from_pem(&pem).unwrap();
    let (signed, signature) = report.rsplit_once('.').unwrap();
    let octets = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let [r, s] = [&octets[..32], &octets[32..]].map(|part| BigNum::from_slice(part).unwrap());
    let signature = EcdsaSig::from_private_components(r, s).unwrap();
    let digest = sha256(signed.as_bytes());
    assert!(signature.verify(&digest, &key.ec_key().unwrap()).unwrap());
    let json = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let header: Value = json(header);
    assert_eq!(
        header["kid"],
        hex(&sha256(&key.public_key_to_der().unwrap()))
    );
    (header, json(payload))
}

#[test]
fn a_closed_order_has_one_report_that_says_what_was_issued_and_never_changes() {
    let world = shared();
    let name = format!("WO-{}", Device::p256().name);
    let order =
        json!({ "name": name, "profile": "lightbulb", "quantity": 5, "stations": ["station-01"] });
    let ticket = ticket(&world.dir, &claims(&name, order));
    assert_eq!(
        post(world, "/v1/orders/tickets", "application/jose", &ticket).status,
        201
    );
    let certificates: Vec<Value> = (0..3)
        .map(|_| {
            let mut request = Device::p256().request("lightbulb");
            request["order"] = name.clone().into();
            issued(&world.client("station-01").issue(&request))
        })
        .collect();
    let revoke = |certificate: &Value| {
        let serial = certificate["serial_number"].as_str().unwrap();
        let path = format!("/v1/certificates/{serial}/revocation");
        let body = r#"{"reason":"keyCompromise"}"#;
        let revoked = post(world, &path, "application/json", body);
        assert!(matches!(revoked.status, 200 | 201), "{revoked:?}");
    };
    revoke(&certificates[1]);
    let path = format!("/v1/orders/{name}/report");
    let open = world.client("operator").get(&path);
    assert_eq!((open.status, open.slug().as_str()), (409, "order-open"));
    let closure = format!("/v1/orders/{name}/closure");
    assert_eq!(
        world
            .client("operator")
            .send("POST", &closure, &[], None)
            .status,
        200
    );
    assert_eq!(world.client("station-01").get(&path).slug(), "forbidden");

    // One of its intents has no outcome yet: here one that has, put on the work list again.
    let row = format!("SELECT intent_id FROM intent WHERE work_order = '{name}' LIMIT 1");
    world.sql(&format!(
        "INSERT INTO open_intent SELECT ({row}), now() + interval '1 hour'"
    ));
    let waits = world.client("auditor").get(&path);
    assert_eq!(waits.status, 409, "{waits:?}");
    assert_eq!(waits.json()["type"], "/problems/request-in-progress");
    assert!(waits.header("retry-after").is_some(), "{waits:?}");
    world.sql(&format!(
        "DELETE FROM open_intent WHERE intent_id = ({row})"
    ));

    // Eight at once are answered with one.
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let threads: Vec<_> = ["operator", "auditor", "administrator", "auditor"]
            .iter()
            .cycle()
            .take(8)
            .map(|client| {
                let path = path.as_str();
                scope.spawn(move || world.client(client).get(path))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!(
            (answer.status, &answer.body),
            (200, &answers[0].body),
            "{answer:?}"
        );
        assert_eq!(answer.header("content-type"), Some("application/jose"));
    }
    let report = answers[0].text();
    let (header, payload) = verified(world, &report);
    assert_eq!(
        (&header["alg"], &header["typ"]),
        (&json!("ES256"), &json!("certfactory-report+jws"))
    );
    assert_eq!(payload["site"], "dev");
    for (field, value) in [
        ("name", json!(name)),
        ("quantity", json!(5)),
        ("closed_by", json!("operator")),
    ] {
        assert_eq!(payload["order"][field], value, "{field}");
    }
    let mark =
        json!({ "jti": name, "kid": "head-office", "sha256": hex(&sha256(ticket.as_bytes())) });
    assert_eq!(payload["ticket"], mark);
    let counts = json!({ "issued": 3, "reworked": 0, "abandoned": 0, "confirmed": 0,
        "superseded": 0, "revoked": 1, "scrapped": 0, "live": 2 });
    assert_eq!(payload["counts"], counts);
    let mut logged: Vec<(i64, String)> = certificates
        .iter()
        .map(|c| {
            (
                c["log_index"].as_i64().unwrap(),
                c["fingerprint_sha256"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    logged.sort();
    let fingerprints: Vec<u8> = logged
        .iter()
        .flat_map(|(_, text)| {
            BigNum::from_hex_str(text)
                .unwrap()
                .to_vec_padded(32)
                .unwrap()
        })
        .collect();
    let log = &payload["log"];
    assert_eq!(log["certificates"], 3);
    assert_eq!(
        (&log["first_index"], &log["last_index"]),
        (&json!(logged[0].0), &json!(logged[2].0))
    );
    assert_eq!(log["fingerprints_sha256"], hex(&sha256(&fingerprints)));
    assert!(log["size"].as_i64().unwrap() > logged[2].0);

    revoke(&certificates[2]);
    assert_eq!(world.client("auditor").get(&path).text(), report);
    let kept = format!("SELECT count(*) FROM order_report WHERE work_order = '{name}'");
    assert_eq!(world.sql(&kept), "1");
    assert_eq!(
        world
            .client("auditor")
            .get("/v1/orders/WO-none/report")
            .slug(),
        "not-found"
    );
}

#[test]
fn an_order_without_a_certificate_has_a_report_too() {
    let world = shared();
    let name = format!("WO-{}", Device::p256().name);
    world.order(&name, "lightbulb");
    let closure = format!("/v1/orders/{name}/closure");
    world.client("operator").send("POST", &closure, &[], None);
    let report = world
        .client("auditor")
        .get(&format!("/v1/orders/{name}/report"));
    assert_eq!(report.status, 200, "{report:?}");
    let (_, payload) = verified(world, &report.text());
    assert_eq!(
        (&payload["ticket"], &payload["log"]["first_index"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(payload["log"]["fingerprints_sha256"], hex(&sha256(b"")));
}
