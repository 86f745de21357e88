//! The TLS files are replaced while the line runs.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use openssl::ssl::SslStream;
use openssl::x509::X509;

use crate::load::Load;
use crate::support::device::Device;
use crate::support::faults::signal;
use crate::support::http::Curl;
use crate::support::tls::{Identity, Use, address, connect, refusal};
use crate::support::world::{OwnWorld, issued};

/// What new connections are shown.
fn shown(own: &OwnWorld) -> Vec<u8> {
    let stream = connect(&own.world, None).unwrap();
    let certificate = stream.ssl().peer_certificate().unwrap();
    certificate.to_der().unwrap()
}

fn until(what: &str, wanted: impl Fn() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < Duration::from_secs(3), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One answer on this connection, or why there is none.
fn ask(stream: &mut SslStream<std::net::TcpStream>) -> Result<String, String> {
    let request = b"GET /v1/certificates?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).map_err(|e| e.to_string())?;
    let mut answer = [0; 16 * 1024];
    match stream.read(&mut answer).map_err(|e| e.to_string())? {
        0 => Err("closed".into()),
        length => Ok(String::from_utf8_lossy(&answer[..length]).into_owned()),
    }
}

/// What OpenSSL's client says when it connects as `station-01`, asks and keeps its session in, or
/// takes it from, a file.
fn with_session(own: &OwnWorld, option: &str) -> String {
    let script = r#"(printf 'GET /v1/certificates?limit=1 HTTP/1.1\r\nHost: a\r\n\r\n'; sleep 0.5) |
        timeout 5 openssl s_client -connect "$0" -cert "$1.pem" -key "$1.key" "$2" "$3" 2>&1"#;
    let output = std::process::Command::new("bash")
        .args(["-c", script])
        .arg(address(&own.world).to_string())
        .arg(own.world.dir.join("clients/station-01"))
        .arg(option)
        .arg(own.world.dir.join("session"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn tls_files_change_under_load_without_a_failed_request_and_bad_ones_change_nothing() {
    let own = OwnWorld::make();
    let tls = own.world.dir.join("tls");
    let file = |name: &str| tls.join(name);
    let authority = Identity::make("the next TLS CA", Use::Authority, None, (-1, 30));
    let clients = Identity::make("the next clients CA", Use::Authority, None, (-1, 30));
    let mut anchors = std::fs::read(file("ca.pem")).unwrap();
    anchors.extend(authority.pem());
    std::fs::write(file("ca.pem"), anchors).unwrap();
    let server = |days| Identity::make("localhost", Use::Server, Some(&authority), days);
    let first_anchors = std::fs::read(file("clients-ca.pem")).unwrap();
    let mut own = own;
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let look = || signal(own.pid(), Signal::SIGHUP);
    let refused = || own.world.metric("certfactory_tls_files_refused");
    let ends = |what: &str| {
        let name = format!("certfactory_tls_not_after_seconds{{file=\"{what}\"}}");
        own.world.metric(&name) - chrono::Utc::now().timestamp() as f64
    };
    let station = Identity::of(&own.world, "station-01");
    let mut open = connect(&own.world, Some(&station)).unwrap();
    ask(&mut open).unwrap();
    assert!(with_session(&own, "-sess_out").contains("HTTP/1.1 200"));

    // Stations that stay connected, and one that connects for each request.
    let load = Load::start(&own.world, 8);
    let (stop, fresh) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let visitor = own.world.client("auditor");
    let visits = std::thread::spawn({
        let (stop, fresh) = (stop.clone(), fresh.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                let answer = visitor.try_send("GET", "/v1/certificates?limit=1", &[], None);
                assert_eq!(answer.unwrap().status, 200);
                fresh.fetch_add(1, Ordering::Relaxed);
            }
        }
    });

    let second = server((-1, 20));
    second.write(&file("server.pem"), &file("server.key"));
    look();
    let second_der = second.certificate.to_der().unwrap();
    until("the second certificate", || shown(&own) == second_der);
    assert!((19.0 * 86_400.0..21.0 * 86_400.0).contains(&ends("certificate")));
    assert_eq!(refused(), 0.0);

    // A certificate without its key; one that has expired; trust anchors that are none.
    let good = [second.pem(), second.key_pem(), first_anchors];
    let [certificate, key, anchors] = good.clone();
    let expired = server((-10, -1));
    let damaged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
    let bad = [
        (
            "does not belong to",
            [server((-1, 20)).pem(), key.clone(), anchors.clone()],
        ),
        ("valid now", [expired.pem(), expired.key_pem(), anchors]),
        (
            "no certificate in it",
            [certificate.clone(), key.clone(), Vec::new()],
        ),
        ("clients-ca.pem", [certificate, key, damaged]),
    ];
    for (words, [certificate, key, anchors]) in bad {
        std::fs::write(file("server.pem"), certificate).unwrap();
        std::fs::write(file("server.key"), key).unwrap();
        std::fs::write(file("clients-ca.pem"), anchors).unwrap();
        look();
        until(words, || {
            own.log()
                .lines()
                .any(|line| line.contains("refused") && line.contains(words))
        });
        assert_eq!(refused(), 1.0, "{words}");
        assert_eq!(shown(&own), second_der, "{words}");
        own.world.client("station-01").get("/v1/certificates");
    }
    // What was in use comes back to the disk, and the alarm ends.
    std::fs::write(file("server.pem"), &good[0]).unwrap();
    std::fs::write(file("server.key"), &good[1]).unwrap();
    std::fs::write(file("clients-ca.pem"), &good[2]).unwrap();
    look();
    until("the end of the alarm", || refused() == 0.0);
    stop.store(true, Ordering::Relaxed);
    visits.join().unwrap();
    assert!(fresh.load(Ordering::Relaxed) > 5);

    // The clients' trust anchors change: the old ones open no connection any more, not by a
    // resumed session either; the new ones do.
    let before = with_session(&own, "-sess_in");
    assert!(
        before.contains("Reused, TLSv1.3") && before.contains("HTTP/1.1 200"),
        "{before}"
    );
    std::fs::write(file("clients-ca.pem"), clients.pem()).unwrap();
    look();
    let new = Identity::make("station-02", Use::Client, Some(&clients), (-1, 10));
    own.world
        .register("station-02", "station", &new.spki_sha256());
    let (certificate, key) = (file("station-02.pem"), file("station-02.key"));
    new.write(&certificate, &key);
    let newcomer = Curl::new(&own.world.url, &file("ca.pem"), Some((certificate, key)));
    until("the new client", || {
        newcomer
            .try_send("GET", "/v1/certificates?limit=1", &[], None)
            .is_ok_and(|answer| answer.status == 200)
    });
    issued(&newcomer.issue(&Device::p256().request("lightbulb")));
    let said = refusal(&own.world, &station);
    assert!(said.contains("alert unknown ca"), "{said}");
    let old = with_session(&own, "-sess_in");
    assert!(
        !old.contains("Reused") && !old.contains("HTTP/1.1"),
        "{old}"
    );
    // Connections that were open live on, as the table of principals lets them.
    assert!(ask(&mut open).unwrap().starts_with("HTTP/1.1 200"));
    load.wait_issued(20, Duration::from_secs(10));
    let history = load.stop();
    history.saw_only(&[]);
    history.answered_within(Duration::from_secs(5));
    let chain = X509::from_der(&shown(&own)).unwrap();
    assert!(chain.verify(&authority.key).unwrap());
    own.assert_alive();
}
