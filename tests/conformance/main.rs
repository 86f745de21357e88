//! Issued certificates before the verifiers that devices and clouds use, none of them ours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::device::Device;
use support::world::{free_port, issued, leaf, shared};
use tempfile::TempDir;

/// An issued certificate in files: leaf, leaf with chain, key, issuer.
struct Issued {
    name: String,
    dir: TempDir,
    issuer: PathBuf,
}

impl Issued {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Both issuers, both kinds of key, a fixed validity and one without end.
fn samples() -> Vec<Issued> {
    let cases = [
        ("lightbulb", "line-ec", Device::p256()),
        ("workshop", "line-rsa", Device::p256()),
        ("workshop", "line-rsa", Device::rsa2048()),
    ];
    let world = shared();
    cases
        .into_iter()
        .map(|(profile, issuer, device)| {
            let body = issued(&world.client("station-01").issue(&device.request(profile)));
            let dir = TempDir::new().unwrap();
            let leaf = body["certificate"].as_str().unwrap();
            std::fs::write(dir.path().join("leaf.pem"), leaf).unwrap();
            std::fs::write(
                dir.path().join("chain.pem"),
                format!("{leaf}{}", body["ca_chain"][0].as_str().unwrap()),
            )
            .unwrap();
            std::fs::write(
                dir.path().join("key.pem"),
                device.key.private_key_to_pem_pkcs8().unwrap(),
            )
            .unwrap();
            Issued {
                name: device.name,
                dir,
                issuer: world.dir.join(format!("issuers/{issuer}.pem")),
            }
        })
        .collect()
}

fn run(program: &Path, arguments: &[&Path]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    (
        output.status.success(),
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    )
}

fn accepts(program: &str, arguments: &[&Path]) -> String {
    let (success, text) = run(Path::new(program), arguments);
    assert!(success, "{program}: {text}");
    text
}

fn python(name: &str) -> PathBuf {
    let environment =
        std::env::var("CERTFACTORY_PYTHON").expect("tests/run sets CERTFACTORY_PYTHON");
    Path::new(&environment).join("bin").join(name)
}

#[test]
fn openssl_accepts_them_strictly_as_tls_clients() {
    for sample in samples() {
        let arguments = [
            "verify",
            "-x509_strict",
            "-policy_check",
            "-purpose",
            "sslclient",
            "-CAfile",
        ]
        .map(Path::new);
        accepts(
            "openssl",
            &[
                arguments.as_slice(),
                &[&sample.issuer, &sample.file("leaf.pem")],
            ]
            .concat(),
        );
    }
}

#[test]
fn gnutls_accepts_them() {
    for sample in samples() {
        let (chain, issuer) = (sample.file("chain.pem"), sample.issuer.clone());
        let text = accepts(
            "certtool",
            &[
                Path::new("--verify"),
                Path::new("--load-ca-certificate"),
                &issuer,
                Path::new("--infile"),
                &chain,
            ],
        );
        assert!(
            text.contains("Verified. The certificate is trusted."),
            "{text}"
        );
    }
}

#[test]
fn pythons_cryptography_accepts_them_as_clients() {
    // Its defaults for the web in full, but for one: a device has no name in DNS, so no SAN.
    let script = "
import sys
from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store
issuer, leaf = (x509.load_pem_x509_certificate(open(path, 'rb').read()) for path in sys.argv[1:3])
device = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
policy = PolicyBuilder().store(Store([issuer])).extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=device)
assert len(policy.build_client_verifier().verify(leaf, []).chain) == 2
";
    for sample in samples() {
        let (success, text) = run(
            &python("python"),
            &[
                Path::new("-c"),
                Path::new(script),
                &sample.issuer,
                &sample.file("leaf.pem"),
            ],
        );
        assert!(success, "{text}");
    }
}

