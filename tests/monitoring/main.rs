//! What watches over the service: Prometheus' rules, dashboards, runbooks; and that they say the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

#[path = "../support/mod.rs"]
mod support;

mod files;
mod live;
mod prometheus;
mod runbooks;

use std::collections::BTreeSet;
use std::process::Command;

use files::{alerts, dashboards, deploy, queries, recordings};

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(deploy("prometheus"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn promtool_accepts_configuration_and_rules() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "rules/recording.yml", "rules/alerts.yml"]);
}

#[test]
fn every_alert_fires_alone_in_one_case_and_not_at_all_in_another() {
    let mut cases = String::new();
    let mut tests = vec!["test".to_owned(), "rules".to_owned()];
    for entry in std::fs::read_dir(deploy("prometheus/tests")).unwrap() {
        let path = entry.unwrap().path();
        cases.push_str(&std::fs::read_to_string(&path).unwrap());
        tests.push(path.to_str().unwrap().to_owned());
    }
    let cases: Vec<&str> = cases.split("  - name: ").collect();
    for alert in alerts() {
        let name = &alert.name;
        let case = |what: &str| {
            let title = format!("{name} {what}\n");
            let found = cases.iter().find(|case| case.starts_with(&title));
            *found.unwrap_or_else(|| panic!("no case `{}`", title.trim_end()))
        };
        let fired = format!("alertname=\"{name}\"");
        assert!(case("fires").contains(&fired), "{name}");
        assert!(!case("does not").contains(&fired), "{name}");
        assert!(case("does not").contains("exp_samples:"), "{name}");
    }
    promtool(&tests.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_dashboard_asks_nothing_of_the_world_outside_and_only_for_what_is_recorded() {
    let recorded: BTreeSet<String> = recordings().into_iter().map(|(name, _)| name).collect();
    let mut used = String::new();
    let mut uids = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        let text = dashboard.to_string();
        assert!(!text.contains("://"), "{name} names something outside");
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()));
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!(variable["type"], "datasource", "{name}");
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels.iter().map(|it| it["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{name}: an id is used twice");
        for panel in panels {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
            let place = &panel["gridPos"];
            let end = place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap();
            assert!(end <= 24, "{name}: {place}");
        }
        used.push_str(&queries(&dashboard).join("\n"));
    }
    used.extend(alerts().into_iter().map(|alert| alert.expr));
    let name = regex::Regex::new(r"certfactory:[a-z0-9_:]+").unwrap();
    let asked: BTreeSet<String> = name
        .find_iter(&used)
        .map(|found| found.as_str().to_owned())
        .collect();
    assert_eq!(asked, recorded, "what is asked for, and what is recorded");
}
