//! Clients that are slow, silent or many: each phase has its time, each address its number, and the
//! others do not notice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::device::Device;
use crate::support::tls::{Identity, address, connector, exchange, handshake, tcp_from};
use crate::support::world::{OwnWorld, issued};

/// To the service, another machine.
const ATTACKER: [u8; 4] = [127, 0, 0, 2];
const PLACES: usize = 64;

/// Writes one octet a second until the other side closes or `at_most` passes; how long that took.
fn drip(mut stream: impl Read + Write, at_most: Duration) -> Duration {
    let start = Instant::now();
    while start.elapsed() < at_most {
        if stream.write_all(b"a").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    start.elapsed()
}

#[test]
fn slow_silent_and_many_clients_are_shut_out_and_a_station_does_not_notice() {
    let mut own = OwnWorld::make();
    own.configure(|config| {
        let http = config["http"].as_table_mut().unwrap();
        http.insert("connections_per_address_max".into(), 64.into());
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let to = address(&own.world);
    let identity = Identity::of(&own.world, "station-01");
    let open =
        |identity: &Identity| handshake(connector(Some(identity)), tcp_from(ATTACKER, to)).unwrap();

    // Half of its places silent before TLS, most of the rest silent after it.
    let silent: Vec<TcpStream> = (0..PLACES / 2).map(|_| tcp_from(ATTACKER, to)).collect();
    let start = Instant::now();
    let idle: Vec<_> = (0..PLACES / 2 - 2).map(|_| open(&identity)).collect();
    let mut head = open(&identity);
    let mut body = open(&identity);
    // All places are taken: more are closed before a handshake.
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..100 {
        let more = handshake(connector(Some(&identity)), tcp_from(ATTACKER, to));
        assert!(more.is_err());
    }
    let refused = own
        .world
        .metric("certfactory_http_connections_refused_total");
    assert!(refused >= 100.0, "{refused}");

    std::thread::scope(|threads| {
        let head = threads.spawn(move || {
            head.write_all(b"GET /v1/certificates HTTP/1.1\r\nX-A: ")
                .unwrap();
            drip(head, Duration::from_secs(20))
        });
        let body = threads.spawn(move || {
            let request = b"POST /v1/certificates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
            exchange(&mut body, request, Duration::from_secs(13))
        });
        let silent = threads.spawn(move || {
            for mut stream in silent {
                // Closed, or the reset that follows.
                let read = stream.read(&mut [0; 64]);
                assert!(matches!(read, Ok(0)) || read.is_err(), "{read:?}");
            }
            start.elapsed()
        });
        // Meanwhile a station elsewhere works as ever.
        let station = own.world.client("station-01");
        let mut slowest = Duration::ZERO;
        while start.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            issued(&station.issue(&Device::p256().request("lightbulb")));
            slowest = slowest.max(asked.elapsed());
        }
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");

        let silent = silent.join().unwrap();
        assert!(
            silent < Duration::from_secs(8),
            "silent before TLS: {silent:?}"
        );
        // Their places are free again.
        open(&identity);
        let head = head.join().unwrap();
        assert!(head < Duration::from_secs(14), "a slow head: {head:?}");
        let answer = body.join().unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("/problems/request-timeout"), "{answer}");
    });
    drop(idle);
    own.assert_alive();
}
