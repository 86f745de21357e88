//! `audit archive`: old entries leave the database and come back, and nothing is lost on the way.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::Done;
use crate::audit::export;
use crate::audit::some;
use crate::audit::verify;
use crate::finish;
use crate::run;
use crate::support::faults::faketime;
use crate::support::world::OwnWorld;
use crate::support::world::World;
use crate::text;

/// Parts of 256 entries instead of 1,048,576: two of them, and the rest.
const SMALL_PARTS: &str = "
    ALTER TABLE log_entry DETACH PARTITION log_entry_0;
    ALTER TABLE log_entry_0 RENAME TO before;
    CREATE TABLE part_0 (LIKE log_entry INCLUDING CONSTRAINTS);
    CREATE TABLE part_1 (LIKE log_entry INCLUDING CONSTRAINTS);
    CREATE TABLE log_entry_0 (LIKE log_entry INCLUDING CONSTRAINTS);
    ALTER TABLE part_0 OWNER TO certfactory_owner;
    ALTER TABLE part_1 OWNER TO certfactory_owner;
    ALTER TABLE log_entry_0 OWNER TO certfactory_owner;
    ALTER TABLE log_entry ATTACH PARTITION part_0 FOR VALUES FROM (MINVALUE) TO (256);
    ALTER TABLE log_entry ATTACH PARTITION part_1 FOR VALUES FROM (256) TO (512);
    ALTER TABLE log_entry ATTACH PARTITION log_entry_0 FOR VALUES FROM (512) TO (1048576);
    INSERT INTO log_entry SELECT * FROM before;
    DROP TABLE before";

/// The command, forty days later: what is of this month is then of an earlier one.
fn archive(world: &World, arguments: &[&str]) -> Done {
    let mut command = world.program(&["audit", "archive", "--json"]);
    command
        .args(arguments)
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME", "+40d");
    finish(command, b"")
}

/// The month of forty days from now.
fn later() -> String {
    let mut date = Command::new("date");
    date.args(["-u", "-d", "+40 days", "+%Y-%m"]);
    finish(date, b"").ok().text().trim().to_owned()
}

fn entries(world: &World) -> String {
    world.sql("SELECT count(*) || ' from ' || min(log_index) FROM log_entry WHERE log_index < 600")
}

fn copy_into(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.args(["-r", &format!("{}/tile", text(from)), text(to)]);
    finish(command, b"").ok();
}

fn archived(summary: &Value) -> u64 {
    summary["entries_archived"].as_u64().unwrap()
}

#[test]
fn old_entries_are_archived_beside_the_line_verified_and_brought_back() {
    let mut own = OwnWorld::make();
    own.start_postgres();
    own.world.sql(SMALL_PARTS);
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    let (early, _) = some(&own.world, 1);
    let serial = own.world.sql(&format!(
        "SELECT encode(serial_number, 'hex') FROM claim JOIN outcome USING (intent_id) WHERE log_index = {early}"
    ));
    // Two parts and a whole bundle of the third, however slow the machine is.
    let line = ["benchmark", "line", "--connections", "8", "--seconds", "2"];
    let mut last = 0;
    for _ in 0..20 {
        run(&own.world, &line).ok();
        last = some(&own.world, 1).1;
        if last > 800 {
            break;
        }
    }
    assert!(last > 800, "only {last} entries");
    let world = &own.world;
    let home = TempDir::new().unwrap();
    let place = home.path().join("archive");
    let (month, directory) = (later(), text(&place));
    let old = ["--before", month.as_str(), directory];

    // This month stays; a month to come cannot be asked for.
    let this = chrono::Utc::now().format("%Y-%m").to_string();
    let none = run(
        world,
        &["audit", "archive", "--json", "--before", &this, directory],
    );
    assert_eq!(none.ok().json()["parts"], serde_json::json!([]));
    run(
        world,
        &["audit", "archive", "--before", "2999-01", directory],
    )
    .fails(1)
    .says("has not begun");

    let planned = archive(world, &["--before", &month, "--dry-run", directory]);
    let parts = serde_json::json!([{ "first": 0, "last": 255 }, { "first": 256, "last": 511 }]);
    assert_eq!(planned.ok().json()["parts"], parts);
    assert_eq!(entries(world), "600 from 0");
    assert!(!place.exists());

    assert_eq!(archive(world, &old).ok().json()["parts"], parts);
    assert_eq!(entries(world), "88 from 512");
    assert_eq!(
        archive(world, &old).ok().json()["parts"],
        serde_json::json!([])
    );

    // The line goes on, and whoever asks is told where the entries are.
    some(world, 1);
    let auditor = world.client("auditor");
    let gone = auditor.get("/v1/audit/tile/entries/000");
    assert_eq!((gone.status, gone.slug().as_str()), (410, "gone"));
    assert_eq!(world.nobody().get("/v1/audit/tile/0/000").status, 200);
    assert_eq!(auditor.get("/v1/audit/tile/entries/002").status, 200);
    let certificate = format!("/v1/certificates/{serial}");
    assert_eq!(auditor.get(&certificate).status, 200);
    assert_eq!(
        auditor.get(&format!("{certificate}/inclusion")).slug(),
        "gone"
    );
    let page = auditor.get(&format!("/audit/certificates/{serial}")).text();
    assert!(page.contains("is archived"), "{page}");

    // Both halves are verified, each alone and together.
    let copy = home.path().join("copy");
    assert_eq!(archived(&export(world, &copy)), 512);
    verify(world, &[text(&copy)]).fails(1).says("is missing");
    let summary = verify(world, &["--partial", text(&copy)]).ok().json();
    assert_eq!(archived(&summary), 512);
    let summary = verify(world, &["--partial", directory]).ok().json();
    assert!(archived(&summary) > 0 && summary["certificates"].as_u64().unwrap() > 300);
    copy_into(&place, &copy);
    let summary = verify(world, &[text(&copy)]).ok().json();
    assert_eq!(archived(&summary), 0);
    assert_eq!(summary["kinds"]["archived"], 2);
    let summary = verify(world, &["--database"]).ok().json();
    assert_eq!(archived(&summary), 512);

    // A service that starts does not miss them.
    own.kill_service();
    own.start_service();
    own.wait_ready(Duration::from_secs(20));
    some(&own.world, 1);
    let world = &own.world;

    // An archive that was changed does not come back.
    let bundle = place.join("tile/entries/001");
    let whole = std::fs::read(&bundle).unwrap();
    let mut changed = whole.clone();
    changed[40] ^= 1;
    std::fs::write(&bundle, changed).unwrap();
    archive(world, &["--bring-back", directory])
        .fails(1)
        .says("its octets are not those of its tile");
    assert_eq!(entries(world), "88 from 512");
    std::fs::write(&bundle, whole).unwrap();

    assert_eq!(
        archive(world, &["--bring-back", directory]).ok().json()["parts"],
        parts
    );
    assert_eq!(entries(world), "600 from 0");
    assert_eq!(auditor_bundle(world), 200);
    // A signed tree holds what the log was told of it.
    some(world, 1);
    let summary = verify(world, &["--database"]).ok().json();
    assert_eq!(archived(&summary), 0);
    assert_eq!(summary["kinds"]["brought-back"], 2);
    // And may leave again.
    assert_eq!(archive(world, &old).ok().json()["parts"], parts);
}

fn auditor_bundle(world: &World) -> u16 {
    world
        .client("auditor")
        .get("/v1/audit/tile/entries/000")
        .status
}
