//! Every route, every role: who may, and who may not.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::{Curl, Response};
use crate::support::world::{OwnWorld, World, issued};

/// In the order of the columns below.
const WHO: [&str; 4] = ["station-01", "operator", "auditor", "administrator"];

/// `y` may; `n` 403 `forbidden`; `o` only what is its own, so 404 here. Then nobody, without a client
/// certificate: `y`, or `n` for 401.
const TABLE: &[(&str, &str, &str)] = &[
    ("get", "/v1/certificates", "yyyn n"),
    ("post", "/v1/certificates", "yynn n"),
    ("get", "/v1/certificates/{serial_number}", "oyyy n"),
    ("get", "/v1/certificates/{serial_number}/history", "oyyy n"),
    (
        "get",
        "/v1/certificates/{serial_number}/inclusion",
        "oyyy n",
    ),
    ("get", "/v1/audit/checkpoint", "yyyy y"),
    ("get", "/v1/audit/consistency", "yyyy y"),
    ("get", "/v1/audit/tile/{path}", "yyyy y"),
    (
        "post",
        "/v1/certificates/{serial_number}/challenge",
        "oynn n",
    ),
    (
        "post",
        "/v1/certificates/{serial_number}/confirmation",
        "oynn n",
    ),
    (
        "post",
        "/v1/certificates/{serial_number}/supersession",
        "oynn n",
    ),
    ("post", "/v1/certificates/{serial_number}/scrap", "oynn n"),
    (
        "post",
        "/v1/certificates/{serial_number}/revocation",
        "nynn n",
    ),
    ("get", "/v1/devices/{certificate_id}", "oyyy n"),
    ("get", "/v1/orders", "yyyy n"),
    ("post", "/v1/orders", "nynn n"),
    ("get", "/v1/orders/{name}", "yyyy n"),
    ("post", "/v1/orders/{name}/closure", "nynn n"),
    ("post", "/v1/orders/{name}/devices", "nynn n"),
    ("get", "/v1/orders/{name}/report", "nyyy n"),
    ("post", "/v1/orders/tickets", "nynn n"),
    ("get", "/v1/batches", "nyyy n"),
    ("post", "/v1/batches", "nynn n"),
    ("get", "/v1/batches/{id}", "nyyy n"),
    ("post", "/v1/batches/{id}/devices", "nynn n"),
    ("get", "/v1/batches/{id}/events", "nyyy n"),
    ("get", "/v1/batches/{id}/package", "nynn n"),
    ("post", "/v1/batches/{id}/pause", "nynn n"),
    ("post", "/v1/batches/{id}/resume", "nynn n"),
    ("post", "/v1/batches/{id}/cancellation", "nynn n"),
    ("post", "/v1/batches/{id}/confirmation", "nynn n"),
    ("get", "/v1/stations", "nnyy n"),
    ("post", "/v1/stations", "nnny n"),
    ("get", "/v1/stations/{name}", "nnyy n"),
    ("put", "/v1/stations/{name}/rights", "nnny n"),
    ("post", "/v1/stations/{name}/disable", "nnny n"),
    ("post", "/v1/stations/{name}/enable", "nnny n"),
    ("post", "/v1/stations/{name}/enrolment-code", "nnny n"),
    // By its code, whoever brings it.
    ("post", "/v1/stations/{name}/enrolment", "yyyy y"),
    // Everybody their own; here it is another's.
    ("post", "/v1/stations/{name}/renewal", "nnnn n"),
    ("get", "/v1/approvals", "nnyy n"),
    ("post", "/v1/approvals/{id}", "nnny n"),
    ("get", "/v1/profiles", "yyyy y"),
    ("get", "/v1/issuers", "yyyy y"),
    ("get", "/v1/issuers/{name}/certificate.pem", "yyyy y"),
    ("get", "/v1/issuers/{name}/chain.pem", "yyyy y"),
    ("get", "/v1/issuers/{name}/crl", "yyyy y"),
    (
        "post",
        "/v1/issuers/{name}/verification-certificates",
        "nnny n",
    ),
    ("post", "/v1/jitp/lint", "yyyy n"),
    ("post", "/v1/jitp/evaluate", "yyyy n"),
    ("get", "/problems/{slug}", "yyyy y"),
    ("get", "/runbooks/", "yyyy y"),
    ("get", "/runbooks/{slug}", "yyyy y"),
];

