//! A work order while the service dies, and a profile that is made to order only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::device::Device;
use crate::support::world::{OwnWorld, World, issued};

const QUANTITY: usize = 40;

fn create(world: &World, quantity: usize) {
    let body = serde_json::json!({ "name": "WO-1", "profile": "lightbulb", "quantity": quantity });
    let made = world.client("operator").send(
        "POST",
        "/v1/orders",
        &[("Content-Type", "application/json")],
        Some(body.to_string().as_bytes()),
    );
    assert_eq!(made.status, 201, "{made:?}");
}

fn request(device: &Device) -> Value {
    let mut request = device.request("lightbulb");
    request["order"] = "WO-1".into();
    request
}

#[test]
fn killed_in_the_middle_of_an_order_the_service_still_makes_exactly_what_was_ordered() {
    let mut own = OwnWorld::running();
    create(&own.world, QUANTITY);
    let (got, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let url = own.world.url.clone();
    let dir = own.world.dir.clone();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let station = crate::support::http::Curl::new(
                    &url,
                    &dir.join("tls/ca.pem"),
                    Some((
                        dir.join("clients/station-01.pem"),
                        dir.join("clients/station-01.key"),
                    )),
                );
                // Each device until it is answered, each station until the order has run out.
                loop {
                    let request = request(&Device::p256()).to_string();
                    let status = loop {
                        let answer = station.try_send(
                            "POST",
                            "/v1/certificates",
                            &[("Content-Type", "application/json")],
                            Some(request.as_bytes()),
                        );
                        match answer.map(|answer| answer.status) {
                            Ok(status @ (200 | 201 | 403)) => break status,
                            Ok(409 | 503) | Err(_) => {
                                std::thread::sleep(Duration::from_millis(30));
                            }
                            Ok(status) => panic!("{status}"),
                        }
                    };
                    if status == 403 {
                        refused.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    got.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            crate::load::pause_up_to(Duration::from_millis(300));
            own.kill_service();
            own.start_service();
            own.wait_ready(Duration::from_secs(15));
        }
    });
    own.wait_no_open_intents(Duration::from_secs(10));
    let rows = "SELECT count(*) FROM intent JOIN outcome USING (intent_id) WHERE work_order = 'WO-1' AND der IS NOT NULL";
    assert_eq!(own.world.sql(rows), QUANTITY.to_string());
    assert_eq!((got.into_inner(), refused.into_inner()), (QUANTITY, 8));
    let state = own.world.client("auditor").get("/v1/orders/WO-1").json();
    assert_eq!(
        (&state["issued"], &state["remaining"]),
        (&QUANTITY.into(), &0.into())
    );
    let next = own
        .world
        .client("station-01")
        .issue(&request(&Device::p256()));
    assert_eq!(
        (next.status, next.slug().as_str()),
        (403, "order-exhausted")
    );
}

#[test]
fn a_profile_that_is_made_to_order_issues_under_an_order_only() {
    let mut own = OwnWorld::running();
    let before = Device::p256().request("lightbulb");
    let first = issued(&own.world.client("station-01").issue(&before));
    own.kill_service();
    let profile = own.world.dir.join("profiles/lightbulb.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    std::fs::write(&profile, format!("order_required = true\n{text}")).unwrap();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let station = own.world.client("station-01");
    let replay = station.issue(&before);
    assert_eq!((replay.status, replay.json()), (200, first), "for ever");
    let device = Device::p256();
    let refused = station.issue(&device.request("lightbulb"));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (422, "order-required")
    );
    create(&own.world, 1);
    let body = issued(&station.issue(&request(&device)));
    assert_eq!(body["order"], "WO-1");
}
