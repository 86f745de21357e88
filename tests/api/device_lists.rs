//! `/v1/orders/{name}/devices` and `device_pattern`: which devices an order is for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::{World, issued, shared};

fn give(world: &World, client: &str, order: &str, media_type: &str, list: &str) -> Response {
    world.client(client).send(
        "POST",
        &format!("/v1/orders/{order}/devices"),
        &[("Content-Type", media_type)],
        Some(list.as_bytes()),
    )
}

fn order(world: &World, more: Value) -> String {
    let name = format!("WO-{}", Device::p256().name);
    let mut body = json!({ "name": name, "profile": "lightbulb", "quantity": 1000 });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let headers = [("Content-Type", "application/json")];
    let made = world.client("operator").send(
        "POST",
        "/v1/orders",
        &headers,
        Some(body.to_string().as_bytes()),
    );
    assert_eq!(made.status, 201, "{made:?}");
    name
}

fn issue(world: &World, device: &Device, order: &str) -> Response {
    let mut request = device.request("lightbulb");
    request["order"] = order.into();
    world.client("station-01").issue(&request)
}

#[test]
fn an_order_with_a_list_is_for_the_devices_on_it_and_for_no_other() {
    let world = shared();
    let name = order(world, json!({}));
    let (on, off) = ([Device::p256(), Device::p256()], Device::p256());
    let list = format!(
        "device,colour\n{},\"red\r\nor blue\"\n{},green\n",
        on[0].name, on[1].name
    );
    let given = give(world, "operator", &name, "text/csv", &list);
    assert_eq!(
        (given.status, &given.json()["device_count"]),
        (200, &json!(2)),
        "{given:?}"
    );
    // The same devices, whatever the form and the order: the same list.
    let (a, b) = (&on[1].name, &on[0].name);
    for (media_type, list) in [
        ("application/json", json!([a, b]).to_string()),
        ("application/x-ndjson", format!("\"{a}\"\n\"{b}\"\n")),
        ("text/csv", format!("device\r\n{a}\r\n{b}\r\n")),
    ] {
        let again = give(world, "operator", &name, media_type, &list);
        assert_eq!(
            (again.status, again.json()),
            (200, given.json()),
            "{media_type}"
        );
    }
    let other = give(
        world,
        "operator",
        &name,
        "application/json",
        &json!([a, b, off.name]).to_string(),
    );
    assert_eq!(
        (other.status, other.slug().as_str()),
        (409, "device-list-late")
    );

    let refused = issue(world, &off, &name);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (422, "order-mismatch")
    );
    assert_eq!(refused.json()["violations"][0]["rule"], "order-device");
    let stored = format!("SELECT count(*) FROM intent WHERE device = '{}'", off.name);
    assert_eq!(world.sql(&stored), "0");
    for device in &on {
        issued(&issue(world, device, &name));
        assert_eq!(issue(world, device, &name).status, 200, "a replay");
    }
}

#[test]
fn a_list_comes_before_the_first_device_from_an_operator_and_whole() {
    let world = shared();
    let begun = order(world, json!({}));
    issued(&issue(world, &Device::p256(), &begun));
    let closed = order(world, json!({}));
    let closure = format!("/v1/orders/{closed}/closure");
    world.client("operator").send("POST", &closure, &[], None);
    for name in [&begun, &closed] {
        let late = give(world, "operator", name, "application/json", "[\"x\"]");
        assert_eq!(
            (late.status, late.slug().as_str()),
            (409, "device-list-late"),
            "{late:?}"
        );
    }
    let none = give(world, "operator", "WO-none", "application/json", "[\"x\"]");
    assert_eq!(none.slug(), "not-found");
    let open = order(world, json!({}));
    for client in ["station-01", "auditor", "administrator"] {
        assert_eq!(
            give(world, client, &open, "application/json", "[\"x\"]").slug(),
            "forbidden"
        );
    }
    // Only an operator's list may be long.
    let long = "x".repeat(100_000);
    assert_eq!(
        give(world, "station-01", &open, "text/csv", &long).slug(),
        "forbidden"
    );

    let doubled = "device\na\nb\na\n\nc\n\u{e9}\n";
    let many: String = (0..150).map(|_| "\"same\"\n").collect();
    for (media_type, list, slug, faults, first) in [
        (
            "text/csv",
            doubled,
            "invalid-field",
            2,
            "line 4: `a` is in line 2, too",
        ),
        ("text/csv", "name\na\n", "invalid-field", 0, ""),
        (
            "text/csv",
            "device\n",
            "invalid-field",
            1,
            "1 to 1000000 devices",
        ),
        ("text/csv", "device,x\na\n", "invalid-field", 0, ""),
        (
            "application/x-ndjson",
            "\"a\"\nb\n",
            "invalid-field",
            1,
            "line 2: is no JSON string",
        ),
        (
            "application/x-ndjson",
            &many,
            "invalid-field",
            100,
            "line 2: `same` is in line 1, too",
        ),
        ("application/json", "[1]", "invalid-field", 0, ""),
        ("application/json", "[\"a\"", "malformed-json", 0, ""),
        ("text/plain", "a", "unsupported-media-type", 0, ""),
    ] {
        let refused = give(world, "operator", &open, media_type, list);
        assert_eq!(refused.slug(), slug, "{list:.40}: {refused:?}");
        let violations = refused.json()["violations"].clone();
        assert_eq!(
            violations.as_array().map_or(0, Vec::len),
            faults,
            "{violations}"
        );
        if faults > 0 {
            assert_eq!(violations[0]["detail"], first);
        }
    }
    assert_eq!(
        world.sql(&format!(
            "SELECT count(*) FROM order_device WHERE work_order = '{open}'"
        )),
        "0"
    );
}

