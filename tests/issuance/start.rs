//! What the service refuses to start with, and what it starts without.

use std::fs;
use std::time::Instant;

use crate::seconds;
use crate::support::device::Device;
use crate::support::faults::{Frozen, calls, use_fault_module};
use crate::support::world::OwnWorld;

/// Exit code where something is wrong, and where a neighbour is down.
const FAILURE: i32 = 1;
const DEPENDENCY: i32 = 5;

/// The service refuses to start: one line, with these words, and never the PIN.
fn assert_refuses(own: &OwnWorld, code: i32, words: &[&str]) {
    let (ended, stderr) = own.refused_start();
    assert_eq!(ended, code, "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 1, "one line says why: {stderr}");
    for word in words {
        assert!(lines[0].contains(word), "`{word}` is not in: {stderr}");
    }
    assert!(
        !stderr.contains(pin(own).as_str()),
        "the PIN is in: {stderr}"
    );
}

fn pin(own: &OwnWorld) -> String {
    fs::read_to_string(own.world.dir.join("softhsm/pin"))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn databases_that_would_lose_certificates_are_refused() {
    let own = OwnWorld::make();
    assert_refuses(&own, DEPENDENCY, &["the database is unavailable"]);
    own.start_postgres();
    let frozen = Frozen::new(own.postgres_processes());
    assert_refuses(
        &own,
        DEPENDENCY,
        &["the database is unavailable: no answer within 10 s"],
    );
    drop(frozen);

    own.world.sql("ALTER SYSTEM SET fsync = off");
    own.world.sql("SELECT pg_reload_conf()");
    assert_refuses(&own, FAILURE, &["fsync=off"]);
    own.world.sql("ALTER SYSTEM RESET fsync");
    own.world.sql("SELECT pg_reload_conf()");

    own.world.sql("CREATE DATABASE empty");
    let mut url = String::new();
    own.configure(|config| {
        let database = config["database"].as_table_mut().unwrap();
        url = database["url"].as_str().unwrap().to_owned();
        database.insert(
            "url".into(),
            format!("{}/empty", url.strip_suffix("/certfactory").unwrap()).into(),
        );
    });
    assert_refuses(&own, FAILURE, &["schema", "certfactory migrate"]);

    own.configure(|config| {
        config["database"].as_table_mut().unwrap().insert(
            "url".into(),
            url.replace("certfactory@", "postgres@").into(),
        );
    });
    assert_refuses(&own, FAILURE, &["superuser postgres"]);
}

#[test]
fn an_unknown_configuration_field_is_named_and_its_value_is_not() {
    let own = OwnWorld::make();
    let pin = pin(&own);
    own.configure(|config| {
        config["hsm"][0]
            .as_table_mut()
            .unwrap()
            .insert("pin".into(), pin.into());
    });
    assert_refuses(&own, FAILURE, &["config.toml", "unknown field `hsm.0.pin`"]);
    let pin = self::pin(&own);
    own.configure(|config| {
        let hsm = config["hsm"][0].as_table_mut().unwrap();
        hsm.remove("pin");
        hsm.insert("sessions".into(), pin.into());
    });
    assert_refuses(&own, FAILURE, &["config.toml", "expected"]);
}

#[test]
fn a_wrong_pin_is_tried_once_and_said_on_readyz() {
    let mut own = OwnWorld::make();
    use_fault_module(&mut own);
    fs::write(own.world.dir.join("softhsm/pin"), "not-the-pin-at-all").unwrap();
    own.start_postgres();
    own.start_service();
    own.wait_not_ready("PIN", seconds(15));
    let start = Instant::now();
    while start.elapsed() < seconds(4) {
        let answer = own
            .world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb"));
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (503, "hsm-unavailable")
        );
        assert!(own.live());
    }
    assert_eq!(calls(&own, "login"), 1);
    for shown in [
        "pin_refused{hsm=\"softhsm\"} 1",
        "token_up{hsm=\"softhsm\"} 0",
    ] {
        let line = format!("certfactory_hsm_{shown}");
        own.world.wait_metric(&line, seconds(3));
    }
    let (_, said) = own.readiness();
    assert!(!said.contains("not-the-pin-at-all") && !own.log().contains("not-the-pin-at-all"));
    own.assert_alive();
}
