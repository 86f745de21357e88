//! Commits that one server alone has, and servers that lack what was released: what a database that fails over may
//! show. The failovers themselves, of three nodes: `tests/proofs/failover`.

use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value;

use crate::DEADLINE_AND_MARGIN;
use crate::RECOVERED;
use crate::alone;
use crate::load::Load;
use crate::seconds;
use crate::support::device::Device;
use crate::support::keeper::Keeper;
use crate::support::keeper::NAME;
use crate::support::keeper::wait_for_standbys;
use crate::support::world::OwnWorld;
use crate::support::world::issued;

/// Ends every wait for a standby, as somebody would who finds sessions that hang; how many.
fn cancel_waits(own: &OwnWorld) -> u32 {
    let cancelled = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND usename = 'certfactory'";
    own.world.sql(cancelled).parse().unwrap()
}

#[test]
fn a_commit_whose_wait_for_a_standby_was_cancelled_is_no_answer_until_a_standby_has_it() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let load = Load::start(&own.world, 16);
    load.wait_issued(20, seconds(10));
    wait_for_standbys(&own.world, NAME);
    // What was on its way has been answered.
    std::thread::sleep(seconds(1));
    let before = load.history.issued.load(Ordering::Relaxed);
    let (start, mut cancelled) = (Instant::now(), 0);
    while start.elapsed() < seconds(8) {
        cancelled += cancel_waits(&own);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(cancelled > 0, "nothing waited");
    // The server shows what it committed alone.
    let alone_there: u64 = own
        .world
        .sql("SELECT count(*) FROM intent")
        .parse()
        .unwrap();
    assert!(alone_there > before, "nothing was committed");
    assert_eq!(load.history.issued.load(Ordering::Relaxed), before);
    own.wait_not_ready("standby", seconds(3));

    let _keeper = Keeper::start(&own);
    own.wait_ready(seconds(10));
    load.wait_issued(50, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
    // Before the keeper goes: what still commits would wait for it.
    own.kill_service();
    wait_for_standbys(&own.world, "");
}

#[test]
fn where_a_standby_is_required_nothing_is_issued_while_commits_wait_for_none() {
    let mut own = OwnWorld::make();
    own.configure(|config| {
        let database = config["database"].as_table_mut().unwrap();
        database.insert("require_synchronous".into(), true.into());
    });
    own.start_postgres();
    let (code, said) = own.refused_start();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("synchronous_standby_names is empty"),
        "{said}"
    );
    let doctor = own.world.program(&["doctor"]).output().unwrap();
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert!(
        found.contains("synchronous_standby_names is empty"),
        "{found}"
    );
    assert!(found.contains("/manual/high-availability"), "{found}");

    let _keeper = Keeper::start(&own);
    wait_for_standbys(&own.world, NAME);
    own.start_service();
    own.wait_ready(seconds(15));
    let station = own.world.client("station-01");
    issued(&station.issue(&Device::p256().request("lightbulb")));
    wait_for_standbys(&own.world, "");
    own.wait_not_ready("synchronous_standby_names is empty", seconds(4));
    let refused = station.issue(&Device::p256().request("lightbulb"));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (503, "database-unavailable")
    );
    wait_for_standbys(&own.world, NAME);
    own.wait_ready(seconds(5));
    issued(&station.issue(&Device::p256().request("lightbulb")));
    own.kill_service();
    wait_for_standbys(&own.world, "");
}

#[test]
fn a_database_that_lacks_what_a_running_service_has_seen_is_halted_and_not_written_to() {
    let mut own = OwnWorld::running();
    let station = own.world.client("station-01");
    issued(&station.issue(&Device::p256().request("lightbulb")));
    let earlier = crate::log::dump(&own);
    let lost: Vec<Value> = (0..3)
        .map(|_| issued(&station.issue(&Device::p256().request("lightbulb"))))
        .collect();

    // A standby that lacked them takes over, under the service's feet.
    crate::log::restore(&own, &earlier);
    own.wait_not_ready("this replica has seen", seconds(5));
    own.assert_alive();
    let size = || own.world.sql("SELECT size FROM log_head");
    let before = size();
    let refused = station.issue(&Device::p256().request("lightbulb"));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (503, "database-unavailable")
    );
    let halted = own.world.sql("SELECT halted FROM log_head");
    assert!(halted.contains("this replica has seen"), "{halted}");
    std::thread::sleep(seconds(1));
    assert_eq!(size(), before, "the log went on without what was released");

    // Whoever looks puts it back, and the log goes on.
    own.kill_service();
    let (_, said) = own.refused_start();
    assert!(said.contains("reconcile"), "{said}");
    let reconciled = own.world.program(&["reconcile"]).output().unwrap();
    assert!(reconciled.status.success(), "{reconciled:?}");
    own.world.sql("UPDATE log_head SET halted = NULL");
    own.start_service();
    own.wait_ready(seconds(15));
    for certificate in lost {
        let serial = certificate["serial_number"].as_str().unwrap();
        let shown = station.get(&format!("/v1/certificates/{serial}")).json();
        assert_eq!(shown["certificate"], certificate["certificate"]);
    }
    issued(&station.issue(&Device::p256().request("lightbulb")));
}
