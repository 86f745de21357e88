//! The rules of the house, as a test: who may name whom, a doc line on every file, no loose ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Room → the rooms it may name. `main.rs` and `lib.rs` stand above all.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("pki", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    ("manual", &[]),
    ("ca", &["pki", "metrics", "telemetry"]),
    ("hsm", &["ca", "pki", "metrics", "telemetry"]),
    ("db", &["ca", "pki", "metrics", "telemetry"]),
    ("http", &["ca", "pki", "manual", "metrics", "telemetry"]),
    ("journal", &["telemetry"]),
    ("witness", &["pki"]),
    (
        "jobs",
        &["ca", "pki", "db", "journal", "metrics", "telemetry"],
    ),
    ("config", &["pki", "telemetry"]),
    ("rehearsal", &["pki"]),
    (
        "app",
        &[
            "http",
            "jobs",
            "journal",
            "hsm",
            "db",
            "ca",
            "pki",
            "config",
            "metrics",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "http",
            "jobs",
            "journal",
            "hsm",
            "db",
            "ca",
            "pki",
            "config",
            "metrics",
            "telemetry",
            "rehearsal",
            "witness",
        ],
    ),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|x| x == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn room(path: &Path) -> String {
    let below = path
        .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .unwrap();
    let first = below
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Rooms named by `crate::room`, comments left out.
fn named_rooms(text: &str) -> Vec<String> {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut rooms = Vec::new();
    for line in code {
        for part in line.split("crate::").skip(1) {
            rooms.push(
                part.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    rooms
}

#[test]
fn no_room_names_one_above_it() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let here = room(&path);
        if here == "main" || here == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == here) else {
            faults.push(format!(
                "{}: room `{here}` is not in the table",
                path.display()
            ));
            continue;
        };
        for named in named_rooms(&text) {
            if named != here && !allowed.contains(&named.as_str()) {
                faults.push(format!(
                    "{}: `{here}` may not name `{named}`",
                    path.display()
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_import_hides_an_edge() {
    for (path, text) in sources() {
        for (n, line) in text.lines().enumerate() {
            assert!(
                !line.contains("crate::{"),
                "{}:{}: one room a line",
                path.display(),
                n + 1
            );
            assert!(
                !line.contains("super::super"),
                "{}:{}: say `crate::`",
                path.display(),
                n + 1
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{}: the first line is no module comment",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_undone() {
    for (path, text) in sources() {
        for word in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "TODO"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

/// `tests/FAULTS.md` names tests as `file::module::name`, or `library::path::name`; each of them exists.
#[test]
fn the_table_of_faults_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("tests/FAULTS.md")).unwrap();
    let mut named = 0;
    for word in table.split('`').skip(1).step_by(2) {
        let Some((module, name)) = word.rsplit_once("::").filter(|(_, name)| !name.is_empty())
        else {
            continue;
        };
        named += 1;
        let path = match module.strip_prefix("library::") {
            Some(module) => root.join(format!("src/{}.rs", module.replace("::", "/"))),
            None => root.join(format!("tests/{}.rs", module.replace("::", "/"))),
        };
        let text =
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("{word}: {}: {e}", path.display()));
        assert!(text.contains(&format!("fn {name}(")), "no test {word}");
    }
    assert!(named > 40, "the table was not found");
}

/// A version is the first word of a migration's name, and counts once.
#[test]
fn no_two_migrations_have_one_version() {
    for place in ["migrations", "migrations/headquarters"] {
        let mut versions = std::collections::BTreeSet::new();
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
        for entry in fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "sql") {
                let name = path.file_name().unwrap().to_str().unwrap();
                let (version, _) = name.split_once('_').unwrap();
                assert!(versions.insert(version.to_owned()), "{name}");
            }
        }
        assert!(!versions.is_empty(), "{}", place.display());
    }
}
