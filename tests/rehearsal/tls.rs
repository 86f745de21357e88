//! Who gets through the handshake.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::bench::{Bench, Endpoint, Identity, certificate_id, said, within};

/// `openssl s_client`, which says nothing and waits for the end of the connection or its input.
fn s_client(endpoint: &Endpoint, identity: Option<&Identity>, more: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{}", endpoint.port),
        ])
        .arg("-CAfile")
        .arg(&endpoint.ca)
        .args(more)
        .stdin(Stdio::null());
    if let Some(identity) = identity {
        command.arg("-cert").arg(&identity.certificate);
        command.arg("-key").arg(&identity.key);
    }
    within(command, Duration::from_secs(15))
}

#[test]
fn a_handshake_names_the_endpoint_or_is_refused() {
    let bench = Bench::new();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    let endpoint = bench.endpoint();

    let without = s_client(&endpoint, Some(&device), &["-noservername"]);
    assert!(!without.status.success(), "{}", said(&without));
    assert!(
        said(&without).contains("unrecognized name"),
        "{}",
        said(&without)
    );
    let refused = endpoint.wait("tls-refused");
    assert!(refused["detail"].as_str().unwrap().contains("no SNI"));
    assert_eq!(refused["sni"], serde_json::Value::Null);
    assert!(refused["peer"].as_str().unwrap().starts_with("127.0.0.1:"));

    let other = s_client(&endpoint, Some(&device), &["-servername", "iot.example"]);
    assert!(!other.status.success(), "{}", said(&other));
    let refused = endpoint.wait_for("tls-refused", 1);
    assert_eq!(refused["sni"], "iot.example");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("`iot.example`")
    );

    // mosquitto names the address when it is given one
    let mut by_address = endpoint.client("mosquitto_pub", &device, "lamp-1");
    by_address.args(["-h", "127.0.0.1", "--insecure", "-t", "all", "-m", "x"]);
    assert!(!within(by_address, Duration::from_secs(15)).status.success());
    assert!(
        endpoint.wait_for("tls-refused", 2)["detail"]
            .as_str()
            .unwrap()
            .contains("the SNI is `127.0.0.1`")
    );

    let right = s_client(&endpoint, Some(&device), &["-servername", "LOCALHOST"]);
    assert!(
        said(&right).contains("Verify return code: 0 (ok)"),
        "{}",
        said(&right)
    );
    endpoint.wait("tls-accepted");
    assert_eq!(
        endpoint.count("provisioned"),
        0,
        "a handshake registers nobody"
    );
}

#[test]
fn both_versions_of_tls_and_awss_alpn_are_spoken_and_nothing_else() {
    let bench = Bench::new();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    let endpoint = bench.endpoint();
    let sni = ["-servername", "localhost"];
    for (more, version) in [
        (&["-tls1_2"][..], "TLSv1.2"),
        (&["-tls1_3"], "TLSv1.3"),
        (&["-tls1_3", "-alpn", "x-amzn-mqtt-ca"], "TLSv1.3"),
        (&["-tls1_2", "-alpn", "h2,x-amzn-mqtt-ca"], "TLSv1.2"),
    ] {
        let n = endpoint.count("tls-accepted");
        let output = s_client(&endpoint, Some(&device), &[&sni[..], more].concat());
        assert_eq!(endpoint.wait_for("tls-accepted", n)["tls"], version);
        let chosen = said(&output).contains("ALPN protocol: x-amzn-mqtt-ca");
        assert_eq!(chosen, more.contains(&"-alpn"), "{}", said(&output));
    }
    let alpn = s_client(
        &endpoint,
        Some(&device),
        &["-servername", "localhost", "-alpn", "mqtt"],
    );
    assert!(!alpn.status.success(), "{}", said(&alpn));
    let refused = endpoint.wait("tls-refused");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("ALPN offers mqtt")
    );
    let old = s_client(
        &endpoint,
        Some(&device),
        &[
            "-servername",
            "localhost",
            "-tls1_1",
            "-cipher",
            "ALL:@SECLEVEL=0",
        ],
    );
    assert!(!old.status.success(), "{}", said(&old));
}

#[test]
fn only_certificates_that_aws_would_register_get_through() {
    let bench = Bench::new();
    bench.make_ca("other"); // the same name, another key
    let p256 = "ec_paramgen_curve:prime256v1";
    for (name, ca, key, days, reason) in [
        (
            "stranger",
            "other",
            p256,
            "10",
            "does not verify under the registered CA",
        ),
        ("expired", "ca", p256, "-1", "expired"),
        (
            "weak",
            "ca",
            "rsa:1024",
            "10",
            "The key in the certificate is not valid",
        ),
    ] {
        bench.make_device(name, &format!("/C=DE/CN={name}"), ca, key, days);
        let endpoint = bench.endpoint();
        let identity = Identity {
            certificate: bench.file(&format!("{name}.pem")),
            key: bench.file(&format!("{name}.key")),
        };
        let more = ["-servername", "localhost", "-cipher", "ALL:@SECLEVEL=0"];
        s_client(&endpoint, Some(&identity), &more);
        let refused = endpoint.wait("tls-refused");
        assert!(
            refused["detail"].as_str().unwrap().contains(reason),
            "{refused}"
        );
        assert_eq!(endpoint.count("tls-accepted"), 0);
        let published = endpoint.publish(&identity, name, "all");
        assert!(!published.status.success());
        assert_eq!(endpoint.count("provisioned"), 0);
    }
    let endpoint = bench.endpoint();
    let nobody = s_client(&endpoint, None, &["-servername", "localhost", "-tls1_2"]);
    assert!(!nobody.status.success(), "{}", said(&nobody));
    let refused = endpoint.wait("tls-refused");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("did not return a certificate"),
        "{refused}"
    );
}

#[test]
fn the_leaf_alone_is_enough_and_a_foreign_chain_does_not_matter() {
    let bench = Bench::new();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    let endpoint = bench.endpoint();
    endpoint.introduce(&device, "lamp-1");
    assert_eq!(
        endpoint.wait("provisioned")["certificate_id"]
            .as_str()
            .unwrap(),
        certificate_id(&device.certificate)
    );
}
