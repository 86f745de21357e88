//! The service itself dies, is asked to go, or is left by its client.

use std::time::{Duration, Instant};

use certfactory::cli::client::Client;
use hyper::Method;
use openssl::x509::X509;

use crate::load::{Load, connect, pause_up_to};
use crate::support::device::Device;
use crate::support::faults::{Frozen, NetworkHsm, control, use_fault_module};
use crate::support::world::{OwnWorld, issued};
use crate::{RECOVERED, alone, seconds};

#[test]
fn a_service_killed_again_and_again_loses_nothing_and_makes_nothing_twice() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let load = Load::start(&own.world, 24);
    for _ in 0..6 {
        load.wait_issued(20, seconds(10));
        pause_up_to(Duration::from_millis(300));
        own.kill_service();
        own.start_service();
        own.wait_ready(seconds(10));
    }
    load.wait_issued(20, seconds(10));
    let history = load.stop();
    history.holds_against(&own.world);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
    history.saw_only(&[
        "request-in-progress",
        "database-unavailable",
        "hsm-unavailable",
    ]);
}

#[test]
fn a_service_asked_to_stop_answers_what_it_began() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let load = Load::start(&own.world, 24);
    load.wait_issued(50, seconds(10));
    let status = own.terminate_service(seconds(10));
    assert!(status.success(), "{status}");
    let history = load.stop();
    history.holds_against(&own.world);
    history.saw_only(&["overloaded"]);
    // whoever's request was taken up got its answer
    let recorded: usize = own
        .world
        .sql("SELECT count(*) FROM outcome WHERE der IS NOT NULL")
        .parse()
        .unwrap();
    assert_eq!(recorded, history.certificates.lock().unwrap().len());
    assert_eq!(own.open_intents(), 0);
    own.start_service();
    own.wait_ready(seconds(10));
    issued(
        &own.world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    own.wait_no_open_intents(RECOVERED);
}

