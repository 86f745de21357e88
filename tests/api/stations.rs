//! `/v1/stations`, `/v1/approvals`: registration, enrolment, rights, shutting out, renewal.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslStream, SslVersion};
use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::http::{Curl, Response};
use crate::support::tls::{Identity, Use, refusal};
use crate::support::world::{OwnWorld, World, issued, shared};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

fn send(curl: &Curl, method: &str, path: &str, body: &Value) -> Response {
    curl.send(method, path, &JSON, Some(body.to_string().as_bytes()))
}

fn post(curl: &Curl, path: &str) -> Response {
    curl.send("POST", path, &[], None)
}

/// A name that no other test uses.
fn name() -> String {
    format!("station-{}", Device::p256().name)
}

/// Registers; the answer has the enrolment code.
fn add(world: &World, name: &str, rights: &Value) -> Value {
    let body = json!({ "name": name, "rights": rights });
    let made = send(
        &world.client("administrator"),
        "POST",
        "/v1/stations",
        &body,
    );
    assert_eq!(made.status, 201, "{made:?}");
    made.json()
}

fn ask_enrolment(world: &World, name: &str, code: &str, key: &Device) -> Response {
    let bearer = format!("Bearer {code}");
    let headers = [
        ("Content-Type", "application/pkcs10"),
        ("Authorization", &*bearer),
    ];
    let path = format!("/v1/stations/{name}/enrolment");
    let csr = key.csr();
    world
        .nobody()
        .send("POST", &path, &headers, Some(csr.as_bytes()))
}

/// A station's files, and a client that uses them.
struct Station {
    name: String,
    dir: tempfile::TempDir,
    curl: Curl,
}

impl Station {
    fn of(world: &World, name: &str, certificate: &Value, key: &Device) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (pem, private) = (dir.path().join("c.pem"), dir.path().join("c.key"));
        std::fs::write(&pem, certificate["certificate"].as_str().unwrap()).unwrap();
        std::fs::write(&private, key.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let ca = world.dir.join("tls/ca.pem");
        Self {
            name: name.to_owned(),
            curl: Curl::new(&world.url, &ca, Some((pem, private))),
            dir,
        }
    }

    /// Registered, enrolled, and known to the service's live table.
    fn new(world: &World, rights: &Value) -> Self {
        let name = name();
        let code = add(world, &name, rights)["enrolment_code"].clone();
        let key = Device::p256();
        let enrolled = ask_enrolment(world, &name, code.as_str().unwrap(), &key);
        assert_eq!(enrolled.status, 201, "{enrolled:?}");
        let station = Self::of(world, &name, &enrolled.json(), &key);
        station.wait_known();
        station
    }

