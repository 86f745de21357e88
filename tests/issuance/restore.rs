//! The ledger from a backup, and a year later: what was issued is still the answer to its request.

use serde_json::Value;

use crate::seconds;
use crate::support::device::Device;
use crate::support::http::{Curl, Response};
use crate::support::world::{OwnWorld, issued};

fn ask(station: &Curl, body: &Value, key: Option<&str>) -> Response {
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(key.map(|key| ("Idempotency-Key", key)));
    let body = body.to_string();
    station.send("POST", "/v1/certificates", &headers, Some(body.as_bytes()))
}

#[test]
fn after_a_restore_and_a_year_the_same_request_gets_the_same_certificate() {
    let mut own = OwnWorld::running();
    let station = own.world.client("station-01");
    let requests = [
        (Device::p256().request("lightbulb"), None),
        (Device::p256().request("lightbulb"), Some("shift-1/unit-1")),
        (Device::rsa2048().request("workshop"), None),
    ];
    let first: Vec<Response> = requests
        .iter()
        .map(|(body, key)| ask(&station, body, *key))
        .collect();
    let newest = |own: &OwnWorld| {
        own.world
            .sql("SELECT max(log_index) FROM outcome")
            .parse::<u64>()
            .unwrap()
    };
    let logged = newest(&own);

    let dump = own.world.dir.join("ledger.sql");
    let dump = dump.to_str().unwrap();
    own.world
        .postgres("pg_dump", &["--create", "-f", dump, "certfactory"]);
    own.kill_service();
    let drop = "DROP DATABASE certfactory WITH (FORCE)";
    own.world
        .postgres("psql", &["-X", "-q", "-d", "postgres", "-c", drop]);
    let stop = "ON_ERROR_STOP=1";
    let restore = ["-X", "-q", "-d", "postgres", "-v", stop, "-f", dump];
    own.world.postgres("psql", &restore);
    // What the log was told between the backup and the end.
    let reconciled = own.world.program(&["reconcile"]).output().unwrap();
    assert!(reconciled.status.success(), "{reconciled:?}");
    own.start_service();
    own.wait_ready(seconds(15));
    for ((body, key), first) in requests.iter().zip(&first) {
        let again = ask(&station, body, *key);
        assert_eq!((first.status, again.status), (201, 200), "{again:?}");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.body, first.body);
    }
    assert_eq!(newest(&own), logged);

    // All that has a time in the ledger is a year older, which only a superuser can do.
    own.kill_service();
    own.world.sql(
        "SET session_replication_role = replica;
         UPDATE intent SET created_at = created_at - interval '1 year', not_before = not_before - interval '1 year';
         UPDATE outcome SET recorded_at = recorded_at - interval '1 year'",
    );
    own.start_service();
    own.wait_ready(seconds(15));
    for ((body, key), first) in requests.iter().zip(&first) {
        let again = ask(&station, body, *key);
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        let (again, first) = (again.json(), first.json());
        assert_eq!(again["certificate"], first["certificate"]);
        assert_ne!(again["issued_at"], first["issued_at"]);
    }
    // And the log goes on where it was.
    let next = issued(&station.issue(&Device::p256().request("lightbulb")));
    assert!(next["log_index"].as_u64().unwrap() > logged);
}

