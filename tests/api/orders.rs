//! `/v1/orders`, and what an order does to issuing.

use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::{World, issued, shared};

fn create(world: &World, client: &str, order: &Value) -> Response {
    let headers = [("Content-Type", "application/json")];
    let body = order.to_string();
    world
        .client(client)
        .send("POST", "/v1/orders", &headers, Some(body.as_bytes()))
}

fn close(world: &World, client: &str, name: &str) -> Response {
    let path = format!("/v1/orders/{name}/closure");
    world.client(client).send("POST", &path, &[], None)
}

fn name() -> String {
    format!("WO-{}", Device::p256().name)
}

fn request(device: &Device, order: &str) -> Value {
    let mut request = device.request("lightbulb");
    request["order"] = order.into();
    request
}

/// (quantity, issued, in progress, abandoned, remaining)
fn counts(world: &World, order: &str) -> [i64; 5] {
    let shown = world.client("auditor").get(&format!("/v1/orders/{order}"));
    assert_eq!(shown.status, 200, "{shown:?}");
    let shown = shown.json();
    [
        "quantity",
        "issued",
        "in_progress",
        "abandoned",
        "remaining",
    ]
    .map(|field| shown[field].as_i64().unwrap())
}

#[test]
fn an_order_is_created_shown_listed_and_closed() {
    let world = shared();
    let order = json!({
        "name": name(), "profile": "lightbulb", "quantity": 3,
        "device_first": "lamp-000001", "device_last": "lamp-000003",
        "stations": ["station-01"], "opens_at": "2026-01-01T06:00:00Z", "closes_at": "2126-01-01T06:00:00Z",
    });
    let made = create(world, "operator", &order);
    assert_eq!(made.status, 201, "{made:?}");
    let address = made.header("location").unwrap().to_owned();
    let body = made.json();
    for (field, value) in order.as_object().unwrap() {
        assert_eq!(body[field], *value, "{field}");
    }
    assert_eq!(body["created_by"], "operator");
    assert_eq!(body["closed_at"], Value::Null);
    for client in ["station-01", "operator", "auditor", "administrator"] {
        assert_eq!(world.client(client).get(&address).json(), body, "{client}");
    }

    let again = create(world, "operator", &order);
    assert_eq!((again.status, again.json()), (200, body.clone()));
    let mut other = order.clone();
    other["quantity"] = 4.into();
    let other = create(world, "operator", &other);
    assert_eq!((other.status, other.slug().as_str()), (409, "order-exists"));

    // Every page, one order at a time, has it once.
    let (mut path, mut seen) = ("/v1/orders?limit=1".to_owned(), 0);
    loop {
        let page = world.client("auditor").get(&path).json();
        seen += page["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| item["name"] == order["name"])
            .count();
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!(
            "/v1/orders?{}",
            serde_urlencoded::to_string([("limit", "1"), ("cursor", next)]).unwrap()
        );
    }
    assert_eq!(seen, 1);

    let closed = close(world, "operator", order["name"].as_str().unwrap());
    assert_eq!(
        (closed.status, &closed.json()["closed_by"]),
        (200, &json!("operator"))
    );
    let again = close(world, "operator", order["name"].as_str().unwrap());
    assert_eq!(again.json(), closed.json(), "the first closing counts");
}

#[test]
fn sixty_four_at_once_get_no_more_than_the_quantity_and_repeats_are_free() {
    let world = shared();
    let order = name();
    let quantity = 10;
    let body = json!({ "name": order, "profile": "lightbulb", "quantity": quantity });
    assert_eq!(create(world, "operator", &body).status, 201);
    // Each request twice: a repeat takes no place.
    let devices: Vec<Device> = (0..32).map(|_| Device::p256()).collect();
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let threads: Vec<_> = devices
            .iter()
            .chain(&devices)
            .map(|device| {
                let order = order.as_str();
                scope.spawn(move || world.client("station-01").issue(&request(device, order)))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let created = answers.iter().filter(|a| a.status == 201).count();
    assert_eq!(created, quantity);
    for answer in &answers {
        match answer.status {
            200 | 201 => {}
            403 => assert_eq!(answer.slug(), "order-exhausted"),
            _ => panic!("{answer:?}"),
        }
    }
    let rows = format!(
        "SELECT count(*) FROM intent JOIN outcome USING (intent_id) WHERE work_order = '{order}' AND der IS NOT NULL"
    );
    assert_eq!(world.sql(&rows), quantity.to_string());
    assert_eq!(counts(world, &order), [10, 10, 0, 0, 0]);

    // What was issued is answered for ever, exhausted or closed; a new device is not.
    let first = answers.iter().position(|a| a.status == 201).unwrap() % devices.len();
    for _ in 0..2 {
        let replay = world
            .client("station-01")
            .issue(&request(&devices[first], &order));
        assert_eq!(replay.status, 200, "{replay:?}");
        assert_eq!(close(world, "operator", &order).status, 200);
    }
    let refused = world
        .client("station-01")
        .issue(&request(&Device::p256(), &order));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (403, "order-closed")
    );
}

#[test]
fn what_an_order_is_not_for_is_refused_and_leaves_no_intent() {
    let world = shared();
    let make = |more: Value| {
        let mut order = json!({ "name": name(), "profile": "lightbulb", "quantity": 5 });
        order
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        assert_eq!(create(world, "operator", &order).status, 201, "{order}");
        order["name"].as_str().unwrap().to_owned()
    };
    let device = Device::p256();
    let below = device.name.replace(|c: char| c.is_ascii_digit(), "0");
    let closed = make(json!({}));
    close(world, "operator", &closed);
    let cases = [
        (name(), 422, "unknown-order"),
        (closed, 403, "order-closed"),
        (
            make(json!({ "opens_at": "2126-01-01T00:00:00Z" })),
            403,
            "order-closed",
        ),
        (
            make(json!({ "closes_at": "2026-01-01T00:00:00Z" })),
            403,
            "order-closed",
        ),
        (
            make(json!({ "stations": ["station-77"] })),
            403,
            "forbidden",
        ),
        (
            make(json!({ "profile": "workshop" })),
            422,
            "order-mismatch",
        ),
        (
            make(json!({ "device_first": below, "device_last": below })),
            422,
            "order-mismatch",
        ),
    ];
    for (order, status, slug) in &cases {
        let refused = world.client("station-01").issue(&request(&device, order));
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (*status, *slug),
            "{refused:?}"
        );
    }
    let mismatch = world
        .client("station-01")
        .issue(&request(&device, &cases[6].0))
        .json();
    assert_eq!(mismatch["violations"][0]["rule"], "order-device");
    let intents = format!(
        "SELECT count(*) FROM intent WHERE device = '{}'",
        device.name
    );
    assert_eq!(world.sql(&intents), "0");
    // Nothing that was refused holds a place.
    for (order, ..) in &cases[1..] {
        assert_eq!(counts(world, order), [5, 0, 0, 0, 5], "{order}");
    }
    let inside = make(json!({ "device_first": device.name, "device_last": device.name }));
    let taken = issued(&world.client("station-01").issue(&request(&device, &inside)));
    assert_eq!(taken["order"], inside);
}

#[test]
fn only_an_operator_runs_orders_and_a_station_sees_its_own() {
    let world = shared();
    let order = json!({ "name": name(), "profile": "lightbulb", "quantity": 1, "stations": ["station-77"] });
    let address = format!("/v1/orders/{}", order["name"].as_str().unwrap());
    assert_eq!(create(world, "operator", &order).status, 201);
    for client in ["station-01", "auditor", "administrator"] {
        let refused = create(world, client, &order);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (403, "forbidden"),
            "{client}"
        );
        let refused = close(world, client, order["name"].as_str().unwrap());
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (403, "forbidden"),
            "{client}"
        );
    }
    assert_eq!(world.client("auditor").get(&address).status, 200);
    assert_eq!(world.client("station-01").get(&address).status, 404);
    assert_eq!(world.nobody().get(&address).status, 401);
    assert_eq!(world.nobody().get("/v1/orders").status, 401);
    assert_eq!(close(world, "operator", &name()).slug(), "not-found");
}

