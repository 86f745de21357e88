//! The files under `deploy/`, read.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

/// An alerting rule, as our file writes it.
pub struct Alert {
    pub name: String,
    pub expr: String,
    pub severity: String,
    /// The path of its runbook, without `/runbooks/`.
    pub runbook: String,
}

pub fn rules(name: &str) -> String {
    fs::read_to_string(deploy("prometheus/rules").join(name)).unwrap()
}

pub fn alerts() -> Vec<Alert> {
    let text = rules("alerts.yml");
    let field = |rule: &str, pattern: &str| {
        let pattern = Regex::new(pattern).unwrap();
        let found = pattern.captures(rule).unwrap_or_else(|| panic!("{rule}"));
        found[1].to_owned()
    };
    let found: Vec<Alert> = text
        .split("\n      - alert: ")
        .skip(1)
        .map(|rule| {
            let alert = Alert {
                name: rule.lines().next().unwrap().to_owned(),
                expr: field(rule, r"expr: >-\n {10}(.*)\n"),
                severity: field(rule, r"severity: (\w+)"),
                runbook: field(rule, r"\n {10}runbook: /runbooks/([a-z-]+)(?:\n|$)"),
            };
            // The same page, at the replica that is meant.
            let url = format!("/runbooks/{}'", alert.runbook);
            assert!(
                !rule.contains("runbook_url") || rule.contains(&url),
                "{rule}"
            );
            alert
        })
        .collect();
    assert_eq!(found.len(), text.matches("alert:").count());
    found
}

/// Recording rules: name and expression.
pub fn recordings() -> Vec<(String, String)> {
    let text = rules("recording.yml");
    let rule = |rule: &str| {
        let (name, rest) = rule.split_once('\n').unwrap();
        let expr = rest.trim_start().strip_prefix("expr: ").unwrap();
        let expr = expr.trim_start_matches(">-");
        let lines = expr
            .lines()
            .take_while(|line| !line.trim_start().starts_with("- "))
            .filter(|line| !line.trim_start().starts_with('#'));
        (name.to_owned(), lines.collect::<Vec<_>>().join(" "))
    };
    text.split("- record: ").skip(1).map(rule).collect()
}

/// Dashboards, by the names of their files.
pub fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(deploy("grafana")).unwrap();
    let mut found: Vec<(String, Value)> = files
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["batches", "hsm", "ledger", "line", "orders"]);
    found
}

/// What a dashboard asks.
pub fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// Metrics of the service that a text names; parts of a histogram by the histogram's name.
pub fn metrics_named(text: &str) -> Vec<String> {
    let name = Regex::new(r"\bcertfactory_[a-z0-9_]*[a-z0-9]\b").unwrap();
    name.find_iter(text)
        .map(|found| {
            let mut name = found.as_str();
            for part in ["_bucket", "_sum", "_count"] {
                name = name.strip_suffix(part).unwrap_or(name);
            }
            name.to_owned()
        })
        .collect()
}
