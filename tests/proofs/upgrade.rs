//! An earlier version's program and this one's, one after the other on one database and one address, under
//! load: migrated while the old one serves, changed over by SIGTERM and a start.

use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::STATIONS;
use crate::load::Load;
use crate::seconds;
use crate::support::faults::signal;
use crate::support::world::OwnWorld;

/// `old`: the earlier version's program.
pub fn upgrade(old: &Path) {
    let mut own = OwnWorld::make_by(old);
    own.start_postgres();
    let service = start(old, &own);
    own.service = Some(service);
    own.wait_ready(seconds(20));
    let schema = || own.world.sql("SELECT max(version) FROM _sqlx_migrations");
    let before = schema();
    let load = Load::start(&own.world, STATIONS);
    load.wait_issued(1_000, seconds(30));

    let migrated = own.world.program(&["migrate"]).output().unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    println!("schema {before}, then {}", schema());
    // The old program goes on, on the new schema.
    load.wait_issued(2_000, seconds(60));

    let pause = Instant::now();
    let mut old = own.service.take().unwrap();
    signal(old.id(), Signal::SIGTERM);
    let ended = old.wait().unwrap();
    assert!(ended.success(), "{ended}");
    own.start_service();
    let ready = own.wait_ready(seconds(20));
    println!(
        "changed over in {:.2} s, ready {:.2} s after its start",
        pause.elapsed().as_secs_f64(),
        ready.as_secs_f64()
    );
    load.wait_issued(2_000, seconds(60));
    let history = load.stop();
    own.wait_no_open_intents(Duration::from_secs(10));
    history.holds_against(&own.world);
    println!(
        "{} certificates received, all in the ledger byte for byte, none twice; refusals {:?}, connections that ended {}",
        history.certificates.lock().unwrap().len(),
        history.refusals.lock().unwrap(),
        history.broken.load(std::sync::atomic::Ordering::Relaxed)
    );
}

fn start(program: &Path, own: &OwnWorld) -> Child {
    Command::new(program)
        .arg("serve")
        .env("CERTFACTORY_CONFIG", own.world.dir.join("config.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
