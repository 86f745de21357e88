//! What a provisioned device may do.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::bench::{Bench, Endpoint, Identity, said, within};

const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

fn provisioned(bench: &Bench, endpoint: &Endpoint, name: &str) -> Identity {
    let device = bench.device(name, &format!("/C=DE/CN={name}"));
    endpoint.introduce(&device, name);
    device
}

/// A subscriber that has its SUBACK.
fn subscriber(endpoint: &Endpoint, device: &Identity, id: &str, more: &[&str]) -> Child {
    let n = endpoint.count("subscribed");
    let mut command = endpoint.client("mosquitto_sub", device, id);
    let child = command
        .args(more)
        .args(["-W", "20", "-C", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    endpoint.wait_for("subscribed", n);
    child
}

#[test]
fn a_client_id_that_the_policy_does_not_allow_is_refused() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = provisioned(&bench, &endpoint, "lamp-1");
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let output = endpoint.publish_with(&device, "other", "all", &["-V", version]);
        assert!(!output.status.success());
        let refused = endpoint.wait_for("connect-refused", n);
        assert_eq!(refused["aws_reason"], "AUTHORIZATION_FAILURE");
        assert_eq!(refused["client_id"], "other");
        let note = refused["notes"][0].as_str().unwrap();
        assert!(
            note.contains("the client id `other` is not the thing's name `lamp-1`"),
            "{note}"
        );
        // MQTT 5 has a word for it; in 3.1.1 AWS IoT just closes
        assert_eq!(
            said(&output).to_lowercase().contains("not authorized"),
            version == "mqttv5",
            "{}",
            said(&output)
        );
    }
    let long = "x".repeat(129);
    assert!(!endpoint.publish(&device, &long, "all").status.success());
    let refused = endpoint.wait_for("connect-refused", 2);
    assert!(refused["detail"].as_str().unwrap().contains("129 octets"));
}

#[test]
fn a_forbidden_topic_ends_the_connection_and_reaches_nobody() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = provisioned(&bench, &endpoint, "lamp-1");
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let topic = "factory/lamp-2/state";
        let output = endpoint.publish_with(&device, "lamp-1", topic, &["-V", version]);
        assert!(
            !output.status.success() || said(&output).contains("Not authorized"),
            "{version}: {output:?}"
        );
        let refused = endpoint.wait_for("publish-refused", n);
        assert_eq!(refused["topic"], topic);
        assert_eq!(
            refused["detail"],
            "no statement allows iot:Publish on topic/factory/lamp-2/state"
        );
    }
    endpoint.wait_until(2, |step| {
        step["event"] == "disconnected" && step["aws_reason"] == "AUTHORIZATION_FAILURE"
    });
    // A retained message needs iot:RetainPublish too.
    let topic = "factory/lamp-1/state";
    endpoint.publish_with(&device, "lamp-1", topic, &["-r"]);
    let refused = endpoint.wait_for("publish-refused", 2);
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("iot:RetainPublish")
    );
}

#[test]
fn what_one_device_publishes_another_receives() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let one = provisioned(&bench, &endpoint, "lamp-1");
    let two = provisioned(&bench, &endpoint, "lamp-2");
    for (version, other, qos) in [
        ("mqttv311", "mqttv311", "1"),
        ("mqttv5", "mqttv311", "1"),
        ("mqttv311", "mqttv5", "0"),
        ("mqttv5", "mqttv5", "1"),
    ] {
        let child = subscriber(
            &endpoint,
            &two,
            "lamp-2",
            &["-t", "all", "-q", qos, "-V", version, "-F", "%t %p %q"],
        );
        let published = endpoint.publish_with(&one, "lamp-1", "all", &["-V", other]);
        assert!(published.status.success(), "{published:?}");
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.trim(), format!("all hello {qos}"), "{version} {other}");
    }
}

#[test]
fn mqtt_5_carries_properties_and_names_a_nameless_client() {
    let bench = Bench::new();
    let mut policy = crate::bench::device_policy();
    policy["Statement"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({
        "Effect": "Allow", "Action": "iot:Connect", "Resource": "*" }));
    bench.write("policy.json", &policy.to_string());
    let endpoint = bench.endpoint();
    let one = provisioned(&bench, &endpoint, "lamp-1");
    let two = provisioned(&bench, &endpoint, "lamp-2");
    let child = subscriber(
        &endpoint,
        &two,
        "lamp-2",
        &["-t", "all", "-V", "mqttv5", "-F", "%R|%C|%P"],
    );
    let more = "-V mqttv5 -D publish user-property colour red -D publish content-type text/plain \
                -D publish response-topic answer";
    let more: Vec<&str> = more.split_whitespace().collect();
    assert!(
        endpoint
            .publish_with(&one, "", "all", &more)
            .status
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim(), "answer|text/plain|colour:red");
    let named = endpoint.wait_for("published", 2);
    assert!(
        named["client_id"].as_str().unwrap().starts_with("$GEN/"),
        "{named}"
    );
}