#[test]
fn a_service_goes_when_asked_though_its_database_is_frozen() {
    let mut own = OwnWorld::running();
    let _alone = alone();
    let load = Load::start(&own.world, 24);
    load.wait_issued(50, seconds(10));
    let frozen = Frozen::new(own.postgres_processes());
    // requests begin to wait
    pause_up_to(Duration::from_millis(500));
    let status = own.terminate_service(seconds(10));
    assert!(status.success(), "{status}");
    drop(frozen);
    let history = load.stop();
    history.saw_only(&["overloaded", "database-unavailable"]);
    history.holds_against(&own.world);
    own.start_service();
    own.wait_ready(seconds(10));
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_service_goes_when_asked_though_its_hsm_is_frozen() {
    let mut own = OwnWorld::make();
    let hsm = NetworkHsm::in_front_of(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    let _alone = alone();
    let load = Load::start(&own.world, 24);
    load.wait_issued(50, seconds(10));
    let frozen = hsm.freeze();
    // calls begin to hang
    pause_up_to(Duration::from_millis(500));
    let status = own.terminate_service(seconds(10));
    assert!(status.success(), "{status}");
    drop(frozen);
    let history = load.stop();
    history.saw_only(&["overloaded", "hsm-unavailable"]);
    own.start_service();
    own.wait_ready(seconds(10));
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
}

#[test]
fn a_client_that_hangs_up_finds_its_certificate_when_it_comes_back() {
    let mut own = OwnWorld::make();
    use_fault_module(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(15));
    let _alone = alone();
    let client = Client::new(&connect(&own.world), &own.world.dir.join("config.toml")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // while the HSM signs, nobody is listening any more
    control(&own, "delay_ms=500");
    let devices: Vec<Device> = (0..4).map(|_| Device::p256()).collect();
    runtime.block_on(async {
        for device in &devices {
            let mut connection = client.connect().await.unwrap();
            let body = device.request("lightbulb").to_string();
            let answer = connection.send(
                Method::POST,
                "/v1/certificates",
                &[("content-type", "application/json")],
                body.into(),
            );
            let hung_up = tokio::time::timeout(Duration::from_millis(150), answer).await;
            assert!(hung_up.is_err(), "the answer came too soon for this test");
        }
    });
    drop(runtime);
    let count = |sql: &str| own.world.sql(sql).parse::<usize>().unwrap();
    let start = Instant::now();
    while count("SELECT count(*) FROM outcome") < devices.len() {
        assert!(start.elapsed() < seconds(10), "the issuances did not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    // by whom it was begun, not by the sweeper, which waits for five seconds
    let longest = own.world.sql("SELECT max(o.recorded_at - i.created_at) < interval '4.5 s' FROM outcome o JOIN intent i USING (intent_id)");
    assert_eq!(longest, "t");
    control(&own, "");
    for device in &devices {
        let answer = own
            .world
            .client("station-01")
            .issue(&device.request("lightbulb"));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("idempotency-replayed"), Some("true"));
        let der = X509::from_pem(answer.json()["certificate"].as_str().unwrap().as_bytes())
            .unwrap()
            .to_der()
            .unwrap();
        let hex: String = der.iter().map(|b| format!("{b:02x}")).collect();
        let recorded = own.world.sql(&format!("SELECT encode(o.der, 'hex') FROM outcome o JOIN intent i USING (intent_id) WHERE i.device = '{}'", device.name));
        assert_eq!(recorded, hex);
    }
    assert_eq!(own.open_intents(), 0);
}

/// The link of the whole line is cut while answers are on their way, and comes back.
#[test]
fn after_a_cut_a_hundred_stations_ask_again_at_once_and_get_what_was_made() {
    let own = OwnWorld::running();
    let _alone = alone();
    let client = Client::new(&connect(&own.world), &own.world.dir.join("config.toml")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bodies: Vec<String> = (0..100)
        .map(|_| Device::p256().request("lightbulb").to_string())
        .collect();
    let all_at_once = |wait: Duration| {
        runtime.block_on(async {
            let stations = bodies.iter().map(|body| {
                let (client, body) = (client.clone(), body.clone());
                tokio::spawn(async move {
                    let mut connection = client.connect().await.unwrap();
                    let headers = [("content-type", "application/json")];
                    let answer =
                        connection.send(Method::POST, "/v1/certificates", &headers, body.into());
                    let answer = tokio::time::timeout(wait, answer).await.ok()?.unwrap();
                    Some(answer.status.as_u16())
                })
            });
            let mut answers = Vec::new();
            for station in stations.collect::<Vec<_>>() {
                answers.extend(station.await.unwrap());
            }
            answers
        })
    };
    let made = || {
        own.world
            .sql("SELECT count(*) FROM outcome WHERE der IS NOT NULL")
    };
    let answered = all_at_once(Duration::from_millis(1)).len();
    assert!(
        answered < 50,
        "the cut came too late: {answered} were answered"
    );
    own.wait_no_open_intents(RECOVERED);
    let (recorded, signed) = (made(), own.world.metric("certfactory_hsm_calls_total"));

    let start = Instant::now();
    let again = all_at_once(seconds(5));
    let took = start.elapsed();
    assert_eq!(again.len(), 100);
    let replayed = again.iter().filter(|status| **status == 200).count();
    let fresh = again.iter().filter(|status| **status == 201).count();
    assert_eq!(replayed + fresh, 100, "{again:?}");
    assert_eq!(recorded, replayed.to_string());
    assert_eq!(made(), "100");
    assert!(took < seconds(3), "{took:?}");

    // Once more: now all of it is reading, and the HSM has no part in it.
    assert_eq!(all_at_once(seconds(5)), vec![200; 100]);
    let signatures = own
        .world
        .metric("certfactory_hsm_calls_total{purpose=\"certificate\"}");
    assert_eq!(signatures, 100.0, "before the second round: {signed}");
}
