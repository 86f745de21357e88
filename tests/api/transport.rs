//! What comes below a request: TLS that is not ours, HTTP that is not HTTP. Each is answered with a
//! refusal or a closed door, never with a certificate, and the service is well afterwards.

use std::io::{Read, Write};
use std::time::Duration;

use openssl::ssl::SslVersion;
use serde_json::json;

use crate::support::device::Device;
use crate::support::http::Curl;
use crate::support::tls::{
    Identity, Use, address, connect, connector, exchange, handshake, refusal, tcp_from,
};
use crate::support::world::{World, issued, shared};

const SHORT: Duration = Duration::from_secs(5);

fn local(world: &World) -> std::net::TcpStream {
    tcp_from([127, 0, 0, 1], address(world))
}

/// Sends octets as `station-01` and reads to the end.
fn raw(world: &World, octets: &[u8]) -> Result<String, String> {
    let stream = connect(world, Some(&Identity::of(world, "station-01"))).unwrap();
    exchange(stream, octets, SHORT)
}

fn still_well(world: &World) {
    issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
}

#[test]
fn old_tls_foreign_ciphers_and_plain_http_get_no_answer() {
    let world = shared();
    let mut old = connector(None);
    old.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
    old.set_min_proto_version(Some(SslVersion::TLS1)).unwrap();
    old.set_max_proto_version(Some(SslVersion::TLS1_1)).unwrap();
    let said = handshake(old, local(world)).expect_err("TLS 1.1");
    assert!(said.contains("version"), "{said}");

    let mut foreign = connector(None);
    foreign
        .set_max_proto_version(Some(SslVersion::TLS1_2))
        .unwrap();
    foreign.set_cipher_list("AES256-SHA:@SECLEVEL=0").unwrap();
    let said = handshake(foreign, local(world)).expect_err("a cipher without forward secrecy");
    assert!(said.contains("handshake failure"), "{said}");

    let plain = exchange(
        local(world),
        b"GET /v1/profiles HTTP/1.1\r\nHost: localhost\r\n\r\n",
        SHORT,
    );
    assert!(!plain.unwrap_or_default().contains("HTTP/1."));
    still_well(world);
}

