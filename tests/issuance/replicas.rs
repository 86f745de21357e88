//! Several replicas on one database: whose octet, who does what, who comes and who goes.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use openssl::x509::X509;

use crate::load::Load;
use crate::support::batch::order;
use crate::support::device::Device;
use crate::support::faults::{Frozen, NetworkHsm};
use crate::support::recipient::Recipient;
use crate::support::replica::{HaProxy, Replica, start_on_socket};
use crate::support::world::{OwnWorld, free_port, issued, leaf};
use crate::{alone, seconds};

#[test]
fn an_octet_is_one_replicas_and_who_was_paused_goes_on_under_another() {
    let own = OwnWorld::running();
    let mut second = Replica::make(&own, 2, |_| {});
    second.start("all");
    second.wait_ready(seconds(20));
    // Without being told, each took one.
    assert_eq!(own.world.metric("certfactory_replica_instance"), 1.0);
    assert_eq!(second.metric("certfactory_replica_instance"), 2.0);
    let duties = "certfactory_replica_duty";
    assert_eq!(
        (own.world.metric(duties), second.metric(duties)),
        (3.0, 0.0)
    );
    let mut third = Replica::make(&own, 3, |config| {
        let issuance = config["issuance"].as_table_mut().unwrap();
        issuance.insert("instance".into(), 1.into());
    });
    let (code, said) = third.refused_start("all");
    assert_eq!(code, 1, "{said}");
    let held = "instance octet 1 is held by another replica (host ";
    assert!(said.contains(held), "{said}");

    let _alone = alone();
    let load = Load::start(&own.world, 8);
    load.wait_issued(50, seconds(20));
    let paused = Frozen::new(vec![own.pid()]);
    // The server ends the silent session, and the octet is free.
    third.start("all");
    third.wait_ready(seconds(30));
    assert_eq!(third.metric("certfactory_replica_instance"), 1.0);
    let start = Instant::now();
    while second.metric(duties) + third.metric(duties) < 3.0 {
        assert!(
            start.elapsed() < seconds(5),
            "the paused one's duties are nobody's"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(paused);
    load.wait_issued(100, seconds(20));
    let history = load.stop();
    // Requests that waited through the pause have met their deadline, wherever they were.
    history.saw_only(&[
        "clock-untrusted",
        "database-unavailable",
        "hsm-unavailable",
        "log-unavailable",
        "request-in-progress",
    ]);
    history.holds_against(&own.world);
    let count = |octet: u8, and: &str| {
        own.world.sql(&format!(
            "SELECT count(*) FROM intent i, replica r WHERE r.instance = {octet}
             AND get_byte(i.serial_number, 0) = {octet} {and}"
        ))
    };
    assert_eq!(count(1, "AND i.created_at >= r.claimed_at"), "0");
    assert_ne!(count(3, ""), "0");
    assert_eq!(own.world.metric("certfactory_replica_instance"), 3.0);
    let made = issued(
        &third
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    assert!(made["serial_number"].as_str().unwrap().starts_with("01"));
    // The log has who began under which octet, and when the first one's changed.
    let told = own.world.sql(
        "SELECT count(*) FROM log_entry WHERE leaf LIKE '%\"kind\":\"configured\"%\"instance\":3%'",
    );
    assert_eq!(told, "1");
}

#[test]
fn an_api_and_a_jobs_replica_each_do_their_part_and_no_more() {
    let mut own = OwnWorld::make();
    let mut jobs = Replica::make(&own, 2, |_| {});
    own.start_postgres();
    own.start_service_as("api");
    own.wait_ready(seconds(20));
    let start = Instant::now();
    while !own.readiness().1.contains("--role jobs") {
        assert!(start.elapsed() < seconds(5), "{}", own.readiness().1);
        std::thread::sleep(Duration::from_millis(50));
    }
    let world = &own.world;
    let body = issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
    world.revoke(&body, "cessationOfOperation");
    let recipient = Recipient::new();
    let batch = world.taken(&order(20, &recipient));
    let left = leave_open_intents(&mut own);
    std::thread::sleep(seconds(8));
    let world = &own.world;
    assert_eq!(world.sql("SELECT count(*) FROM checkpoint"), "0");
    assert_eq!(world.sql("SELECT count(*) FROM crl"), "0");
    assert_eq!(world.show_batch(&batch)["issued"], 0);
    assert_eq!(own.open_intents(), left, "who sweeps?");
    assert!(own.readiness().0, "a station is served all the same");

    jobs.start("jobs");
    jobs.wait_ready(seconds(20));
    assert!(std::net::TcpStream::connect(("127.0.0.1", jobs.api_port)).is_err());
    own.wait_no_open_intents(seconds(20));
    let world = &own.world;
    world.wait_revoked("/pki/line-ec.crl", &leaf(&body), seconds(20));
    world.wait_done(&batch, seconds(60));
    let (tar, _) = world.unpack(&batch, &recipient);
    assert_eq!(world.verify_package(&tar, &recipient)["devices"], 20);
    let size = || world.metric("certfactory_log_size");
    let start = Instant::now();
    while world.metric("certfactory_log_checkpoint_size") < size() {
        assert!(
            start.elapsed() < seconds(10),
            "the api follows no checkpoint"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(world.metric("certfactory_replica_duty"), 0.0);
    assert_eq!(jobs.metric("certfactory_replica_duty"), 3.0);
    assert!(
        !own.readiness().1.contains("--role"),
        "{}",
        own.readiness().1
    );
    let named = ["api", "jobs"]
        .map(|role| world.metric(&format!("certfactory_replicas{{role=\"{role}\"}}")));
    assert_eq!(named, [1.0, 1.0]);
    own.kill_service();
    let start = Instant::now();
    while !jobs.readyz().unwrap().1["warnings"][0]["reason"]
        .as_str()
        .is_some_and(|reason| reason.contains("--role api"))
    {
        assert!(start.elapsed() < seconds(10), "{:?}", jobs.readyz());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The service dies under load, until it leaves something open; how many.
fn leave_open_intents(own: &mut OwnWorld) -> usize {
    let _alone = alone();
    for _ in 0..20 {
        let load = Load::start(&own.world, 24);
        load.wait_issued(30, seconds(20));
        own.kill_service();
        load.stop();
        let left = own.open_intents();
        own.start_service_as("api");
        own.wait_ready(seconds(20));
        if left > 0 {
            return left;
        }
    }
    panic!("twenty kills left nothing open");
}

#[test]
fn a_replica_that_is_paused_in_the_middle_hands_out_what_another_made_of_it() {
    let mut own = OwnWorld::make();
    let mut second = Replica::make(&own, 2, |_| {});
    let hsm = NetworkHsm::in_front_of(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(20));
    second.start("all");
    second.wait_ready(seconds(20));
    let request = Device::p256().request("lightbulb");
    let station = own.world.client("station-01");
    // Its intent is stored, and its signature does not come.
    let frozen = hsm.freeze();
    let waiting = {
        let (station, request) = (station.clone(), request.clone());
        std::thread::spawn(move || station.issue(&request))
    };
    let start = Instant::now();
    while own.open_intents() == 0 {
        assert!(start.elapsed() < seconds(4), "no intent");
        std::thread::sleep(Duration::from_millis(5));
    }
    let paused = Frozen::new(vec![own.pid()]);
    // Beyond the intent's lease, the session's life and the duty.
    own.wait_no_open_intents(seconds(30));
    let der = "SELECT encode(der, 'hex') FROM outcome";
    let made = own.world.sql(der);
    let swept = second.metric("certfactory_certificates_issued_total");
    assert_eq!(swept, 1.0, "the other finished it");
    drop(frozen);
    drop(paused);
    let late = waiting.join().unwrap();
    if late.status != 201 && late.status != 200 {
        assert_eq!(late.status, 503, "{late:?}");
        assert!(late.header("retry-after").is_some());
    }
    let mut answers = vec![issued(&station.issue(&request))];
    answers.extend((late.status < 300).then(|| late.json()));
    for answer in answers {
        let pem = answer["certificate"].as_str().unwrap();
        let leaf = X509::from_pem(pem.as_bytes()).unwrap().to_der().unwrap();
        let hex: String = leaf.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, made);
    }
    std::thread::sleep(seconds(1));
    assert_eq!(own.world.sql(der), made, "one certificate, and the same");
}

#[test]
fn a_replica_comes_and_goes_behind_a_load_balancer_without_a_failed_request() {
    let mut own = OwnWorld::make();
    own.configure(|config| {
        let http = config["http"].as_table_mut().unwrap();
        http.insert("drain_seconds".into(), 2.into());
    });
    let mut second = Replica::make(&own, 2, |_| {});
    let ports = |world: &crate::support::world::World| {
        let port = |url: &str| url.rsplit(':').next().unwrap().parse().unwrap();
        (port(&world.url), port(&world.operations))
    };
    own.start_postgres();
    own.start_service();
    own.wait_ready(seconds(20));
    let _alone = alone();
    let replicas = [ports(&own.world), (second.api_port, second.operations_port)];
    let balancer = HaProxy::start(&own, &replicas);
    let load = Load::start(&balancer.world, 8);
    load.wait_issued(100, seconds(20));
    second.start("all");
    second.wait_ready(seconds(20));
    let served = || second.metric("certfactory_http_request_seconds_count");
    let start = Instant::now();
    while served() < 1.0 {
        assert!(start.elapsed() < seconds(10), "nobody comes to the new one");
        // Stations keep their connections: the first one has to let some go.
        std::thread::sleep(Duration::from_millis(100));
        if own.service.is_some() && start.elapsed() > seconds(2) {
            let status = own.terminate_service(seconds(15));
            assert!(status.success(), "{status}");
        }
    }
    load.wait_issued(100, seconds(20));
    own.start_service();
    own.wait_ready(seconds(20));
    std::thread::sleep(seconds(1));
    second.stop();
    load.wait_issued(100, seconds(20));
    let history = load.stop();
    history.saw_no_failure();
    history.holds_against(&own.world);
}

#[test]
fn a_restart_on_a_socket_that_stays_open_refuses_no_connection() {
    let own = OwnWorld::make();
    let port = free_port();
    let socket = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    own.configure(|config| {
        config["http"]["listen"] = format!("127.0.0.1:{port}").into();
    });
    own.start_postgres();
    let (config, log) = (own.world.dir.join("config.toml"), own.log_path());
    let start = |socket| start_on_socket(&config, &log, socket);

    let mut misled = start(&other);
    assert!(!misled.wait().unwrap().success());
    assert!(own.log().contains("where nothing is configured to listen"));

    let mut service = Service(start(&socket));
    own.wait_ready(seconds(20));
    let mut world = crate::support::world::World::at(own.world.dir.clone());
    world.url = format!("https://127.0.0.1:{port}");
    let _alone = alone();
    let load = Load::start(&world, 8);
    for _ in 0..2 {
        load.wait_issued(100, seconds(20));
        service.end();
        // Whoever comes now waits in the socket.
        std::thread::sleep(Duration::from_millis(300));
        service = Service(start(&socket));
        own.wait_ready(seconds(20));
    }
    load.wait_issued(100, seconds(20));
    let history = load.stop();
    history.saw_no_failure();
    history.holds_against(&own.world);
}

/// Ends with its test.
struct Service(std::process::Child);

impl Service {
    fn end(&mut self) {
        crate::support::faults::signal(self.0.id(), nix::sys::signal::Signal::SIGTERM);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
