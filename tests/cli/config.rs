//! `config check|show`, `doctor`, `migrate`

use std::fs;

use serde_json::Value;

use crate::support::world::{OwnWorld, shared};
use crate::{Done, run, text};

#[test]
fn a_sound_configuration_has_no_fault() {
    run(shared(), &["config", "check"])
        .ok()
        .silent()
        .says("3 issuers, 2 profiles, no fault");
}

#[test]
fn all_faults_of_a_configuration_are_told_at_once() {
    let dir = shared().dir.join("broken");
    fs::create_dir_all(dir.join("profiles")).unwrap();
    fs::write(dir.join("profiles/garbled.toml"), "issuer = [").unwrap();
    fs::write(dir.join("empty-pin"), "").unwrap();
    let sound = fs::read_to_string(shared().dir.join("profiles/workshop.toml")).unwrap();
    fs::write(
        dir.join("profiles/orphan.toml"),
        sound.replace("line-rsa", "line-gone"),
    )
    .unwrap();
    fs::copy(
        shared().dir.join("profiles/jitp-workshop.json"),
        dir.join("profiles/jitp-workshop.json"),
    )
    .unwrap();
    let broken = r#"
        [http]
        listen = "127.0.0.1:0"
        certificate = "missing-server.pem"
        private_key = "../tls/server.key"
        client_ca = "../tls/clients-ca.pem"
        listn = "127.0.0.1:1"
        [database]
        url = "postgres://certfactory:hunter2@localhost/certfactory"
        [[hsm]]
        name = "softhsm"
        module = "libsofthsm2.so"
        token_label = "certfactory-dev"
        pin_file = "missing-pin"
        pin = "9876-5432"
        [[hsm]]
        name = "other"
        module = "libsofthsm2.so"
        token_label = "certfactory-dev"
        pin_file = "empty-pin"
        sessions = 0
        [[issuer]]
        name = "line-ec"
        hsm = "nowhere"
        key_label = "line-ec"
        key_id = "xyz"
        certificate = "../issuers/line-ec.pem"
        [[issuer]]
        name = "line-ec"
        hsm = "softhsm"
        key_label = "line-rsa"
        certificate = "missing-issuer.pem"
        [[issuer]]
        name = "sharded"
        hsm = "softhsm"
        key_label = "line-ec"
        certificate = "../issuers/line-ec.pem"
        crl_url = "http://pki.example/sharded.crl"
        crl_shards = 4
        [[issuer]]
        name = "placed"
        hsm = "softhsm"
        key_label = "line-rsa"
        certificate = "../issuers/line-rsa.pem"
        crl_url = "http://pki.example/placed-{shard}.crl"
        [[issuer]]
        name = "line"
        hsm = "softhsm"
        key_label = "line-rsa"
        certificate = "../issuers/line-rsa.pem"
        crl_url = "http://pki.example/line-{shard}.crl"
        crl_shards = 4
        [[issuer]]
        name = "line-3"
        hsm = "softhsm"
        key_label = "line-rsa"
        certificate = "../issuers/line-rsa.pem"
        [crl]
        every_seconds = 0
        next_update_hours = 10000
        [issuance]
        instance = 200
        deadline_ms = 1
    "#;
    let config = dir.join("config.toml");
    fs::write(&config, broken).unwrap();
    let done = run(shared(), &["config", "check", "--config", text(&config)])
        .fails(1)
        .silent();
    let faults = [
        "unknown field `http.listn`",
        "unknown field `hsm.0.pin`",
        "missing-server.pem: No such file",
        "database.url: a password does not belong here",
        "missing-pin: No such file",
        "empty-pin: is empty",
        "hsm `other`: sessions must be",
        "issuer `line-ec`: no [[hsm]] is named `nowhere`",
        "key_id is not hexadecimal",
        "issuer `line-ec` is there twice",
        "missing-issuer.pem: No such file",
        "issuer sharded: crl_shards is set, so crl_url must hold {shard} once",
        "issuer placed: crl_url holds {shard}, but crl_shards is not set",
        "issuer `line-3`: its CRL would have the name of a shard of issuer `line`",
        "crl.every_seconds: must be 1 to 3600",
        "crl.next_update_hours: must be 1 to 8760",
        "garbled.toml: ",
        "orphan.toml: no [[issuer]] is named `line-gone`",
        "issuance.instance: must be 1 to 127",
        "issuance.deadline_ms: must be",
    ];
    let missing: Vec<_> = faults
        .iter()
        .filter(|fault| !done.err.contains(**fault))
        .collect();
    assert!(missing.is_empty(), "not told: {missing:#?}\n{}", done.err);
    no_secret(&done);
    // The commands that do not need the files refuse it too, and keep the secret as well.
    for command in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["migrate"],
        &["issuer", "list"],
        &["serve"],
    ] {
        let done = run(shared(), &[command, &["--config", text(&config)]].concat())
            .fails(1)
            .silent();
        no_secret(&done);
    }
}