#[test]
fn a_session_takes_no_early_data_and_no_renegotiation() {
    let world = shared();
    let mut first = connect(world, Some(&Identity::of(world, "station-01"))).unwrap();
    // The ticket comes with the first answer.
    let request = b"GET /v1/profiles HTTP/1.1\r\nHost: localhost\r\n\r\n";
    first.write_all(request).unwrap();
    assert!(first.read(&mut [0; 1024]).unwrap() > 0);
    assert_eq!(first.ssl().version_str(), "TLSv1.3");
    assert_eq!(first.ssl().session().unwrap().max_early_data(), 0);

    // `R` asks OpenSSL's client to renegotiate.
    let script = r#"(echo R; sleep 1) | openssl s_client -connect "$0" -tls1_2 2>&1"#;
    let output = std::process::Command::new("bash")
        .args(["-c", script])
        .arg(address(world).to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
}

/// One request head that is wrong, and what may come back: a refusal, or nothing at all.
#[test]
fn http_that_two_readers_would_read_differently_is_refused_and_the_connection_closed() {
    let world = shared();
    let body = Device::p256().request("lightbulb").to_string();
    let length = body.len();
    let post =
        "POST /v1/certificates HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let hidden = "GET /v1/profiles HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let cases = [
        (
            "both lengths",
            format!(
                "{post}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
            ),
        ),
        (
            "two lengths",
            format!("{post}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{body}{hidden}"),
        ),
        (
            "a length with a sign",
            format!("{post}Content-Length: +{length}\r\n\r\n{body}"),
        ),
        (
            "a chunk length that is no number",
            format!("{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a chunk length that overflows",
            format!(
                "{post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}\r\n0\r\n\r\n"
            ),
        ),
        (
            "an encoding that is not known",
            format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        ),
        (
            "a NUL in a header",
            format!("GET /v1/profiles HTTP/1.1\r\nHost: local\0host\r\n\r\n{hidden}"),
        ),
        (
            "a folded header",
            format!("GET /v1/profiles HTTP/1.1\r\nHost: localhost\r\nX-A: a\r\n b\r\n\r\n{hidden}"),
        ),
        (
            "a space before the colon",
            format!("{post}Content-Length : {length}\r\n\r\n{body}{hidden}"),
        ),
        (
            "a header of 200 KiB",
            format!(
                "GET /v1/profiles HTTP/1.1\r\nX-A: {}\r\n\r\n",
                "a".repeat(200 * 1024)
            ),
        ),
        (
            "a thousand headers",
            format!(
                "GET /v1/profiles HTTP/1.1\r\n{}\r\n",
                "X-A: a\r\n".repeat(1_000)
            ),
        ),
        ("no HTTP at all", "\u{16}\u{3}\u{1}hello\r\n\r\n".to_owned()),
    ];
    let before = world.sql("SELECT count(*) FROM intent WHERE principal = 'nobody'");
    for (name, octets) in cases {
        let answer = raw(world, octets.as_bytes());
        let answer = answer.unwrap_or_default();
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 400")
                || answer.starts_with("HTTP/1.1 431"),
            "{name}: {answer}"
        );
        // What was smuggled behind it is not answered.
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{name}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{name}: {answer}");
    }
    assert_eq!(
        before,
        world.sql("SELECT count(*) FROM intent WHERE principal = 'nobody'")
    );
    still_well(world);
}

#[test]
fn a_thousand_ranges_are_one_whole_answer() {
    let world = shared();
    let ranges: Vec<String> = (0..1_000).map(|n| format!("{n}-{}", n + 50)).collect();
    let range = format!("bytes={}", ranges.join(","));
    let all = world.nobody().get("/openapi.json");
    let part = world
        .nobody()
        .send("GET", "/openapi.json", &[("Range", range.as_str())], None);
    assert_eq!((part.status, part.body), (200, all.body));
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(id.to_be_bytes());
    frame.extend(body);
    frame
}

/// A connection of `station-01` that speaks HTTP/2, and the octets it begins with.
fn http2(world: &World) -> (openssl::ssl::SslStream<std::net::TcpStream>, Vec<u8>) {
    let mut http2 = connector(Some(&Identity::of(world, "station-01")));
    http2.set_alpn_protos(b"\x02h2").unwrap();
    let stream = handshake(http2, local(world)).unwrap();
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]));
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    octets.extend(frame(4, 0, 0, &[]));
    (stream, octets)
}

/// A head that never ends, in small frames and in large ones (CVE-2024-27316 and its kin).
#[test]
fn a_head_without_end_closes_its_connection_and_takes_no_memory() {
    let world = shared();
    // A literal that is indexed nowhere: name `x`, value of 16,000 octets `a`.
    let mut large = b"\x00\x01x\x7f\x81\x7c".to_vec();
    large.extend([b'a'; 16_000]);
    let cases = [
        ("empty", Vec::new(), 200_000),
        ("a small header", b"\x00\x01x\x01a".to_vec(), 200_000),
        ("a large header", large, 8_000),
    ];
    let memory = || world.metric("process_resident_memory_bytes");
    for (name, body, frames) in cases {
        let (mut stream, mut octets) = http2(world);
        let tcp = stream.get_ref();
        tcp.set_write_timeout(Some(SHORT)).unwrap();
        // :method GET, :scheme https, :path /, :authority a; more is to come
        octets.extend(frame(1, 1, 1, b"\x82\x87\x84\x41\x01a"));
        stream.write_all(&octets).unwrap();
        let many: Vec<u8> = (0..100).flat_map(|_| frame(9, 0, 1, &body)).collect();
        let before = memory();
        let attack = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < frames && stream.write_all(&many).is_ok() {
                sent += 100;
            }
            // What was said before it was closed may be lost in a reset.
            let mut said = Vec::new();
            let start = std::time::Instant::now();
            stream.read_to_end(&mut said).ok();
            (sent, start.elapsed())
        });
        let (mut most, mut answered) = (before, 0);
        while answered == 0 || !attack.is_finished() {
            let start = std::time::Instant::now();
            still_well(world);
            answered += 1;
            let took = start.elapsed();
            assert!(took < Duration::from_secs(2), "{name}: {took:?}");
            most = f64::max(most, memory());
        }
        let (sent, closed) = attack.join().unwrap();
        assert!(closed < SHORT, "{name}: {sent} frames, open {closed:?}");
        let grown = (most - before) / f64::from(1 << 20);
        assert!(grown < 64.0, "{name}: {grown} MiB");
    }
    still_well(world);
}