#[test]
fn a_forbidden_filter_is_not_granted_and_the_others_are() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = provisioned(&bench, &endpoint, "lamp-1");
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let mut command = endpoint.client("mosquitto_sub", &device, "lamp-1");
        command.args([
            "-d",
            "-t",
            "factory/#",
            "-t",
            "all",
            "-W",
            "3",
            "-V",
            version,
        ]);
        let output = within(command, Duration::from_secs(10));
        let granted = if version == "mqttv5" {
            "135, 0"
        } else {
            "128, 0"
        };
        assert!(said(&output).contains(granted), "{}", said(&output));
        let refused = endpoint.wait_for("subscribe-refused", n);
        assert_eq!(refused["topic_filter"], "factory/#");
        assert_eq!(refused["aws_reason"], "AUTHORIZATION_FAILURE");
        assert_eq!(endpoint.wait_for("subscribed", n)["topic_filter"], "all");
    }
}

#[test]
fn a_subscriber_that_may_not_receive_gets_nothing_and_it_is_said() {
    let bench = Bench::new();
    let mut policy = crate::bench::device_policy();
    policy["Statement"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({
        "Sid": "NoReceive", "Effect": "Deny", "Action": "iot:Receive", "Resource": "*" }));
    bench.write("policy.json", &policy.to_string());
    let endpoint = bench.endpoint();
    let one = provisioned(&bench, &endpoint, "lamp-1");
    let two = provisioned(&bench, &endpoint, "lamp-2");
    let mut child = subscriber(&endpoint, &two, "lamp-2", &["-t", "all"]);
    assert!(endpoint.publish(&one, "lamp-1", "all").status.success());
    let refused = endpoint.wait("receive-refused");
    assert_eq!(refused["subscriber"], "lamp-2");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("(NoReceive) denies iot:Receive")
    );
    child.kill().unwrap();
    let mut received = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut received)
        .unwrap();
    child.wait().unwrap();
    assert_eq!(received, "");
}

#[test]
fn a_second_connection_of_a_client_id_ends_the_first() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = provisioned(&bench, &endpoint, "lamp-1");
    let mut first = subscriber(&endpoint, &device, "lamp-1", &["-t", "all"]);
    assert!(
        endpoint
            .publish(&device, "lamp-1", "factory/lamp-1/x")
            .status
            .success()
    );
    endpoint.wait("client-id-taken-over");
    endpoint.wait_until(1, |step| step["aws_reason"] == "DUPLICATE_CLIENTID");
    first.kill().ok();
    first.wait().unwrap();
}

#[test]
fn qos_2_is_not_spoken() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let device = provisioned(&bench, &endpoint, "lamp-1");
    let mut command = endpoint.client("mosquitto_pub", &device, "lamp-1");
    command.args(["-t", "all", "-m", "x", "-q", "2"]);
    within(command, Duration::from_secs(5));
    endpoint.wait_until(1, |step| {
        step["aws_reason"] == "CLIENT_ERROR" && step["detail"].as_str().unwrap().contains("QoS 2")
    });
}

#[test]
fn a_last_will_is_published_when_the_device_is_lost() {
    let bench = Bench::new();
    let endpoint = bench.endpoint();
    let one = provisioned(&bench, &endpoint, "lamp-1");
    let two = provisioned(&bench, &endpoint, "lamp-2");
    let watcher = subscriber(&endpoint, &two, "lamp-2", &["-t", "all"]);
    let will = [
        "-t",
        "factory/lamp-1/x",
        "--will-topic",
        "all",
        "--will-payload",
        "lost",
    ];
    let mut dying = subscriber(&endpoint, &one, "lamp-1", &will);
    dying.kill().unwrap();
    dying.wait().unwrap();
    let output = watcher.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "lost");
    assert_eq!(endpoint.wait("will-published")["client_id"], "lamp-1");
}
