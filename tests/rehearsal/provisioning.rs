//! What the template makes of a device, and when it makes nothing.

use serde_json::json;

use crate::bench::Bench;
use crate::support::world::data;

#[test]
fn a_subject_without_a_declared_parameter_is_never_provisioned() {
    let bench = Bench::new();
    let device = bench.device("lamp", "/CN=lamp-1");
    let endpoint = bench.endpoint();
    for n in 0..2 {
        let output = endpoint.publish(&device, "lamp-1", "all");
        assert!(!output.status.success());
        let failed = endpoint.wait_for("provisioning-failed", n);
        assert_eq!(
            failed["aws_reason"],
            "Invalid registration template. Cannot resolve reference value: \
             {Ref=AWS::IoT::Certificate::Country}"
        );
        assert_eq!(failed["certificate_status"], "PENDING_ACTIVATION");
        assert_eq!(failed["violations"][0]["rule"], "jitp-parameter-missing");
    }
    assert_eq!(endpoint.count("connected"), 0);
}

#[test]
fn a_common_name_that_is_no_thing_name_is_never_provisioned() {
    let bench = Bench::new();
    let device = bench.device("lamp", "/C=DE/CN=lamp 1");
    let endpoint = bench.endpoint();
    assert!(!endpoint.publish(&device, "lamp 1", "all").status.success());
    let failed = endpoint.wait("provisioning-failed");
    assert_eq!(failed["violations"][0]["rule"], "thing-name-pattern");
}

#[test]
fn a_second_device_of_the_same_name_is_reported() {
    let bench = Bench::new();
    let one = bench.device("one", "/C=DE/CN=lamp-1");
    let two = bench.device("two", "/C=DE/CN=lamp-1");
    let endpoint = bench.endpoint();
    endpoint.introduce(&one, "lamp-1");
    assert_eq!(endpoint.count("thing-name-collision"), 0);
    endpoint.introduce(&two, "lamp-1");
    let collision = endpoint.wait("thing-name-collision");
    let ids = [
        endpoint.wait_for("provisioned", 0)["certificate_id"].clone(),
        endpoint.wait_for("provisioned", 1)["certificate_id"].clone(),
    ];
    assert_eq!(collision["outcome"], "warning");
    assert_eq!(collision["thing_name"], "lamp-1");
    assert_eq!(collision["other_certificate_id"], ids[0]);
    assert_eq!(collision["certificate_id"], ids[1]);
}

#[test]
fn a_template_that_leaves_the_certificate_inactive_keeps_the_device_out() {
    let bench = Bench::new();
    let device = bench.device("lamp", "/C=DE/CN=lamp-1");
    let text = std::fs::read_to_string(data("jitp-workshop.json")).unwrap();
    bench.write("inactive.json", &text.replace("\"ACTIVE\"", "\"INACTIVE\""));
    let policy = format!("FactoryDevicePolicy={}", bench.path("policy.json"));
    let endpoint = bench.endpoint_with(&[
        "--template",
        &bench.path("inactive.json"),
        "--policy",
        &policy,
    ]);
    for _ in 0..2 {
        assert!(!endpoint.publish(&device, "lamp-1", "all").status.success());
    }
    assert_eq!(
        endpoint.wait("provisioned")["certificate_status"],
        "INACTIVE"
    );
    let refused = endpoint.wait("connect-refused");
    assert!(refused["detail"].as_str().unwrap().contains("INACTIVE"));
}

#[test]
fn the_lightbulbs_own_policy_lets_it_publish_but_never_connect() {
    // As AWS's example stands: its document allows iot:Publish and no iot:Connect.
    let bench = Bench::new();
    let device = bench.device("lamp", "/C=DE/serialNumber=SN1/CN=lamp-1");
    let template = data("jitp-lightbulb.json");
    let endpoint = bench.endpoint_with(&["--template", template.to_str().unwrap()]);
    for _ in 0..2 {
        assert!(
            !endpoint
                .publish(&device, "lamp-1", "foo/bar")
                .status
                .success()
        );
    }
    let made = endpoint.wait("provisioned");
    assert_eq!(made["thing_type"], "lightBulb-versionA");
    assert_eq!(made["groups"], json!(["v1-lightbulbs", "DE"]));
    assert_eq!(
        made["attributes"],
        json!({ "serialNumber": "SN1", "version": "v1" })
    );
    let refused = endpoint.wait("connect-refused");
    assert_eq!(refused["aws_reason"], "AUTHORIZATION_FAILURE");
    assert_eq!(
        refused["detail"],
        "no statement allows iot:Connect on client/lamp-1"
    );
}
