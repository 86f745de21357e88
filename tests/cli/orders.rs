//! `order`: the manual's page as it stands, and what the command says of tickets and lists.

use std::path::Path;
use std::process::Command;

use crate::support::ticket::{claims, ticket};
use crate::support::world::{World, shared};
use crate::{finish, run, text};

/// The page's blocks for a shell, in sequence, as one script.
fn blocks(page: &str) -> String {
    page.split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

fn operator<'a>(world: &'a World, certificate: &'a str, arguments: &[&'a str]) -> crate::Done {
    let arguments = [arguments, &["--client-certificate", certificate]].concat();
    run(world, &arguments)
}

#[test]
fn the_manual_page_works_as_it_stands() {
    let world = shared();
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&world.dir, dir.path().join(".dev")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_certfactory"));
    let release = dir.path().join("target/release");
    std::fs::create_dir_all(&release).unwrap();
    std::os::unix::fs::symlink(program, release.join("certfactory")).unwrap();
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/orders.md"));
    let script = blocks(&page.unwrap());
    assert!(script.contains("--ticket WO-18.jws"), "{script}");
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(dir.path());
    let done = finish(shell, b"").ok();
    let said = done.text();
    assert!(said.contains("WO-18"), "{said}");
    let (_, report) = said
        .split_once("Verified OK\n")
        .expect("the report verifies");
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["order"]["name"], "WO-17");
    assert_eq!(report["counts"]["issued"], 1);
    let shown = |name: &str| {
        world
            .client("auditor")
            .get(&format!("/v1/orders/{name}"))
            .json()
    };
    assert_eq!(shown("WO-17")["issued"], 1);
    assert_eq!(shown("WO-18")["ticket"]["jti"], "2026-0018");
    assert_eq!(shown("WO-18")["quantity"], 500);
    assert_eq!(shown("WO-19")["device_count"], 2);
    assert_eq!(
        world.sql("SELECT count(*) FROM order_ticket WHERE work_order = 'WO-18'"),
        "1"
    );
}

#[test]
fn a_refused_ticket_is_exit_code_four_and_a_list_goes_by_its_ending() {
    let world = shared();
    let dir = tempfile::tempdir().unwrap();
    let certificate = world.dir.join("clients/operator.pem");
    let file = dir.path().join("ticket.jws");
    let order = serde_json::json!({ "name": "WO-cli", "profile": "lightbulb", "quantity": 1 });
    let good = ticket(&world.dir, &claims("cli-1", order));
    std::fs::write(&file, format!("{good}x")).unwrap();
    let create = ["order", "create", "--json", "--ticket", text(&file)];
    let refused = operator(world, text(&certificate), &create).fails(4);
    assert_eq!(refused.json()["type"], "/problems/ticket-malformed");
    std::fs::write(&file, &good).unwrap();
    let made = operator(world, text(&certificate), &create).ok().json();
    assert_eq!(made["ticket"]["jti"], "cli-1");
    // A ticket says all: nothing beside it, and nothing missing without it.
    run(world, &["order", "create", "WO-x", "--ticket", text(&file)]).fails(2);
    run(
        world,
        &[
            "order",
            "create",
            "--ticket",
            text(&file),
            "--quantity",
            "5",
        ],
    )
    .fails(2);
    run(
        world,
        &["order", "create", "WO-x", "--profile", "lightbulb"],
    )
    .fails(2);
    run(world, &["order", "create", "--ticket", "none.jws"])
        .fails(1)
        .says("none.jws");

    let make = [
        "order",
        "create",
        "WO-cli-2",
        "--profile",
        "lightbulb",
        "--quantity",
        "9",
        "--device-pattern",
        "lamp-####",
    ];
    operator(world, text(&certificate), &make).ok();
    let list = dir.path().join("list.ndjson");
    std::fs::write(&list, "\"lamp-0001\"\n\"lamp-0002\"\n").unwrap();
    let devices = ["order", "devices", "WO-cli-2", text(&list), "--json"];
    let given = operator(world, text(&certificate), &devices).ok().json();
    assert_eq!(
        (&given["device_count"], &given["device_pattern"]),
        (&2.into(), &"lamp-####".into())
    );
    run(world, &["order", "devices", "WO-cli-2", "list.txt"])
        .fails(2)
        .says(".csv");
}

#[test]
fn a_report_key_is_made_in_its_token_and_is_never_an_issuers() {
    let world = shared();
    let configured = |name: &str, change: &dyn Fn(&mut toml::Table)| {
        let text = std::fs::read_to_string(world.dir.join("config.toml")).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        change(&mut config);
        let path = world.dir.join(name);
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        path
    };
    let key = |config: &mut toml::Table, label: &str, file: &str| {
        let section = config["site"]["report_key"].as_table_mut().unwrap();
        section.insert("key_label".into(), label.into());
        section.insert("public_key".into(), file.into());
    };
    let another = configured("another.toml", &|c| {
        key(c, "report-2", "head-office/report-2.pem")
    });
    let make = ["order", "report-key", "--config", text(&another)];
    let made = run(world, &make).ok().text();
    assert!(made.starts_with("-----BEGIN PUBLIC KEY-----"), "{made}");
    let file = world.dir.join("head-office/report-2.pem");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), made);
    run(world, &["config", "check", "--config", text(&another)]).ok();
    run(world, &make).fails(1).silent().says("report-2.pem");
    std::fs::remove_file(&file).unwrap();
    run(world, &make)
        .fails(1)
        .silent()
        .says("already holds a key");
    assert!(!file.exists(), "nothing was made that it could be of");

    type Change<'a> = &'a dyn Fn(&mut toml::Table);
    let cases: [(Change, &str); 6] = [
        (
            &|c| key(c, "line-ec", "head-office/report.pem"),
            "an issuer's key signs no reports",
        ),
        (
            &|c| key(c, "report", "head-office/ticket.pem"),
            "site.report_key",
        ),
        (
            &|c| drop(c["site"].as_table_mut().unwrap().remove("id")),
            "site.id: must be there",
        ),
        (
            &|c| {
                drop(
                    c.remove("ticket_key").and(
                        c["site"]
                            .as_table_mut()
                            .unwrap()
                            .insert("tickets_required".into(), true.into()),
                    ),
                )
            },
            "site.tickets_required",
        ),
        (
            &|c| {
                c["ticket_key"][0]
                    .as_table_mut()
                    .unwrap()
                    .insert("public_key".into(), "issuers/line-rsa.pem".into());
            },
            "is no public key",
        ),
        (
            &|c| {
                let twice = c["ticket_key"][0].clone();
                c["ticket_key"].as_array_mut().unwrap().push(twice);
            },
            "each once",
        ),
    ];
    for (change, says) in cases {
        let wrong = configured("wrong.toml", change);
        run(world, &["config", "check", "--config", text(&wrong)])
            .fails(1)
            .says(says);
    }
}