#[test]
fn a_quarter_of_a_million_identities_are_kept_while_the_line_goes_on() {
    let world = shared();
    let name = order(world, json!({}));
    let device = Device::p256();
    let mut list = String::with_capacity(16_000_000);
    list.push_str("device\n");
    for number in 1..250_000 {
        list.push_str(&format!("lamp-x{number:07}\n"));
    }
    list.push_str(&device.name);
    let start = Instant::now();
    let (given, slowest) = std::thread::scope(|scope| {
        let giving = scope.spawn(|| give(world, "operator", &name, "text/csv", &list));
        let mut slowest = Duration::ZERO;
        while !giving.is_finished() {
            let start = Instant::now();
            issued(
                &world
                    .client("station-01")
                    .issue(&Device::p256().request("lightbulb")),
            );
            assert_eq!(
                world
                    .client("auditor")
                    .get(&format!("/v1/orders/{name}"))
                    .status,
                200
            );
            assert_eq!(world.operations().get("/readyz").status, 200);
            slowest = slowest.max(start.elapsed());
        }
        (giving.join().unwrap(), slowest)
    });
    eprintln!(
        "a quarter of a million identities: {:?}; meanwhile a certificate, an order and /readyz: {slowest:?} at most",
        start.elapsed()
    );
    assert_eq!(
        (given.status, &given.json()["device_count"]),
        (200, &json!(250_000)),
        "{given:?}"
    );
    issued(&issue(world, &device, &name));
    assert_eq!(
        issue(world, &Device::p256(), &name).slug(),
        "order-mismatch"
    );
    for number in 0..=750_000 {
        list.push_str(&format!("\nlamp-y{number:07}"));
    }
    let over = give(world, "operator", &name, "text/csv", &list);
    assert_eq!(
        over.json()["violations"][0]["detail"],
        "1 to 1000000 devices"
    );
}

#[test]
fn a_pattern_says_what_a_device_looks_like() {
    let world = shared();
    let device = Device::p256();
    let like = |text: &str| -> String {
        text.chars()
            .map(|c| {
                if c.is_ascii_digit() {
                    '#'
                } else if c.is_ascii_alphabetic() {
                    '@'
                } else {
                    c
                }
            })
            .collect()
    };
    let fits = order(world, json!({ "device_pattern": like(&device.name) }));
    let longer = order(
        world,
        json!({ "device_pattern": format!("{}#", like(&device.name)) }),
    );
    let refused = issue(world, &device, &longer);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (422, "order-mismatch")
    );
    assert_eq!(refused.json()["violations"][0]["rule"], "order-device");
    issued(&issue(world, &device, &fits));
    let headers = [("Content-Type", "application/json")];
    for pattern in ["", "a\\", "\u{e9}"] {
        let body = json!({ "name": "WO-p", "profile": "lightbulb", "quantity": 1, "device_pattern": pattern });
        let refused = world.client("operator").send(
            "POST",
            "/v1/orders",
            &headers,
            Some(body.to_string().as_bytes()),
        );
        assert_eq!(
            refused.json()["violations"][0]["rule"],
            "device_pattern",
            "{pattern}"
        );
    }
}
