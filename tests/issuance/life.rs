//! A certificate's life under fault: what needs the HSM waits for it, what does not goes on, and a
//! killed service leaves no device with half a rework.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::faults::token_away;
use crate::support::http::Response;
use crate::support::world::{OwnWorld, issued};
use crate::{RECOVERED, alone, seconds};

fn post(own: &OwnWorld, client: &str, serial: &str, what: &str, body: &Value) -> Response {
    let path = format!("/v1/certificates/{serial}/{what}");
    let headers = [("Content-Type", "application/json")];
    own.world
        .client(client)
        .send("POST", &path, &headers, Some(body.to_string().as_bytes()))
}

fn issue(own: &OwnWorld, device: &Device) -> Value {
    let station = own.world.client("station-01");
    issued(&station.issue(&device.request("lightbulb")))
}

fn serial(certificate: &Value) -> &str {
    certificate["serial_number"].as_str().unwrap()
}

fn confirm(own: &OwnWorld, certificate: &Value) -> Response {
    let body = json!({ "certificate": certificate["certificate"] });
    post(
        own,
        "station-01",
        serial(certificate),
        "confirmation",
        &body,
    )
}

fn rework(own: &OwnWorld, certificate: &Value, device: &Device) -> Response {
    let body = json!({ "csr": device.csr(), "reason": "test" });
    post(
        own,
        "station-01",
        serial(certificate),
        "supersession",
        &body,
    )
}

fn assert_unavailable(answer: &Response, slug: &str) {
    assert_eq!((answer.status, answer.slug().as_str()), (503, slug));
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn without_the_hsm_only_rework_waits() {
    let own = OwnWorld::running();
    let _alone = alone();
    let devices: Vec<Device> = (0..4).map(|_| Device::p256()).collect();
    let held: Vec<Value> = devices.iter().map(|device| issue(&own, device)).collect();
    let rekeyed = devices[0].rekeyed();
    let second = rework(&own, &held[0], &rekeyed).json();
    token_away(&own, true);
    own.wait_not_ready("\"hsm\"", seconds(5));

    let fresh = rework(&own, &held[1], &devices[1].rekeyed());
    assert_unavailable(&fresh, "hsm-unavailable");
    let replayed = rework(&own, &held[0], &rekeyed);
    assert_eq!(
        (replayed.status, &replayed.json()["certificate"]),
        (200, &second["certificate"])
    );
    assert_eq!(confirm(&own, &second).status, 200);
    assert_eq!(confirm(&own, &held[1]).status, 200);
    let scrapped = post(
        &own,
        "station-01",
        serial(&held[2]),
        "scrap",
        &json!({ "reason": "x" }),
    );
    assert_eq!(scrapped.status, 200);
    let reason = json!({ "reason": "keyCompromise" });
    let revoked = post(&own, "operator", serial(&held[3]), "revocation", &reason);
    assert_eq!(revoked.status, 200);

    token_away(&own, false);
    own.wait_ready(seconds(5));
    assert_eq!(rework(&own, &held[1], &devices[1].rekeyed()).status, 201);
}

#[test]
fn without_the_database_nothing_happens_and_then_it_does() {
    let own = OwnWorld::running();
    let _alone = alone();
    let device = Device::p256();
    let certificate = issue(&own, &device);
    own.stop_postgres("immediate");
    own.wait_not_ready("\"database\"", seconds(3));
    assert_unavailable(&confirm(&own, &certificate), "database-unavailable");
    let rekeyed = device.rekeyed();
    let refused = rework(&own, &certificate, &rekeyed);
    assert_unavailable(&refused, "database-unavailable");
    let body = json!({ "reason": "unspecified" });
    let refused = post(&own, "operator", serial(&certificate), "revocation", &body);
    assert_unavailable(&refused, "database-unavailable");
    own.start_postgres();
    own.wait_ready(seconds(10));
    assert_eq!(own.world.sql("SELECT count(*) FROM life_event"), "0");
    // Readiness is about issuing; what else there is comes back by itself, too.
    let start = Instant::now();
    while confirm(&own, &certificate).status == 503 {
        assert!(start.elapsed() < RECOVERED);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(confirm(&own, &certificate).status, 200);
    assert_eq!(rework(&own, &certificate, &rekeyed).status, 201);
}

#[test]
fn killed_among_reworks_and_confirmations_every_device_has_one_good_certificate() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let devices: Vec<(Device, Value)> = (0..12)
        .map(|_| {
            let device = Device::p256();
            let certificate = issue(&own, &device);
            (device, certificate)
        })
        .collect();
    let rekeyed: Vec<Device> = devices.iter().map(|(device, _)| device.rekeyed()).collect();
    let station = own.world.client("station-01");
    // Asks until there is an answer; a refusal is one only if it says when to ask again.
    let send = |path: &str, body: &Value| {
        let body = body.to_string();
        loop {
            let headers = [("Content-Type", "application/json")];
            match station.try_send("POST", path, &headers, Some(body.as_bytes())) {
                Ok(answer) if answer.status < 400 => return answer.json(),
                Ok(answer) => assert!(answer.header("retry-after").is_some(), "{answer:?}"),
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    };
    // Each rework and its confirmation, while the service is killed under them.
    std::thread::scope(|scope| {
        for ((_, first), new) in devices.iter().zip(&rekeyed) {
            scope.spawn(|| {
                let path = format!("/v1/certificates/{}/supersession", serial(first));
                let second = send(&path, &json!({ "csr": new.csr(), "reason": "test" }));
                let path = format!("/v1/certificates/{}/confirmation", serial(&second));
                send(&path, &json!({ "certificate": second["certificate"] }));
            });
        }
        for wait in [40, 120] {
            std::thread::sleep(Duration::from_millis(wait));
            own.kill_service();
            own.start_service();
            own.wait_ready(seconds(15));
        }
    });
    own.wait_no_open_intents(RECOVERED);
    let live = "SELECT count(*) || ' ' || count(DISTINCT device) FROM intent i JOIN outcome o USING (intent_id)
        WHERE o.der IS NOT NULL AND NOT EXISTS (
            SELECT FROM life_event e WHERE e.intent_id = i.intent_id AND e.kind <> 'confirmed')";
    assert_eq!(own.world.sql(live), "12 12");
    let events = "SELECT string_agg(kind || ' ' || n, ', ' ORDER BY kind)
        FROM (SELECT kind, count(*) AS n FROM life_event GROUP BY kind) e";
    assert_eq!(own.world.sql(events), "confirmed 12, superseded 12");
}
