//! The runbooks: complete, and true as far as a test can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use certfactory::http::problem::Slug;
use certfactory::manual::{PAGES, PROBLEMS, RUNBOOKS};
use regex::Regex;

use crate::files::{alerts, deploy};

const SECTIONS: [&str; 6] = [
    "What it means",
    "What the line sees",
    "First look",
    "Cure",
    "Over when",
    "Do not",
];

/// Words in quotes that others say, not the service.
const SAID_BY_OTHERS: &[&str] = &[
    // PostgreSQL and the system
    "No such file",
    "refused",
    "too many connections",
    // people
    "with room",
    "to see whether it helps",
    "to match",
    // dashboards
    "Line",
];

/// Names of alerts in a runbook's head, with their severities.
fn named(page: &str) -> BTreeSet<(String, String)> {
    let head = page.split("\n## ").next().unwrap();
    let alert = Regex::new(r"`([A-Z]\w+)` \((\w+)").unwrap();
    alert
        .captures_iter(head)
        .map(|found| (found[1].to_owned(), found[2].to_owned()))
        .collect()
}

/// Alerts whose runbooks say that they fire when this happens.
pub fn raised_when(what: &str) -> BTreeSet<String> {
    let sentence = format!("Raised when {what}.");
    let pages = RUNBOOKS.iter().filter(|(_, page)| page.contains(&sentence));
    pages
        .flat_map(|(_, page)| named(page).into_iter().map(|(name, _)| name))
        .collect()
}

#[test]
fn every_alert_has_a_runbook_that_names_it_and_every_page_has_its_parts() {
    let mut wanted: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for alert in alerts() {
        let page = wanted.entry(alert.runbook).or_default();
        page.insert((alert.name, alert.severity));
    }
    for slug in own_problems() {
        wanted.entry(slug.to_owned()).or_default();
    }
    let files: BTreeSet<String> = fs::read_dir(deploy("runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".md")?.to_owned()))
        .filter(|name| name != "README")
        .collect();
    let embedded: BTreeMap<&str, &str> = RUNBOOKS.iter().copied().collect();
    assert!(files.iter().eq(wanted.keys()), "{files:?}");
    assert!(files.iter().eq(embedded.keys()), "{files:?}");
    for (slug, alerts) in &wanted {
        let page = embedded[slug.as_str()];
        assert_eq!(&named(page), alerts, "{slug}");
        let sections: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        assert_eq!(sections, SECTIONS, "{slug}");
    }
}

/// Those that no station and no person at it can do anything about.
fn own_problems() -> Vec<&'static str> {
    Slug::ALL
        .iter()
        .filter(|slug| slug.status().is_server_error())
        .map(|slug| slug.as_str())
        // Its own page says at which replica to ask.
        .filter(|slug| *slug != "batch-elsewhere")
        .collect()
}

#[test]
fn problems_and_runbooks_lead_to_each_other_and_no_link_leads_nowhere() {
    for slug in own_problems() {
        let sections: Vec<&str> = PROBLEMS.split("\n## ").collect();
        let section = sections
            .iter()
            .find(|section| section.lines().next() == Some(slug));
        let link = format!("](/runbooks/{slug})");
        assert!(section.unwrap().contains(&link), "{slug}");
        let (_, page) = RUNBOOKS.iter().find(|(name, _)| *name == slug).unwrap();
        assert!(page.contains(&format!("](/problems/{slug})")), "{slug}");
    }
    let link = Regex::new(r"\]\((/[a-z]+/[^)]*)\)").unwrap();
    for (slug, page) in RUNBOOKS {
        for found in link.captures_iter(page) {
            let (_, room, name) = {
                let mut parts = found[1].splitn(3, '/');
                (parts.next(), parts.next().unwrap(), parts.next().unwrap())
            };
            let is_there = match room {
                "runbooks" => RUNBOOKS.iter().any(|(page, _)| *page == name),
                "manual" => PAGES.iter().any(|(page, _)| *page == name),
                "problems" => Slug::ALL.iter().any(|problem| problem.as_str() == name),
                _ => false,
            };
            assert!(is_there, "{slug}: {}", &found[1]);
        }
    }
}

/// Lines of a page's command blocks.
pub fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```sh\n").skip(1);
    blocks
        .flat_map(|block| block.split("```").next().unwrap().lines())
        .collect()
}

#[test]
fn every_command_of_ours_in_a_runbook_is_one_with_these_options() {
    let inline = Regex::new(r"`(certfactory [a-z][^`]*)`").unwrap();
    let mut checked = BTreeSet::new();
    for (slug, page) in RUNBOOKS {
        let written = inline.captures_iter(page).map(|found| found[1].to_owned());
        let blocks = commands(page).into_iter().map(str::to_owned);
        for line in blocks.chain(written) {
            let line = line.trim_start_matches("runuser -u certfactory -- ");
            let command = line.split(['|', '#']).next().unwrap();
            let Some(arguments) = command.strip_prefix("certfactory ") else {
                continue;
            };
            let words: Vec<&str> = arguments
                .split_whitespace()
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
                .take_while(|word| !word.starts_with('-'))
                .collect();
            let output = Command::new(env!("CARGO_BIN_EXE_certfactory"))
                .args(&words)
                .arg("--help")
                .output()
                .unwrap();
            let help = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{slug}: {line}");
            // `help` of a word that is no command would be that of the command before it.
            let usage = format!("certfactory {}", words.join(" "));
            assert!(help.contains(&usage), "{slug}: {line}: {help}");
            let options = arguments
                .split_whitespace()
                .filter(|word| word.starts_with("--"));
            for option in options {
                assert!(help.contains(option), "{slug}: {line}: no {option}");
            }
            checked.insert(words.join(" "));
        }
    }
    assert!(checked.len() > 15, "{checked:?}");
}

#[test]
fn what_a_runbook_quotes_the_service_says() {
    let mut said = String::new();
    fn read(directory: &Path, into: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, into);
            } else if path.extension().is_some_and(|it| it == "rs" || it == "md") {
                into.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    read(&root.join("src"), &mut said);
    let code = Regex::new(r"(?s)```.*?```|`[^`\n]*`").unwrap();
    let quoted = Regex::new(r#""([^"]+)""#).unwrap();
    let mut checked = 0;
    for (slug, page) in RUNBOOKS {
        for found in quoted.captures_iter(&code.replace_all(page, "")) {
            let words = found[1].split_whitespace().collect::<Vec<_>>().join(" ");
            if !SAID_BY_OTHERS.contains(&words.as_str()) {
                assert!(said.contains(&words), "{slug}: \"{words}\"");
                checked += 1;
            }
        }
    }
    assert!(checked > 30, "{checked}");
}
