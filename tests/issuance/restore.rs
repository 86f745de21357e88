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
