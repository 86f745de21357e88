//! A real Prometheus on a world under load: every question is answered, and each drill raises what the runbooks
//! say, and nothing else.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use certfactory::manual::RUNBOOKS;
use serde_json::json;

use crate::files::{alerts, dashboards, metrics_named, queries, recordings};
use crate::prometheus::Prometheus;
use crate::runbooks::{commands, raised_when};
use crate::support::device::Device;
use crate::support::faults::token_away;
use crate::support::http::Curl;
use crate::support::recipient::Recipient;
use crate::support::world::{OwnWorld, World, issued};

/// Queries that are empty in a world in which all is well, and why.
const EMPTY_WHEN_WELL: &[(&str, &str)] = &[
    (
        "certfactory_hsm_reopens_total",
        "no session or token had to be opened again",
    ),
    (
        "certfactory_log_witness_timestamp_seconds",
        "the development world has no witness",
    ),
    (
        "certfactory_log_witness_refused_total",
        "the development world has no witness",
    ),
    (
        "certfactory_archive_standby_up",
        "the development world has no standby",
    ),
    (
        "certfactory_archive_lag_seconds",
        "the development world has no standby",
    ),
    (
        "certfactory_archive_readings_total",
        "the development world has no standby",
    ),
    (
        "certfactory_archive_passed_over_total",
        "the development world has no standby",
    ),
    // tests/plants holds that head office shows these.
    (
        "certfactory_plant_feed_lag_seconds",
        "the development world is no head office",
    ),
    (
        "certfactory_plant_feed_late_after_seconds",
        "the development world is no head office",
    ),
    (
        "certfactory_plant_findings_open",
        "the development world is no head office",
    ),
];

/// Alerts about the machine, which may be as it is.
const OF_THE_MACHINE: &[&str] = &["DiskNearlyFull"];

/// One station that asks for a certificate some times a second, whatever it is told.
struct Station {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Station {
    fn start(client: Curl) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                client.issue(&Device::p256().request("lightbulb"));
                std::thread::sleep(Duration::from_millis(150));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// One of everything that is counted when it happens.
fn happen(world: &World) {
    let station = world.client("station-01");
    let device = Device::p256();
    let first = issued(&station.issue(&device.request("lightbulb")));
    let replay = station.issue(&device.request("lightbulb"));
    assert_eq!(replay.status, 200);
    let post = |client: &str, path: &str, body: serde_json::Value| {
        let headers = [("Content-Type", "application/json")];
        let body = body.to_string();
        let client = world.client(client);
        client.send("POST", path, &headers, Some(body.as_bytes()))
    };
    let order = json!({ "name": "WO-1", "profile": "lightbulb", "quantity": 1 });
    assert_eq!(post("operator", "/v1/orders", order).status, 201);
    world.order("WO-2", "lightbulb");
    let on = |order: &str| {
        let mut request = Device::p256().request("lightbulb");
        request["order"] = order.into();
        station.issue(&request)
    };
    let made = issued(&on("WO-1"));
    assert_eq!(on("WO-1").slug(), "order-exhausted");
    issued(&on("WO-2"));
    world.revoke(&first, "keyCompromise");
    let serial = made["serial_number"].as_str().unwrap();
    let confirmed = format!("/v1/certificates/{serial}/confirmation");
    let body = json!({ "certificate": made["certificate"] });
    assert_eq!(post("station-01", &confirmed, body).status, 200);

    let recipient = Recipient::new();
    let id = world.taken(&crate::support::batch::order(3, &recipient));
    world.wait_done(&id, Duration::from_secs(20));

    let issuer = world.dir.join("issuers/line-ec.pem");
    let output = Command::new("openssl")
        .args(["ocsp", "-noverify", "-no_nonce", "-issuer"])
        .arg(issuer)
        .args(["-serial", &format!("0x{serial}")])
        .args(["-url", &format!("{}/ocsp/line-ec", world.repository)])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(": good"));
}

/// Why a query may be empty; `None`: it may not.
fn excuse(query: &str) -> Option<&'static str> {
    let found = EMPTY_WHEN_WELL.iter().find(|(it, _)| query.contains(it));
    found.map(|(_, reason)| *reason)
}

