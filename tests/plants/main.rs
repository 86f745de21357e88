//! Two plants and a head office on one machine: three PostgreSQL clusters, TLS between them, lines that are cut.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use support::device::Device;
use support::plants::HeadOffice;
use support::plants::Plant;
use support::world::issued;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A certificate of a fresh device of that plant.
fn certificate(plant: &Plant, order: Option<&str>) -> Value {
    let mut request = Device::p256().request("lightbulb");
    if let Some(order) = order {
        request["order"] = order.into();
    }
    issued(&plant.own.world.client("station-01").issue(&request))
}

/// How long it takes until head office finds it.
fn found(office: &HeadOffice, certificate: &Value) -> Duration {
    let start = Instant::now();
    let serial = certificate["serial_number"].as_str().unwrap();
    let path = format!("/v1/certificates?serial_number={serial}");
    let auditor = office.client("auditor");
    loop {
        let body = auditor.get(&path).json();
        if let Some(item) = body["items"].as_array().unwrap().first() {
            assert_eq!(item["certificate"], certificate["certificate"]);
            return start.elapsed();
        }
        assert!(start.elapsed() < seconds(20), "not found: {body}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn head_office_has_what_its_plants_made_and_names_what_was_changed_by_hand() {
    let mut office = HeadOffice::make();
    let hamburg = Plant::running("hamburg", 1, &office);
    let wroclaw = Plant::running("wroclaw-2", 2, &office);
    let lines = [hamburg.line(), wroclaw.line()];
    // What was there before it subscribed comes, too.
    let earlier = certificate(&hamburg, None);

    // Under another name, it is not taken for that plant.
    let wrong = office.addition(&hamburg, &lines[0], "bremen");
    let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
    let (code, said) = office.refused(&wrong);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("is of site `hamburg`"), "{said}");
    office.add(&hamburg, &lines[0]);
    office.add(&wroclaw, &lines[1]);
    office.start_service();
    found(&office, &earlier);

    // Feeds: every row of both plants, at once.
    hamburg.own.world.order("WO-1", "lightbulb");
    wroclaw.own.world.order("WO-1", "lightbulb");
    let from_hamburg = certificate(&hamburg, Some("WO-1"));
    let from_wroclaw = certificate(&wroclaw, Some("WO-1"));
    for made in [&from_hamburg, &from_wroclaw] {
        let after = found(&office, made);
        assert!(after < seconds(2), "found after {after:?}");
    }
    hamburg
        .own
        .world
        .revoke(&from_hamburg, "cessationOfOperation");
    let auditor = office.client("auditor");
    let of = |site: &str| auditor.get(&format!("/v1/certificates?site={site}")).json();
    assert_eq!(of("hamburg")["items"].as_array().unwrap().len(), 2);
    assert_eq!(of("wroclaw-2")["items"][0]["site"], "wroclaw-2");
    let pair = auditor.get("/v1/certificates?profile=lightbulb&issuer=line-ec");
    assert_eq!(pair.json()["items"].as_array().unwrap().len(), 3);

    // Each row agrees with the log, the log with the plant's checkpoints.
    for plant in [&hamburg, &wroclaw] {
        office.wait_plant(&plant.site, seconds(20), |it| {
            it["witnessed_entries"].as_i64() >= Some(2)
                && it["witnessed_entries"] == it["log_entries"]
                && it["certificates"].as_i64() >= Some(1)
                && it["late"] == false
        });
    }
    office.wait_plant("hamburg", seconds(5), |it| it["events"] == 1);
    for plant in [&hamburg, &wroclaw] {
        assert_eq!(office.plant(&plant.site)["findings_open"], 0);
    }

    // The story, from the plant's log.
    let serial = from_hamburg["serial_number"].as_str().unwrap();
    let story = auditor
        .get(&format!("/v1/certificates/{serial}/history"))
        .json();
    let kinds: Vec<&str> = story["items"][0]["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["issued", "revoked"], "{story:#}");
    assert_eq!(story["items"][0]["status"], "revoked");

    // Totals of an order over the plants.
    let order = auditor.get("/v1/orders/WO-1").json();
    assert_eq!(order["reserved"], 2, "{order:#}");
    assert_eq!(order["revoked"], 1, "{order:#}");
    assert_eq!(order["plants"].as_array().unwrap().len(), 2);
    assert_eq!(auditor.get("/v1/orders").json()["items"][0], order);

    // Whom it does not know it tells nothing.
    let stranger = office.client("stranger").get("/v1/plants");
    assert_eq!(stranger.status, 403, "{stranger:?}");

    // What is only a plant's own never leaves it.
    let columns = office.sql(
        "SELECT string_agg(table_name || '.' || column_name, ' ') FROM information_schema.columns
         WHERE table_schema = 'public' AND column_name IN ('tbs', 'idempotency_key', 'envelopes', 'subjects')",
    );
    assert_eq!(columns, "");

    ordered_by_ticket(&office, &hamburg, &wroclaw);
    cut_and_caught_up(&office, &hamburg, &lines[0]);
    changed_by_hand(&office, &hamburg, &wroclaw, &from_hamburg, &from_wroclaw);
}

/// Head office signs an order for one plant, once; the plant takes it, and head office sees that it did.
fn ordered_by_ticket(office: &HeadOffice, hamburg: &Plant, wroclaw: &Plant) {
    let ends = [1, 2].map(|hours| chrono::Utc::now() + chrono::TimeDelta::hours(hours));
    let ask_until = |who: &str, quantity: u32, ends: chrono::DateTime<chrono::Utc>| {
        let wish = json!({
            "site": "hamburg", "expires_at": ends.to_rfc3339(),
            "order": { "name": "WO-2", "profile": "lightbulb", "quantity": quantity },
        });
        let headers = [("Content-Type", "application/json")];
        let body = wish.to_string();
        let client = office.client(who);
        client.send("POST", "/v1/tickets", &headers, Some(body.as_bytes()))
    };
    let ask = |who: &str, quantity: u32| ask_until(who, quantity, ends[0]);
    assert_eq!(ask("auditor", 3).slug(), "forbidden");
    let signed = ask("planner", 3);
    assert_eq!(signed.status, 201, "{signed:?}");
    let again = ask("planner", 3);
    assert_eq!((again.status, again.json()), (200, signed.json()));
    assert_eq!(ask("planner", 4).slug(), "ticket-widened");
    assert_eq!(ask_until("planner", 3, ends[1]).slug(), "ticket-widened");

    let signed = signed.json();
    let ticket = signed["ticket"].as_str().unwrap();
    let redeem = |plant: &Plant| {
        let headers = [("Content-Type", "application/jose")];
        let operator = plant.own.world.client("operator");
        let body = Some(ticket.as_bytes());
        operator.send("POST", "/v1/orders/tickets", &headers, body)
    };
    assert_eq!(redeem(wroclaw).slug(), "ticket-audience");
    let redeemed = redeem(hamburg);
    assert_eq!(redeemed.status, 201, "{redeemed:?}");
    certificate(hamburg, Some("WO-2"));
    let start = Instant::now();
    loop {
        let order = office.client("auditor").get("/v1/orders/WO-2");
        if order.status == 200 && order.json()["reserved"] == 1 {
            let order = order.json();
            assert_eq!(order["plants"][0]["ticket"], signed["jti"], "{order}");
            return;
        }
        assert!(start.elapsed() < seconds(5), "{order:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A plant without its line to the world goes on issuing, is late, and catches up.
fn cut_and_caught_up(office: &HeadOffice, plant: &Plant, line: &support::plants::Line) {
    line.cut();
    let made: Vec<Value> = (0..10).map(|_| certificate(plant, None)).collect();
    office.wait_plant(&plant.site, seconds(20), |it| it["late"] == true);
    let warnings = office.operations().get("/readyz").json();
    assert_eq!(warnings["warnings"][0]["plant"], plant.site, "{warnings}");
    line.mend();
    office.wait_plant(&plant.site, seconds(20), |it| it["late"] == false);
    for certificate in &made {
        let after = found(office, certificate);
        assert!(after < seconds(2), "found after {after:?}");
    }
    let metrics = office.operations().get("/metrics").text();
    for metric in [
        "feed_up",
        "findings_open",
        "feed_late_after_seconds",
        "feed_lag_seconds",
        "certificates",
        "log_entries",
        "witnessed_entries",
    ] {
        let line = format!("certfactory_plant_{metric}{{plant=\"{}\"}} ", plant.site);
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
}

fn changed_by_hand(
    office: &HeadOffice,
    hamburg: &Plant,
    wroclaw: &Plant,
    from_hamburg: &Value,
    from_wroclaw: &Value,
) {
    let findings = |site: &str| -> Vec<Value> {
        let path = format!("/v1/plants/{site}/findings");
        let body = office.client("auditor").get(&path).json();
        body["items"].as_array().unwrap().clone()
    };
    // The device of an old row, the octets of an old entry.
    let serial = from_hamburg["serial_number"].as_str().unwrap();
    hamburg.own.world.sql(&format!(
        "UPDATE intent SET device = 'another' WHERE serial_number = decode('{serial}', 'hex')"
    ));
    let index = from_wroclaw["log_index"].as_i64().unwrap();
    wroclaw.own.world.sql(&format!(
        "UPDATE log_entry SET leaf = leaf || 'x'::bytea WHERE log_index = {index}"
    ));
    office.wait_plant("hamburg", seconds(10), |it| it["findings_open"] == 1);
    let named = &findings("hamburg")[0];
    assert_eq!(named["table"], "intent");
    let device = from_hamburg["device"].as_str().unwrap();
    assert_eq!(
        named["difference"],
        format!("device is now another, and was {device}")
    );
    office.wait_plant("wroclaw-2", seconds(10), |it| it["findings_open"] == 1);
    let named = &findings("wroclaw-2")[0];
    assert_eq!(
        (&named["table"], &named["key"]),
        (&json!("log_entry"), &json!(index.to_string()))
    );
    // Head office still has what it was given first, and says what is wrong with it.
    let story = office
        .client("auditor")
        .get(&format!("/v1/certificates/{serial}/history"))
        .json();
    assert_eq!(story["items"][0]["device"], device);
    assert_eq!(story["items"][0]["findings"][0]["table"], "intent");
    let start = Instant::now();
    while !office.log().contains("a row of a plant does not agree") {
        assert!(start.elapsed() < seconds(5), "{}", office.log());
        std::thread::sleep(Duration::from_millis(50));
    }

    // Put right, it is over.
    hamburg.own.world.sql(&format!(
        "UPDATE intent SET device = '{device}' WHERE serial_number = decode('{serial}', 'hex')"
    ));
    office.wait_plant("hamburg", seconds(10), |it| it["findings_open"] == 0);
    assert!(findings("hamburg")[0]["ended_at"].is_string());

    // What is new and was never in the log.
    hamburg.own.world.sql(&format!(
        "SET session_replication_role = replica;
         INSERT INTO life_event (intent_id, kind, principal, reason_code, issuer, reason)
             SELECT intent_id, 'scrapped', 'nobody', NULL, issuer, NULL FROM intent
             WHERE serial_number = decode('{serial}', 'hex')"
    ));
    office.wait_plant("hamburg", seconds(10), |it| it["findings_open"] == 1);
    let named = &findings("hamburg")[0];
    assert_eq!(named["table"], "life_event");
    assert_eq!(named["difference"], "the log has no entry of it");
    // That it comes again as it was says nothing of the log.
    hamburg.own.world.sql(&format!(
        "UPDATE life_event SET kind = kind WHERE kind = 'scrapped'
             AND intent_id = (SELECT intent_id FROM intent WHERE serial_number = decode('{serial}', 'hex'))"
    ));

    // A count that an order's definition does not allow.
    hamburg.own.world.sql(
        "SET session_replication_role = replica; UPDATE work_order SET quantity = quantity + 1 WHERE name = 'WO-1'",
    );
    office.wait_plant("hamburg", seconds(20), |it| it["findings_open"] == 2);
    let named = findings("hamburg");
    let order = named.iter().find(|it| it["table"] == "work_order").unwrap();
    assert_eq!(order["key"], "WO-1");
    // Until when it is open, which no trigger at the plant looks at.
    hamburg
        .own
        .world
        .sql("UPDATE work_order SET closes_at = '2030-01-01', quantity = quantity - 1 WHERE name = 'WO-1'");
    let start = Instant::now();
    loop {
        let named = findings("hamburg");
        let order = named.iter().find(|it| it["table"] == "work_order").unwrap();
        if order["difference"].as_str().unwrap().contains("closes_at") {
            break;
        }
        assert!(start.elapsed() < seconds(20), "{order}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        office.plant("hamburg")["findings_open"],
        2,
        "the event is still one"
    );

    // A log that was written anew is not the one that was signed before.
    let fine = office.plant("wroclaw-2")["witnessed_entries"].clone();
    wroclaw.own.world.sql(
        "SET session_replication_role = replica;
         INSERT INTO checkpoint (size, root, note) SELECT size + 1000000, root, note FROM checkpoint ORDER BY size DESC LIMIT 1",
    );
    office.wait_plant("wroclaw-2", seconds(10), |it| it["findings_open"] == 2);
    let named = findings("wroclaw-2");
    let checkpoint = named.iter().find(|it| it["table"] == "checkpoint").unwrap();
    assert!(
        checkpoint["difference"]
            .as_str()
            .unwrap()
            .contains("its note is of"),
        "{checkpoint}"
    );
    assert!(office.plant("wroclaw-2")["witnessed_entries"].as_i64() >= fine.as_i64());
    assert_eq!(
        office
            .client("auditor")
            .get("/v1/plants/bremen/findings")
            .status,
        404
    );

    // One device's key at two plants, which neither can know.
    let device = Device::p256();
    let request = device.request("lightbulb");
    let first = issued(&hamburg.own.world.client("station-01").issue(&request));
    found(office, &first);
    issued(&wroclaw.own.world.client("station-01").issue(&request));
    office.wait_plant("wroclaw-2", seconds(10), |it| it["findings_open"] == 3);
    let twice = findings("wroclaw-2");
    let twice = twice.iter().find(|it| it["table"] == "outcome").unwrap();
    assert_eq!(
        twice["difference"],
        "spki_sha256: plant hamburg certified it, too"
    );

    // A plant that is removed is gone, with its rows.
    office.command(&["headquarters", "plant", "remove", "wroclaw-2"]);
    let listed = office.command(&["headquarters", "plant", "list"]);
    assert!(
        listed.contains("hamburg") && !listed.contains("wroclaw"),
        "{listed}"
    );
    assert_eq!(
        office.sql("SELECT count(*) FROM outcome WHERE site = 'wroclaw-2'"),
        "0"
    );
}