    /// The table is read twice a second.
    fn wait_known(&self) {
        let start = Instant::now();
        loop {
            let path = format!("/v1/stations/{}", self.name);
            let shown = self.curl.get(&path);
            if shown.status == 200 || shown.slug() != "station-unknown" {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(3), "{shown:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn issue(&self, profile: &str) -> Response {
        self.curl.issue(&Device::p256().request(profile))
    }
}

#[test]
fn a_station_is_registered_enrols_its_key_once_and_issues() {
    let world = shared();
    let name = name();
    let made = add(world, &name, &json!({}));
    assert_eq!(made["role"], "station");
    assert_eq!(made["keys"], json!([]));
    let code = made["enrolment_code"].as_str().unwrap();
    let key = Device::p256();
    for (name, code) in [
        (name.as_str(), "0".repeat(64)),
        (name.as_str(), "short".into()),
        ("nobody", code.to_owned()),
        ("station-01", code.to_owned()),
    ] {
        let refused = ask_enrolment(world, name, &code, &key);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (403, "enrolment-refused"),
            "{name}"
        );
    }
    let enrolled = ask_enrolment(world, &name, code, &key);
    assert_eq!(enrolled.status, 201, "{enrolled:?}");
    let again = ask_enrolment(world, &name, code, &key);
    assert_eq!(again.status, 200, "{again:?}");
    let certificate = enrolled.json();
    assert_eq!(again.json()["certificate"], certificate["certificate"]);
    assert_eq!(certificate["kind"], "station");
    assert_eq!(certificate["issuer"], "stations");
    assert_eq!(certificate["subject"], json!({ "CN": name }));
    let other = ask_enrolment(world, &name, code, &Device::p256());
    assert_eq!(other.slug(), "enrolment-refused", "one key a code");

    let station = Station::of(world, &name, &certificate, &key);
    station.wait_known();
    let device = issued(&station.issue("lightbulb"));
    assert_eq!(device["station"], name);
    // What it is and may do, it sees of itself and of nobody else.
    let own = station.curl.get(&format!("/v1/stations/{name}")).json();
    assert_eq!(own["keys"].as_array().unwrap().len(), 1);
    assert!(own.get("enrolment_code").is_none());
    let other = station.curl.get("/v1/stations/station-01");
    assert_eq!((other.status, other.slug().as_str()), (403, "forbidden"));
    // It is in the log like every certificate, and in no list of devices.
    let serial = certificate["serial_number"].as_str().unwrap();
    let path = format!("/v1/certificates?kind=station&serial_number={serial}");
    let found = world.client("auditor").get(&path).json();
    assert_eq!(found["items"][0]["log_index"], certificate["log_index"]);
    // The code is nowhere.
    assert!(!world.sql("SELECT * FROM enrolment").contains(code));
    let log = std::fs::read_to_string(world.dir.join("log/certfactory.log")).unwrap();
    assert!(!log.contains(code));
}

#[test]
fn a_lost_key_is_replaced_by_another_code_and_good_for_nothing_then() {
    let world = shared();
    let lost = Station::new(world, &json!({}));
    let administrator = world.client("administrator");
    let path = format!("/v1/stations/{}/enrolment-code", lost.name);
    let first = post(&administrator, &path).json();
    let second = post(&administrator, &path).json();
    let key = Device::p256();
    let code = |made: &Value| made["enrolment_code"].as_str().unwrap().to_owned();
    let stale = ask_enrolment(world, &lost.name, &code(&first), &key);
    assert_eq!(stale.slug(), "enrolment-refused", "the newest code counts");
    assert_eq!(
        lost.issue("lightbulb").status,
        201,
        "until the code is used"
    );
    let enrolled = ask_enrolment(world, &lost.name, &code(&second), &key);
    let found = Station::of(world, &lost.name, &enrolled.json(), &key);
    found.wait_known();
    assert_eq!(found.issue("lightbulb").status, 201);
    until_refused(&lost.curl, "station-unknown");
}

#[test]
fn requests_for_client_certificates_are_as_strict_as_those_for_devices() {
    let world = shared();
    let name = name();
    let code = add(world, &name, &json!({}))["enrolment_code"].clone();
    let bearer = format!("Bearer {}", code.as_str().unwrap());
    let path = format!("/v1/stations/{name}/enrolment");
    let ask = |kind: &str, body: &[u8]| {
        let headers = [("Content-Type", kind), ("Authorization", &*bearer)];
        let answer = world.nobody().send("POST", &path, &headers, Some(body));
        (answer.status, answer.slug())
    };
    let other = Device::p256().csr_with(&[("CN", "administrator")]);
    let more = Device::p256().csr_with(&[("CN", &name), ("O", "Thieves")]);
    for (kind, body, status, slug) in [
        ("text/plain", "hello", 415, "unsupported-media-type"),
        ("application/pkcs10", "hello", 400, "malformed-csr"),
        ("application/pkcs10", &other, 422, "subject-mismatch"),
        ("application/pkcs10", &more, 422, "subject-mismatch"),
    ] {
        assert_eq!(
            ask(kind, body.as_bytes()),
            (status, slug.to_owned()),
            "{body}"
        );
    }
    // The key of a device never becomes a station's.
    let device = Device::p256();
    issued(
        &world
            .client("station-01")
            .issue(&device.request("lightbulb")),
    );
    assert_eq!(
        ask("application/pkcs10", device.csr().as_bytes()),
        (409, "public-key-already-certified".to_owned())
    );
}

#[test]
fn what_is_no_registration_is_refused() {
    let world = shared();
    let administrator = world.client("administrator");
    for (body, slug) in [
        (json!({ "name": "a/b" }), "invalid-field"),
        (json!({ "name": "" }), "invalid-field"),
        (json!({ "name": name(), "role": "king" }), "invalid-field"),
        (
            json!({ "name": name(), "rights": { "hours": ["always"] } }),
            "invalid-field",
        ),
        (
            json!({ "name": name(), "rights": { "networks": ["10.0.0.0/40"] } }),
            "invalid-field",
        ),
        (
            json!({ "name": name(), "rights": { "requests_per_second": 0 } }),
            "invalid-field",
        ),
        (
            json!({ "name": name(), "rights": { "everything": true } }),
            "unknown-field",
        ),
        (json!({ "name": name(), "spki": "00" }), "unknown-field"),
    ] {
        let refused = send(&administrator, "POST", "/v1/stations", &body);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (400, slug),
            "{body}"
        );
    }
    let taken = json!({ "name": "station-01", "role": "administrator" });
    let taken = send(&administrator, "POST", "/v1/stations", &taken);
    assert_eq!(
        (taken.status, taken.slug().as_str()),
        (409, "station-exists")
    );
    let nobody = post(&administrator, "/v1/stations/nobody-here/disable");
    assert_eq!((nobody.status, nobody.slug().as_str()), (404, "not-found"));
}

