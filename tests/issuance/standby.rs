//! Searches on a standby, seen from outside: a station never misses what it was given, people are told how
//! old an answer is, and nothing stops when the standby does.

use std::time::{Duration, Instant};

use openssl::hash::{MessageDigest, hash};
use serde_json::Value;

use crate::postgres::Postgres;
use crate::support::device::Device;
use crate::support::http::Curl;
use crate::support::world::{OwnWorld, issued, leaf};

/// Has searches read on a standby of the world's database, as old as that may be.
fn with_standby(own: &OwnWorld, lag_max_seconds: i64) -> Postgres {
    let home = std::fs::canonicalize(own.world.dir.join("postgres")).unwrap();
    let standby = Postgres::standby_of(&home);
    own.configure(|config| {
        let url = config["database"]["url"].as_str().unwrap();
        let role = &url["postgres://".len()..url.find('@').unwrap()];
        let mut archive = toml::Table::new();
        let address = standby.address(role, "certfactory");
        archive.insert("url".into(), address.into());
        archive.insert("lag_max_seconds".into(), lag_max_seconds.into());
        let database = config["database"].as_table_mut().unwrap();
        database.insert("archive".into(), archive.into());
    });
    standby
}

fn sql(standby: &Postgres, sql: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(standby.existing("certfactory".into()).execute(sql));
}

/// What `/readyz` warns of the standby.
fn warning(own: &OwnWorld) -> Option<String> {
    let (ready, text) = own.readiness();
    assert!(ready, "the standby is nothing that issuing needs: {text}");
    let said: Value = serde_json::from_str(&text).unwrap();
    let mut warnings = said["warnings"].as_array().unwrap().iter();
    let standby = warnings.find(|warning| warning["component"] == "standby");
    standby.map(|warning| warning["reason"].as_str().unwrap().to_owned())
}

fn wait_warning(own: &OwnWorld, holds: impl Fn(Option<&str>) -> bool) {
    let start = Instant::now();
    loop {
        let warning = warning(own);
        if holds(warning.as_deref()) {
            return;
        }
        assert!(start.elapsed().as_secs() < 15, "{warning:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How many certificates somebody finds, and the answer's date.
fn found(client: &Curl, query: &str) -> (usize, Option<String>) {
    let answer = client.get(&format!("/v1/certificates?limit=1000&{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let as_of = body["as_of"].as_str().map(str::to_owned);
    assert_eq!(answer.header("as-of"), as_of.as_deref());
    (body["items"].as_array().unwrap().len(), as_of)
}

#[test]
fn a_station_reads_back_what_it_was_given_however_old_the_standby_is() {
    let mut own = OwnWorld::running();
    own.kill_service();
    let mut standby = with_standby(&own, 3_600);
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    wait_warning(&own, |warning| warning.is_none());
    let (station, auditor) = (own.world.client("station-01"), own.world.client("auditor"));
    let (before, as_of) = found(&auditor, "");
    assert!(as_of.is_some(), "the standby is not read");

    sql(&standby, "SELECT pg_wal_replay_pause()");
    let mut last = None;
    for _ in 0..200 {
        let device = Device::p256();
        let certificate = issued(&station.issue(&device.request("lightbulb")));
        let serial = certificate["serial_number"].as_str().unwrap();
        let again = station.get(&format!("/v1/certificates/{serial}"));
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(again.json()["certificate"], certificate["certificate"]);
        // And asked for once more it is the same one: what was issued before is not looked for on a standby.
        let replayed = station.issue(&device.request("lightbulb"));
        assert_eq!(replayed.status, 200, "{replayed:?}");
        assert_eq!(replayed.json()["serial_number"], serial);
        last = Some(certificate);
    }
    let last = last.unwrap();
    let (serial, name) = (
        last["serial_number"].as_str().unwrap(),
        last["subject"]["CN"].as_str().unwrap(),
    );
    // Whoever could have been given it finds it: a station, the cloud, the auditor with a scanner.
    assert_eq!(found(&station, &format!("device={name}")), (1, None));
    let fingerprint = hash(MessageDigest::sha256(), &leaf(&last).to_der().unwrap()).unwrap();
    let fingerprint: String = fingerprint.iter().map(|it| format!("{it:02x}")).collect();
    let asked = auditor.get(&format!("/v1/devices/{fingerprint}"));
    assert_eq!(asked.status, 200, "{asked:?}");
    let page = auditor.get(&format!("/audit?q={serial}"));
    assert_eq!(page.status, 303, "{page:?}");
    let lines = station.send(
        "GET",
        "/v1/certificates",
        &[("Accept", "application/x-ndjson")],
        None,
    );
    assert!(lines.text().contains(serial));

    // Who looks through the ledger is told until when it was.
    let (now, as_of) = found(&auditor, "");
    assert!(now < before + 200, "the standby replays: {now}");
    let page = auditor.get("/audit").text();
    assert!(page.contains("Read on the standby") && !page.contains(serial));
    let table = auditor.send("GET", "/v1/certificates", &[("Accept", "text/csv")], None);
    assert!(table.header("as-of").is_some() && !table.text().contains(serial));
    assert!(as_of.unwrap().as_str() < last["issued_at"].as_str().unwrap());
    let lag = own.world.metric("certfactory_archive_lag_seconds");
    assert!(lag > 1.0, "{lag}");
    assert!(auditor.get("/ui").text().contains("behind at most"));

    standby.stop();
    assert_eq!(found(&auditor, &format!("device={name}")), (1, None));
    wait_warning(&own, |warning| {
        warning.is_some_and(|it| it.contains("read on the primary"))
    });
    let doctor = own.world.program(&["doctor"]).output().unwrap();
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains("warn standby"), "{said}");
    issued(&station.issue(&Device::p256().request("lightbulb")));
    standby.start_again();
    wait_warning(&own, |warning| warning.is_none());
    let start = Instant::now();
    while found(&auditor, &format!("device={name}")).0 == 0 {
        assert!(start.elapsed().as_secs() < 10, "it does not catch up");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(found(&auditor, "").1.is_some());
    assert_eq!(own.world.metric("certfactory_archive_standby_up"), 1.0);
}
