//! SIGHUP while the line runs: a sound configuration is taken into use whole, any other not at all;
//! the service manager is told; no request is lost.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;

use crate::load::Load;
use crate::seconds;
use crate::support::device::Device;
use crate::support::faults::signal;
use crate::support::world::OwnWorld;

pub const ACCEPTED: &str = "certfactory_configuration_reloads_total{result=\"accepted\"}";
const REFUSED: &str = "certfactory_configuration_reloads_total{result=\"refused\"}";

/// Sends SIGHUP and waits until one more is counted under `result`.
pub fn hang_up(own: &OwnWorld, result: &str) {
    let before = own.world.metric(result);
    signal(own.pid(), Signal::SIGHUP);
    let start = std::time::Instant::now();
    while own.world.metric(result) < before + 1.0 {
        assert!(start.elapsed() < seconds(5), "not counted: {result}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn hash(own: &OwnWorld) -> String {
    let profiles = own.world.nobody().get("/v1/profiles").json();
    let mut profiles = profiles.as_array().unwrap().iter();
    let profile = profiles.find(|it| it["name"] == "lightbulb").unwrap();
    profile["sha256"].as_str().unwrap().to_owned()
}

#[test]
fn profiles_change_under_load_without_a_failed_request_and_each_row_names_its_own() {
    let own = OwnWorld::running();
    let path = own.world.dir.join("profiles/lightbulb.toml");
    let first = std::fs::read_to_string(&path).unwrap();
    let second = first.replace("days = 7300", "days = 365");
    assert_ne!(first, second);
    let mut announced = BTreeMap::from([(hash(&own), "7300".to_owned())]);
    let load = Load::start(&own.world, 16);
    for round in 0..6 {
        load.wait_issued(50, seconds(15));
        let (text, days) = if round % 2 == 0 {
            (&second, "365")
        } else {
            (&first, "7300")
        };
        std::fs::write(&path, text).unwrap();
        hang_up(&own, ACCEPTED);
        announced.insert(hash(&own), days.to_owned());
    }
    load.wait_issued(50, seconds(15));
    let history = load.stop();
    history.saw_only(&[]);
    history.holds_against(&own.world);
    assert_eq!(history.broken.load(std::sync::atomic::Ordering::Relaxed), 0);

    assert_eq!(announced.len(), 2, "{announced:?}");
    let rows = own.world.sql(
        "SELECT DISTINCT encode(profile_sha256, 'hex'), round(extract(epoch FROM not_after - not_before) / 86400) FROM intent",
    );
    let pairs = rows.lines().map(|row| row.split_once('|').unwrap());
    let found: BTreeMap<String, String> =
        pairs.clone().map(|(a, b)| (a.into(), b.into())).collect();
    assert_eq!(pairs.count(), 2, "{rows}");
    assert_eq!(found, announced);
    let told = own.world.sql(
        "SELECT count(*) FROM log_entry WHERE position(convert_to('\"kind\":\"configured\"', 'UTF8') IN leaf) > 0",
    );
    assert_eq!(told.trim(), "6");
}

#[test]
fn what_cannot_be_taken_whole_changes_nothing_and_is_named() {
    let own = OwnWorld::running();
    let config = own.world.dir.join("config.toml");
    let profile = own.world.dir.join("profiles/lightbulb.toml");
    let good = [
        std::fs::read_to_string(&config).unwrap(),
        std::fs::read_to_string(&profile).unwrap(),
    ];
    let [settings, rules] = &good;
    let pin = std::fs::read_to_string(own.world.dir.join("softhsm/pin")).unwrap();
    let before = hash(&own);
    // The other profile's change is sound each time: a half of it must not be in force, either.
    let other = rules.replace("days = 7300", "days = 364");
    let bad = [
        ("config.toml", format!("{settings}\n[[["), other.clone()),
        (
            "unknown field `colour`",
            format!("colour = \"red\"\n{settings}"),
            other.clone(),
        ),
        (
            "issuance.deadline_ms: changes by a restart only",
            settings.replace("[issuance]", "[issuance]\ndeadline_ms = 4000"),
            other.clone(),
        ),
        (
            "hsm: changes by a restart only",
            settings.replace("certfactory-dev", "another-token"),
            other.clone(),
        ),
        (
            "no-such-pin",
            settings.replace("softhsm/pin", "softhsm/no-such-pin"),
            other.clone(),
        ),
        (
            "log.level",
            format!("{settings}\n[log]\nlevel = \"=[\"\n"),
            other,
        ),
        (
            "lightbulb.toml",
            settings.clone(),
            rules.replace("days = 7300", "days = \"many\""),
        ),
    ];
    for (words, settings, rules) in bad {
        let known = own.log().len();
        std::fs::write(&config, settings).unwrap();
        std::fs::write(&profile, rules).unwrap();
        hang_up(&own, REFUSED);
        let told = |log: &str| {
            log.lines()
                .any(|line| line.contains("the configuration is refused") && line.contains(words))
        };
        // Lines are written by a thread of their own.
        let start = std::time::Instant::now();
        while !told(&own.log()[known..]) {
            assert!(
                start.elapsed() < seconds(5),
                "{words}: {}",
                &own.log()[known..]
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let log = own.log().split_off(known);
        assert!(!log.contains(pin.trim()), "{words}");
        assert_eq!(own.world.metric("certfactory_configuration_refused"), 1.0);
        assert_eq!(hash(&own), before, "{words}");
    }
    std::fs::write(&config, &good[0]).unwrap();
    std::fs::write(&profile, &good[1]).unwrap();
    // A file that changed under its name is in force after a restart only.
    let ticket = own.world.dir.join("head-office/ticket.pem");
    let report = own.world.dir.join("head-office/report.pem");
    let key = std::fs::read(&ticket).unwrap();
    std::fs::write(&ticket, std::fs::read(&report).unwrap()).unwrap();
    hang_up(&own, REFUSED);
    std::fs::write(&ticket, key).unwrap();
    // A level is no restart, and what was refused before no longer is.
    std::fs::write(&config, format!("{}\n[log]\nlevel = \"debug\"\n", good[0])).unwrap();
    hang_up(&own, ACCEPTED);
    assert_eq!(own.world.metric("certfactory_configuration_refused"), 0.0);
    own.world.client("station-01").get("/v1/certificates");
    let start = std::time::Instant::now();
    while !own.log().contains("\"level\":\"DEBUG\"") {
        assert!(
            start.elapsed() < seconds(5),
            "nothing is logged at the new level"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_service_manager_is_told_ready_reloading_alive_and_stopping() {
    let mut own = OwnWorld::make();
    let path = own.world.dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(seconds(15))).unwrap();
    own.set("NOTIFY_SOCKET", path.to_str().unwrap());
    own.set("WATCHDOG_USEC", "1000000");
    own.start_postgres();
    own.start_service();
    let next = |wanted: &str| {
        let mut passed = Vec::new();
        loop {
            let mut message = [0; 512];
            let length = socket
                .recv(&mut message)
                .unwrap_or_else(|error| panic!("no {wanted} after {passed:?}: {error}"));
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|line| line == wanted) {
                return message;
            }
            passed.push(message);
        }
    };
    next("READY=1");
    assert!(own.live(), "ready before anything answers");
    next("WATCHDOG=1");
    signal(own.pid(), Signal::SIGHUP);
    let reloading = next("RELOADING=1");
    let at = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(at.unwrap().parse::<u64>().unwrap() > 0, "{reloading}");
    next("READY=1");
    let status = own.terminate_service(seconds(10));
    assert!(status.success(), "{status}");
    next("STOPPING=1");
}

/// Its answer was lost, and the profile changes before the station asks again.
#[test]
fn a_request_that_is_repeated_after_its_profile_was_changed_has_the_same_answer() {
    let own = OwnWorld::running();
    let path = own.world.dir.join("profiles/lightbulb.toml");
    let station = own.world.client("station-01");
    let send = |device: &Device, key: &str| {
        let body = device.request("lightbulb").to_string();
        let headers = [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        ];
        station.send("POST", "/v1/certificates", &headers, Some(body.as_bytes()))
    };
    let device = Device::p256();
    let first = send(&device, "unit-1");
    assert_eq!(first.status, 201, "{first:?}");
    let text = std::fs::read_to_string(&path).unwrap();
    let fixed = format!("{text}\n[subject.fixed]\nO = \"Example\"\n");
    let fixed = fixed.replace("optional = [\"O\", ", "optional = [");
    assert_ne!(fixed, text);
    std::fs::write(&path, fixed).unwrap();
    hang_up(&own, ACCEPTED);
    let again = send(&device, "unit-1");
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(again.json()["certificate"], first.json()["certificate"]);
    let other = send(&Device::p256(), "unit-1");
    assert_eq!(
        (other.status, other.slug().as_str()),
        (422, "idempotency-key-reused")
    );
}
