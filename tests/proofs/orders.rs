//! A work order under fire: two replicas on one database, stations that ask each of them for the
//! same device, rework every fourth one and confirm what they have, `kill -9` in between. Exactly
//! the ordered number of live certificates must come out.

use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use certfactory::cli::client::{Client, Connect};
use hyper::Method;
use serde_json::Value;
use serde_json::json;

use crate::load::pause_up_to;
use crate::support::device::Device;
use crate::support::world::{OwnWorld, free_port};

const ORDER: &str = "WO-proof";

/// The second replica: the same database, issuers and clients; its own addresses and token directory.
struct Second {
    config: std::path::PathBuf,
    url: String,
    process: Child,
}

impl Second {
    fn start(own: &OwnWorld) -> Self {
        let dir = &own.world.dir;
        let copied = Command::new("cp")
            .arg("-r")
            .arg(dir.join("softhsm/tokens"))
            .arg(dir.join("softhsm/tokens-2"))
            .status()
            .unwrap();
        assert!(copied.success());
        let conf = std::fs::read_to_string(dir.join("softhsm/softhsm2.conf")).unwrap();
        let conf_2 = dir.join("softhsm/softhsm2-2.conf");
        std::fs::write(&conf_2, conf.replace("softhsm/tokens", "softhsm/tokens-2")).unwrap();
        let text = std::fs::read_to_string(dir.join("config.toml")).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        let (api, operations) = (free_port(), free_port());
        config["http"]["listen"] = format!("127.0.0.1:{api}").into();
        config["operations"]["listen"] = format!("127.0.0.1:{operations}").into();
        config.remove("repository");
        config["hsm"][0]["environment"]["SOFTHSM2_CONF"] = conf_2.to_str().unwrap().into();
        config["issuance"]
            .as_table_mut()
            .unwrap()
            .insert("instance".into(), 2.into());
        let path = dir.join("config-2.toml");
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let process = Self::spawn(&path, dir);
        Self {
            config: path,
            url: format!("https://127.0.0.1:{api}"),
            process,
        }
    }

