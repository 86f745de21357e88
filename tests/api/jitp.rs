//! `POST /v1/jitp/lint` and `/v1/jitp/evaluate`

use serde_json::Value;
use serde_json::json;

use crate::support::device::Device;
use crate::support::http::Response;
use crate::support::world::{issued, shared};

const LIGHTBULB: &str = include_str!("../data/jitp-lightbulb.json");
const WORKSHOP: &str = include_str!("../data/jitp-workshop.json");
const BAD_TEMPLATES: &str = include_str!("../data/jitp/bad_templates.json");

fn ask(client: &str, path: &str, body: &Value) -> Response {
    shared().client(client).send(
        "POST",
        path,
        &[("Content-Type", "application/json")],
        Some(body.to_string().as_bytes()),
    )
}

fn lint(body: Value) -> Value {
    let response = ask("auditor", "/v1/jitp/lint", &body);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn evaluate(body: Value) -> Value {
    let response = ask("station-01", "/v1/jitp/evaluate", &body);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn rules(findings: &Value) -> Vec<&str> {
    let findings = findings.as_array().unwrap().iter();
    findings
        .map(|found| found["rule"].as_str().unwrap())
        .collect()
}

#[test]
fn a_bad_template_is_an_answer_with_the_rule_and_the_pointer() {
    let rows: Vec<Value> = serde_json::from_str(BAD_TEMPLATES).unwrap();
    for row in rows.iter().step_by(12) {
        let base = match row["base"].as_str().unwrap() {
            "lightbulb" => LIGHTBULB,
            _ => WORKSHOP,
        };
        let part = |name: &str| row[name].as_str().unwrap();
        let template = base.replace(part("replace"), part("with"));
        let report = lint(json!({ "template": template }));
        assert_eq!(report["errors"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["errors"][0]["rule"], row["rule"]);
        assert_eq!(report["errors"][0]["pointer"], row["pointer"]);

        let subject = json!({ "template": template, "subject": { "CN": "a" } });
        let response = ask("station-01", "/v1/jitp/evaluate", &subject);
        assert_eq!(response.slug(), "template-invalid");
        assert_eq!(
            response.json()["violations"][0]["attribute"],
            row["pointer"]
        );
    }
}

#[test]
fn a_template_is_linted_alone_with_a_profile_and_as_the_profiles_own() {
    assert_eq!(
        lint(json!({ "template": WORKSHOP })),
        json!({ "errors": [], "warnings": [] })
    );
    let report = lint(json!({ "template": LIGHTBULB, "profile": "workshop" }));
    assert_eq!(rules(&report["errors"]), ["profile-parameter-missing"]);
    assert_eq!(
        report["errors"][0]["pointer"],
        "/Parameters/AWS::IoT::Certificate::SerialNumber"
    );
    let own = lint(json!({ "profile": "lightbulb" }));
    assert_eq!(own["errors"], json!([]));
    assert_eq!(
        own,
        lint(json!({ "template": LIGHTBULB, "profile": "lightbulb" }))
    );
    let details = own["warnings"].to_string();
    assert!(
        details.contains("would let CN = `lamp 1` through"),
        "{details}"
    );
}

#[test]
fn a_device_is_evaluated_by_subject_by_certificate_and_by_serial_number() {
    let device = Device::p256();
    let certificate = issued(
        &shared()
            .client("station-01")
            .issue(&device.request("lightbulb")),
    );
    let by_subject = evaluate(json!({ "template": LIGHTBULB, "subject": device.subject() }));
    assert_eq!(
        by_subject["provisioning"]["thing_name"],
        device.name.as_str()
    );
    assert_eq!(
        by_subject["provisioning"]["groups"],
        json!(["v1-lightbulbs", "DE"])
    );
    assert_eq!(by_subject["violations"], json!([]));
    assert_eq!(
        rules(&by_subject["template_warnings"]),
        [
            "template-serial-number",
            "template-exists-by-value",
            "template-policy-connect"
        ]
    );
    let by_certificate =
        json!({ "profile": "lightbulb", "certificate": certificate["certificate"] });
    assert_eq!(evaluate(by_certificate), by_subject);
    let by_serial =
        json!({ "profile": "lightbulb", "serial_number": certificate["serial_number"] });
    assert_eq!(evaluate(by_serial.clone()), by_subject);

    // Another station's certificate is not there for a station.
    let device = Device::p256();
    let other = issued(
        &shared()
            .client("operator")
            .issue(&device.request("lightbulb")),
    );
    let foreign = json!({ "profile": "lightbulb", "serial_number": other["serial_number"] });
    let path = "/v1/jitp/evaluate";
    assert_eq!(ask("station-01", path, &foreign).slug(), "not-found");
    assert_eq!(ask("auditor", path, &foreign).status, 200);
}

#[test]
fn a_device_that_would_be_refused_is_an_answer_with_all_violations() {
    let subject = json!({ "CN": "lamp 1", "serialNumber": "a b" });
    let answer = evaluate(json!({ "template": LIGHTBULB, "subject": subject }));
    assert_eq!(answer["provisioning"], Value::Null);
    assert_eq!(
        rules(&answer["violations"]),
        [
            "jitp-parameter-missing",
            "thing-name-pattern",
            "thing-attribute-value-pattern"
        ]
    );
    // The profile's own name rules come first.
    let answer = evaluate(json!({ "profile": "lightbulb", "subject": subject }));
    assert_eq!(rules(&answer["violations"]), ["attribute-missing"]);
    let answer = evaluate(json!({ "profile": "lightbulb", "subject": { "cn": "lamp-1" } }));
    assert_eq!(rules(&answer["violations"]), ["attribute-unknown"]);
}

#[test]
fn what_cannot_be_read_is_a_problem_and_nobody_asks_without_a_certificate() {
    let subject = json!({ "CN": "a" });
    for (path, body, slug) in [
        (
            "lint",
            json!({ "template": "{}", "strict": true }),
            "unknown-field",
        ),
        ("lint", json!({}), "invalid-field"),
        (
            "lint",
            json!({ "template": { "Parameters": {} } }),
            "invalid-field",
        ),
        ("lint", json!({ "profile": "nonesuch" }), "unknown-profile"),
        ("evaluate", json!({ "subject": subject }), "invalid-field"),
        ("evaluate", json!({ "template": WORKSHOP }), "invalid-field"),
        (
            "evaluate",
            json!({ "template": WORKSHOP, "profile": "workshop", "subject": subject }),
            "invalid-field",
        ),
        (
            "evaluate",
            json!({ "template": WORKSHOP, "subject": subject, "serial_number": "00" }),
            "invalid-field",
        ),
        (
            "evaluate",
            json!({ "template": WORKSHOP, "certificate": "x" }),
            "invalid-field",
        ),
        (
            "evaluate",
            json!({ "template": WORKSHOP, "serial_number": "x" }),
            "not-found",
        ),
    ] {
        let response = ask("station-01", &format!("/v1/jitp/{path}"), &body);
        assert_eq!(response.slug(), slug, "{body}");
    }
    let json = [("Content-Type", "application/json")];
    let twice = br#"{"profile":"workshop","subject":{"CN":"a","CN":"b"}}"#;
    let station = shared().client("station-01");
    let response = station.send("POST", "/v1/jitp/evaluate", &json, Some(twice));
    assert_eq!(response.slug(), "invalid-field");
    let long = format!(r#"{{"template":"{}"}}"#, " ".repeat(70_000));
    let response = station.send("POST", "/v1/jitp/lint", &json, Some(long.as_bytes()));
    assert_eq!(response.slug(), "payload-too-large");
    assert_eq!(
        station
            .send("POST", "/v1/jitp/lint", &[], Some(b"{}"))
            .slug(),
        "unsupported-media-type"
    );
    assert_eq!(station.get("/v1/jitp/lint").slug(), "method-not-allowed");
    for path in ["/v1/jitp/lint", "/v1/jitp/evaluate"] {
        let response = shared().nobody().send("POST", path, &json, Some(b"{}"));
        assert_eq!(response.slug(), "client-certificate-required");
    }
}