/// CVE-2023-44487: streams opened and reset at once, by the thousand.
#[test]
fn streams_opened_and_reset_by_the_thousand_do_not_slow_the_others() {
    let world = shared();
    let (stream, mut octets) = http2(world);
    for n in 0..20_000 {
        // :method GET, :scheme https, :path /, :authority a
        octets.extend(frame(1, 5, 2 * n + 1, b"\x82\x87\x84\x41\x01a"));
        octets.extend(frame(3, 0, 2 * n + 1, &[0, 0, 0, 8]));
    }
    // GOAWAY or a closed connection ends it; whoever asks meanwhile is answered.
    let attack = std::thread::spawn(move || exchange(stream, &octets, SHORT));
    let start = std::time::Instant::now();
    still_well(world);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    attack.join().unwrap().ok();
    still_well(world);
}

#[test]
fn addresses_that_climb_or_are_no_text_lead_nowhere() {
    let world = shared();
    let station = world.client("station-01");
    for path in [
        "/v1/certificates/%00",
        "/v1/certificates/..%2f..%2fetc%2fpasswd",
        "/v1/certificates/%c0%af",
        "/v1/certificates/%ff",
        "/v1/issuers/..%2fline-ec/certificate.pem",
        "/v1/issuers/line-ec%00/certificate.pem",
        "/v1/orders/%00",
        "/manual/..%2f..%2fCargo.toml",
        "/problems/%2e%2e%2fweak-key",
        "/v1/devices/%00",
        "/../v1/profiles",
    ] {
        let response = station.get(path);
        assert!(
            matches!(response.status, 400 | 403 | 404),
            "{path}: {response:?}"
        );
        response.slug();
    }
}