    fn spawn(config: &std::path::Path, dir: &std::path::Path) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("log/certfactory-2.log"))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_certfactory"))
            .args(["serve", "--config"])
            .arg(config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn kill_and_start(&mut self, own: &OwnWorld) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::spawn(&self.config, &own.world.dir);
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the stations saw.
#[derive(Default)]
struct Seen {
    certificates: Mutex<HashMap<String, String>>,
    replayed: AtomicU32,
    reworked: AtomicU32,
    exhausted: AtomicU32,
    unavailable: AtomicU32,
    broken: AtomicU32,
    stop: AtomicBool,
}

pub fn orders(quantity: u32, kills: u32) {
    let mut own = OwnWorld::running();
    let mut second = Second::start(&own);
    let body = serde_json::json!({ "name": ORDER, "profile": "lightbulb", "quantity": quantity });
    let made = own.world.client("operator").send(
        "POST",
        "/v1/orders",
        &[("Content-Type", "application/json")],
        Some(body.to_string().as_bytes()),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let clients = [own.world.url.clone(), second.url.clone()].map(|url| {
        let connect = Connect {
            url: url.parse().unwrap(),
            client_certificate: None,
            client_key: None,
            anonymous: false,
            ca: None,
        };
        Client::new(&connect, &own.world.dir.join("config.toml")).unwrap()
    });
    let seen = Arc::new(Seen::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let stations: Vec<_> = (0..crate::STATIONS)
        .map(|n| runtime.spawn(station(clients.clone(), n % 2, seen.clone())))
        .collect();

    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(100));
        pause_up_to(Duration::from_millis(700));
        if kill % 2 == 0 {
            own.kill_service();
            own.start_service();
            own.wait_ready(Duration::from_secs(20));
        } else {
            second.kill_and_start(&own);
        }
    }
    let got = seen.certificates.lock().unwrap().len();
    println!("certificates at last kill  {got} of {quantity}");
    let last = Instant::now();
    while seen.exhausted.load(Ordering::Relaxed) < 64 {
        assert!(
            last.elapsed() < Duration::from_secs(120),
            "the order never ran out"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    own.wait_no_open_intents(Duration::from_secs(10));
    // A place that a killed replica had taken is a certificate by now, and its station has it.
    std::thread::sleep(Duration::from_secs(3));
    seen.stop.store(true, Ordering::Relaxed);
    for station in stations {
        runtime.block_on(station).unwrap();
    }

    let rows = own.world.sql(&format!(
        "SELECT count(*) || ' ' || count(DISTINCT i.device) FROM intent i JOIN outcome o USING (intent_id)
         WHERE i.work_order = '{ORDER}' AND o.der IS NOT NULL AND NOT EXISTS (
             SELECT FROM life_event e WHERE e.intent_id = i.intent_id AND e.kind <> 'confirmed')"
    ));
    let events = |kind: &str| {
        own.world.sql(&format!(
            "SELECT count(*) FROM life_event JOIN intent i USING (intent_id)
             WHERE i.work_order = '{ORDER}' AND life_event.kind = '{kind}'"
        ))
    };
    let (confirmed, superseded) = (events("confirmed"), events("superseded"));
    let reworked = seen.reworked.load(Ordering::Relaxed);
    let state = own
        .world
        .client("auditor")
        .get(&format!("/v1/orders/{ORDER}"))
        .json();
    let mut request = Device::p256().request("lightbulb");
    request["order"] = ORDER.into();
    let next = own.world.client("station-01").issue(&request);
    println!("kills                      {kills}, of two replicas in turn");
    println!(
        "certificates received      {}",
        seen.certificates.lock().unwrap().len()
    );
    println!("live rows, devices         {rows}");
    println!("reworked                   {reworked}");
    println!("events                     {confirmed} confirmed, {superseded} superseded");
    println!("the order says             {state}");
    println!(
        "repeats answered           {}",
        seen.replayed.load(Ordering::Relaxed)
    );
    println!(
        "refused as exhausted       {}",
        seen.exhausted.load(Ordering::Relaxed)
    );
    println!(
        "503s, broken connections   {}, {}",
        seen.unavailable.load(Ordering::Relaxed),
        seen.broken.load(Ordering::Relaxed)
    );
    println!("the next request           {} {}", next.status, next.slug());
    assert_eq!(rows, format!("{quantity} {quantity}"));
    assert_eq!(superseded, reworked.to_string());
    for (field, value) in [
        ("issued", quantity),
        ("remaining", 0),
        ("in_progress", 0),
        ("live", quantity),
        ("confirmed", quantity),
        ("reworked", reworked),
        ("superseded", reworked),
    ] {
        assert_eq!(state[field], value, "{field}");
    }
    assert_eq!(
        (next.status, next.slug().as_str()),
        (403, "order-exhausted")
    );
    for (device, certificate) in seen.certificates.lock().unwrap().iter() {
        let shown = own
            .world
            .client("auditor")
            .get(&format!("/v1/certificates?device={device}"))
            .json();
        assert_eq!(shown["items"][0]["certificate"], *certificate, "{device}");
    }
}

/// A device at a time: issued, every fourth reworked, then confirmed, each asked for at one replica
/// and then at the other.
async fn station(clients: [Client; 2], first: usize, seen: Arc<Seen>) {
    let mut number = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        let device = Device::p256();
        let mut request = device.request("lightbulb");
        request["order"] = ORDER.into();
        let path = "/v1/certificates";
        let Some(mut held) = twice(&clients, first, &seen, path, &request).await else {
            continue;
        };
        number += 1;
        if number % 4 == 0 {
            let path = format!("/v1/certificates/{}/supersession", serial(&held));
            let body = json!({ "csr": device.rekeyed().csr(), "reason": "proof" });
            held = twice(&clients, first, &seen, &path, &body).await.unwrap();
            seen.reworked.fetch_add(1, Ordering::Relaxed);
        }
        let path = format!("/v1/certificates/{}/confirmation", serial(&held));
        let body = json!({ "certificate": held["certificate"] });
        twice(&clients, first, &seen, &path, &body).await.unwrap();
        seen.certificates.lock().unwrap().insert(
            device.name,
            held["certificate"].as_str().unwrap().to_owned(),
        );
        let mut random = [0; 1];
        openssl::rand::rand_bytes(&mut random).unwrap();
        tokio::time::sleep(Duration::from_millis(4 * u64::from(random[0]))).await;
    }
}

fn serial(certificate: &Value) -> &str {
    certificate["serial_number"].as_str().unwrap()
}

/// Asks until each replica has answered, and returns the answer, which is one. `None`: the order is
/// exhausted, or the proof is over and nobody has answered.
async fn twice(
    clients: &[Client; 2],
    first: usize,
    seen: &Seen,
    path: &str,
    body: &Value,
) -> Option<Value> {
    let mut answers: Vec<Value> = Vec::new();
    let mut turn = first;
    while answers.len() < 2 {
        if answers.is_empty() && path == "/v1/certificates" && seen.stop.load(Ordering::Relaxed) {
            return None;
        }
        let headers = [("content-type", "application/json")];
        let answer = clients[turn]
            .once(Method::POST, path, &headers, body.to_string().into())
            .await;
        turn = 1 - turn;
        let Ok(answer) = answer else {
            seen.broken.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        match answer.status.as_u16() {
            200 | 201 => {
                if answer.headers.contains_key("idempotency-replayed") {
                    seen.replayed.fetch_add(1, Ordering::Relaxed);
                }
                answers.push(said);
            }
            403 => {
                assert_eq!(said["type"], "/problems/order-exhausted", "{said}");
                assert!(answers.is_empty(), "a device that has one is refused");
                seen.exhausted.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            409 | 503 => {
                assert!(answer.headers.contains_key("retry-after"), "{said}");
                seen.unavailable.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => panic!("{path}: {other} {said}"),
        }
    }
    // What was issued once is the same at the other replica.
    assert_eq!(answers[0]["certificate"], answers[1]["certificate"]);
    assert_eq!(answers[0]["serial_number"], answers[1]["serial_number"]);
    answers.pop()
}