#[test]
fn an_order_that_cannot_be_kept_is_refused_with_all_that_is_wrong() {
    let world = shared();
    let good = json!({ "name": name(), "profile": "lightbulb", "quantity": 1 });
    let with = |more: Value| {
        let mut order = good.clone();
        order
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        order
    };
    for (order, status, slug) in [
        (with(json!({ "quantity": 0 })), 400, "invalid-field"),
        (with(json!({ "quantity": -1 })), 400, "invalid-field"),
        (with(json!({ "quantity": "5" })), 400, "invalid-field"),
        (
            with(json!({ "quantity": 1_000_000_001 })),
            400,
            "invalid-field",
        ),
        (with(json!({ "name": "a b" })), 400, "invalid-field"),
        (with(json!({ "name": "a/b" })), 400, "invalid-field"),
        (with(json!({ "name": "" })), 400, "invalid-field"),
        (with(json!({ "name": ".." })), 400, "invalid-field"),
        (with(json!({ "device_first": "a" })), 400, "invalid-field"),
        (
            with(json!({ "device_first": "b", "device_last": "a" })),
            400,
            "invalid-field",
        ),
        (
            with(json!({ "device_first": "1", "device_last": "10" })),
            400,
            "invalid-field",
        ),
        (with(json!({ "stations": ["a b"] })), 400, "invalid-field"),
        (
            with(json!({ "opens_at": "tomorrow" })),
            400,
            "invalid-field",
        ),
        (
            with(
                json!({ "opens_at": "2026-01-02T00:00:00Z", "closes_at": "2026-01-01T00:00:00Z" }),
            ),
            400,
            "invalid-field",
        ),
        (
            with(json!({ "opens_at": "2026-01-02T00:00:00.5Z" })),
            400,
            "invalid-field",
        ),
        (with(json!({ "price": 1 })), 400, "unknown-field"),
        (with(json!({ "profile": "none" })), 422, "unknown-profile"),
    ] {
        let refused = create(world, "operator", &order);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (status, slug),
            "{order}: {refused:?}"
        );
    }
    let many = create(
        world,
        "operator",
        &with(json!({ "quantity": 0, "name": "a b" })),
    )
    .json();
    assert_eq!(many["violations"].as_array().unwrap().len(), 2, "{many}");
    for path in [
        "/v1/orders?limit=0",
        "/v1/orders?limit=1001",
        "/v1/orders?cursor=a%20b",
        "/v1/orders?sort=x",
    ] {
        assert_eq!(
            world.client("auditor").get(path).slug(),
            "invalid-parameter",
            "{path}"
        );
    }
}
