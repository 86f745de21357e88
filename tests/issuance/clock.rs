//! A clock that is wrong gives wrong dates: nothing is issued until it is right again.

use std::path::PathBuf;

use crate::load::Load;
use crate::seconds;
use crate::support::device::Device;
use crate::support::faults::faketime;
use crate::support::http::{Curl, Response};
use crate::support::replica::Second;
use crate::support::world::{OwnWorld, World, issued};

/// A clock that the test turns while it runs.
struct Turned {
    file: PathBuf,
    environment: [(&'static str, String); 4],
}

impl Turned {
    fn new(world: &World) -> Self {
        let file = world.dir.join("shift");
        std::fs::write(&file, "+0\n").unwrap();
        let environment = [
            ("LD_PRELOAD", faketime()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap().to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        Self { file, environment }
    }

    fn turn(&self, shift: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{shift}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}

fn assert_untrusted(response: &Response) {
    assert_eq!(
        (response.status, response.slug().as_str()),
        (503, "clock-untrusted")
    );
}

/// No certificate bears a wrong date: the database's clock was right all the time.
fn assert_dates(world: &World) {
    let wrong =
        "SELECT count(*) FROM intent WHERE abs(extract(epoch FROM created_at - not_before)) > 10";
    assert_eq!(world.sql(wrong), "0");
}

#[test]
fn under_load_no_certificate_bears_the_date_of_a_clock_that_jumps() {
    let mut own = OwnWorld::make();
    let clock = Turned::new(&own.world);
    for (name, value) in &clock.environment {
        own.set(name, value);
    }
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    let station = own.world.client("station-01");
    let device = Device::p256();
    let first = issued(&station.issue(&device.request("lightbulb")));

    let load = Load::start(&own.world, 8);
    for wrong in ["+1h", "-1d", "+365d"] {
        load.wait_issued(50, seconds(10));
        clock.turn(wrong);
        own.wait_not_ready("clock", seconds(5));
        // Before its client certificate was made, a station gets no new connection.
        if wrong.starts_with('+') {
            assert_untrusted(&station.issue(&Device::p256().request("lightbulb")));
            // What was issued before needs no clock.
            assert_eq!(issued(&station.issue(&device.request("lightbulb"))), first);
        }
        clock.turn("+0");
        own.wait_ready(seconds(5));
    }
    load.wait_issued(50, seconds(10));
    let history = load.stop();
    history.saw_only(&["clock-untrusted"]);
    history.holds_against(&own.world);
    assert_dates(&own.world);
    own.assert_alive();
}

#[test]
fn clocks_that_were_both_turned_back_are_found_out_by_the_last_record() {
    let mut own = OwnWorld::running();
    let station = own.world.client("station-01");
    issued(&station.issue(&Device::p256().request("lightbulb")));
    // A record that was made a day from now is what both clocks see after they went back a day.
    own.world
        .sql("UPDATE outcome SET recorded_at = recorded_at + interval '1 day'");
    own.wait_not_ready("last record", seconds(5));
    let untrusted = "certfactory_clock_trusted 0";
    own.world.wait_metric(untrusted, seconds(3));
    assert_untrusted(&station.issue(&Device::p256().request("lightbulb")));

    own.kill_service();
    let (code, said) = own.refused_start();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("last record") && said.contains("turned back"),
        "{said}"
    );
    own.world
        .sql("UPDATE outcome SET recorded_at = recorded_at - interval '1 day'");
    own.start_service();
    own.wait_ready(seconds(15));
    issued(&station.issue(&Device::p256().request("lightbulb")));
}

#[test]
fn of_two_replicas_the_one_with_the_wrong_clock_leaves_and_the_other_goes_on() {
    let own = OwnWorld::running();
    let clock = Turned::new(&own.world);
    let environment: Vec<(&str, &str)> = clock
        .environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let second = Second::start(&own, &environment);
    let identity = ["pem", "key"].map(|e| own.world.dir.join(format!("clients/station-01.{e}")));
    let [certificate, key] = identity;
    let ca = own.world.dir.join("tls/ca.pem");
    let at_second = Curl::new(&second.url, &ca, Some((certificate, key)));
    let ready = || {
        let readyz = Curl::new(&second.operations, &ca, None);
        readyz
            .try_send("GET", "/readyz", &[], None)
            .is_ok_and(|answer| answer.status == 200)
    };
    let until = |wanted: bool| {
        let start = std::time::Instant::now();
        while ready() != wanted {
            assert!(start.elapsed() < seconds(15), "ready is not {wanted}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    until(true);
    issued(&at_second.issue(&Device::p256().request("lightbulb")));
    clock.turn("+5m");
    let device = Device::p256();
    // At once, before any comparison with the database.
    assert_untrusted(&at_second.issue(&device.request("lightbulb")));
    until(false);
    let made = issued(
        &own.world
            .client("station-01")
            .issue(&device.request("lightbulb")),
    );
    // The bad one still hands out what the good one made.
    assert_eq!(issued(&at_second.issue(&device.request("lightbulb"))), made);
    clock.turn("+0");
    until(true);
    issued(&at_second.issue(&Device::p256().request("lightbulb")));
    assert_dates(&own.world);
}

#[test]
fn a_service_does_not_start_by_a_clock_that_was_never_set_or_is_a_day_late() {
    for (clock, words) in [
        ("@1970-01-01 00:00:10", "was never set"),
        ("-1d", "the clocks of service and database differ"),
    ] {
        let mut own = OwnWorld::make();
        own.start_postgres();
        own.set("LD_PRELOAD", &faketime());
        own.set("FAKETIME", clock);
        own.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let (code, said) = own.refused_start();
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(words), "{said}");
    }
}