#[test]
fn pkilint_finds_no_error() {
    for sample in samples() {
        let (success, text) = run(
            &python("lint_pkix_cert"),
            &[
                Path::new("lint"),
                Path::new("-s"),
                Path::new("ERROR"),
                &sample.file("leaf.pem"),
            ],
        );
        assert!(success, "{text}");
        let (success, text) = run(
            &python("lint_pkix_signer_signee_cert_chain"),
            &[
                Path::new("lint"),
                Path::new("-s"),
                Path::new("ERROR"),
                &sample.issuer,
                &sample.file("leaf.pem"),
            ],
        );
        assert!(success, "{text}");
        let (success, text) = run(
            &python("lint_pkix_cert"),
            &[
                Path::new("lint"),
                Path::new("-s"),
                Path::new("ERROR"),
                &sample.issuer,
            ],
        );
        assert!(success, "{text}");
    }
}

#[test]
fn what_aws_iot_verifies_a_ca_by_stands_before_them_too() {
    let world = shared();
    for issuer in ["line-ec", "line-rsa"] {
        let body = serde_json::json!({ "registration_code": "0123456789abcdef".repeat(4) });
        let answer = world.client("administrator").send(
            "POST",
            &format!("/v1/issuers/{issuer}/verification-certificates"),
            &[("Content-Type", "application/json")],
            Some(body.to_string().as_bytes()),
        );
        let dir = TempDir::new().unwrap();
        let (leaf, chain) = (dir.path().join("leaf.pem"), dir.path().join("chain.pem"));
        let issuer = world.dir.join(format!("issuers/{issuer}.pem"));
        let pem = issued(&answer)["certificate"].as_str().unwrap().to_owned();
        std::fs::write(&leaf, &pem).unwrap();
        std::fs::write(&chain, pem + &std::fs::read_to_string(&issuer).unwrap()).unwrap();
        let strictly = ["verify", "-x509_strict", "-policy_check", "-CAfile"].map(Path::new);
        accepts("openssl", &[&strictly[..], &[&issuer, &leaf]].concat());
        let trusting = ["--verify", "--load-ca-certificate"].map(Path::new);
        let text = accepts(
            "certtool",
            &[&trusting[..], &[&issuer, Path::new("--infile"), &chain]].concat(),
        );
        assert!(text.contains("The certificate is trusted."), "{text}");
        let lint = ["lint", "-s", "ERROR"].map(Path::new);
        for (linter, files) in [
            ("lint_pkix_cert", vec![leaf.as_path()]),
            ("lint_pkix_signer_signee_cert_chain", vec![&issuer, &leaf]),
        ] {
            let (success, text) = run(&python(linter), &[&lint[..], &files].concat());
            assert!(success, "{linter}: {text}");
        }
    }
}

