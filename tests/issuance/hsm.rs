//! The HSM goes away, comes back as another, freezes, forgets its sessions, signs wrongly.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::support::device::Device;
use crate::support::faults::{NetworkHsm, control, token_away, use_fault_module};
use crate::support::http::Response;
use crate::support::world::{OwnWorld, issued};
use crate::{DEADLINE_AND_MARGIN, RECOVERED, alone, seconds};

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

fn assert_hsm_unavailable(answer: &Response) {
    assert_eq!(
        (answer.status, answer.slug().as_str()),
        (503, "hsm-unavailable")
    );
}

fn with_fault_module() -> OwnWorld {
    let mut own = OwnWorld::make();
    use_fault_module(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    own
}

#[test]
fn a_token_that_goes_away_and_returns_signs_again_without_a_restart() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let known = Device::p256();
    let station = own.world.client("station-01");
    let certificate = issued(&station.issue(&known.request("lightbulb")));
    let load = Load::start(&own.world, 16);
    load.wait_issued(20, seconds(10));
    token_away(&own, true);
    own.wait_not_ready("\"hsm\"", seconds(5));
    assert!(own.live());
    assert_hsm_unavailable(&ask(&own));
    // What was issued before needs no HSM.
    let replay = station.issue(&known.request("lightbulb"));
    assert_eq!((replay.status, issued(&replay)), (200, certificate));
    std::thread::sleep(seconds(2));
    token_away(&own, false);
    own.wait_ready(seconds(3));
    load.wait_issued(20, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["hsm-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

/// A token like the world's, with other keys.
fn make_other_token(own: &OwnWorld) -> std::path::PathBuf {
    let dir = own.world.dir.join("softhsm");
    let (tokens, conf) = (dir.join("other"), dir.join("other.conf"));
    fs::create_dir(&tokens).unwrap();
    fs::write(
        &conf,
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\n",
            tokens.display()
        ),
    )
    .unwrap();
    let pin = fs::read_to_string(dir.join("pin")).unwrap();
    let config: toml::Table = fs::read_to_string(own.world.dir.join("config.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let module = config["hsm"][0]["module"].as_str().unwrap();
    let label = config["hsm"][0]["token_label"].as_str().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .env("SOFTHSM2_CONF", &conf)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(
        "softhsm2-util",
        &[
            "--init-token",
            "--free",
            "--label",
            label,
            "--pin",
            &pin,
            "--so-pin",
            "so-pin-of-test",
        ],
    );
    for (key, kind) in [("line-ec", "EC:prime256v1"), ("line-rsa", "rsa:2048")] {
        run(
            "pkcs11-tool",
            &[
                "--module",
                module,
                "--token-label",
                label,
                "--login",
                "--pin",
                &pin,
                "--keypairgen",
                "--key-type",
                kind,
                "--label",
                key,
                "--id",
                "01",
            ],
        );
    }
    tokens
}

#[test]
fn another_key_under_the_old_label_signs_no_certificate() {
    let mut own = OwnWorld::running();
    let other = make_other_token(&own);
    let _alone = alone();
    let load = Load::start(&own.world, 16);
    load.wait_issued(20, seconds(10));
    token_away(&own, true);
    fs::rename(&other, own.world.dir.join("softhsm/tokens")).unwrap();
    own.wait_not_ready("is not the key of issuer", seconds(10));
    let before = own.world.sql("SELECT count(*) FROM outcome");
    let start = Instant::now();
    while start.elapsed() < seconds(3) {
        assert_hsm_unavailable(&ask(&own));
        assert!(!own.readiness().0);
    }
    assert_eq!(own.world.sql("SELECT count(*) FROM outcome"), before);
    token_away(&own, false);
    // a refused key is looked at ever more rarely
    own.wait_ready(seconds(20));
    load.wait_issued(20, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["hsm-unavailable", "request-in-progress"]);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_network_hsm_that_dies_and_returns_signs_again() {
    let mut own = OwnWorld::make();
    let mut hsm = NetworkHsm::in_front_of(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    let _alone = alone();
    let load = Load::start(&own.world, 16);
    for _ in 0..2 {
        load.wait_issued(20, seconds(10));
        hsm.kill();
        own.wait_not_ready("\"hsm\"", seconds(5));
        assert_hsm_unavailable(&ask(&own));
        hsm.start();
        own.wait_ready(seconds(5));
    }
    load.wait_issued(20, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["hsm-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_frozen_network_hsm_keeps_nobody_beyond_the_deadline_and_costs_no_thread() {
    let mut own = OwnWorld::make();
    let hsm = NetworkHsm::in_front_of(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    let _alone = alone();
    let load = Load::start(&own.world, 16);
    load.wait_issued(20, seconds(10));
    let threads = own.threads();
    for _ in 0..3 {
        let frozen = hsm.freeze();
        own.wait_not_ready("\"hsm\"", DEADLINE_AND_MARGIN);
        assert_hsm_unavailable(&ask(&own));
        assert!(own.live());
        drop(frozen);
        own.wait_ready(seconds(5));
        load.wait_issued(20, seconds(10));
    }
    assert!(
        own.threads() <= threads,
        "{} threads, {threads} before",
        own.threads()
    );
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["hsm-unavailable", "request-in-progress"]);
    history.answered_within(DEADLINE_AND_MARGIN);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn closed_sessions_and_passing_failures_reach_no_station() {
    let own = with_fault_module();
    let _alone = alone();
    let load = Load::start(&own.world, 16);
    for round in 0..3 {
        load.wait_issued(20, seconds(10));
        control(&own, &format!("close_all=1 round={round}"));
    }
    load.wait_issued(20, seconds(10));
    // CKR_FUNCTION_FAILED
    control(&own, "sign_rv=6 percent=5");
    load.wait_issued(300, seconds(20));
    control(&own, "");
    let history = load.stop();
    assert!(own.world.metric("certfactory_hsm_reopens_total") >= 1.0);
    assert!(own.log().contains("CKR_FUNCTION_FAILED"), "no call failed");
    history.saw_only(&[]);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_wrong_signature_is_never_released() {
    let mut own = with_fault_module();
    let _alone = alone();
    let load = Load::start(&own.world, 16);
    load.wait_issued(20, seconds(10));
    control(&own, "flip=1");
    own.wait_not_ready("\"hsm\"", seconds(5));
    let before = own.world.sql("SELECT count(*) FROM outcome");
    assert_hsm_unavailable(&ask(&own));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(own.world.sql("SELECT count(*) FROM outcome"), before);
    control(&own, "");
    own.wait_ready(seconds(10));
    issued(&ask(&own));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["hsm-unavailable", "request-in-progress"]);
    own.wait_no_open_intents(RECOVERED);
    // all of them verify: holds_against asks OpenSSL with the issuer's key
    history.holds_against(&own.world);
}
