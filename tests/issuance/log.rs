//! The log under fault: a database of an hour ago, a service that is killed, entries that were changed.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;
use serde_json::json;

use crate::seconds;
use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::OwnWorld;
use crate::support::world::issued;

fn post(own: &OwnWorld, client: &str, path: &str, body: &Value) -> Response {
    let headers = [("Content-Type", "application/json")];
    let body = body.to_string();
    own.world
        .client(client)
        .send("POST", path, &headers, Some(body.as_bytes()))
}

fn run(own: &OwnWorld, arguments: &[&str]) -> Output {
    own.world.program(arguments).output().unwrap()
}

/// `audit verify` of the database; its output.
fn verify(own: &OwnWorld) -> Output {
    let dir = own.world.dir.display().to_string();
    let log_key = format!("{dir}/head-office/log.pem");
    let issuers =
        ["line-ec", "line-rsa", "stations"].map(|name| format!("{dir}/issuers/{name}.pem"));
    let mut arguments = vec![
        "--json",
        "audit",
        "verify",
        "--database",
        "--log-key",
        &log_key,
    ];
    for issuer in &issuers {
        arguments.extend(["--issuer", issuer]);
    }
    run(own, &arguments)
}

/// Waits until everything so far is in a signed tree; its checkpoint.
fn checkpoint(own: &OwnWorld, index: u64) -> String {
    for _ in 0..200 {
        let text = own.world.nobody().get("/v1/audit/checkpoint").text();
        let size = text
            .lines()
            .nth(1)
            .and_then(|line| line.parse::<u64>().ok());
        if size.is_some_and(|size| size > index) {
            return text;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("no checkpoint holds entry {index}");
}

/// Replaces the database by an earlier state of it.
pub fn restore(own: &OwnWorld, dump: &Path) {
    let drop = "DROP DATABASE certfactory WITH (FORCE)";
    own.world
        .postgres("psql", &["-X", "-q", "-d", "postgres", "-c", drop]);
    let dump = dump.to_str().unwrap();
    let stop = "ON_ERROR_STOP=1";
    let restore = ["-X", "-q", "-d", "postgres", "-v", stop, "-f", dump];
    own.world.postgres("psql", &restore);
}

pub fn dump(own: &OwnWorld) -> PathBuf {
    let dump = own.world.dir.join("ledger.sql");
    let path = dump.to_str().unwrap();
    own.world
        .postgres("pg_dump", &["--create", "-f", path, "certfactory"]);
    dump
}

#[test]
fn a_database_of_an_hour_ago_is_refused_and_reconciled_with_every_released_certificate() {
    let mut own = OwnWorld::running();
    let station = own.world.client("station-01");
    let before = Device::p256().request("lightbulb");
    let first = issued(&station.issue(&before));
    let backup = dump(&own);

    // The hour that the backup does not know.
    let order = json!({ "name": "WO-lost", "profile": "lightbulb", "quantity": 5 });
    assert_eq!(post(&own, "operator", "/v1/orders", &order).status, 201);
    let mut requests: Vec<Value> = (0..4)
        .map(|_| Device::p256().request("lightbulb"))
        .collect();
    requests.push(Device::rsa2048().request("workshop"));
    requests[0]["order"] = "WO-lost".into();
    let released: Vec<Value> = requests
        .iter()
        .map(|it| issued(&station.issue(it)))
        .collect();
    let serial = |certificate: &Value| certificate["serial_number"].as_str().unwrap().to_owned();
    own.world.revoke(&released[1], "keyCompromise");
    let path = format!("/v1/certificates/{}/confirmation", serial(&released[2]));
    let read_back = json!({ "certificate": released[2]["certificate"] });
    assert_eq!(post(&own, "station-01", &path, &read_back).status, 200);
    let again = Device::p256();
    let path = format!("/v1/certificates/{}/supersession", serial(&first));
    let rework = json!({ "csr": again.csr(), "reason": "another radio" });
    let reworked = post(&own, "station-01", &path, &rework);
    assert_eq!(reworked.status, 201, "{reworked:?}");
    let reworked = reworked.json();
    let kept = checkpoint(&own, reworked["log_index"].as_u64().unwrap());
    let kept_file = own.world.dir.join("kept.checkpoint");
    std::fs::write(&kept_file, &kept).unwrap();
    own.kill_service();
    restore(&own, &backup);

    let (code, said) = own.refused_start();
    assert_ne!(code, 0);
    assert!(said.contains("reconcile"), "{said}");
    let looked = run(&own, &["--json", "reconcile", "--dry-run"]);
    assert!(looked.status.success(), "{looked:?}");
    assert_ne!(own.refused_start().0, 0, "a dry run changed something");

    let reconciled = run(&own, &["--json", "reconcile"]);
    assert!(reconciled.status.success(), "{reconciled:?}");
    let report: Value = serde_json::from_slice(&reconciled.stdout).unwrap();
    assert_eq!(report["with_rows"]["issued"], 6, "{report}");
    assert_eq!(report["with_rows"]["revoked"], 1, "{report}");
    let twice: Value = serde_json::from_slice(&run(&own, &["--json", "reconcile"]).stdout).unwrap();
    assert_eq!(twice["with_rows"], json!({}), "{twice}");

    own.start_service();
    own.wait_ready(seconds(15));
    for (request, released) in requests.iter().zip(&released) {
        let again = station.issue(request);
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        for field in [
            "certificate",
            "serial_number",
            "log_index",
            "issued_at",
            "order",
        ] {
            assert_eq!(again.json()[field], released[field], "{field}");
        }
    }
    let show = |certificate: &Value| {
        let path = format!("/v1/certificates/{}", serial(certificate));
        own.world.client("auditor").get(&path).json()
    };
    assert_eq!(show(&released[1])["status"], "revoked");
    assert_eq!(show(&released[2])["status"], "confirmed");
    assert_eq!(show(&reworked)["supersedes"], first["serial_number"]);
    let order = own
        .world
        .client("operator")
        .get("/v1/orders/WO-lost")
        .json();
    assert_eq!(order["issued"], 1, "{order}");
    let next = issued(&station.issue(&Device::p256().request("lightbulb")));
    checkpoint(&own, next["log_index"].as_u64().unwrap());
    let log_key = own.world.dir.join("head-office/log.pem");
    let consistent = run(
        &own,
        &[
            "audit",
            "checkpoint",
            "--log-key",
            log_key.to_str().unwrap(),
            "--previous",
            kept_file.to_str().unwrap(),
        ],
    );
    assert!(consistent.status.success(), "{consistent:?}");
    let verified = verify(&own);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn whatever_is_changed_in_the_database_is_found_and_named() {
    let mut own = OwnWorld::running();
    let station = own.world.client("station-01");
    let certificates: Vec<Value> = (0..6)
        .map(|_| issued(&station.issue(&Device::p256().request("lightbulb"))))
        .collect();
    own.world.revoke(&certificates[0], "keyCompromise");
    let index = |place: usize| certificates[place]["log_index"].as_u64().unwrap();
    checkpoint(&own, index(5) + 1);
    own.kill_service();
    let verified = verify(&own);
    assert!(verified.status.success(), "{verified:?}");
    let backup = dump(&own);
    let entry = |place: usize| format!("entry {}: ", index(place));
    let serial = |place: usize| {
        certificates[place]["serial_number"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let replica = "SET session_replication_role = replica; ";
    // What was done, and what must be said.
    let cases: Vec<(String, String)> = vec![
        // a row is edited
        (format!("UPDATE intent SET device = 'another' WHERE intent_id = (SELECT intent_id FROM outcome WHERE log_index = {})", index(1)), entry(1)),
        (format!("UPDATE outcome SET recorded_at = recorded_at - interval '1 day' WHERE log_index = {}", index(2)), entry(2)),
        (format!("UPDATE outcome SET der = set_byte(der, 100, 1), fingerprint = sha256(set_byte(der, 100, 1)) WHERE log_index = {}", index(2)), entry(2)),
        (format!("UPDATE claim SET live = false WHERE serial_number = '\\x{}'", serial(3)), entry(3)),
        // a leaf is edited
        (format!("UPDATE log_entry SET leaf = set_byte(leaf, 40, get_byte(leaf, 40) # 1) WHERE log_index = {}", index(1)), entry(1)),
        // two leaves are swapped
        (format!("UPDATE log_entry a SET leaf = b.leaf FROM log_entry b WHERE a.log_index IN ({0}, {1}) AND b.log_index IN ({0}, {1}) AND a.log_index <> b.log_index", index(2), index(3)), entry(2)),
        // rows are deleted
        (format!("DELETE FROM outcome WHERE log_index = {}", index(4)), entry(4)),
        ("DELETE FROM life_event WHERE reason_code = 1".to_owned(), format!("{} revoked by operator", serial(0))),
        // a leaf is deleted, and the end cut off
        (format!("DELETE FROM log_entry WHERE log_index = {}", index(3)), format!("the log has no entry {}", index(3))),
        (format!("DELETE FROM log_entry WHERE log_index >= {0}; UPDATE log_head SET size = {0}", index(4)), "entr".to_owned()),
        // a row is put in that no entry tells of
        (format!("INSERT INTO life_event (intent_id, kind, principal, issuer) SELECT intent_id, 'confirmed', 'nobody', 'line-ec' FROM outcome WHERE log_index = {}", index(5)), format!("{} confirmed by nobody", serial(5))),
        (format!("UPDATE outcome SET log_index = 1000000 WHERE log_index = {}", index(5)), entry(5)),
        // the tree and its checkpoint
        ("UPDATE log_tile SET hashes = set_byte(hashes, 70, get_byte(hashes, 70) # 1) WHERE level = 0 AND tile_index = 0".to_owned(), "entry 2: its octets are not those of its tile".to_owned()),
        ("UPDATE checkpoint SET note = replace(note, 'dev.example', 'bad.example')".to_owned(), "checkpoint: ".to_owned()),
        ("UPDATE checkpoint SET note = regexp_replace(note, E'\\n[0-9]+\\n', E'\\n1\\n')".to_owned(), "checkpoint: ".to_owned()),
    ];
    for (change, said) in cases {
        own.world.sql(&format!("{replica}{change}"));
        let found = verify(&own);
        let text = String::from_utf8_lossy(&found.stderr);
        assert!(!found.status.success(), "not found: {change}");
        assert!(text.contains(&said), "{change}: {text}");
        restore(&own, &backup);
    }
    let verified = verify(&own);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn a_service_does_not_start_on_a_log_whose_edge_was_changed() {
    let mut own = OwnWorld::running();
    let station = own.world.client("station-01");
    let certificate = issued(&station.issue(&Device::p256().request("lightbulb")));
    let index = certificate["log_index"].as_u64().unwrap();
    checkpoint(&own, index);
    own.kill_service();
    let backup = dump(&own);
    for change in [
        format!(
            "UPDATE log_entry SET leaf = set_byte(leaf, 40, get_byte(leaf, 40) # 1) WHERE log_index = {index}"
        ),
        "UPDATE log_tile SET hashes = set_byte(hashes, 70, get_byte(hashes, 70) # 1)".to_owned(),
        "DELETE FROM log_tile".to_owned(),
        "UPDATE checkpoint SET root = sha256('x')".to_owned(),
        "UPDATE checkpoint SET note = replace(note, 'dev.example', 'bad.example')".to_owned(),
        "UPDATE log_head SET size = size - 1".to_owned(),
    ] {
        own.world
            .sql(&format!("SET session_replication_role = replica; {change}"));
        let (code, said) = own.refused_start();
        assert_ne!(code, 0, "{change}");
        assert!(
            said.contains("was changed") || said.contains("earlier state"),
            "{change}: {said}"
        );
        restore(&own, &backup);
    }
    own.start_service();
    own.wait_ready(seconds(15));
}

#[test]
fn a_halted_log_stops_issuing_until_its_owner_has_looked() {
    let own = OwnWorld::running();
    let station = own.world.client("station-01");
    let request = Device::p256().request("lightbulb");
    let first = issued(&station.issue(&request));
    own.world.sql("SELECT log_halt('a test')");
    own.wait_not_ready("halted", seconds(5));
    let halted = "certfactory_log_part_up{part=\"tree\"} 0";
    own.world.wait_metric(halted, seconds(3));
    let refused = station.issue(&Device::p256().request("lightbulb"));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    // what was issued before is still the answer to its request
    let again = station.issue(&request);
    assert_eq!(
        again.json()["certificate"],
        first["certificate"],
        "{again:?}"
    );
    own.world.sql("UPDATE log_head SET halted = NULL");
    own.wait_ready(seconds(10));
    issued(&station.issue(&Device::p256().request("lightbulb")));
}

#[test]
fn a_journal_that_cannot_be_written_stops_issuing_and_nothing_else_until_it_can() {
    let mut own = OwnWorld::make();
    own.start_postgres();
    // A file that grows beyond a limit is an error then, and not the end of the process.
    let serve = own.world.program(&["serve"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" serve"])
        .arg(serve.get_program())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for (name, value) in serve.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    own.service = Some(command.spawn().unwrap());
    own.wait_ready(seconds(20));
    let pid = own.pid().to_string();
    let limit = |octets: &str| {
        let octets = format!("--fsize={octets}:unlimited");
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &octets])
            .status();
        assert!(set.unwrap().success());
    };
    let station = own.world.client("station-01");
    let before = Device::p256().request("lightbulb");
    let issued_before = issued(&station.issue(&before));

    // As on a full disk.
    limit("0");
    let meanwhile = Device::p256().request("lightbulb");
    let refused = station.issue(&meanwhile);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (503, "log-unavailable"),
        "{}",
        refused.text()
    );
    assert!(refused.header("retry-after").is_some());
    own.wait_not_ready("journal", seconds(10));
    let full = "certfactory_log_part_up{part=\"journal\"} 0";
    own.world.wait_metric(full, seconds(3));
    let refused = station.issue(&Device::p256().request("lightbulb"));
    assert_eq!(refused.slug(), "log-unavailable");
    // What was released before is in the journal, and is answered for.
    let again = station.issue(&before);
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(
        again.json()["serial_number"],
        issued_before["serial_number"]
    );

    limit("unlimited");
    own.wait_ready(seconds(20));
    let released = station.issue(&meanwhile);
    assert!([200, 201].contains(&released.status), "{}", released.text());
    issued(&station.issue(&Device::p256().request("lightbulb")));
}