#[test]
fn our_own_verify_command_agrees_and_refuses_a_stranger() {
    let samples = samples();
    for sample in &samples {
        let status = shared()
            .program(&["cert", "verify"])
            .arg(sample.file("chain.pem"))
            .status()
            .unwrap();
        assert!(status.success());
    }
    let refused = shared()
        .program(&["cert", "verify", "--ca"])
        .arg(&samples[1].issuer)
        .arg(samples[0].file("leaf.pem"))
        .output()
        .unwrap();
    assert_eq!(
        refused.status.code(),
        Some(4),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
}

#[test]
fn sigstore_accepts_a_checkpoint_and_the_proof_that_a_certificate_is_in_the_log() {
    let world = shared();
    let station = world.client("station-01");
    let body = issued(&station.issue(&Device::p256().request("lightbulb")));
    let serial = body["serial_number"].as_str().unwrap();
    let answer = station.get(&format!("/v1/certificates/{serial}/inclusion"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let dir = TempDir::new().unwrap();
    let proof = dir.path().join("inclusion.json");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/log.py");
    let key = world.dir.join("head-office/log.pem");
    let ask = |inclusion: &serde_json::Value| {
        std::fs::write(&proof, inclusion.to_string()).unwrap();
        run(&python("python"), &[&script, &key, &proof])
    };
    let inclusion = answer.json();
    let (good, said) = ask(&inclusion);
    assert!(
        good && said.contains("verified dev.example/certfactory"),
        "{said}"
    );
    let mut other = inclusion.clone();
    other["log_index"] = (other["log_index"].as_u64().unwrap() - 1).into();
    assert!(!ask(&other).0, "another place was accepted");
    let mut other = inclusion;
    let text = other["checkpoint"]
        .as_str()
        .unwrap()
        .replacen("dev.example", "dev.exampl", 1);
    other["checkpoint"] = text.into();
    assert!(!ask(&other).0, "another log's name was accepted");
}

#[test]
fn arrow_reads_a_parquet_export_that_says_what_ndjson_says() {
    let world = shared();
    let operator = world.client("operator");
    let order = format!("WO-{}", Device::p256().name);
    world.order(&order, "lightbulb");
    let made: Vec<_> = (0..4)
        .map(|n| {
            let mut request = Device::p256().request("lightbulb");
            // One without an order.
            if n > 0 {
                request["order"] = order.clone().into();
            }
            issued(&operator.issue(&request))
        })
        .collect();
    world.revoke(&made[1], "keyCompromise");
    let workshop = Device::p256();
    issued(&operator.issue(&workshop.request("workshop")));
    let dir = TempDir::new().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/parquet.py");
    let (file, lines) = (dir.path().join("file"), dir.path().join("lines"));
    for (filter, count) in [
        (format!("order={order}"), 3),
        (format!("device={}", made[0]["device"].as_str().unwrap()), 1),
        (format!("kind=any&cn={}", workshop.name), 1),
        ("cn=nonesuch".to_owned(), 0),
    ] {
        let path = format!("/v1/certificates?{filter}");
        let auditor = world.client("auditor");
        let rows = auditor.get_as(&path, "application/x-ndjson");
        let columns = auditor.get_as(&path, "application/vnd.apache.parquet");
        let named = Some("application/vnd.apache.parquet");
        assert_eq!(columns.header("content-type"), named);
        std::fs::write(&lines, &rows.body).unwrap();
        std::fs::write(&file, &columns.body).unwrap();
        let said = run(&python("python"), &[&script, &file, &lines]);
        assert_eq!(said, (true, format!("read {count}\n")), "{filter}");
    }
    // A part of a file is none.
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert!(!run(&python("python"), &[&script, &file, &lines]).0);
}

#[test]
fn openssl_gnutls_and_pkilint_accept_the_crls_and_believe_them() {
    let world = shared();
    let dir = TempDir::new().unwrap();
    let file = |name: &str, octets: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, octets).unwrap();
        path
    };
    for (profile, issuer) in [("lightbulb", "line-ec"), ("workshop", "line-rsa")] {
        let issue = || {
            let device = Device::p256();
            issued(&world.client("station-01").issue(&device.request(profile)))
        };
        let (good, bad) = (issue(), issue());
        world.revoke(&bad, "keyCompromise");
        let path = format!("/pki/{issuer}.crl");
        let der = world.wait_revoked(&path, &leaf(&bad), Duration::from_secs(10));
        let der = file("crl.der", &der);
        let pem = dir.path().join("crl.pem");
        let issuer = world.dir.join(format!("issuers/{issuer}.pem"));
        let convert = ["crl", "-inform", "DER", "-verify", "-CAfile"].map(Path::new);
        let rest = [Path::new("-in"), &der, Path::new("-out"), &pem];
        let text = accepts("openssl", &[&convert[..], &[&issuer], &rest].concat());
        assert!(text.contains("verify OK"), "{text}");

        let checked = ["verify", "-x509_strict", "-crl_check", "-CAfile"].map(Path::new);
        for (body, revoked) in [(&good, false), (&bad, true)] {
            let leaf = file("leaf.pem", body["certificate"].as_str().unwrap().as_bytes());
            let files = [&issuer, Path::new("-CRLfile"), &pem, &leaf];
            let (success, text) = run(Path::new("openssl"), &[&checked[..], &files].concat());
            assert_eq!(success, !revoked, "{text}");
            assert_eq!(text.contains("certificate revoked"), revoked, "{text}");
        }

        let read = ["--verify-crl", "--load-ca-certificate"].map(Path::new);
        let infile = [&issuer, Path::new("--infile"), &pem];
        let text = accepts("certtool", &[&read[..], &infile].concat());
        assert!(text.contains("Verified."), "{text}");
        let text = accepts(
            "certtool",
            &["--crl-info", "--infile"]
                .map(Path::new)
                .into_iter()
                .chain([pem.as_path()])
                .collect::<Vec<_>>(),
        );
        assert!(text.contains("CRL Number"), "{text}");

        let lint = ["lint", "-t", "CRL", "-p", "PKIX", "-s", "ERROR"].map(Path::new);
        let (success, text) = run(&python("lint_crl"), &[&lint[..], &[&der]].concat());
        assert!(success && text.trim().is_empty(), "{text}");
    }
}

#[test]
fn openssl_and_pkilint_accept_ocsp_answers_and_the_responders_certificate() {
    let world = shared();
    let dir = TempDir::new().unwrap();
    let answer = dir.path().join("answer.der");
    for (profile, issuer) in [("lightbulb", "line-ec"), ("workshop", "line-rsa")] {
        let device = Device::p256();
        let body = issued(&world.client("station-01").issue(&device.request(profile)));
        let serial = format!("0x{}", body["serial_number"].as_str().unwrap());
        let url = format!("{}/ocsp/{issuer}", world.repository);
        let responder = world.dir.join(format!("issuers/{issuer}-ocsp.pem"));
        let issuer = world.dir.join(format!("issuers/{issuer}.pem"));
        for revoked in [false, true] {
            if revoked {
                world.revoke(&body, "privilegeWithdrawn");
            }
            let arguments = [
                Path::new("ocsp"),
                Path::new("-issuer"),
                &issuer,
                Path::new("-CAfile"),
                &issuer,
                Path::new("-respout"),
                &answer,
                Path::new("-url"),
                Path::new(&url),
                Path::new("-serial"),
                Path::new(&serial),
            ];
            let text = accepts("openssl", &arguments);
            assert!(text.contains("Response verify OK"), "{text}");
            assert_eq!(text.contains(": revoked"), revoked, "{text}");
            let lint = ["lint", "-s", "ERROR"].map(Path::new);
            let (success, text) = run(
                &python("lint_ocsp_response"),
                &[&lint[..], &[&answer]].concat(),
            );
            assert!(success && text.trim().is_empty(), "{text}");
        }
        let lint = ["lint", "-s", "ERROR"].map(Path::new);
        let (success, text) = run(
            &python("lint_pkix_cert"),
            &[&lint[..], &[&responder]].concat(),
        );
        assert!(success, "{text}");
    }
}

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn devices_log_in_to_a_broker_with_them() {
    let world = shared();
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name);
    let issuers: String = ["line-ec", "line-rsa"]
        .iter()
        .map(|name| std::fs::read_to_string(world.dir.join(format!("issuers/{name}.pem"))).unwrap())
        .collect();
    std::fs::write(file("devices-ca.pem"), issuers).unwrap();
    std::fs::copy(world.dir.join("tls/server.pem"), file("server.pem")).unwrap();
    std::fs::copy(world.dir.join("tls/server.key"), file("server.key")).unwrap();
    let port = free_port();
    let path = |name: &str| file(name).display().to_string();
    let configuration = format!(
        "user root\nlistener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\n",
        path("devices-ca.pem"),
        path("server.pem"),
        path("server.key")
    );
    std::fs::write(file("mosquitto.conf"), configuration).unwrap();
    let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .expect("mosquitto is installed");
    let broker = Command::new(program)
        .arg("-c")
        .arg(file("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _broker = Broker(broker);
    let publish = |certificate: &Path, key: &Path, name: &str| {
        let output = Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-i",
                name,
                "-t",
                "birth",
                "-m",
                name,
                "-q",
                "1",
                "--cafile",
            ])
            .arg(world.dir.join("tls/ca.pem"))
            .arg("--cert")
            .arg(certificate)
            .arg("--key")
            .arg(key)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let samples = samples();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(std::time::Instant::now() < end, "the broker did not start");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for sample in &samples {
        let (success, text) = publish(
            &sample.file("chain.pem"),
            &sample.file("key.pem"),
            &sample.name,
        );
        assert!(success, "{}: {text}", sample.name);
    }
    let (success, _) = publish(
        &world.dir.join("clients/station-01.pem"),
        &world.dir.join("clients/station-01.key"),
        "stranger",
    );
    assert!(!success, "the broker takes anybody");
}
