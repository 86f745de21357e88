//! The command: arguments, what it prints where, how it ends, what it remembers.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bench::{Bench, certificate_id, said, within};
use crate::support::faults::signal;
use crate::support::world::data;

fn rehearse(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_certfactory"));
    command.args(["jitp", "rehearse", "--listen", "127.0.0.1:0"]);
    command.args(arguments);
    within(command, Duration::from_secs(15))
}

#[test]
fn what_is_missing_is_said_before_anything_listens() {
    let bench = Bench::new();
    let workshop = data("jitp-workshop.json");
    let (template, ca) = (workshop.to_str().unwrap(), bench.path("ca.pem"));
    let write = bench.path("w.pem");
    bench.write(
        "broken.json",
        "{ \"Version\": \"2012-10-17\", \"Statement\": [{}] }",
    );
    bench.write("notemplate.json", "{}");
    let broken = format!("FactoryDevicePolicy={}", bench.path("broken.json"));
    let absent = format!("FactoryDevicePolicy={}", bench.path("absent.json"));
    for (arguments, code, words) in [
        (&["--ca", &ca, "--write-ca", &write][..], 2, "--template"),
        (&["--ca", &ca, "--template", template], 2, "--write-ca"),
        (
            &["--template", template, "--write-ca", &write],
            2,
            "--issuer",
        ),
        (
            &["--ca", &ca, "--template", template, "--write-ca", &write],
            4,
            "Policy FactoryDevicePolicy not found",
        ),
        (
            &[
                "--ca",
                &ca,
                "--template",
                template,
                "--write-ca",
                &write,
                "--policy",
                &broken,
            ],
            4,
            "policy-effect at `/Statement/0/Effect`",
        ),
        (
            &[
                "--ca",
                &ca,
                "--template",
                template,
                "--write-ca",
                &write,
                "--policy",
                &absent,
            ],
            3,
            "absent.json",
        ),
        (
            &[
                "--ca",
                &ca,
                "--template",
                template,
                "--write-ca",
                &write,
                "--policy",
                "x",
            ],
            2,
            "NAME=FILE",
        ),
        (
            &[
                "--ca",
                &ca,
                "--write-ca",
                &write,
                "--template",
                &bench.path("notemplate.json"),
            ],
            4,
            "template-",
        ),
        (
            &[
                "--ca",
                template,
                "--write-ca",
                &write,
                "--template",
                template,
            ],
            4,
            "issuer",
        ),
    ] {
        let output = rehearse(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?} {}",
            said(&output)
        );
        assert!(
            said(&output).contains(words),
            "{arguments:?} {}",
            said(&output)
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn sigterm_and_ctrl_c_end_it_with_exit_0_and_connections_are_told() {
    let bench = Bench::new();
    for with in [Signal::SIGTERM, Signal::SIGINT] {
        let endpoint = bench.endpoint();
        let device = bench.device("lamp", "/C=DE/CN=lamp-1");
        endpoint.introduce(&device, "lamp-1");
        let mut command = endpoint.client("mosquitto_sub", &device, "lamp-1");
        let mut child = command
            .args(["-t", "all"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        endpoint.wait("subscribed");
        let (code, steps) = endpoint.stop(with);
        assert_eq!(code, Some(0));
        assert_eq!(steps.last().unwrap()["event"], "stopped");
        let ended = steps
            .iter()
            .any(|step| step["aws_reason"] == "SERVER_INITIATED_DISCONNECT");
        assert!(ended, "{steps:#?}");
        child.kill().ok();
        child.wait().unwrap();
    }
}

#[test]
fn with_a_state_file_a_device_is_known_after_a_restart() {
    let bench = Bench::new();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    let workshop = data("jitp-workshop.json");
    let policy = format!("FactoryDevicePolicy={}", bench.path("policy.json"));
    let state = bench.path("state");
    let arguments = [
        "--template",
        workshop.to_str().unwrap(),
        "--policy",
        &policy,
        "--state",
        &state,
    ];
    let endpoint = bench.endpoint_with(&arguments);
    endpoint.introduce(&device, "lamp-1");
    endpoint.stop(Signal::SIGTERM);
    // A line torn by a crash costs nothing but itself.
    let text = std::fs::read_to_string(&state).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains(&certificate_id(&device.certificate)));
    std::fs::write(&state, format!("{text}{}", &text[..40])).unwrap();

    let endpoint = bench.endpoint_with(&arguments);
    let output = endpoint.publish(&device, "lamp-1", "all");
    assert!(
        output.status.success(),
        "{output:?} {:#?}",
        endpoint.steps()
    );
    assert_eq!(endpoint.count("provisioned"), 0);
    // The thing is remembered too.
    let twin = bench.device("twin", "/C=DE/CN=lamp-1");
    endpoint.introduce(&twin, "lamp-1");
    endpoint.wait("thing-name-collision");
    endpoint.stop(Signal::SIGTERM);
    // And the tear is gone, not in the middle now.
    let endpoint = bench.endpoint_with(&arguments);
    assert!(endpoint.publish(&twin, "lamp-1", "all").status.success());
    endpoint.stop(Signal::SIGTERM);

    // A policy that a known device has must be there, whatever the template says now.
    let lightbulb = data("jitp-lightbulb.json");
    let (ca, write) = (bench.path("ca.pem"), bench.path("w.pem"));
    let output = rehearse(&[
        "--ca",
        &ca,
        "--write-ca",
        &write,
        "--template",
        lightbulb.to_str().unwrap(),
        "--state",
        &state,
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("Policy FactoryDevicePolicy not found"));

    std::fs::write(&state, "something else\nand more\n").unwrap();
    let mut refused = vec!["--ca", &ca, "--write-ca", &write];
    refused.extend(arguments);
    let output = rehearse(&refused);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("line 1 is none of a rehearsal"),
        "{}",
        said(&output)
    );
}

#[test]
fn without_json_people_read_the_transcript_on_standard_output() {
    let bench = Bench::new();
    let workshop = data("jitp-workshop.json");
    let mut process = Command::new(env!("CARGO_BIN_EXE_certfactory"))
        .args([
            "jitp",
            "rehearse",
            "--listen",
            "127.0.0.1:0",
            "--ca",
            &bench.path("ca.pem"),
        ])
        .args(["--template", workshop.to_str().unwrap()])
        .args([
            "--policy",
            &format!("FactoryDevicePolicy={}", bench.path("policy.json")),
        ])
        .args(["--write-ca", &bench.path("w.pem")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(
        first.contains("ok      listening: localhost on 127.0.0.1:"),
        "{first}"
    );
    signal(process.id(), Signal::SIGTERM);
    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(last.contains("stopped"), "{last}");
    assert!(process.wait().unwrap().success());
}

#[test]
fn an_own_server_certificate_is_shown_as_it_is() {
    let bench = Bench::new();
    crate::bench::openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        &bench.path("server.key"),
        "-out",
        &bench.path("server.pem"),
        "-subj",
        "/CN=bench",
        "-addext",
        "subjectAltName=DNS:iot.bench",
    ]);
    let workshop = data("jitp-workshop.json");
    let mut process = Command::new(env!("CARGO_BIN_EXE_certfactory"))
        .args(["--json", "jitp", "rehearse", "--listen", "127.0.0.1:0"])
        .args(["--ca", &bench.path("ca.pem"), "--endpoint", "iot.bench"])
        .args(["--template", workshop.to_str().unwrap()])
        .args([
            "--policy",
            &format!("FactoryDevicePolicy={}", bench.path("policy.json")),
        ])
        .args(["--server-certificate", &bench.path("server.pem")])
        .args(["--server-key", &bench.path("server.key")])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let first: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["endpoint"], "iot.bench");
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", first["listen"].as_str().unwrap()])
        .args([
            "-servername",
            "iot.bench",
            "-CAfile",
            &bench.path("server.pem"),
        ])
        .arg("-cert")
        .arg(&device.certificate)
        .arg("-key")
        .arg(&device.key)
        .stdin(Stdio::null());
    let output = within(command, Duration::from_secs(15));
    assert!(
        said(&output).contains("Verify return code: 0 (ok)"),
        "{}",
        said(&output)
    );
    signal(process.id(), Signal::SIGTERM);
    assert!(process.wait().unwrap().success());
}
