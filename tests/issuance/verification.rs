//! A verification certificate whose maker dies half-way is finished, or given up, as any other.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::device::Device;
use crate::support::faults::{control, use_fault_module};
use crate::support::http::Response;
use crate::support::world::{OwnWorld, World};
use crate::{RECOVERED, alone, seconds};

fn ask(world: &World, digit: &str) -> Result<Response, String> {
    let body = json!({ "registration_code": digit.repeat(64) }).to_string();
    let headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", digit),
    ];
    world.client("administrator").try_send(
        "POST",
        "/v1/issuers/line-ec/verification-certificates",
        &headers,
        Some(body.as_bytes()),
    )
}

/// A world whose service was killed while the HSM was signing one for each of these digits.
fn killed_while_signing(digits: &[&str]) -> OwnWorld {
    let mut own = OwnWorld::make();
    use_fault_module(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    control(&own, "delay_ms=3000");
    let world = &own.world;
    std::thread::scope(|scope| {
        let asking: Vec<_> = digits
            .iter()
            .map(|digit| scope.spawn(move || ask(world, digit)))
            .collect();
        let start = Instant::now();
        while own.open_intents() < digits.len() {
            assert!(start.elapsed() < seconds(2), "nothing was reserved");
            std::thread::sleep(Duration::from_millis(10));
        }
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(own.pid()).unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        for asked in asking {
            let answer = asked.join().unwrap();
            assert!(answer.is_err(), "it was answered before: {answer:?}");
        }
    });
    own.kill_service();
    control(&own, "");
    assert_eq!(own.open_intents(), digits.len());
    own
}

#[test]
fn one_that_was_reserved_and_not_recorded_is_finished_and_is_still_no_device() {
    let mut own = killed_while_signing(&["a"]);
    own.start_service();
    let _alone = alone();
    own.wait_ready(seconds(10));
    own.wait_no_open_intents(RECOVERED);
    let answer = ask(&own.world, "a").unwrap();
    assert_eq!(
        (answer.status, answer.header("idempotency-replayed")),
        (200, Some("true")),
        "{answer:?}"
    );
    let body = answer.json();
    let file = own.world.dir.join("verification.pem");
    std::fs::write(&file, body["certificate"].as_str().unwrap()).unwrap();
    let verified = Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(own.world.dir.join("issuers/line-ec.pem"))
        .arg(&file)
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(own.world.sql("SELECT count(*) FROM outcome"), "1");
    assert_eq!(
        own.world
            .metric("certfactory_certificates_issued_total{issuer=\"line-ec\",profile=\"verification_certificate\"}"),
        1.0
    );
    let page = own.world.client("auditor").get("/v1/certificates").json();
    assert_eq!(page["items"], json!([]));
}

#[test]
fn one_that_can_never_be_signed_is_given_up_and_another_can_be_had() {
    let mut own = killed_while_signing(&["a", "b"]);
    // A day later; and one whose kind's rules its bytes do not keep.
    own.world.sql(&format!(
        "UPDATE intent SET not_before = now() - interval '2 days', not_after = now() - interval '1 day'
         WHERE subject ->> 'CN' = '{}'",
        "a".repeat(64)
    ));
    own.world.sql(&format!(
        "UPDATE intent SET kind = 'device' WHERE subject ->> 'CN' = '{}'",
        "b".repeat(64)
    ));
    own.start_service();
    let _alone = alone();
    own.wait_ready(seconds(10));
    own.wait_no_open_intents(RECOVERED);
    let reasons = own.world.sql(
        "SELECT string_agg(abandon_reason, '; ' ORDER BY subject ->> 'CN')
         FROM outcome JOIN intent USING (intent_id)",
    );
    let (validity, lint) = reasons.split_once("; ").unwrap();
    assert!(validity.contains("validity has passed"), "{reasons}");
    assert!(lint.contains("extKeyUsage: clientAuth alone"), "{reasons}");
    assert_eq!(own.world.sql("SELECT count(*) FROM claim WHERE live"), "0");
    // What they claimed is free again, the idempotency keys too, and the log has no gap.
    let mut last = 0;
    for digit in ["a", "b"] {
        let answer = ask(&own.world, digit).unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        let place = answer.json()["log_index"].as_u64().unwrap();
        assert!(place > last);
        last = place;
    }
    let device = Device::p256().request("lightbulb");
    let answer = own.world.client("station-01").issue(&device);
    assert!(
        answer.json()["log_index"].as_u64().unwrap() > last,
        "{answer:?}"
    );
    let gaps = "SELECT count(*) <> (SELECT size FROM log_head) FROM log_entry";
    assert_eq!(own.world.sql(gaps), "f", "the log has a gap");
}
