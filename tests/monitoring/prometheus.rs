//! Debian's `prometheus`, private, with our rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

use crate::files::rules;
use crate::support::http::Curl;
use crate::support::world::{World, free_port};

/// It scrapes and judges every second.
pub struct Prometheus {
    child: Child,
    client: Curl,
    _directory: TempDir,
}

/// The rules with shorter times: windows of five seconds, and two seconds instead of what an alert waits. Where it
/// waits five minutes and more it still waits longer than a window, or a passing moment would be an alert.
fn hurried(rules: &str) -> String {
    let windows = Regex::new(r"\[\d+[mh]\]").unwrap();
    let waits = Regex::new(r"for: (\w+)").unwrap();
    let hurried = windows.replace_all(rules, "[5s]");
    let hurried = waits.replace_all(&hurried, |found: &regex::Captures| match &found[1] {
        "15s" | "30s" | "2m" | "15m" => "for: 2s",
        // A scrape of a busy machine may be late.
        "1m" => "for: 5s",
        "5m" | "10m" | "1h" => "for: 15s",
        other => panic!("how long is {other} here?"),
    });
    hurried.into_owned()
}

impl Prometheus {
    pub fn start(world: &World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = world.operations.strip_prefix("http://").unwrap();
        let shipped = fs::read_to_string(crate::deploy("prometheus/prometheus.yml")).unwrap();
        let mut configuration = shipped.clone();
        for (before, after) in [
            ("127.0.0.1:9464", target),
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ] {
            assert!(configuration.contains(before), "{shipped}");
            configuration = configuration.replace(before, after);
        }
        let path = |name: &str| directory.path().join(name);
        fs::write(path("prometheus.yml"), configuration).unwrap();
        fs::create_dir(path("rules")).unwrap();
        for name in ["recording.yml", "alerts.yml"] {
            fs::write(path("rules").join(name), hurried(&rules(name))).unwrap();
        }
        let address = format!("127.0.0.1:{}", free_port());
        let child = Command::new("prometheus")
            .arg(format!(
                "--config.file={}",
                path("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus");
        let client = Curl::new(&format!("http://{address}"), Path::new("/dev/null"), None);
        let own = Self {
            child,
            client,
            _directory: directory,
        };
        let start = Instant::now();
        while own.client.try_send("GET", "/-/ready", &[], None).is_err() {
            assert!(start.elapsed() < Duration::from_secs(15));
            std::thread::sleep(Duration::from_millis(100));
        }
        own
    }

    /// The samples that answer a query; `Err` holds what is wrong with it.
    pub fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        let body = serde_urlencoded::to_string([("query", query)]).unwrap();
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = self
            .client
            .send("POST", "/api/v1/query", &form, Some(body.as_bytes()))
            .json();
        match answer["data"]["result"].as_array() {
            Some(samples) if answer["status"] == "success" => Ok(samples.clone()),
            _ => Err(answer.to_string()),
        }
    }

    /// All rules as they stand, the last evaluation of each.
    pub fn rules(&self) -> Vec<Value> {
        let answer = self.client.get("/api/v1/rules").json();
        let groups = answer["data"]["groups"].as_array().unwrap().clone();
        let rules = groups.iter();
        rules
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect()
    }

    /// Alerts that fire, as they are sent.
    pub fn alerts(&self) -> Vec<Value> {
        let answer = self.client.get("/api/v1/alerts").json();
        let alerts = answer["data"]["alerts"].as_array().unwrap().iter();
        alerts
            .filter(|alert| alert["state"] == "firing")
            .cloned()
            .collect()
    }

    /// Names of the alerts that fire.
    pub fn firing(&self) -> BTreeSet<String> {
        let alerts = self.alerts();
        let names = alerts.iter().map(|alert| &alert["labels"]["alertname"]);
        names
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