#[test]
fn rights_decide_profile_order_network_hour_and_act() {
    let world = shared();
    let refused = |rights: Value, request: &Value, slug: &str| {
        let answer = Station::new(world, &rights).curl.issue(request);
        assert_eq!(
            (answer.status, answer.slug().as_str()),
            (403, slug),
            "{rights}"
        );
    };
    let request = Device::p256().request("lightbulb");
    refused(
        json!({ "profiles": ["workshop"] }),
        &request,
        "profile-not-allowed",
    );
    refused(json!({ "orders": ["WO-none"] }), &request, "forbidden");
    refused(
        json!({ "networks": ["10.99.0.0/16"] }),
        &request,
        "forbidden",
    );
    refused(json!({ "acts": ["confirm"] }), &request, "forbidden");
    // The day after tomorrow: never within the minutes that this test takes.
    let day = world.sql("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '2 days', 'dy')");
    let hours = format!("{} 00:00-24:00", day.to_lowercase());
    refused(json!({ "hours": [hours] }), &request, "forbidden");

    let everything = json!({
        "acts": ["issue", "rework", "scrap"], "profiles": ["lightbulb"],
        "networks": ["127.0.0.0/8", "::1/128"], "hours": ["mon-sun 00:00-24:00"],
    });
    let station = Station::new(world, &everything);
    let own = issued(&station.issue("lightbulb"));
    let others = issued(&world.client("station-01").issue(&request));
    let act = |certificate: &Value, what: &str, body: &Value| {
        let serial = certificate["serial_number"].as_str().unwrap();
        let path = format!("/v1/certificates/{serial}/{what}");
        send(&station.curl, "POST", &path, body)
    };
    let readback = json!({ "certificate": own["certificate"] });
    let refused = act(&own, "confirmation", &readback);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (403, "forbidden")
    );
    // By a profile that the rights name, other stations' devices, too.
    let rework = json!({ "csr": Device::p256().csr(), "reason": "test" });
    assert_eq!(act(&others, "supersession", &rework).status, 201);
    assert_eq!(act(&own, "scrap", &json!({ "reason": "test" })).status, 200);
    let workshop = issued(
        &world
            .client("station-01")
            .issue(&Device::p256().request("workshop")),
    );
    let refused = act(&workshop, "scrap", &json!({ "reason": "test" }));
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (404, "not-found")
    );
    // By default a station neither reworks nor scraps.
    let plain = Station::new(world, &json!({}));
    let own = issued(&plain.issue("lightbulb"));
    let serial = own["serial_number"].as_str().unwrap();
    for (what, body) in [
        ("scrap", json!({ "reason": "x" })),
        ("supersession", rework),
    ] {
        let path = format!("/v1/certificates/{serial}/{what}");
        let refused = send(&plain.curl, "POST", &path, &body);
        assert_eq!(
            (refused.status, refused.slug().as_str()),
            (403, "forbidden"),
            "{what}"
        );
    }

    // Other rights count from the next look at the table.
    let path = format!("/v1/stations/{}/rights", station.name);
    let narrow = json!({ "profiles": ["workshop"] });
    let administrator = world.client("administrator");
    let changed = send(&administrator, "PUT", &path, &narrow);
    assert_eq!((changed.status, &changed.json()["rights"]), (200, &narrow));
    let start = Instant::now();
    while station.issue("lightbulb").status != 403 {
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn a_rate_is_kept_for_one_station_and_a_daily_cap_counts_devices() {
    let world = shared();
    let slow = Station::new(world, &json!({ "requests_per_second": 1 }));
    let mut limited = 0;
    for _ in 0..6 {
        let start = Instant::now();
        let answer = slow.issue("lightbulb");
        if answer.status == 429 {
            limited += 1;
            assert_eq!(answer.slug(), "rate-limited");
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(100), "{took:?}");
        }
    }
    assert!(limited >= 2, "{limited}");
    assert_eq!(
        world
            .client("station-01")
            .issue(&Device::p256().request("lightbulb"))
            .status,
        201
    );

    let capped = Station::new(world, &json!({ "devices_per_day": 2 }));
    let device = Device::p256();
    let first = capped.curl.issue(&device.request("lightbulb"));
    assert_eq!(first.status, 201);
    let repeated = capped.curl.issue(&device.request("lightbulb"));
    assert_eq!(repeated.status, 200, "a repeat takes no place");
    assert_eq!(capped.issue("lightbulb").status, 201);
    let third = capped.issue("lightbulb");
    assert_eq!((third.status, third.slug().as_str()), (429, "rate-limited"));
    let repeated = capped.curl.issue(&device.request("lightbulb"));
    assert_eq!(
        repeated.status, 200,
        "what was issued is answered all the same"
    );
}

