//! `batch`: the manual's page as it stands, a list, and one device's key out of a package.

use std::path::Path;
use std::process::Command;

use openssl::pkcs12::Pkcs12;
use serde_json::json;

use crate::support::device::Device;
use crate::support::recipient::Recipient;
use crate::support::world::shared;
use crate::{finish, run, text};

#[test]
fn the_manual_page_works_as_it_stands() {
    let world = shared();
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&world.dir, dir.path().join(".dev")).unwrap();
    let page = include_str!("../../src/manual/batches.md");
    let (_, rest) = page.split_once("```sh\n").unwrap();
    let (script, _) = rest.split_once("```").unwrap();
    assert!(script.contains("batch verify"), "{script}");
    let programs = Path::new(env!("CARGO_BIN_EXE_certfactory"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell
        .args(["-euc", script])
        .env("PATH", path)
        .current_dir(dir.path());
    let said = finish(shell, b"").ok().text();
    assert!(said.contains("-----BEGIN PRIVATE KEY-----"), "{said}");
    assert!(said.contains("# 1 lightbulb-00000001"), "{said}");

    // Once more: its devices are certified, and it says so.
    let recipient = Recipient::new();
    let arguments = [
        "batch",
        "create",
        "--profile",
        "lightbulb",
        "--count",
        "2",
        "--recipient",
    ];
    let again = run(
        world,
        &[&arguments[..], &[text(&recipient.path("r.pem"))]].concat(),
    );
    again.fails(4).says("device-already-certified");
}

#[test]
fn a_list_becomes_a_package_and_one_devices_key_comes_out_of_it() {
    let (world, recipient) = (shared(), Recipient::new());
    let devices = [Device::p256(), Device::p256()];
    let rows = devices
        .iter()
        .map(|device| format!("{},{},DE\n", device.name, device.subject()["serialNumber"]));
    let (list, tar) = (recipient.path("list.csv"), recipient.path("p.tar"));
    std::fs::write(
        &list,
        format!("CN,serialNumber,C\n{}", rows.collect::<String>()),
    )
    .unwrap();
    let made = run(
        world,
        &[
            "--json",
            "batch",
            "create",
            "--profile",
            "lightbulb",
            "--list",
            text(&list),
            "--recipient",
            text(&recipient.path("r.pem")),
            "--download",
            text(&tar),
        ],
    )
    .ok();
    let batch: serde_json::Value = serde_json::from_str(&made.text()).unwrap();
    assert_eq!(
        (&batch["state"], &batch["issued"]),
        (&json!("done"), &json!(2))
    );
    let id = batch["id"].as_str().unwrap();
    assert!(run(world, &["batch", "list"]).ok().text().contains(id));
    assert!(
        run(world, &["batch", "show", id])
            .ok()
            .text()
            .contains("done")
    );

    let (key, password) = (recipient.path("r.key"), recipient.path("password"));
    std::fs::write(&password, "correct horse\n").unwrap();
    let (pem, p12) = (recipient.path("one.pem"), recipient.path("one.p12"));
    let open = |more: &[&str]| {
        let arguments = [
            "batch",
            "open",
            text(&tar),
            "--recipient-key",
            text(&key),
            "--device",
            &devices[1].name,
        ];
        run(world, &[&arguments[..], more].concat())
    };
    open(&["--out", text(&pem)]).ok();
    let pem = std::fs::read(&pem).unwrap();
    let opened = openssl::pkey::PKey::private_key_from_pem(&pem).unwrap();
    let certificate = openssl::x509::X509::from_pem(&pem).unwrap();
    assert!(certificate.public_key().unwrap().public_eq(&opened));
    open(&[
        "--format",
        "p12",
        "--password-file",
        text(&password),
        "--out",
        text(&p12),
    ])
    .ok();
    let parsed = Pkcs12::from_der(&std::fs::read(&p12).unwrap())
        .unwrap()
        .parse2("correct horse")
        .unwrap();
    assert!(parsed.pkey.unwrap().public_eq(&opened));

    let confirmed = run(world, &["--json", "batch", "confirm", id]).ok().text();
    assert!(confirmed.contains("keys_destroyed_at"));
    run(world, &["batch", "download", id, "--out", text(&tar)])
        .fails(4)
        .says("gone");
}
