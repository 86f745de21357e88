//! The database stops, loses its sessions, turns read-only, freezes, refuses a row.

use std::time::Instant;

use crate::load::Load;
use crate::support::device::Device;
use crate::support::faults::Frozen;
use crate::support::http::Response;
use crate::support::world::{OwnWorld, issued};
use crate::{DEADLINE_AND_MARGIN, RECOVERED, alone, seconds};

/// One request, its answer, and that it came in time.
fn ask(own: &OwnWorld) -> Response {
    let start = Instant::now();
    let answer = own
        .world
        .client("station-01")
        .issue(&Device::p256().request("lightbulb"));
    assert!(
        start.elapsed() < DEADLINE_AND_MARGIN,
        "an answer took {:?}",
        start.elapsed()
    );
    answer
}

fn serial_of_one(own: &OwnWorld) -> String {
    issued(&ask(own))["serial_number"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_database_that_stops_and_returns_is_used_again_without_a_restart() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let serial = serial_of_one(&own);
    let load = Load::start(&own.world, 24);
    load.wait_issued(50, seconds(10));
    own.stop_postgres("immediate");
    own.wait_not_ready("\"database\"", seconds(2));
    assert!(own.live());
    let refused = ask(&own);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (503, "database-unavailable")
    );
    let read = own
        .world
        .client("auditor")
        .get(&format!("/v1/certificates/{serial}"));
    assert_eq!(read.slug(), "database-unavailable");
    // long enough for requests to run into their deadline
    std::thread::sleep(seconds(4));
    own.start_postgres();
    own.wait_ready(seconds(5));
    let read = own
        .world
        .client("auditor")
        .get(&format!("/v1/certificates/{serial}"));
    assert_eq!(read.status, 200);
    load.wait_issued(50, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn sessions_ended_by_the_server_cost_nothing() {
    let own = OwnWorld::running();
    let _alone = alone();
    let serial = serial_of_one(&own);
    let load = Load::start(&own.world, 24);
    load.wait_issued(20, seconds(10));
    for _ in 0..30 {
        own.world.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'certfactory%'");
        let read = own
            .world
            .client("auditor")
            .get(&format!("/v1/certificates/{serial}"));
        assert_eq!(read.status, 200);
        load.wait_issued(10, seconds(10));
    }
    let history = load.stop();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

/// After an upgrade of its machine a server greets each session with a warning, until somebody has refreshed the
/// database: such a warning is no commit that was not waited for.
#[test]
fn a_database_that_greets_each_session_with_a_warning_is_used_as_any_other() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    own.world.sql(
        "UPDATE pg_database SET datcollversion = 'of another machine' WHERE datname = current_database()",
    );
    let load = Load::start(&own.world, 24);
    load.wait_issued(50, seconds(15));
    for _ in 0..3 {
        own.stop_postgres("fast");
        own.start_postgres();
        own.wait_ready(RECOVERED);
        load.wait_issued(200, seconds(10));
    }
    // Sessions that searches open meanwhile are greeted, too.
    for _ in 0..20 {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '%archive%'";
        own.world.sql(end);
        let read = own.world.client("auditor").get("/v1/certificates?limit=1");
        assert!([200, 503].contains(&read.status), "{read:?}");
    }
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
    let said = own.log().matches("was not waited for").count();
    assert_eq!(said, 0, "commits were settled once more");
}

#[test]
fn a_database_that_turned_read_only_is_read_and_not_waited_for() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let serial = serial_of_one(&own);
    let load = Load::start(&own.world, 16);
    load.wait_issued(20, seconds(10));
    let read_only = |value: &str| {
        own.world.sql(&format!(
            "ALTER SYSTEM SET default_transaction_read_only = {value}"
        ));
        own.world.sql("SELECT pg_reload_conf()");
    };
    read_only("on");
    own.wait_not_ready("read-only", seconds(3));
    let refused = ask(&own);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (503, "database-unavailable")
    );
    for _ in 0..10 {
        let read = own
            .world
            .client("auditor")
            .get(&format!("/v1/certificates/{serial}"));
        assert_eq!(read.status, 200);
    }
    own.world
        .sql("ALTER SYSTEM RESET default_transaction_read_only");
    own.world.sql("SELECT pg_reload_conf()");
    own.wait_ready(seconds(5));
    load.wait_issued(20, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_frozen_database_keeps_nobody_beyond_the_deadline() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let serial = serial_of_one(&own);
    let load = Load::start(&own.world, 24);
    load.wait_issued(20, seconds(10));
    let frozen = Frozen::new(own.postgres_processes());
    let start = Instant::now();
    let read = own
        .world
        .client("auditor")
        .get(&format!("/v1/certificates/{serial}"));
    assert_eq!(read.slug(), "database-unavailable");
    assert!(
        start.elapsed() < DEADLINE_AND_MARGIN,
        "a reader waited for {:?}",
        start.elapsed()
    );
    own.wait_not_ready("\"database\"", DEADLINE_AND_MARGIN);
    assert!(own.live());
    let refused = ask(&own);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (503, "database-unavailable")
    );
    std::thread::sleep(seconds(8).saturating_sub(start.elapsed()));
    drop(frozen);
    own.wait_ready(seconds(5));
    for _ in 0..10 {
        let read = own
            .world
            .client("auditor")
            .get(&format!("/v1/certificates/{serial}"));
        assert_eq!(read.status, 200);
    }
    load.wait_issued(20, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_locked_table_keeps_nobody_beyond_the_deadline() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let load = Load::start(&own.world, 24);
    load.wait_issued(20, seconds(10));
    // longer than the deadline
    own.world
        .sql("BEGIN; LOCK TABLE claim IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(7); COMMIT");
    load.wait_issued(20, seconds(5));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

/// A trigger that refuses the rows of one device in `table`.
fn poison(own: &OwnWorld, table: &str, device: &Device) {
    own.world.sql(&format!(
        "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT device FROM public.claim WHERE intent_id = NEW.intent_id) = '{}' THEN RAISE EXCEPTION 'poison'; END IF;
            RETURN NEW;
        END $$;
        CREATE CONSTRAINT TRIGGER poison AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION poison()",
        device.name
    ));
}

fn a_row_refused_in(table: &str) {
    let own = OwnWorld::running();
    let _alone = alone();
    let device = Device::p256();
    poison(&own, table, &device);
    let load = Load::start(&own.world, 16);
    load.wait_issued(20, seconds(10));
    for _ in 0..5 {
        let answer = own
            .world
            .client("station-01")
            .issue(&device.request("lightbulb"));
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (503, "database-unavailable")
        );
        load.wait_issued(10, seconds(10));
    }
    assert!(own.readiness().0, "one row is no reason to stop the others");
    // The table before its partitions, as whoever inserts has them: dropping begins at the partitions.
    own.world.sql(&format!(
        "BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; DROP FUNCTION poison CASCADE; COMMIT"
    ));
    issued(
        &own.world
            .client("station-01")
            .issue(&device.request("lightbulb")),
    );
    let history = load.stop();
    history.saw_only(&[]);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_refused_intent_spares_its_neighbours() {
    a_row_refused_in("intent");
}

#[test]
fn a_refused_certificate_spares_its_neighbours() {
    a_row_refused_in("outcome");
}
