//! A clock that is wrong gives wrong dates: nothing is issued until it is right again.

use crate::seconds;
use crate::support::device::Device;
use crate::support::world::{OwnWorld, issued};

/// Debian's libfaketime: the service's clock, and only that, is shifted by what the file says.
fn faketime() -> String {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let place = |arch| format!("/usr/lib/{arch}/faketime/libfaketimeMT.so.1");
    places
        .into_iter()
        .map(place)
        .find(|path| std::path::Path::new(path).exists())
        .expect("libfaketime is installed")
}

#[test]
fn a_clock_that_leaves_the_databases_stops_issuing_until_it_is_back() {
    let mut own = OwnWorld::make();
    let shift = own.world.dir.join("shift");
    std::fs::write(&shift, "+0\n").unwrap();
    own.set("LD_PRELOAD", &faketime());
    own.set("FAKETIME_TIMESTAMP_FILE", shift.to_str().unwrap());
    own.set("FAKETIME_NO_CACHE", "1");
    own.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    let station = own.world.client("station-01");
    issued(&station.issue(&Device::p256().request("lightbulb")));

    for wrong in ["+1h\n", "+400d\n"] {
        std::fs::write(&shift, wrong).unwrap();
        own.wait_not_ready("clock", seconds(5));
        let response = station.issue(&Device::p256().request("lightbulb"));
        assert_eq!(
            (response.status, response.slug().as_str()),
            (503, "clock-untrusted")
        );
        std::fs::write(&shift, "+0\n").unwrap();
        own.wait_ready(seconds(5));
        issued(&station.issue(&Device::p256().request("lightbulb")));
    }
    // No certificate bears a wrong date.
    assert_eq!(own.world.sql("SELECT count(*) FROM intent WHERE abs(extract(epoch FROM created_at - not_before)) > 10"), "0");
}