#[test]
fn json_that_only_some_readers_take_is_refused() {
    let station = shared().client("station-01");
    let csr = json!(Device::p256().csr()).to_string();
    let with = |subject: &str| {
        format!("{{\"profile\":\"lightbulb\",\"csr\":{csr},\"subject\":{subject}}}")
    };
    let many: Vec<String> = (0..200_000).map(|n| format!("\"k{n}\":1")).collect();
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (with(r#"{"CN":"\ud800"}"#).into(), 400, "malformed-json"),
        (b"{\"profile\":\"\xff\"}".to_vec(), 400, "malformed-json"),
        (with("1e400").into(), 400, "malformed-json"),
        (with("{\"CN\":-1}").into(), 400, "invalid-field"),
        (with("null,\"__proto__\":{}").into(), 400, "unknown-field"),
        (with("{\"$ref\":\"#/x\"}").into(), 422, "subject-invalid"),
        (
            format!("{{{}}}", many.join(",")).into(),
            413,
            "payload-too-large",
        ),
        (
            with(&format!("{{\"CN\":\"{}\"}}", "a".repeat(1 << 20))).into(),
            413,
            "payload-too-large",
        ),
        // right to left, zero width, a precomposed letter, the same in two, a Cyrillic a, a bell
        (
            with(r#"{"CN":"lamp-\u202e1","serialNumber":"SN1","C":"DE"}"#).into(),
            422,
            "subject-invalid",
        ),
        (
            with(r#"{"CN":"lamp-\u200b1","serialNumber":"SN1","C":"DE"}"#).into(),
            422,
            "subject-invalid",
        ),
        (
            with(r#"{"CN":"l\u00e4mp-1","serialNumber":"SN1","C":"DE"}"#).into(),
            422,
            "subject-invalid",
        ),
        (
            with(r#"{"CN":"la\u0308mp-1","serialNumber":"SN1","C":"DE"}"#).into(),
            422,
            "subject-invalid",
        ),
        (
            with(r#"{"CN":"l\u0430mp-1","serialNumber":"SN1","C":"DE"}"#).into(),
            422,
            "subject-invalid",
        ),
        (
            with(r#"{"CN":"lamp-\u0007","serialNumber":"SN1","C":"DE"}"#).into(),
            422,
            "subject-invalid",
        ),
    ];
    for (body, status, slug) in cases {
        let response = station.post(&body);
        assert_eq!(
            (response.status, response.slug().as_str()),
            (status, slug),
            "{}: {}",
            String::from_utf8_lossy(&body[..body.len().min(160)]),
            response.text()
        );
    }
}

#[test]
fn a_page_of_another_shows_nothing_and_a_forwarded_certificate_says_nothing() {
    let world = shared();
    for _ in 0..2 {
        issued(
            &world
                .client("operator")
                .issue(&Device::p256().request("lightbulb")),
        );
    }
    let page = world
        .client("auditor")
        .get("/v1/certificates?limit=1&station=operator")
        .json();
    let cursor = page["next"].as_str().unwrap();
    let seen = world
        .client("station-01")
        .get(&format!("/v1/certificates?limit=1000&cursor={cursor}"))
        .json();
    for item in seen["items"].as_array().unwrap() {
        assert_eq!(item["station"], "station-01");
    }

    let pem = std::fs::read_to_string(world.dir.join("clients/station-01.pem")).unwrap();
    let one_line = pem.replace('\n', "%0A");
    for name in [
        "X-Forwarded-Client-Cert",
        "X-SSL-Client-Cert",
        "Client-Cert",
    ] {
        let headers = [
            ("Content-Type", "application/json"),
            (name, one_line.as_str()),
        ];
        let body = Device::p256().request("lightbulb").to_string();
        let response =
            world
                .nobody()
                .send("POST", "/v1/certificates", &headers, Some(body.as_bytes()));
        assert_eq!(response.slug(), "client-certificate-required", "{name}");
    }
}

#[test]
fn certificates_that_are_almost_a_stations_end_in_an_alert() {
    let mut own = crate::support::world::OwnWorld::make();
    let authority = own.second_authority();
    let stranger = Identity::make("a stranger", Use::Authority, None, (-1, 30));
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let world = &own.world;
    let by = |issuer, for_use, days| Identity::make("station-01", for_use, issuer, days);
    for (name, identity, alert) in [
        (
            "expired",
            by(Some(&authority), Use::Client, (-10, -1)),
            "certificate expired",
        ),
        (
            "not yet valid",
            by(Some(&authority), Use::Client, (1, 10)),
            "bad certificate",
        ),
        (
            "a server's",
            by(Some(&authority), Use::Server, (-1, 10)),
            "unsupported certificate",
        ),
        (
            "a stranger's",
            by(Some(&stranger), Use::Client, (-1, 10)),
            "unknown ca",
        ),
        ("its own", by(None, Use::Client, (-1, 10)), "unknown ca"),
    ] {
        // Even when the table knows its key.
        world.register(
            &name.replace([' ', '\''], "-"),
            "operator",
            &identity.spki_sha256(),
        );
        let said = refusal(world, &identity);
        assert!(said.contains(&format!("alert {alert}")), "{name}: {said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("c.key"));
    let unknown = by(Some(&authority), Use::Client, (-1, 10));
    unknown.write(&certificate, &key);
    let ca = world.dir.join("tls/ca.pem");
    let answer = Curl::new(&world.url, &ca, Some((certificate, key))).get("/v1/certificates");
    assert_eq!(
        (answer.status, answer.slug().as_str()),
        (403, "station-unknown")
    );
    issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb")),
    );
}