#[test]
fn a_station_renews_its_own_certificate_and_its_old_key_lives_on_for_an_hour() {
    let world = shared();
    let station = Station::new(world, &json!({}));
    let key = Device::p256();
    let headers = [("Content-Type", "application/pkcs10")];
    let renew = |name: &str| {
        let path = format!("/v1/stations/{name}/renewal");
        station
            .curl
            .send("POST", &path, &headers, Some(key.csr().as_bytes()))
    };
    let refused = renew("station-01");
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (403, "forbidden")
    );
    let renewed = renew(&station.name);
    assert_eq!(renewed.status, 201, "{renewed:?}");
    // The answer was lost: the old key asks again.
    let again = renew(&station.name);
    assert_eq!(again.json()["certificate"], renewed.json()["certificate"]);
    let new = Station::of(world, &station.name, &renewed.json(), &key);
    new.wait_known();
    assert_eq!(new.issue("lightbulb").status, 201);
    assert_eq!(station.issue("lightbulb").status, 201);
    world.sql(&format!(
        "UPDATE principal_key SET dies_at = dies_at - interval '1 hour' WHERE name = '{}' AND dies_at IS NOT NULL",
        station.name
    ));
    until_refused(&station.curl, "station-unknown");
    assert_eq!(new.issue("lightbulb").status, 201);
}

