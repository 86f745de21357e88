//! A database of three nodes that fails over, again and again, under three replicas with orders and repeats.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use certfactory::cli::client::Client;
use certfactory::cli::client::Connect;
use hyper::Method;
use nix::sys::signal::Signal;
use openssl::x509::X509;
use serde_json::Value;

use crate::seconds;
use crate::support::device::Device;
use crate::support::faults::Frozen;
use crate::support::faults::signal;
use crate::support::replica::Replica;
use crate::support::world::OwnWorld;
use crate::support::world::World;

const ORDER: &str = "WO-failover";
const QUANTITY: u64 = 1_000_000;
const REPLICAS: usize = 3;
const STATIONS: usize = 24;
/// Within this long of each fault somebody has a certificate.
const RECOVERY_MAX: Duration = Duration::from_secs(15);
/// A station goes to another replica when one has not answered for so long.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long what is frozen or cut off stays so.
const AWAY: Duration = Duration::from_secs(25);

/// The nodes that `deploy/ha/raise` has raised.
struct Nodes(PathBuf);

impl Nodes {
    fn raise(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ha/raise");
        let output = Command::new(script)
            .arg(&self.0)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "raise {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Its number, as soon as there is one.
    fn primary(&self) -> String {
        self.raise(&["whole"]);
        self.raise(&["primary"])
    }

    fn processes(&self, node: &str) -> Vec<u32> {
        let output = Command::new("ip")
            .args(["netns", "pids", &format!("cf-ha-{node}")])
            .output()
            .unwrap();
        let pids = String::from_utf8(output.stdout).unwrap();
        pids.lines().map(|line| line.parse().unwrap()).collect()
    }

    fn link(&self, node: &str, state: &str) {
        run(Command::new("ip").args(["link", "set", &format!("cf-ha-{node}"), state]));
    }

    /// `add` or `del` of routes to nowhere, from one node to the two others.
    fn part(&self, node: &str, verb: &str) {
        for other in ["1", "2", "3"].iter().filter(|other| **other != node) {
            let address = format!("10.87.0.1{other}/32");
            let namespace = format!("cf-ha-{node}");
            run(Command::new("ip").args(["-n", &namespace, "route", verb, "blackhole", &address]));
        }
    }

    /// SQL as the superuser, at the primary.
    fn sql(&self, sql: &str) -> String {
        let home = self.0.join(format!("node{}", self.raise(&["primary"])));
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t", "-v"]);
        command.args(["ON_ERROR_STOP=1", "-d", "certfactory", "-c", sql, "-h"]);
        let output = command.arg(home).current_dir("/").output().unwrap();
        let fault = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {fault}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let fault = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {fault}");
}

fn client(own: &OwnWorld, replica: &Replica) -> Client {
    let connect = Connect {
        url: replica.url.parse().unwrap(),
        client_certificate: None,
        client_key: None,
        anonymous: false,
        ca: None,
    };
    Client::new(&connect, &own.world.dir.join("config.toml")).unwrap()
}

/// Keeps the replicas' logs beside the nodes', when the world goes.
struct Logs(Vec<PathBuf>, PathBuf);

impl Drop for Logs {
    fn drop(&mut self) {
        for log in &self.0 {
            let name = log.file_name().unwrap();
            std::fs::copy(log, self.1.join(name)).ok();
        }
    }
}

/// What the stations saw.
#[derive(Default)]
struct Seen {
    /// Device → certificate.
    certificates: Mutex<HashMap<String, String>>,
    /// When each request with a certificate for an answer was sent, and when it was answered.
    answers: Mutex<Vec<(Instant, Instant)>>,
    refusals: Mutex<BTreeMap<String, u64>>,
    replayed: AtomicU64,
    stop: AtomicBool,
}

pub fn failover(nodes: &Path, kills: u32, pause: Duration) {
    let nodes = Nodes(nodes.to_path_buf());
    let own = world_on(&nodes);
    let replicas: Vec<Replica> = (2..)
        .take(REPLICAS)
        .map(|number| {
            let mut replica = Replica::make(&own, number, |_| {});
            replica.start("all");
            replica
        })
        .collect();
    let logs = replicas.iter().map(Replica::log_path).collect();
    let _logs = Logs(logs, nodes.0.clone());
    for replica in &replicas {
        replica.wait_ready(seconds(30));
    }
    let pids: Vec<u32> = replicas.iter().map(Replica::pid).collect();
    let operator = replicas[0].client("operator");
    let body = serde_json::json!({ "name": ORDER, "profile": "lightbulb", "quantity": QUANTITY });
    let headers = [("Content-Type", "application/json")];
    let body = body.to_string();
    let made = operator.send("POST", "/v1/orders", &headers, Some(body.as_bytes()));
    assert_eq!(made.status, 201, "{made:?}");

    let clients: Vec<Client> = replicas.iter().map(|it| client(&own, it)).collect();
    let seen = Arc::new(Seen::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let stations: Vec<_> = (0..STATIONS)
        .map(|n| runtime.spawn(station(clients.clone(), n, seen.clone())))
        .collect();

    for _ in 0..kills {
        let node = begin(&nodes);
        fault(&seen, &format!("primary killed, node {node}"), || {
            nodes.raise(&["kill", &node]);
        });
        nodes.raise(&["start", &node]);
    }
    let node = begin(&nodes);
    let mut frozen = None;
    fault(&seen, &format!("primary frozen, node {node}"), || {
        frozen = Some(Frozen::new(nodes.processes(&node)));
    });
    std::thread::sleep(AWAY);
    drop(frozen);

    let node = begin(&nodes);
    let what = format!("primary cut off from the standbys, node {node}");
    fault(&seen, &what, || nodes.part(&node, "add"));
    std::thread::sleep(AWAY);
    nodes.part(&node, "del");

    let node = begin(&nodes);
    let what = format!("primary cut off from everybody, node {node}");
    fault(&seen, &what, || nodes.link(&node, "down"));
    std::thread::sleep(AWAY);
    nodes.link(&node, "up");

    begin(&nodes);
    let paused = pids[0];
    fault(&seen, "replica of the service paused", || {
        signal(paused, Signal::SIGSTOP);
    });
    std::thread::sleep(pause);
    signal(paused, Signal::SIGCONT);
    let woken = Instant::now();
    let mut request = Device::p256().request("lightbulb");
    request["order"] = ORDER.into();
    while !matches!(
        replicas[0].client("station-01").issue(&request).status,
        200 | 201
    ) {
        assert!(woken.elapsed() < RECOVERY_MAX, "it does not wake");
        std::thread::sleep(Duration::from_millis(50));
    }
    let woken = woken.elapsed().as_secs_f64();
    println!(
        "replica of the service woken after {pause:?}: its first certificate {woken:.1} s later"
    );

    begin(&nodes);
    seen.stop.store(true, Ordering::Relaxed);
    for station in stations {
        runtime.block_on(station).unwrap();
    }
    // Each is the process that it was.
    for replica in &replicas {
        replica.wait_ready(seconds(10));
    }
    hold_against(&nodes, &seen, &replicas[0]);
    drop(replicas);
    verify(&own.world);
}

/// A world whose database is the nodes'.
fn world_on(nodes: &Nodes) -> OwnWorld {
    let own = OwnWorld::make();
    own.start_postgres();
    let passwords = nodes.0.join("passwords");
    let password = |role: &str| passwords.join(role).to_str().unwrap().to_owned();
    own.configure(|config| {
        let database = config["database"].as_table_mut().unwrap();
        for (setting, value) in [
            ("url", "postgres://certfactory@127.0.0.1:15432/certfactory"),
            (
                "owner_url",
                "postgres://certfactory_owner@127.0.0.1:15432/certfactory",
            ),
            ("password_file", &password("certfactory")),
            ("owner_password_file", &password("certfactory_owner")),
        ] {
            database.insert(setting.into(), value.into());
        }
        database.insert("require_synchronous".into(), true.into());
    });
    run(&mut own.world.program(&["migrate"]));
    // The world's people, from the database that was made with it.
    for (table, columns) in [
        ("principal", "name, role, disabled"),
        ("principal_key", "spki_sha256, name"),
    ] {
        let rows = own.world.sql(&format!("SELECT {columns} FROM {table}"));
        let rows: Vec<String> = rows
            .lines()
            .map(|row| format!("('{}')", row.replace('|', "', '")))
            .collect();
        let rows = rows.join(", ");
        nodes.sql(&format!("INSERT INTO {table} ({columns}) VALUES {rows}"));
    }
    own.stop_postgres("fast");
    own
}

/// The primary's number, when all three nodes are there and some load has been.
fn begin(nodes: &Nodes) -> String {
    let node = nodes.primary();
    std::thread::sleep(seconds(5));
    node
}

/// Makes a fault, and waits for a certificate that was asked for after it.
fn fault(seen: &Seen, what: &str, make: impl FnOnce()) {
    let before = rate(seen, seconds(4));
    let begun = Instant::now();
    make();
    let made = Instant::now();
    let recovered = loop {
        let answers = seen.answers.lock().unwrap();
        let first = answers.iter().rev().filter(|(sent, _)| *sent > made);
        if let Some(answered) = first.map(|(_, answered)| *answered).min() {
            break answered - begun;
        }
        drop(answers);
        assert!(begun.elapsed() < 4 * RECOVERY_MAX, "{what}: no certificate");
        std::thread::sleep(Duration::from_millis(20));
    };
    println!(
        "{what}: {before:.0} certificates/s before, the first one after it {:.1} s",
        recovered.as_secs_f64()
    );
    assert!(recovered <= RECOVERY_MAX, "{what}");
}

fn rate(seen: &Seen, over: Duration) -> f64 {
    let answers = seen.answers.lock().unwrap();
    let new = answers
        .iter()
        .rev()
        .take_while(|(_, answered)| answered.elapsed() < over + seconds(1))
        .filter(|(_, answered)| answered.elapsed() < over);
    u32::try_from(new.count()).map(f64::from).unwrap() / over.as_secs_f64()
}

/// A device at a time: asked for until there is a certificate, then once more, at another replica.
async fn station(clients: Vec<Client>, first: usize, seen: Arc<Seen>) {
    let mut turn = first;
    while !seen.stop.load(Ordering::Relaxed) {
        let device = Device::p256();
        let mut request = device.request("lightbulb");
        request["order"] = ORDER.into();
        let made = issue(&clients, &mut turn, &seen, &device.name, &request).await;
        turn += 1;
        let again = issue(&clients, &mut turn, &seen, &device.name, &request).await;
        assert_eq!(made, again, "a repeat got another certificate");
        seen.certificates.lock().unwrap().insert(device.name, made);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks one replica after the other, under one idempotency key, until one answers.
async fn issue(
    clients: &[Client],
    turn: &mut usize,
    seen: &Seen,
    key: &str,
    request: &Value,
) -> String {
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    loop {
        let client = &clients[*turn % clients.len()];
        let sent = Instant::now();
        let path = "/v1/certificates";
        let once = client.once(Method::POST, path, &headers, request.to_string().into());
        let refusal = match tokio::time::timeout(PATIENCE, once).await {
            Err(_) => "no answer".to_owned(),
            Ok(Err(_)) => "connection broken".to_owned(),
            Ok(Ok(answer)) => {
                let said: Value = serde_json::from_slice(&answer.body).unwrap();
                if matches!(answer.status.as_u16(), 200 | 201) {
                    if answer.headers.contains_key("idempotency-replayed") {
                        seen.replayed.fetch_add(1, Ordering::Relaxed);
                    }
                    let answered = (sent, Instant::now());
                    seen.answers.lock().unwrap().push(answered);
                    return said["certificate"].as_str().unwrap().to_owned();
                }
                let status = answer.status.as_u16();
                assert!(matches!(status, 409 | 503), "{status} {said}");
                assert!(answer.headers.contains_key("retry-after"), "{said}");
                format!("{status} {}", said["type"].as_str().unwrap())
            }
        };
        *seen.refusals.lock().unwrap().entry(refusal).or_default() += 1;
        *turn += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What was received against what the primary has; the order's counts; the log.
fn hold_against(nodes: &Nodes, seen: &Seen, replica: &Replica) {
    let start = Instant::now();
    while nodes.sql("SELECT count(*) FROM open_intent") != "0" {
        assert!(start.elapsed() < seconds(15), "open intents");
        std::thread::sleep(Duration::from_millis(100));
    }
    let rows = nodes.sql("SELECT i.device, encode(o.der, 'hex') FROM intent i JOIN outcome o USING (intent_id) WHERE o.der IS NOT NULL");
    let mut recorded: HashMap<&str, &str> = HashMap::new();
    for row in rows.lines() {
        let (device, der) = row.split_once('|').unwrap();
        let before = recorded.insert(device, der);
        assert!(before.is_none(), "{device} has two certificates");
    }
    let certificates = seen.certificates.lock().unwrap();
    for (device, pem) in certificates.iter() {
        let der = X509::from_pem(pem.as_bytes()).unwrap().to_der().unwrap();
        let der: String = der.iter().map(|octet| format!("{octet:02x}")).collect();
        let there = recorded.get(device.as_str());
        assert_eq!(there, Some(&der.as_str()), "{device}'s certificate");
    }
    let path = format!("/v1/orders/{ORDER}");
    let order = replica.client("auditor").get(&path).json();
    let head = nodes.sql("SELECT size || ' ' || coalesce(halted, 'not halted') FROM log_head");
    println!("certificates received      {}", certificates.len());
    println!(
        "on the primary             {}, no device twice",
        recorded.len()
    );
    println!(
        "repeats answered           {}, each with the same certificate",
        seen.replayed.load(Ordering::Relaxed)
    );
    println!(
        "the order says             issued {}, in progress {}, remaining {}",
        order["issued"], order["in_progress"], order["remaining"]
    );
    println!("the log                    {head}");
    println!(
        "refusals                   {:?}",
        seen.refusals.lock().unwrap()
    );
    // And the one that the woken replica made.
    let made = u64::try_from(certificates.len() + 1).unwrap();
    assert_eq!(recorded.len(), certificates.len() + 1);
    for (field, value) in [
        ("issued", made),
        ("in_progress", 0),
        ("remaining", QUANTITY - made),
    ] {
        assert_eq!(order[field], value, "{field}");
    }
    assert!(head.ends_with("not halted"), "{head}");
}

/// One log, whole and right.
fn verify(world: &World) {
    let dir = world.dir.display().to_string();
    let mut arguments = ["--json", "audit", "verify", "--database", "--log-key"]
        .map(str::to_owned)
        .to_vec();
    arguments.push(format!("{dir}/head-office/log.pem"));
    for issuer in ["line-ec", "line-rsa", "stations"] {
        arguments.extend(["--issuer".to_owned(), format!("{dir}/issuers/{issuer}.pem")]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let verified = world.program(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stdout);
    let said: String = said
        .lines()
        .filter(|line| line.contains("faults") || line.contains("entries\""))
        .collect();
    println!("audit verify --database    {said}");
    let fault = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{fault}");
}
