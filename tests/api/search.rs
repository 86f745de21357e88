//! `GET /v1/certificates`: filters, and pages that neither lose nor repeat.

use std::collections::BTreeSet;

use regex::Regex;

use crate::support::device::Device;
use crate::support::world::{issued, shared};

#[test]
fn every_filter_finds_the_certificate_and_misses_the_others() {
    let world = shared();
    let device = Device::p256();
    let mut request = device.request("lightbulb");
    world.order(&format!("WO-{}", device.name), "lightbulb");
    request["order"] = format!("WO-{}", device.name).into();
    let body = issued(&world.client("station-01").issue(&request));
    issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let spki: String = openssl::sha::sha256(&device.key.public_key_to_der().unwrap())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let auditor = world.client("auditor");
    let narrow = [
        format!("cn={}", device.name),
        format!("device={}", device.name),
        format!("device_serial={}", device.subject()["serialNumber"]),
        format!("serial_number={}", text("serial_number")),
        format!("fingerprint={}", text("fingerprint_sha256")),
        format!("spki={spki}"),
        format!("order=WO-{}", device.name),
    ];
    for query in &narrow {
        let page = auditor.get(&format!("/v1/certificates?{query}&profile=lightbulb&issuer=line-ec&station=station-01&status=issued&issued_after=2020-01-01T00:00:00Z&issued_before=2120-01-01T00:00:00Z")).json();
        assert_eq!(
            page["items"].as_array().unwrap().len(),
            1,
            "{query}: {page}"
        );
        let mut item = page["items"][0].clone();
        let age = item.as_object_mut().unwrap().remove("unconfirmed_seconds");
        assert!(age.unwrap().as_i64().unwrap() < 60, "{query}");
        assert_eq!(item, body, "{query}");
        for miss in [
            "profile=workshop",
            "issuer=line-rsa",
            "station=operator",
            "issued_before=2020-01-01T00:00:00Z",
        ] {
            let page = auditor
                .get(&format!("/v1/certificates?{query}&{miss}"))
                .json();
            assert_eq!(page["items"].as_array().unwrap().len(), 0, "{query}&{miss}");
        }
    }
}

#[test]
fn pages_hold_everything_once_newest_first() {
    let world = shared();
    world.order(&format!("WO-pages-{}", std::process::id()), "workshop");
    let mut made = Vec::new();
    for _ in 0..7 {
        let device = Device::p256();
        let mut request = device.request("workshop");
        request["order"] = format!("WO-pages-{}", std::process::id()).into();
        made.push(
            issued(&world.client("operator").issue(&request))["serial_number"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let mut path = format!(
        "/v1/certificates?order=WO-pages-{}&limit=3",
        std::process::id()
    );
    let mut found = Vec::new();
    loop {
        let response = world.client("auditor").get(&path);
        let page = response.json();
        found.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i["serial_number"].as_str().unwrap().to_owned()),
        );
        let Some(link) = response.header("link") else {
            assert!(page["next"].is_null());
            break;
        };
        assert!(page["next"].is_string());
        path = link
            .trim_start_matches('<')
            .split('>')
            .next()
            .unwrap()
            .to_owned();
    }
    made.reverse();
    assert_eq!(found, made);
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 7);
}

#[test]
fn a_station_sees_its_own_only() {
    let world = shared();
    let device = Device::p256();
    issued(&world.client("operator").issue(&device.request("lightbulb")));
    let page = world
        .client("station-01")
        .get(&format!("/v1/certificates?device={}", device.name))
        .json();
    assert_eq!(page["items"].as_array().unwrap().len(), 0);
}

#[test]
fn wrong_parameters_are_named() {
    let auditor = shared().client("auditor");
    for query in [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "cursor=x",
        "nonesuch=1",
        "serial_number=12",
        "fingerprint=zz",
        "status=lost",
        "issued_after=yesterday",
        "issued_after=2026-01-02T00:00:00Z&issued_before=2026-01-01T00:00:00Z",
        "cn=a&cn=b",
        "cn=%00",
        "cn=%ff",
    ] {
        let response = auditor.get(&format!("/v1/certificates?{query}"));
        assert_eq!(
            (response.status, response.slug().as_str()),
            (400, "invalid-parameter"),
            "{query}: {}",
            response.text()
        );
    }
    let quoted = auditor
        .get("/v1/certificates?cn=%27%3B%20DROP%20TABLE%20intent%3B--")
        .json();
    assert_eq!(quoted["items"].as_array().unwrap().len(), 0);
}

#[test]
fn all_matches_stream_as_lines_and_as_a_table() {
    let world = shared();
    let order = format!("=WO-stream-{}", std::process::id());
    world.order(&order, "lightbulb");
    for _ in 0..3 {
        let mut request = Device::p256().request("lightbulb");
        request["order"] = order.clone().into();
        issued(&world.client("operator").issue(&request));
    }
    let path = format!("/v1/certificates?order=%3D{}", &order[1..]);
    let auditor = world.client("auditor");
    let page = auditor.get(&format!("{path}&limit=3")).json();
    let lines = auditor.get_as(&path, "application/x-ndjson").text();
    let items: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(serde_json::Value::from(items), page["items"]);
    // Octet by octet what GET says of each, but for how long it has waited.
    let age = Regex::new(r#""unconfirmed_seconds":\d+,"#).unwrap();
    for (line, item) in lines.lines().zip(page["items"].as_array().unwrap()) {
        let serial = item["serial_number"].as_str().unwrap();
        let one = auditor.get(&format!("/v1/certificates/{serial}")).text();
        assert_eq!(age.replace(line, ""), one);
    }
    let table = auditor.get_as(&path, "text/csv");
    assert_eq!(
        table.header("content-type"),
        Some("text/csv; charset=utf-8")
    );
    let rows: Vec<String> = table.text().split("\r\n").map(str::to_owned).collect();
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert!(rows[0].starts_with("serial_number,"));
    assert!(rows[1].starts_with(page["items"][0]["serial_number"].as_str().unwrap()));
    // What a spreadsheet would take for a formula comes as text.
    assert!(rows[1].contains(&format!("\"'{order}\"")), "{}", rows[1]);
    assert_eq!(auditor.get_as(&path, "image/png").slug(), "not-acceptable");
    let no_batch = auditor.get("/v1/certificates?batch=none");
    assert_eq!(no_batch.slug(), "invalid-parameter");
    let none = auditor.get("/v1/certificates?batch=00000000-0000-0000-0000-000000000000");
    assert_eq!(none.json()["items"], serde_json::json!([]));
}