fn until_refused(curl: &Curl, slug: &str) {
    let start = Instant::now();
    loop {
        let answer = curl.get("/v1/certificates?limit=1");
        if answer.status == 403 && answer.slug() == slug {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A connection of a station that stays open.
struct Connection(SslStream<TcpStream>);

impl Connection {
    fn open(world: &World, files: &Path, version: SslVersion) -> Self {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        connector.set_ca_file(world.dir.join("tls/ca.pem")).unwrap();
        connector
            .set_certificate_chain_file(files.join("c.pem"))
            .unwrap();
        connector
            .set_private_key_file(files.join("c.key"), SslFiletype::PEM)
            .unwrap();
        connector.set_min_proto_version(Some(version)).unwrap();
        connector.set_max_proto_version(Some(version)).unwrap();
        let address = world.url.trim_start_matches("https://");
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(connector.build().connect("127.0.0.1", tcp).unwrap())
    }

    /// Status and body of one request.
    fn get(&mut self) -> (u16, String) {
        let request = "GET /v1/certificates?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.0.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        loop {
            let mut part = [0; 16_384];
            let read = self.0.read(&mut part).unwrap();
            assert_ne!(read, 0, "closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .to_lowercase()
                    .split_once("content-length: ")
                    .and_then(|(_, rest)| rest.lines().next()?.trim().parse::<usize>().ok());
                if length.is_some_and(|length| body.len() >= length) {
                    return (head[9..12].parse().unwrap(), body.to_owned());
                }
            }
        }
    }
}

/// One request on a connection of its own by `openssl s_client`; `session`: `-sess_out FILE` keeps
/// the session, `-sess_in FILE` resumes it. What it prints says whether it was resumed.
fn s_client(world: &World, files: &Path, version: &str, session: &str) -> String {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-ign_eof",
            "-servername",
            "localhost",
            version,
            session,
        ])
        .arg(files.join("session"))
        .args(["-connect", world.url.trim_start_matches("https://")])
        .arg("-CAfile")
        .arg(world.dir.join("tls/ca.pem"))
        .arg("-cert")
        .arg(files.join("c.pem"))
        .arg("-key")
        .arg(files.join("c.key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let request =
        "GET /v1/certificates?limit=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut input = child.stdin.take().unwrap();
    input.write_all(request.as_bytes()).unwrap();
    drop(input);
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

#[test]
fn a_disabled_station_is_shut_out_of_open_connections_and_resumed_sessions_within_a_second() {
    let world = shared();
    for (version, flag) in [
        (SslVersion::TLS1_2, "-tls1_2"),
        (SslVersion::TLS1_3, "-tls1_3"),
    ] {
        let station = Station::new(world, &json!({}));
        let files = station.dir.path();
        let mut live = Connection::open(world, files, version);
        assert_eq!(live.get().0, 200);
        let first = s_client(world, files, flag, "-sess_out");
        assert!(
            first.contains("New, TLSv1") && first.contains("HTTP/1.1 200"),
            "{first}"
        );
        let resumed = s_client(world, files, flag, "-sess_in");
        assert!(resumed.contains("Reused, TLSv1"), "{flag} {resumed}");
        assert!(
            resumed.contains("HTTP/1.1 200"),
            "as good as a new one: {resumed}"
        );

        let path = format!("/v1/stations/{}/disable", station.name);
        let administrator = world.client("administrator");
        assert_eq!(post(&administrator, &path).json()["disabled"], true);
        let disabled = Instant::now();
        loop {
            let (status, body) = live.get();
            if status == 403 && body.contains("/problems/station-disabled") {
                break;
            }
            assert_eq!(status, 200);
            assert!(disabled.elapsed() < Duration::from_secs(1), "{flag}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let resumed = s_client(world, files, flag, "-sess_in");
        assert!(resumed.contains("Reused, TLSv1"), "{flag} {resumed}");
        assert!(
            resumed.contains("/problems/station-disabled"),
            "{flag} {resumed}"
        );

        let path = format!("/v1/stations/{}/enable", station.name);
        assert_eq!(post(&administrator, &path).status, 200);
        let start = Instant::now();
        while live.get().0 != 200 {
            assert!(start.elapsed() < Duration::from_secs(1));
        }
    }
}

#[test]
fn a_client_certificate_that_ends_is_refused_on_its_open_connection_and_its_resumed_session() {
    let mut own = OwnWorld::make();
    let authority = own.second_authority();
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    for (name, version, flag) in [
        ("short-1", SslVersion::TLS1_2, "-tls1_2"),
        ("short-2", SslVersion::TLS1_3, "-tls1_3"),
    ] {
        let ends = chrono::Utc::now() + chrono::TimeDelta::seconds(6);
        let identity = Identity::make_for(name, Use::Client, Some(&authority), (-60, 6));
        own.world.register(name, "station", &identity.spki_sha256());
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path();
        identity.write(&files.join("c.pem"), &files.join("c.key"));
        let mut live = Connection::open(&own.world, files, version);
        while live.get().0 != 200 {
            assert!(
                chrono::Utc::now() < ends,
                "the station never came to be known"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let first = s_client(&own.world, files, flag, "-sess_out");
        assert!(first.contains("HTTP/1.1 200"), "{first}");

        let mut answered = 0;
        loop {
            let asked = chrono::Utc::now();
            let (status, body) = live.get();
            // The certificate's own times are whole seconds.
            let late = (asked - ends).num_milliseconds();
            if status == 403 {
                assert!(body.contains("/problems/station-disabled"), "{body}");
                assert!(body.contains("has expired"), "{body}");
                assert!(late > -1_200, "{flag}: {late} ms, before its end");
                break;
            }
            assert_eq!(status, 200, "{body}");
            assert!(late < 200, "{flag}: {late} ms after its end");
            answered += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(answered > 10, "{answered}");
        let resumed = s_client(&own.world, files, flag, "-sess_in");
        assert!(resumed.contains("Reused, TLSv1"), "{flag} {resumed}");
        assert!(
            resumed.contains("/problems/station-disabled"),
            "{flag} {resumed}"
        );
        let said = refusal(&own.world, &identity);
        assert!(said.contains("alert certificate expired"), "{said}");
    }
}

#[test]
fn where_four_eyes_are_asked_for_one_administrator_widens_nothing() {
    let mut own = OwnWorld::running();
    // A second administrator, from the time before.
    let body = json!({ "name": "administrator-2", "role": "administrator" });
    let first = own.world.client("administrator");
    let made = send(&first, "POST", "/v1/stations", &body).json();
    let key = Device::p256();
    let code = made["enrolment_code"].as_str().unwrap();
    let enrolled = ask_enrolment(&own.world, "administrator-2", code, &key).json();
    let second = Station::of(&own.world, "administrator-2", &enrolled, &key);
    own.configure(|config| {
        let stations = config["stations"].as_table_mut().unwrap();
        stations.insert("four_eyes".into(), true.into());
    });
    own.kill_service();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));

    let proposed = send(
        &first,
        "POST",
        "/v1/stations",
        &json!({ "name": "station-9" }),
    );
    assert_eq!(proposed.status, 202, "{proposed:?}");
    let id = proposed.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(first.get("/v1/stations/station-9").status, 404);
    let path = format!("/v1/approvals/{id}");
    let refused = post(&first, &path);
    assert_eq!(
        (refused.status, refused.slug().as_str()),
        (403, "approval-required")
    );
    let waiting = second.curl.get("/v1/approvals").json();
    assert_eq!(waiting["items"][0]["id"], id);
    let approved = post(&second.curl, &path);
    assert_eq!(approved.status, 200, "{approved:?}");
    let code = approved.json()["enrolment_code"]
        .as_str()
        .unwrap()
        .to_owned();
    let enrolled = ask_enrolment(&own.world, "station-9", &code, &Device::p256());
    assert_eq!(enrolled.status, 201, "{enrolled:?}");
    let before = post(&second.curl, &path);
    assert_eq!(before.json()["approved_by"], "administrator-2");
    assert!(before.json().get("enrolment_code").is_none());

    // Less needs one administrator, more needs two.
    let rights = "/v1/stations/station-9/rights";
    let narrow = json!({ "orders": ["WO-1"] });
    assert_eq!(send(&first, "PUT", rights, &narrow).status, 200);
    assert_eq!(send(&first, "PUT", rights, &json!({})).status, 202);
    assert_eq!(post(&first, "/v1/stations/station-9/disable").status, 200);
    assert_eq!(post(&first, "/v1/stations/station-9/enable").status, 202);
    assert_eq!(
        post(&first, "/v1/stations/station-9/enrolment-code").status,
        202
    );
    let nothing = post(&second.curl, &format!("/v1/approvals/{}", "0".repeat(32)));
    assert_eq!(
        (nothing.status, nothing.slug().as_str()),
        (404, "not-found")
    );
}
