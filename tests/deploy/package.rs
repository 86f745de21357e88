//! The Debian package, as far as can be said without making it: `tests/proofs/debian-package` makes and installs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::world::shared;
use crate::{ok, source};

fn metadata() -> toml::Value {
    let cargo: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    cargo["package"]["metadata"]["deb"].clone()
}

/// From where to where each asset goes.
fn assets() -> Vec<(String, String)> {
    let metadata = metadata();
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    let assets = metadata["assets"].as_array().unwrap().iter();
    assets.map(|it| (text(&it[0]), text(&it[1]))).collect()
}

#[test]
fn every_file_that_the_package_is_to_hold_is_there() {
    let made = tempfile::tempdir().unwrap();
    ok(Command::new(env!("CARGO_BIN_EXE_certfactory"))
        .arg("packaging")
        .arg(made.path()));
    let mut targets = BTreeSet::new();
    for (from, to) in assets() {
        let pattern = match from.strip_prefix("target/debian-pages/") {
            Some(page) => made.path().join(page),
            None => source(&from),
        };
        if from != "target/release/certfactory" {
            let (directory, name) = (pattern.parent().unwrap(), pattern.file_name().unwrap());
            let suffix = name.to_str().unwrap().rsplit('*').next().unwrap();
            let found = fs::read_dir(directory).unwrap().flatten();
            let found = found.filter(|it| it.file_name().to_str().unwrap().ends_with(suffix));
            assert!(found.count() > 0, "{from}: there is none");
        }
        let name = Path::new(&from).file_name().unwrap().to_str().unwrap();
        targets.insert(if to.ends_with('/') {
            format!("/{to}{name}")
        } else {
            format!("/{to}")
        });
    }
    let metadata = metadata();
    for file in metadata["conf-files"].as_array().unwrap() {
        assert!(
            targets.contains(file.as_str().unwrap()),
            "{file} is in no asset"
        );
    }
    // A page of each command that has one of its own, and none of what is hidden.
    let pages = made.path().join("man");
    assert!(
        pages.join("certfactory.1").exists() && pages.join("certfactory-issuer-init.1").exists()
    );
    assert!(!pages.join("certfactory-packaging.1").exists());
    for (shell, file) in [
        ("bash", "bash/certfactory.bash"),
        ("sh", "bash/certfactory.bash"),
    ] {
        let file = made.path().join(file);
        if shell == "bash" {
            ok(Command::new(shell).arg("-n").arg(&file));
        }
        assert!(
            fs::read_to_string(file)
                .unwrap()
                .contains("first-administrator")
        );
    }
}

#[test]
fn the_configuration_that_the_package_brings_is_sound_once_the_keys_are_made() {
    let world = &shared().dir;
    let dir = tempfile::tempdir().unwrap();
    let place = |from: &Path, to: &str| {
        let to = dir.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    for (from, to) in assets() {
        if let Some(directory) = to.strip_prefix("etc/certfactory/") {
            let from = source(&from);
            let name = from.file_name().unwrap().to_str().unwrap();
            place(&from, &format!("{directory}{name}"));
        }
    }
    // What the commands of the manual's page make.
    for issuer in ["line-ec", "stations"] {
        let file = format!("issuers/{issuer}.pem");
        place(&world.join(&file), &file);
    }
    place(&world.join("head-office/log.pem"), "issuers/log.pem");
    place(&world.join("tls/server.pem"), "tls/server.pem");
    place(&world.join("tls/server.key"), "tls/server.key");
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certfactory"));
        command
            .args(["config", "check", "--config"])
            .arg(dir.path().join("config.toml"))
            .env_remove("CREDENTIALS_DIRECTORY");
        crate::finish(&mut command)
    };
    let without_pin = check();
    assert!(!without_pin.status.success());
    place(&world.join("softhsm/pin"), "credentials/pin");
    let said = String::from_utf8(check().stderr).unwrap();
    assert!(said.contains("2 issuers, 1 profiles, no fault"), "{said}");
}

#[test]
fn the_manual_needs_at_most_fifteen_commands() {
    let page = include_str!("../../src/manual/install.md");
    let commands = page.split("```sh\n").skip(1).flat_map(|rest| {
        let block = rest.split("```").next().unwrap().replace("\\\n", "");
        block.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let count = commands.count();
    assert!((10..=15).contains(&count), "{count} commands");
}

#[test]
fn the_packages_scripts_are_clean_before_shellcheck() {
    let mut shellcheck = Command::new("shellcheck");
    let scripts = [
        "make-database",
        "make-softhsm-token",
        "build",
        "scripts/postinst",
        "scripts/prerm",
        "scripts/postrm",
    ];
    for script in scripts {
        shellcheck.arg(source("deploy/debian").join(script));
    }
    for script in ["deploy/sbom", "deploy/kubernetes/render", "deploy/ha/raise"] {
        shellcheck.arg(source(script));
    }
    for proof in ["debian-package", "container", "kubernetes", "failover"] {
        shellcheck.arg(source("tests/proofs").join(proof));
    }
    ok(&mut shellcheck);
}