#[test]
fn every_route_lets_in_the_roles_of_the_table_and_no_other() {
    let own = OwnWorld::running();
    let world = &own.world;
    let described: Value = world.nobody().get("/openapi.json").json();
    let mut routes = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            routes.insert((method.clone(), path.clone()));
        }
    }
    let known: BTreeSet<_> = TABLE
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(routes, known, "a route without its line in the table");

    let sql = "UPDATE principal SET disabled = true WHERE name = 'auditor'";
    for (method, path, who) in TABLE {
        let (roles, nobody) = who.split_once(' ').unwrap();
        for (name, may) in WHO.iter().zip(roles.chars()) {
            let answer = ask(world, &world.client(name), method, path);
            let at = format!("{method} {path} as {name}: {answer:?}");
            match may {
                'y' => assert!(!matches!(answer.status, 401 | 403 | 500..), "{at}"),
                'n' => {
                    assert_eq!(answer.status, 403, "{at}");
                    assert_eq!(answer.slug(), "forbidden", "{at}");
                }
                _ => assert_eq!(answer.status, 404, "{at}"),
            }
        }
        let answer = ask(world, &world.nobody(), method, path);
        let at = format!("{method} {path} as nobody: {answer:?}");
        match nobody {
            "y" => assert_ne!(answer.status, 401, "{at}"),
            _ => assert_eq!(
                (answer.status, answer.slug().as_str()),
                (401, "client-certificate-required"),
                "{at}"
            ),
        }
    }

    // Disabled, or not known: nothing but what anybody may.
    for (sql, slug) in [
        (sql, "station-disabled"),
        (
            "DELETE FROM principal_key WHERE name = 'auditor'",
            "station-unknown",
        ),
    ] {
        world.sql(sql);
        std::thread::sleep(std::time::Duration::from_secs(1));
        for (method, path, who) in TABLE {
            let answer = ask(world, &world.client("auditor"), method, path);
            let at = format!("{method} {path}: {answer:?}");
            if who.ends_with('y') {
                assert!(answer.status != 403 || answer.slug() != slug, "{at}");
            } else {
                assert_eq!((answer.status, answer.slug().as_str()), (403, slug), "{at}");
            }
        }
    }
}

/// A request that the role alone decides about: it names what there is, and is well-formed.
fn ask(world: &World, curl: &Curl, method: &str, path: &str) -> Response {
    let device = Device::p256();
    let operator = world.client("operator");
    let certificate = || issued(&operator.issue(&Device::p256().request("lightbulb")));
    let mut address = path.to_owned();
    let mut body = json!({});
    if path.contains("{serial_number}") || path.contains("{certificate_id}") {
        let certificate = certificate();
        let of = |field: &str| certificate[field].as_str().unwrap().to_owned();
        address = address
            .replace("{serial_number}", &of("serial_number"))
            .replace("{certificate_id}", &of("fingerprint_sha256"));
        body = match path.rsplit('/').next().unwrap() {
            "confirmation" => json!({ "certificate": certificate["certificate"] }),
            "supersession" => json!({ "csr": device.csr(), "reason": "test" }),
            "scrap" => json!({ "reason": "test" }),
            "revocation" => json!({ "reason": "unspecified" }),
            _ => json!({}),
        };
    }
    let name = format!("x-{}", device.name);
    if path.starts_with("/v1/audit") {
        address = address.replace("{path}", "0/000.p/1");
    } else if path.starts_with("/v1/orders") {
        world.order("WO-roles", "lightbulb");
        address = address.replace("{name}", "WO-roles");
        body = json!({ "name": name, "profile": "lightbulb", "quantity": 1 });
    } else if path.starts_with("/v1/stations") {
        let station = json!({ "name": name });
        if path.contains("{name}") {
            let administrator = world.client("administrator");
            let headers = [("Content-Type", "application/json")];
            let text = station.to_string();
            let made = administrator.send("POST", "/v1/stations", &headers, Some(text.as_bytes()));
            assert_eq!(made.status, 201, "{made:?}");
            address = address.replace("{name}", &name);
            if path.ends_with("enrolment") {
                let made = made.json();
                let bearer = format!("Bearer {}", made["enrolment_code"].as_str().unwrap());
                let headers = [
                    ("Content-Type", "application/pkcs10"),
                    ("Authorization", &*bearer),
                ];
                return curl.send("POST", &address, &headers, Some(device.csr().as_bytes()));
            }
        } else {
            body = station;
        }
    } else if path == "/v1/certificates" {
        body = device.request("lightbulb");
    }
    address = address
        .replace("/v1/issuers/{name}", "/v1/issuers/line-ec")
        .replace("{id}", &"0".repeat(32))
        .replace("{slug}", "not-found");
    let headers = [("Content-Type", "application/json")];
    let text = body.to_string();
    let body = (method != "get").then_some(text.as_bytes());
    curl.send(&method.to_uppercase(), &address, &headers, body)
}
