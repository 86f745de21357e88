//! A long CRL, built again and again while the line issues; OCSP answers a second.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;

use crate::STATIONS;
use crate::load::Load;
use crate::support::device::Device;
use crate::support::world::{OwnWorld, issued};

/// Connections that ask for OCSP answers.
const OCSP_CLIENTS: usize = 8;

/// How long the rate without CRLs is measured.
const BEFORE: Duration = Duration::from_secs(20);
/// How often CRLs are looked at: what is configured where nothing is.
const EVERY_SECONDS: i64 = 15;

/// Issues for a while, revokes `entries` certificates, then one more each second.
pub fn crl(entries: u32, during: Duration) {
    let mut own = OwnWorld::make();
    own.configure(|config| config["crl"]["every_seconds"] = EVERY_SECONDS.into());
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    seed(&own, entries + 10_000);

    let load = Load::start(&own.world, STATIONS);
    load.wait_issued(2_000, Duration::from_secs(30));
    let before = measured(&load, BEFORE, || {});
    revoke(&own, 1, entries);
    let built = "certfactory_crl_build_seconds_count{issuer=\"line-ec\"}";
    let spent = "certfactory_crl_build_seconds_sum{issuer=\"line-ec\"}";
    let count = own.world.metric(built);
    let start = Instant::now();
    while own.world.metric(built) == count {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no CRL was built"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let (count, sum) = (own.world.metric(built), own.world.metric(spent));
    let mut next = entries;
    let meanwhile = measured(&load, during, || {
        next += 1;
        revoke(&own, next, next);
    });
    let builds = own.world.metric(built) - count;
    let history = load.stop();
    history.holds_against(&own.world);

    let newest = own.world.sql("SELECT entries, octet_length(der) FROM crl WHERE issuer = 'line-ec' ORDER BY crl_number DESC LIMIT 1");
    let (listed, octets) = newest.split_once('|').unwrap();
    println!("entries of the newest CRL  {listed}, {octets} octets");
    println!("CRLs built under load      {builds} in {during:?}");
    println!(
        "seconds to build one       {:.2} on average (read, encode, lint, sign, verify, store)",
        (own.world.metric(spent) - sum) / builds
    );
    println!("certificates/s before      {before:.0}");
    println!("certificates/s meanwhile   {meanwhile:.0}");
    println!(
        "loss                       {:.1} %",
        100.0 * (1.0 - meanwhile / before)
    );
    drop(own);
    idle(entries);
}

/// The same CRL while nothing else happens.
fn idle(entries: u32) {
    let own = OwnWorld::running();
    seed(&own, entries);
    let stored = "certfactory_crl_builds_total{issuer=\"line-ec\",outcome=\"stored\"}";
    let spent = "certfactory_crl_build_seconds_sum{issuer=\"line-ec\"}";
    let (count, sum) = (own.world.metric(stored), own.world.metric(spent));
    revoke(&own, 1, entries);
    while own.world.metric(stored) == count {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "seconds to build one idle  {:.2}",
        own.world.metric(spent) - sum
    );
}

/// Certificates a second; `each_second` is called about so often.
fn measured(load: &Load, over: Duration, mut each_second: impl FnMut()) -> f64 {
    let issued = || {
        load.history
            .issued
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let (before, start) = (issued(), Instant::now());
    while start.elapsed() < over {
        std::thread::sleep(Duration::from_secs(1));
        each_second();
    }
    let count = u32::try_from(issued() - before).unwrap();
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Serial numbers of certificates that were issued long ago. The CRL needs no more of them.
fn seed(own: &OwnWorld, count: u32) {
    own.world.sql(&format!(
        "SET session_replication_role = replica;
         INSERT INTO claim (intent_id, serial_number, spki_sha256, slot, device, principal)
         SELECT ('{SEEDED}' || lpad(to_hex(n), 12, '0'))::uuid,
                decode('01', 'hex') || substr(sha256(n::text::bytea), 1, 15), sha256(n::text::bytea), 'identity', 'old-' || n, 'station-01'
         FROM generate_series(1, {count}) n;
         ANALYZE claim"
    ));
}

const SEEDED: &str = "01900000-0000-7000-8000-";

fn revoke(own: &OwnWorld, first: u32, last: u32) {
    own.world.sql(&format!(
        "SET session_replication_role = replica;
         INSERT INTO life_event (intent_id, kind, principal, reason_code, issuer)
         SELECT ('{SEEDED}' || lpad(to_hex(n), 12, '0'))::uuid, 'revoked', 'operator', 1, 'line-ec'
         FROM generate_series({first}, {last}) n"
    ));
}

/// Answers a second from those that are kept: eight clients, a hundred certificates.
pub fn ocsp(during: Duration) {
    let own = OwnWorld::running();
    let station = own.world.client("station-01");
    let issuer = own.world.dir.join("issuers/line-ec.pem");
    let bodies: Vec<_> = (0..100)
        .map(|_| issued(&station.issue(&Device::p256().request("lightbulb"))))
        .collect();
    let requests: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| {
            let file = own.world.dir.join("request.der");
            let serial = format!("0x{}", body["serial_number"].as_str().unwrap());
            let made = std::process::Command::new("openssl")
                .args(["ocsp", "-no_nonce", "-issuer"])
                .arg(&issuer)
                .args(["-serial", &serial, "-reqout"])
                .arg(&file)
                .output()
                .unwrap();
            assert!(made.status.success());
            std::fs::read(&file).unwrap()
        })
        .collect();
    let address = own.world.repository.strip_prefix("http://").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let end = Instant::now() + during;
    let answers: usize = runtime.block_on(async {
        let clients: Vec<_> = (0..OCSP_CLIENTS)
            .map(|n| {
                let (address, requests) = (address.to_owned(), requests.clone());
                tokio::spawn(async move { ask_until(end, &address, &requests, n).await })
            })
            .collect();
        let mut answers = 0;
        for client in clients {
            answers += client.await.unwrap();
        }
        answers
    });
    let metric = |source: &str| {
        own.world.metric(&format!(
            "certfactory_ocsp_answers_total{{issuer=\"line-ec\",source=\"{source}\"}}"
        ))
    };
    println!("OCSP clients               {OCSP_CLIENTS}, one machine with the service");
    println!("answers                    {answers} in {during:?}");
    println!(
        "answers/s                  {:.0}",
        f64::from(u32::try_from(answers).unwrap()) / during.as_secs_f64()
    );
    println!(
        "of them                    {} kept, {} signed, {} refused",
        metric("kept"),
        metric("signed"),
        metric("refused")
    );
}

/// One connection, one request after the other; counts answers that are as long as a signed one.
async fn ask_until(end: Instant, address: &str, requests: &[Vec<u8>], first: usize) -> usize {
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let io = hyper_util::rt::TokioIo::new(tcp);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let (mut answers, mut next) = (0, first);
    while Instant::now() < end {
        next = (next + 1) % requests.len();
        let request = hyper::Request::post("/ocsp/line-ec")
            .header("host", address)
            .header("content-type", "application/ocsp-request")
            .body(Full::new(Bytes::from(requests[next].clone())))
            .unwrap();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(body.len() > 400, "a refusal");
        answers += 1;
    }
    answers
}
