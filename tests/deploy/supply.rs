//! What the product is made of: `deploy/deny.toml` holds for every dependency.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::{ok, source};

/// Every package that a build for Linux could take in, tests and features that are off included.
fn packages() -> Vec<Value> {
    let mut metadata = Command::new(env!("CARGO"));
    metadata
        .args(["metadata", "--locked", "--offline", "--format-version=1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .arg("--manifest-path")
        .arg(source("Cargo.toml"));
    let metadata: Value = serde_json::from_str(&ok(&mut metadata)).unwrap();
    let ours = |it: &&Value| it["name"] != "certfactory";
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().filter(ours).cloned().collect()
}

fn rules() -> toml::Table {
    include_str!("../../deploy/deny.toml").parse().unwrap()
}

fn words(list: &toml::Value) -> BTreeSet<&str> {
    let words = list.as_array().unwrap().iter();
    words.map(|word| word.as_str().unwrap()).collect()
}

/// Whether an SPDX expression can be satisfied by licences of the list. `/` is an old way to say OR;
/// AND binds closer, and parentheses only stand around an OR.
fn satisfied(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let alternatives = |text: &str| {
        let text = text.replace('/', " OR ");
        text.split(" OR ")
            .any(|part| part.split(" AND ").all(|it| allowed.contains(it.trim())))
    };
    match expression.split_once(')') {
        None => alternatives(expression),
        Some((inside, rest)) => {
            let (before, inside) = inside.split_once('(').unwrap();
            let others = before.trim().strip_suffix("AND").unwrap_or(before);
            let rest = rest.trim().strip_prefix("AND").unwrap_or(rest);
            let others = [others, rest];
            let mut others = others.iter().filter(|it| !it.trim().is_empty());
            alternatives(inside) && others.all(|it| satisfied(it, allowed))
        }
    }
}

#[test]
fn every_dependency_has_a_licence_of_the_list_and_comes_from_the_registry() {
    let rules = rules();
    let allowed = words(&rules["licenses"]["allow"]);
    assert!(satisfied("(MIT OR Apache-2.0) AND Unicode-3.0", &allowed));
    assert!(satisfied("GPL-2.0-only OR MIT", &allowed));
    assert!(satisfied("Unlicense/MIT", &allowed));
    assert!(!satisfied("GPL-3.0-only", &allowed));
    assert!(!satisfied("MIT AND LGPL-2.1-only", &allowed));
    assert!(!satisfied("(MIT OR Apache-2.0) AND GPL-3.0-only", &allowed));

    let packages = packages();
    assert!(packages.len() > 100, "{}", packages.len());
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let faults: Vec<String> = packages
        .iter()
        .filter(|it| {
            let licence = it["license"].as_str().unwrap_or("none");
            !satisfied(licence, &allowed) || it["source"] != registry
        })
        .map(|it| {
            format!(
                "{} {}: {} from {}",
                it["name"], it["version"], it["license"], it["source"]
            )
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_dependency_is_a_banned_one() {
    let rules = rules();
    let banned = rules["bans"]["deny"].as_array().unwrap();
    let banned: BTreeSet<&str> = banned
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert!(banned.contains("pkcs11"));
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        assert!(!banned.contains(name), "{name} is among the dependencies");
    }
}