/// Asks until there is a number, or it may be empty.
fn assert_answered(prometheus: &Prometheus, query: &str, until: Instant) {
    loop {
        let samples = prometheus
            .ask(query)
            .unwrap_or_else(|e| panic!("{query}: {e}"));
        let is_number = |sample: &serde_json::Value| {
            let value = sample["value"][1].as_str();
            value.is_some_and(|value| value != "NaN")
        };
        if samples.iter().any(is_number) {
            assert!(
                excuse(query).is_none(),
                "{query} has an answer: no excuse is needed"
            );
            return;
        }
        if excuse(query).is_some() {
            return;
        }
        assert!(Instant::now() < until, "{query}: {samples:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Watches for `hold`: no other alert than `expected` ever fires, and at the end all of them do.
fn assert_raises(prometheus: &Prometheus, expected: &BTreeSet<String>, hold: Duration) {
    assert!(!expected.is_empty());
    let start = Instant::now();
    let mut firing = BTreeSet::new();
    while start.elapsed() < hold {
        firing = others(prometheus);
        let more: Vec<_> = firing.difference(expected).collect();
        assert!(
            more.is_empty(),
            "beside {expected:?} after {:?}: {more:?}",
            start.elapsed()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(&firing, expected);
}

fn others(prometheus: &Prometheus) -> BTreeSet<String> {
    let mut firing = prometheus.firing();
    firing.retain(|name| !OF_THE_MACHINE.contains(&name.as_str()));
    firing
}

fn wait_quiet(prometheus: &Prometheus, at_most: Duration) {
    let start = Instant::now();
    loop {
        let firing = others(prometheus);
        if firing.is_empty() {
            return;
        }
        assert!(start.elapsed() < at_most, "after {at_most:?}: {firing:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Each alert that fires says in words what is the matter, and leads to a page that names it.
fn assert_helpful(prometheus: &Prometheus, own: &OwnWorld) {
    for alert in prometheus.alerts() {
        let said = &alert["annotations"];
        let name = alert["labels"]["alertname"].as_str().unwrap();
        for words in ["summary", "description"] {
            let words = said[words].as_str().unwrap();
            assert!(
                !words.contains("{{") && !words.contains('<'),
                "{name}: {words}"
            );
        }
        let path = said["runbook"].as_str().unwrap();
        let page = own.world.nobody().get(path);
        assert!(
            page.status == 200 && page.text().contains(name),
            "{name}: {path}"
        );
        if let Some(url) = said["runbook_url"].as_str() {
            assert_eq!(url, format!("{}{path}", own.world.operations), "{name}");
        }
    }
}

#[test]
fn prometheus_answers_every_dashboard_and_rule_and_each_drill_raises_exactly_what_the_runbooks_say()
{
    let own = OwnWorld::running();
    let backup = own.world.dir.join("backup");
    let backup = backup.to_str().unwrap();
    let made = own.world.program(&["backup", backup]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let prometheus = Prometheus::start(&own.world);
    let _station = Station::start(own.world.client("station-01"));
    happen(&own.world);

    // Under load: nothing fails, nothing is empty.
    let until = Instant::now() + Duration::from_secs(25);
    for (_, dashboard) in dashboards() {
        for query in queries(&dashboard) {
            assert_answered(&prometheus, &query, until);
        }
    }
    for (name, expr) in recordings() {
        assert_answered(&prometheus, &name, until);
        assert_answered(&prometheus, &expr, until);
    }
    for alert in alerts() {
        let asked = prometheus.ask(&alert.expr);
        asked.unwrap_or_else(|e| panic!("{}: {e}", alert.name));
    }
    let rules = prometheus.rules();
    assert_eq!(rules.len(), alerts().len() + recordings().len());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    assert_eq!(others(&prometheus), BTreeSet::new(), "all is well");

    // What is named is there.
    let shown = own.world.operations().get("/metrics").text();
    let shown: BTreeSet<String> = metrics_named(&shown).into_iter().collect();
    let mut texts: Vec<String> = alerts().into_iter().map(|alert| alert.expr).collect();
    texts.extend(recordings().into_iter().map(|(_, expr)| expr));
    texts.extend(dashboards().iter().flat_map(|(_, it)| queries(it)));
    texts.push(include_str!("../../src/manual/monitoring.md").into());
    texts.extend(RUNBOOKS.iter().map(|(_, page)| (*page).to_owned()));
    for name in texts.iter().flat_map(|text| metrics_named(text)) {
        let excused = EMPTY_WHEN_WELL.iter().map(|(metric, _)| *metric);
        let mut known = shown.iter().map(String::as_str).chain(excused);
        let is_there = known.any(|metric| metric == name || is_begun(&name, metric));
        assert!(is_there, "no metric {name}");
    }

    assert_first_looks_show_something(&own);

    // The database stops: longer than the clock is trusted without it.
    own.stop_postgres("fast");
    let expected = raised_when("the database stops");
    assert_raises(&prometheus, &expected, Duration::from_secs(19));
    assert_helpful(&prometheus, &own);
    own.start_postgres();
    own.wait_ready(Duration::from_secs(5));
    wait_quiet(&prometheus, Duration::from_secs(20));

    // The token goes away.
    token_away(&own, true);
    own.wait_not_ready("\"hsm\"", Duration::from_secs(5));
    let expected = raised_when("the HSM goes away");
    assert_raises(&prometheus, &expected, Duration::from_secs(10));
    assert_helpful(&prometheus, &own);
    token_away(&own, false);
    own.wait_ready(Duration::from_secs(10));
}

/// Commands of runbooks for database and listeners, as they are written there but for the address.
fn assert_first_looks_show_something(own: &OwnWorld) {
    // Nothing of these happened here.
    let silent = [
        "certfactory_log_witness",
        "certfactory_archive",
        "problem=\"internal\"",
    ];
    let statement =
        regex::Regex::new(r#"psql (?:certfactory )?-c (?:"([^"]+)"|'([^']+)')"#).unwrap();
    let (mut asked, mut looked) = (0, 0);
    for (slug, page) in RUNBOOKS {
        for line in commands(page) {
            if let Some(found) = statement.captures(line) {
                let sql = found.get(1).or(found.get(2)).unwrap().as_str();
                own.world.sql(sql);
                asked += 1;
            } else if line.starts_with("curl -s http://127.0.0.1:9464") {
                let here = line.replace("http://127.0.0.1:9464", &own.world.operations);
                let shown = Command::new("bash").args(["-c", &here]).output().unwrap();
                let excused = silent.iter().any(|it| line.contains(it));
                assert_ne!(shown.stdout.is_empty(), !excused, "{slug}: {line}");
                looked += 1;
            }
        }
    }
    assert!(asked > 8 && looked > 30, "{asked} {looked}");
}

/// A runbook may name metrics by how they begin: `grep certfactory_partition`.
fn is_begun(name: &str, metric: &str) -> bool {
    metric
        .strip_prefix(name)
        .is_some_and(|rest| rest.starts_with('_'))
}
