//! What a broken or hostile client does harms itself alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslStream};

use crate::bench::{Bench, Endpoint, Identity};

/// TLS as the device does it, then whatever the test writes.
fn tls(endpoint: &Endpoint, device: &Identity) -> SslStream<TcpStream> {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_ca_file(&endpoint.ca).unwrap();
    builder
        .set_certificate_chain_file(&device.certificate)
        .unwrap();
    builder
        .set_private_key_file(&device.key, SslFiletype::PEM)
        .unwrap();
    let stream = TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .unwrap();
    builder.build().connect("localhost", stream).unwrap()
}

/// An MQTT 3.1.1 CONNECT.
fn connect(client_id: &str) -> Vec<u8> {
    let id = client_id.as_bytes();
    let mut packet = vec![0x10, u8::try_from(12 + id.len()).unwrap()];
    packet.extend(b"\0\x04MQTT\x04\x02\0\x3c\0");
    packet.push(u8::try_from(id.len()).unwrap());
    packet.extend(id);
    packet
}

/// Whether the endpoint closes within the time.
fn is_closed(stream: &mut SslStream<TcpStream>) -> bool {
    let mut octets = [0; 256];
    loop {
        match stream.read(&mut octets) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                let kind = error.kind();
                return kind != std::io::ErrorKind::WouldBlock;
            }
        }
    }
}

#[test]
fn garbage_ends_its_own_connection() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    endpoint.introduce(&device, "lamp-1");
    let before_connect: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x10\xff\xff\xff\xff\xff",
        b"\x10\xff\xff\xff\x7f\0\x04MQTT\x04\x02\0\x3c\0\0",
        b"\x10\x0c\0\x04MQTX\x04\x02\0\x3c\0\0",
        b"\x10\x0c\0\x04MQTT\x09\x02\0\x3c\0\0",
        b"\x10\x0d\0\x06MQIsdp\x03\x02\0\x3c\0\0",
        b"\xc0\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x30\x08\0\x03allfor",
        b"\x10\x0c\0\x04MQTT\x04\x03\0\x3c\0\0",
    ];
    for octets in before_connect {
        let n = endpoint.count("protocol-error");
        let mut stream = tls(&endpoint, &device);
        stream.write_all(octets).unwrap();
        assert!(is_closed(&mut stream), "{octets:?}");
        endpoint.wait_for("protocol-error", n);
    }
    // After an accepted CONNECT.
    let mut octets = Vec::new();
    for (n, packet) in [
        &b"\x00\x00"[..],
        b"\x82\x02\0\x01",
        b"\x30\x02\0\x09",
        b"\x32\x05\0\x01a\0\0",
        b"\x36\x05\0\x01a\0\x01",
        b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0",
        b"\x30\xff\xff\xff\x7f",
        b"\x30\x06\0\x03a/#x",
        b"\xf0\x00",
    ]
    .into_iter()
    .enumerate()
    {
        octets.clear();
        octets.extend(connect("lamp-1"));
        octets.extend(packet);
        let mut stream = tls(&endpoint, &device);
        stream.write_all(&octets).unwrap();
        assert!(is_closed(&mut stream), "{packet:?}");
        endpoint.wait_until(n + 1, |step| {
            step["event"] == "disconnected" && step["aws_reason"] == "CLIENT_ERROR"
        });
    }
    let output = endpoint.publish(&device, "lamp-1", "all");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_packet_that_is_too_long_is_not_waited_for() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    endpoint.introduce(&device, "lamp-1");
    let file = |length: usize| {
        bench.write("payload", &"x".repeat(length));
        bench.path("payload")
    };
    for (length, taken) in [
        (128 * 1024, true),
        (128 * 1024 + 1, false),
        (200_000, false),
    ] {
        let mut command = endpoint.client("mosquitto_pub", &device, "lamp-1");
        command.args(["-t", "all", "-q", "1", "-f", &file(length)]);
        let output = crate::bench::within(command, Duration::from_secs(5));
        assert_eq!(output.status.success(), taken, "{length}: {output:?}");
    }
    assert_eq!(
        endpoint.wait_for("published", 1)["payload_length"],
        128 * 1024
    );
    endpoint.wait_until(2, |step| step["aws_reason"] == "CLIENT_ERROR");
}

#[test]
fn slow_clients_hold_up_nobody_and_are_ended() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    endpoint.introduce(&device, "lamp-1");
    // Half that say nothing, half that finish the handshake and then send an octet at a time.
    let silent: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap())
        .collect();
    let mut dripping: Vec<_> = (0..10).map(|_| tls(&endpoint, &device)).collect();
    for stream in &mut dripping {
        stream.write_all(b"\x10").unwrap();
    }
    let start = Instant::now();
    let output = endpoint.publish(&device, "lamp-1", "all");
    assert!(output.status.success(), "{output:?}");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    // Each is ended after ten seconds.
    endpoint.wait_for("tls-refused", 39);
    endpoint.wait_for("protocol-error", 9);
    for stream in &mut dripping {
        assert!(is_closed(stream));
    }
    drop(silent);
}

#[test]
fn a_connection_too_many_is_closed_and_places_come_free_again() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    endpoint.introduce(&device, "lamp-1");
    let flood: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap())
        .collect();
    // One address has 64 places before it is accepted.
    let refused = endpoint.wait_for("connection-refused", 300 - 64 - 1);
    assert!(refused["detail"].as_str().unwrap().contains("127.0.0.1"));
    drop(flood);
    endpoint.wait_for("tls-refused", 63);
    let output = endpoint.publish(&device, "lamp-1", "all");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_flood_is_read_at_the_pace_that_aws_allows() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    endpoint.introduce(&device, "lamp-1");
    bench.write("lines", &"x\n".repeat(250));
    let mut command = endpoint.client("mosquitto_pub", &device, "lamp-1");
    command.args(["-t", "all", "-l"]);
    command.stdin(std::fs::File::open(bench.file("lines")).unwrap());
    let start = Instant::now();
    crate::bench::within(command, Duration::from_secs(15));
    // One was published by the introduction, and nothing of the flood is lost.
    endpoint.wait_for("published", 250);
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(endpoint.count("throttled"), 1);
}

#[test]
fn text_from_a_device_moves_no_cursor_and_breaks_no_line() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    endpoint.introduce(&device, "lamp-1");
    let mut stream = tls(&endpoint, &device);
    stream
        .write_all(&connect("a\n{\"event\":\"connected\"}\x1b[2J"))
        .unwrap();
    assert!(is_closed(&mut stream));
    // One line of JSON, read as one: else the bench would have found a second "connected".
    let refused = endpoint.wait("connect-refused");
    assert_eq!(
        refused["client_id"],
        "a\n{\"event\":\"connected\"}\u{1b}[2J"
    );
    assert_eq!(endpoint.count("connected"), 1);
}