fn no_secret(done: &Done) {
    for secret in ["hunter2", "9876"] {
        assert!(!done.err.contains(secret), "{}", done.err);
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_told_by_line_and_without_its_text() {
    let sound = fs::read_to_string(shared().dir.join("config.toml")).unwrap();
    let config = shared().dir.join("mistyped.toml");
    for (wrong, expected) in [
        ("pin_file = 98765432", "expected "),
        ("pin_file = \"98765432", "line "),
    ] {
        fs::write(&config, sound.replace("pin_file = \"softhsm/pin\"", wrong)).unwrap();
        let done = run(shared(), &["config", "check", "--config", text(&config)])
            .fails(1)
            .silent();
        let line = 1 + sound
            .lines()
            .position(|line| line.starts_with("pin_file"))
            .unwrap();
        let done = done.says(&format!("line {line}: ")).says(expected);
        no_secret(&done);
    }
    let missing = shared().dir.join("not-there.toml");
    run(shared(), &["config", "check", "--config", text(&missing)])
        .fails(1)
        .silent()
        .says("not-there.toml: No such file");
}

#[test]
fn the_shown_configuration_is_complete_and_means_the_same() {
    let shown = run(shared(), &["config", "show"]).ok().text();
    // Elsewhere: all its paths are absolute.
    let elsewhere = tempfile::TempDir::new().unwrap();
    let copy = elsewhere.path().join("config.toml");
    fs::write(&copy, &shown).unwrap();
    run(shared(), &["config", "check", "--config", text(&copy)]).ok();
    assert_eq!(
        run(shared(), &["config", "show", "--config", text(&copy)])
            .ok()
            .text(),
        shown
    );
    let json = run(shared(), &["config", "show", "--json"]).ok().json();
    let toml: Value = toml::from_str(&shown).unwrap();
    assert_eq!(json, toml);
    // Defaults are spelt out.
    assert_eq!(json["issuance"]["deadline_ms"], 5000);
    assert_eq!(json["log"]["level"], "info");
}

#[test]
fn doctor_finds_nothing_wrong_with_a_sound_world() {
    let findings = run(shared(), &["doctor"]).ok().text();
    let lines: Vec<&str> = findings.lines().filter(|it| !it.starts_with(' ')).collect();
    assert_eq!(lines.len(), 20, "{findings}");
    // How full this machine's disk is, is not the world's fault.
    let sound = |line: &&&str| line.starts_with("ok ") || line.starts_with("warn disk");
    // A world that was just made has no backup, and says what helps.
    assert_eq!(lines.iter().filter(sound).count(), 19, "{findings}");
    let warned =
        "warn backup: there was none\n     certfactory backup DIRECTORY (/runbooks/backup-old)";
    assert!(findings.contains(warned), "{findings}");
    let findings = run(shared(), &["doctor", "--json"]).ok().json();
    let findings = findings.as_array().unwrap();
    assert!(
        findings.len() == 20 && findings.iter().all(|finding| finding["ok"] == true),
        "{findings:?}"
    );
}

#[test]
fn doctor_and_migrate_say_which_neighbour_is_wrong() {
    let own = OwnWorld::make();
    let failures = |done: &Done| -> Vec<String> {
        done.text()
            .lines()
            .filter(|line| line.starts_with("FAIL"))
            .map(str::to_owned)
            .collect()
    };
    // Its PostgreSQL is not running.
    let done = run(&own.world, &["doctor"]).fails(5);
    let found = failures(&done);
    assert!(
        found.len() == 1 && found[0].starts_with("FAIL database: "),
        "{found:?}"
    );
    run(&own.world, &["migrate"])
        .fails(5)
        .silent()
        .says("migrating");

    own.start_postgres();
    for _ in 0..2 {
        run(&own.world, &["migrate"])
            .ok()
            .silent()
            .says("the schema is up to date");
    }
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_file())
        .count();
    assert_eq!(
        own.world
            .sql("SELECT count(*) FROM _sqlx_migrations WHERE success"),
        files.to_string()
    );
    run(&own.world, &["doctor"]).ok();

    fs::write(own.world.dir.join("softhsm/pin"), "wrong-pin-0123456789").unwrap();
    let done = run(&own.world, &["doctor"]).fails(5);
    let found = failures(&done);
    assert_eq!(found.len(), 8, "one for each key: {done:?}");
    assert!(
        found
            .iter()
            .all(|line| line.contains("hsm key of") && line.contains("PIN")),
        "{found:?}"
    );
    assert!(
        !done.text().contains("wrong-pin") && !done.err.contains("wrong-pin"),
        "{done:?}"
    );
}