#[test]
fn a_backup_and_the_journal_bring_everything_back_to_an_empty_server() {
    let mut own = OwnWorld::running();
    // As the package has it: the server's administrator acts for the owner.
    own.configure(|config| {
        let owner = config["database"]["owner_url"].as_str().unwrap();
        let owner = owner.replace("certfactory_owner@", "postgres@");
        config["database"]["owner_url"] = format!("{owner}?options[role]=certfactory_owner").into();
    });
    let station = own.world.client("station-01");
    let run = |own: &OwnWorld, arguments: &[&str]| {
        let output = own.world.program(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), printed, said)
    };
    let age = |own: &OwnWorld| own.world.metric("certfactory_backup_age_seconds");
    assert_eq!(age(&own), f64::INFINITY);
    let before: Vec<Value> = (0..3)
        .map(|_| Device::p256().request("lightbulb"))
        .collect();
    let first: Vec<Response> = before
        .iter()
        .map(|body| ask(&station, body, None))
        .collect();
    own.world.revoke(&first[0].json(), "keyCompromise");
    let proved = first[2].json()["log_index"].as_u64().unwrap();
    let start = std::time::Instant::now();
    while own
        .world
        .sql("SELECT coalesce(max(size), 0) FROM checkpoint")
        .parse::<u64>()
        .unwrap()
        <= proved
    {
        assert!(start.elapsed() < seconds(5), "no checkpoint");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }

    let backup = own.world.dir.join("backup");
    let backup = backup.to_str().unwrap();
    let (code, printed, said) = run(&own, &["backup", backup, "--json"]);
    assert_eq!(code, 0, "{said}");
    let manifest: Value = serde_json::from_str(&printed).unwrap();
    assert!(manifest["entries"].as_u64().unwrap() > proved, "{manifest}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(backup).unwrap());
    assert_eq!(mode & 0o777, 0o700, "who reads a dump reads the database");
    assert_eq!(
        run(&own, &["backup", backup]).0,
        4,
        "over one that is there"
    );
    let start = std::time::Instant::now();
    while age(&own) > 60.0 {
        assert!(start.elapsed() < seconds(20), "the age is not shown");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }

    // Released after it, so in the journal only.
    let after: Vec<Value> = (0..2)
        .map(|_| Device::p256().request("lightbulb"))
        .collect();
    let later: Vec<Response> = after.iter().map(|body| ask(&station, body, None)).collect();
    own.kill_service();
    let superuser = |own: &OwnWorld, sql: &str| {
        let arguments = [
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            "postgres",
            "-c",
            sql,
        ];
        own.world.postgres("psql", &arguments);
    };
    assert_eq!(
        run(&own, &["restore", backup]).0,
        4,
        "over a database that is in use"
    );
    superuser(&own, "DROP DATABASE certfactory WITH (FORCE)");
    superuser(&own, "DROP ROLE certfactory");
    superuser(&own, "DROP ROLE certfactory_service");
    superuser(&own, "DROP ROLE certfactory_replication");
    superuser(&own, "CREATE DATABASE certfactory OWNER certfactory_owner");

    let dump = own.world.dir.join("backup/database.dump");
    let good = std::fs::read(&dump).unwrap();
    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&dump, damaged).unwrap();
    let (code, _, said) = run(&own, &["restore", backup]);
    assert!(
        code == 4 && said.contains("database.dump: not the file"),
        "{said}"
    );
    std::fs::write(&dump, good).unwrap();
    let (code, printed, said) = run(&own, &["restore", "--verify", backup]);
    assert_eq!(code, 0, "{printed}{said}");

    superuser(
        &own,
        "CREATE ROLE certfactory LOGIN IN ROLE certfactory_service",
    );
    let (code, said) = own.refused_start();
    assert!(code != 0 && said.contains("journal"), "{said}");
    assert_eq!(run(&own, &["reconcile"]).0, 0);
    own.start_service();
    own.wait_ready(seconds(15));
    for (body, first) in before.iter().chain(&after).zip(first.iter().chain(&later)) {
        let again = ask(&station, body, None);
        assert_eq!((first.status, again.status), (201, 200), "{again:?}");
        assert_eq!(again.json()["certificate"], first.json()["certificate"]);
    }
    let revoked = first[0].json()["serial_number"]
        .as_str()
        .unwrap()
        .to_owned();
    let revoked = station.get(&format!("/v1/certificates/{revoked}")).json();
    assert_eq!(revoked["status"], "revoked");
    issued(&station.issue(&Device::p256().request("lightbulb")));
}
