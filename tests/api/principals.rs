//! Who may do what, decided on every request.

use openssl::x509::X509;

use crate::support::device::Device;
use crate::support::tls::{Identity, refusal};
use crate::support::world::{issued, shared};

#[test]
fn each_role_does_its_own_and_nothing_else() {
    let world = shared();
    let serial = issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    )["serial_number"]
        .as_str()
        .unwrap()
        .to_owned();
    let by_operator = issued(
        &world
            .client("operator")
            .issue(&Device::p256().request("lightbulb")),
    )["serial_number"]
        .as_str()
        .unwrap()
        .to_owned();
    for name in ["auditor", "administrator"] {
        let response = world
            .client(name)
            .issue(&Device::p256().request("lightbulb"));
        assert_eq!(
            (response.status, response.slug().as_str()),
            (403, "forbidden"),
            "{name}"
        );
    }
    for name in ["station-01", "operator", "auditor", "administrator"] {
        assert_eq!(
            world
                .client(name)
                .get(&format!("/v1/certificates/{serial}"))
                .status,
            200,
            "{name}"
        );
    }
    assert_eq!(
        world
            .client("station-01")
            .get(&format!("/v1/certificates/{by_operator}"))
            .slug(),
        "not-found"
    );
    assert_eq!(
        world.client("administrator").get("/v1/certificates").slug(),
        "forbidden"
    );
    assert_eq!(
        world
            .client("station-01")
            .get("/v1/certificates?station=operator")
            .slug(),
        "forbidden"
    );
}

#[test]
fn without_a_client_certificate_only_public_routes_answer() {
    let world = shared();
    let nobody = world.nobody();
    let response = nobody.issue(&Device::p256().request("lightbulb"));
    assert_eq!(
        (response.status, response.slug().as_str()),
        (401, "client-certificate-required")
    );
    assert_eq!(nobody.get("/v1/certificates").status, 401);
    for path in [
        "/v1/profiles",
        "/v1/issuers",
        "/v1/issuers/line-ec/certificate.pem",
        "/v1/issuers/line-rsa/chain.pem",
        "/openapi.json",
        "/problems/weak-key",
    ] {
        assert_eq!(nobody.get(path).status, 200, "{path}");
    }
}

#[test]
fn a_device_certificate_never_logs_in() {
    let world = shared();
    let device = Device::p256();
    let body = issued(
        &world
            .client("station-01")
            .issue(&device.request("lightbulb")),
    );
    let identity = Identity {
        certificate: X509::from_pem(body["certificate"].as_str().unwrap().as_bytes()).unwrap(),
        key: device.key,
    };
    let said = refusal(world, &identity);
    assert!(said.contains("alert unknown ca"), "{said}");
}

#[test]
fn a_disabled_station_is_refused_at_its_next_request_and_an_unknown_one_always() {
    let own = crate::support::world::OwnWorld::running();
    let station = own.world.client("station-01");
    assert_eq!(
        station.issue(&Device::p256().request("lightbulb")).status,
        201
    );
    let until = |slug: &str| {
        let start = std::time::Instant::now();
        loop {
            let response = station.issue(&Device::p256().request("lightbulb"));
            if response.status == 403 && response.slug() == slug {
                return;
            }
            assert!(start.elapsed().as_secs() < 2, "{response:?}");
        }
    };
    own.world
        .sql("UPDATE principal SET disabled = true WHERE name = 'station-01'");
    until("station-disabled");
    own.world
        .sql("DELETE FROM principal_key WHERE name = 'station-01'");
    until("station-unknown");
}
