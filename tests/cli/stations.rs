//! `station`, `cert confirm|supersede|scrap|revoke|history`, and the manual's page of a station's day.

use std::path::Path;
use std::process::Command;

use crate::support::device::Device;
use crate::support::world::{OwnWorld, World, shared};
use crate::{Done, finish, run, text};

#[test]
fn the_manual_page_works_as_it_stands_with_curl_and_openssl_alone() {
    let world = shared();
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&world.dir, dir.path().join(".dev")).unwrap();
    let page = include_str!("../../src/manual/stations.md");
    let script: String = page
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!script.contains("certfactory "), "{script}");
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(dir.path());
    let said = finish(shell, b"").ok().text();
    // The last answer is the history of the first certificate.
    let history = said.rsplit_once("{\"serial_number\"").unwrap().1;
    let history: serde_json::Value =
        serde_json::from_str(&format!("{{\"serial_number\"{history}")).unwrap();
    assert_eq!(history["status"], "superseded");
    let path = "/v1/certificates?device=lamp-000031&station=station-07";
    let found = world.client("auditor").get(path).json();
    let states: Vec<&str> = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["status"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["scrapped", "superseded"]);
}

fn as_administrator(world: &World, arguments: &[&str]) -> Done {
    let certificate = world.dir.join("clients/administrator.pem");
    run(
        world,
        &[arguments, &["--client-certificate", text(&certificate)]].concat(),
    )
}

fn write(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_station_is_added_enrolled_shown_and_renewed_from_the_command_line() {
    let world = shared();
    let dir = tempfile::tempdir().unwrap();
    let rights = ["--act", "issue", "--hours", "mon-sun 00:00-24:00"];
    let add = [&["station", "add", "station-cli"], &rights[..]].concat();
    let code = as_administrator(world, &add).ok().text();
    let key = Device::p256();
    let csr = write(dir.path(), "key.csr", key.csr().as_bytes());
    let wrong = write(dir.path(), "wrong", b"not a code");
    let code = write(dir.path(), "code", code.as_bytes());
    let enrol = |code: &str| {
        run(
            world,
            &[
                "station",
                "enrol",
                "station-cli",
                "--csr",
                &csr,
                "--code-file",
                code,
            ],
        )
    };
    enrol(&wrong).fails(2).says("no enrolment code");
    let pem = enrol(&code).ok().text();
    assert_eq!(enrol(&code).ok().text(), pem, "the same again");
    let shown = as_administrator(world, &["station", "show", "station-cli", "--json"]).ok();
    let shown = shown.json();
    assert_eq!(shown["rights"]["hours"][0], "mon-sun 00:00-24:00");
    assert_eq!(shown["keys"].as_array().unwrap().len(), 1);
    let listed = as_administrator(world, &["station", "list"]).ok().text();
    assert!(listed.contains("station-cli"), "{listed}");

    let certificate = write(dir.path(), "station.pem", pem.as_bytes());
    write(
        dir.path(),
        "station.key",
        &key.key.private_key_to_pem_pkcs8().unwrap(),
    );
    std::thread::sleep(std::time::Duration::from_secs(1));
    let new = write(dir.path(), "new.csr", Device::p256().csr().as_bytes());
    let renew = [
        "station",
        "renew",
        "station-cli",
        "--csr",
        &new,
        "--client-certificate",
        &certificate,
    ];
    assert!(run(world, &renew).ok().text().contains("BEGIN CERTIFICATE"));
    as_administrator(world, &["station", "disable", "station-cli"]).ok();
    as_administrator(world, &["station", "show", "nobody-here"]).fails(3);
}

#[test]
fn the_first_administrator_is_registered_in_the_database_while_nobody_else_can_be() {
    let own = OwnWorld::running();
    let world = &own.world;
    let first = |name: &str| run(world, &["station", "first-administrator", name]);
    first("anna").fails(4).silent().says("can connect");
    world.sql("UPDATE principal SET disabled = true WHERE role = 'administrator'");
    first("operator").fails(4).silent();
    let earlier = first("anna").ok().text();
    let code = first("anna").ok().text();

    let dir = tempfile::tempdir().unwrap();
    let key = Device::p256();
    let csr = write(dir.path(), "anna.csr", key.csr().as_bytes());
    let enrol = |code: &str| {
        let code = write(dir.path(), "code", code.as_bytes());
        run(
            world,
            &[
                "station",
                "enrol",
                "anna",
                "--csr",
                &csr,
                "--code-file",
                &code,
            ],
        )
    };
    enrol(&earlier).fails(4);
    let pem = enrol(&code).ok().text();
    let certificate = write(dir.path(), "anna.pem", pem.as_bytes());
    let key = key.key.private_key_to_pem_pkcs8().unwrap();
    write(dir.path(), "anna.key", &key);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let list = ["station", "list", "--client-certificate", &certificate];
    assert!(run(world, &list).ok().text().contains("anna"));
    first("berta").fails(4).says("can connect");
}

#[test]
fn a_units_life_from_the_command_line() {
    let world = shared();
    let dir = tempfile::tempdir().unwrap();
    let device = Device::p256();
    let name = format!("CN={}", device.name);
    let csr = write(dir.path(), "device.csr", device.csr().as_bytes());
    let issue = [
        "cert",
        "issue",
        "--profile",
        "lightbulb",
        "--csr",
        &csr,
        "--subject",
        &name,
        "--subject",
        "serialNumber=SNCLI1",
        "--subject",
        "C=DE",
        "--json",
    ];
    let certificate = run(world, &issue).ok().json();
    let serial = certificate["serial_number"].as_str().unwrap();
    let pem = certificate["certificate"].as_str().unwrap();
    let readback = write(dir.path(), "readback.pem", pem.as_bytes());
    let confirm = |serial: &str, file: &str| {
        run(
            world,
            &["cert", "confirm", serial, "--readback", file, "--json"],
        )
    };
    assert_eq!(
        confirm(serial, &readback).ok().json()["status"],
        "confirmed"
    );
    let other = write(
        dir.path(),
        "other.pem",
        certificate["ca_chain"][0].as_str().unwrap().as_bytes(),
    );
    confirm(serial, &other).fails(4);

    let csr = write(dir.path(), "new.csr", device.rekeyed().csr().as_bytes());
    let rework = [
        "cert",
        "supersede",
        serial,
        "--csr",
        &csr,
        "--reason",
        "flash replaced",
        "--json",
    ];
    let second = run(world, &rework).ok().json();
    let second = second["serial_number"].as_str().unwrap();
    let scrap = ["cert", "scrap", second, "--reason", "cracked", "--json"];
    assert_eq!(run(world, &scrap).ok().json()["status"], "scrapped");
    let history = run(world, &["cert", "history", serial]).ok().text();
    assert!(history.contains("superseded"), "{history}");
    let operator = world.dir.join("clients/operator.pem");
    let revoke = [
        "cert",
        "revoke",
        serial,
        "--reason",
        "keyCompromise",
        "--client-certificate",
        text(&operator),
        "--json",
    ];
    let revoked = run(world, &revoke).ok().json();
    assert_eq!(revoked["status"], "superseded", "the first end counts");
    let hold = [&revoke[..4], &["certificateHold"], &revoke[5..]].concat();
    run(world, &hold).fails(4);
}
