//! `cert issue|show|list|verify`

use std::path::PathBuf;
use std::time::Duration;

use openssl::x509::{X509, X509Req};
use serde_json::json;
use tempfile::TempDir;

use crate::support::device::Device;
use crate::support::world::{OwnWorld, World, free_port, shared};
use crate::{Done, finish, run, text};

/// A device with its request in files.
struct Bench {
    device: Device,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let (device, dir) = (Device::p256(), TempDir::new().unwrap());
        std::fs::write(dir.path().join("csr.pem"), device.csr()).unwrap();
        let der = X509Req::from_pem(device.csr().as_bytes()).unwrap();
        std::fs::write(dir.path().join("csr.der"), der.to_der().unwrap()).unwrap();
        Self { device, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `cert issue` for this device, and more arguments.
    fn issue(&self, world: &World, csr: &str, more: &[&str]) -> Done {
        let mut arguments = vec!["cert", "issue", "--profile", "lightbulb", "--csr"];
        let csr = if csr == "-" {
            "-".to_owned()
        } else {
            text(&self.file(csr)).to_owned()
        };
        let subject: Vec<String> = self
            .device
            .subject()
            .iter()
            .map(|(kind, value)| format!("{kind}={value}"))
            .collect();
        arguments.push(&csr);
        for pair in &subject {
            arguments.extend(["--subject", pair]);
        }
        arguments.extend(more);
        finish(world.program(&arguments), self.device.csr().as_bytes())
    }
}

#[test]
fn a_certificate_and_its_chain_come_on_standard_output_and_the_rest_on_standard_error() {
    let bench = Bench::new();
    let done = bench.issue(shared(), "csr.pem", &[]).ok();
    let chain = X509::stack_from_pem(&done.out).unwrap();
    assert_eq!(chain.len(), 2);
    assert!(chain[0].public_key().unwrap().public_eq(&bench.device.key));
    let pem: Vec<u8> = chain.iter().flat_map(|c| c.to_pem().unwrap()).collect();
    assert_eq!(done.text(), String::from_utf8(pem).unwrap());
    let serial = chain[0]
        .serial_number()
        .to_bn()
        .unwrap()
        .to_hex_str()
        .unwrap()
        .to_lowercase();
    done.says(&serial)
        .says("issued")
        .says(&format!("thing `{}`", bench.device.name));

    let file = bench.file("leaf.pem");
    std::fs::write(&file, chain[0].to_pem().unwrap()).unwrap();
    run(shared(), &["cert", "verify", text(&file)])
        .ok()
        .silent()
        .says("verified");
}

#[test]
fn a_request_may_be_a_pem_file_a_der_file_or_standard_input() {
    let bench = Bench::new();
    let from_file = bench.issue(shared(), "csr.pem", &[]).ok();
    assert!(
        !from_file.err.contains("issued before"),
        "{}",
        from_file.err
    );
    for csr in ["csr.der", "-"] {
        // The same device and key: the same certificate, and it says so.
        let again = bench.issue(shared(), csr, &[]).ok().says("issued before");
        assert_eq!(again.text(), from_file.text(), "{csr}");
    }
    let json = bench
        .issue(shared(), "csr.pem", &["--json"])
        .ok()
        .says("issued before");
    assert_eq!(json.json()["status"], "issued");
}

#[test]
fn der_is_the_certificate_alone() {
    let bench = Bench::new();
    let done = bench.issue(shared(), "csr.der", &["--format", "der"]).ok();
    let leaf = X509::from_der(&done.out).unwrap();
    assert_eq!(leaf.to_der().unwrap(), done.out);
    let file = bench.file("leaf.der");
    std::fs::write(&file, &done.out).unwrap();
    run(shared(), &["cert", "verify", text(&file)])
        .ok()
        .silent();
}

#[test]
fn json_is_the_answer_of_the_api() {
    let bench = Bench::new();
    let order = format!("WO-{}", bench.device.name);
    shared().order(&order, "lightbulb");
    let issued = bench
        .issue(shared(), "-", &["--json", "--order", &order])
        .ok()
        .json();
    assert_eq!(issued["order"], order);
    assert_eq!(issued["subject"], json!(bench.device.subject()));
    assert_eq!(issued["station"], "station-01");
    let serial = issued["serial_number"].as_str().unwrap();
    let shown = run(shared(), &["cert", "show", serial, "--json"])
        .ok()
        .json();
    assert_eq!(shown, issued);
    let pem = run(shared(), &["cert", "show", serial])
        .ok()
        .says(serial)
        .text();
    assert!(pem.starts_with(issued["certificate"].as_str().unwrap()));
}

#[test]
fn an_idempotency_key_stands_for_one_request() {
    let (bench, other) = (Bench::new(), Bench::new());
    let key = ["--idempotency-key", bench.device.name.as_str()];
    let first = bench.issue(shared(), "-", &key).ok();
    let again = bench.issue(shared(), "-", &key).ok().says("issued before");
    assert_eq!(first.text(), again.text());
    other
        .issue(shared(), "-", &key)
        .fails(4)
        .silent()
        .says("idempotency-key-reused");
}

#[test]
fn a_list_shows_what_its_filters_name() {
    let bench = Bench::new();
    let issued = bench.issue(shared(), "-", &["--json"]).ok().json();
    let (serial, cn) = (
        issued["serial_number"].as_str().unwrap(),
        format!("cn={}", bench.device.name),
    );
    let page = run(shared(), &["cert", "list", "--filter", &cn, "--json"])
        .ok()
        .json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert_eq!(page["items"][0]["serial_number"], serial);
    assert!(page["next"].is_null());
    let table = run(
        shared(),
        &[
            "cert",
            "list",
            "--filter",
            &cn,
            "--filter",
            "profile=lightbulb",
        ],
    )
    .ok()
    .text();
    assert!(
        table.contains(serial) && table.contains(&bench.device.name),
        "{table}"
    );
    let none = run(
        shared(),
        &[
            "cert",
            "list",
            "--filter",
            &cn,
            "--filter",
            "profile=workshop",
            "--json",
        ],
    )
    .ok();
    assert_eq!(none.json()["items"], json!([]));
}

#[test]
fn what_does_not_exist_is_not_found() {
    run(
        shared(),
        &["cert", "show", &"0".repeat(31).replacen('0', "01", 1)],
    )
    .fails(3)
    .silent()
    .says("not-found");
}

#[test]
fn a_refusal_lists_every_violation_on_standard_error() {
    let bench = Bench::new();
    let csr = bench.file("csr.pem");
    let issue = |more: &[&str]| {
        run(
            shared(),
            &[
                &[
                    "cert",
                    "issue",
                    "--profile",
                    "lightbulb",
                    "--csr",
                    text(&csr),
                ],
                more,
            ]
            .concat(),
        )
    };
    let wrong = ["--subject", "CN=a lamp", "--subject", "C=Germany"];
    let done = issue(&wrong).fails(4).silent().says("422 ");
    // The country's length, and the serial number that is not there.
    let violations: Vec<&str> = done
        .err
        .lines()
        .filter(|line| line.starts_with("  "))
        .collect();
    assert!(violations.len() >= 2, "{}", done.err);
    assert!(
        violations.iter().any(|line| line.contains(" C: ")),
        "{}",
        done.err
    );
    // For a program the problem itself is the data.
    let problem = issue(&[&wrong[..], &["--json"]].concat()).fails(4).json();
    assert_eq!(
        problem["violations"].as_array().unwrap().len(),
        violations.len()
    );

    let mut unknown = shared().program(&["cert", "issue", "--profile", "nothing", "--csr", "-"]);
    unknown.env_remove("CERTFACTORY_CLIENT_CERTIFICATE");
    finish(unknown, bench.device.csr().as_bytes())
        .fails(4)
        .silent()
        .says("unknown-profile");
    run(shared(), &["cert", "list", "--filter", "colour=red"])
        .fails(4)
        .silent()
        .says("colour");
    // Another key for a device that has a certificate.
    bench.issue(shared(), "-", &[]).ok();
    let rekeyed = Bench {
        device: bench.device.rekeyed(),
        dir: TempDir::new().unwrap(),
    };
    rekeyed
        .issue(shared(), "-", &[])
        .fails(4)
        .silent()
        .says("device-already-certified");
}

#[test]
fn what_is_no_request_at_all_is_a_usage_error() {
    let bench = Bench::new();
    let csr = bench.file("csr.pem");
    run(shared(), &["cert", "issue", "--csr", text(&csr)])
        .fails(2)
        .silent()
        .says("--profile");
    run(
        shared(),
        &[
            "cert",
            "issue",
            "--profile",
            "lightbulb",
            "--csr",
            text(&csr),
            "--subject",
            "lamp",
        ],
    )
    .fails(2)
    .silent()
    .says("`lamp` is not NAME=VALUE");
    run(shared(), &["cert", "list", "--filter", "lamp"])
        .fails(2)
        .silent();
    run(shared(), &["cert", "show", "../stations"])
        .fails(2)
        .silent();
    run(shared(), &["cert", "list", "--url", "http://127.0.0.1"])
        .fails(2)
        .silent()
        .says("https://");
}

#[test]
fn a_service_that_is_not_there_is_a_dependency_that_is_down() {
    let url = format!("https://127.0.0.1:{}", free_port());
    Bench::new()
        .issue(shared(), "-", &["--url", &url])
        .fails(5)
        .silent()
        .says("connecting to 127.0.0.1");
    run(shared(), &["cert", "list", "--url", &url])
        .fails(5)
        .silent();
}

#[test]
fn a_database_that_is_down_is_a_dependency_that_is_down() {
    let own = OwnWorld::running();
    own.stop_postgres("immediate");
    own.wait_not_ready("database", Duration::from_secs(15));
    let done = Bench::new().issue(&own.world, "-", &[]).fails(5).silent();
    done.says("503 database-unavailable");
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let world = shared();
    let stranger = world.dir.join("clients/operator.pem");
    run(world, &["cert", "verify", text(&stranger)])
        .fails(4)
        .silent()
        .says("operator.pem");
    let trusted = world.dir.join("tls/clients-ca.pem");
    run(
        world,
        &["cert", "verify", text(&stranger), "--ca", text(&trusted)],
    )
    .ok()
    .silent();
    run(
        world,
        &[
            "cert",
            "verify",
            text(&world.dir.join("tls/server.pem")),
            "--ca",
            text(&world.dir.join("tls/ca.pem")),
        ],
    )
    .fails(4)
    .says("purpose");
}
