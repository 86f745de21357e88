//! `jitp lint|evaluate`

use std::path::PathBuf;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::support::device::Device;
use crate::support::world::{issued, shared};
use crate::{Done, finish, run, text};

const BAD_TEMPLATES: &str = include_str!("../data/jitp/bad_templates.json");

/// A template of tests/data.
fn template(name: &str) -> String {
    format!("{}/tests/data/jitp-{name}.json", env!("CARGO_MANIFEST_DIR"))
}

fn lint(arguments: &[&str]) -> Done {
    run(shared(), &[&["jitp", "lint"], arguments].concat())
}

fn evaluate(arguments: &[&str]) -> Done {
    run(shared(), &[&["jitp", "evaluate"], arguments].concat())
}

/// A directory with one file.
fn file(name: &str, content: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

#[test]
fn a_template_with_warnings_alone_is_fine_and_one_with_an_error_is_refused() {
    let done = lint(&[&template("workshop")]).ok().silent();
    done.says("errors 0, warnings 0");
    let done = lint(&[&template("registration-config")]).ok();
    assert!(
        done.text()
            .contains("warning: template-policy-connect at /Resources/policy")
    );

    let rows: Vec<Value> = serde_json::from_str(BAD_TEMPLATES).unwrap();
    for row in rows.iter().step_by(20) {
        let part = |name: &str| row[name].as_str().unwrap();
        let base = std::fs::read_to_string(template(part("base"))).unwrap();
        let (_dir, path) = file("bad.json", &base.replace(part("replace"), part("with")));
        let done = lint(&[text(&path), "--json"]).fails(4);
        let report = done.json();
        assert_eq!(report["errors"][0]["rule"], row["rule"]);
        assert_eq!(report["errors"][0]["pointer"], row["pointer"]);
        let line = format!("error: {} at ", part("rule"));
        assert!(
            lint(&[text(&path)])
                .fails(4)
                .says("errors 1")
                .text()
                .starts_with(&line)
        );
        evaluate(&[text(&path), "--subject", "CN=a"])
            .fails(4)
            .silent()
            .says(part("rule"));
    }
    lint(&["/nonesuch.json"]).fails(3).silent();
    lint(&[]).fails(2).silent();
}

#[test]
fn a_profile_is_a_file_or_a_name_and_says_whom_the_template_would_refuse() {
    let by_name = lint(&[&template("lightbulb"), "--profile", "lightbulb", "--json"]).ok();
    let path = shared().dir.join("profiles/lightbulb.toml");
    let by_file = lint(&[&template("lightbulb"), "--profile", text(&path), "--json"]).ok();
    assert_eq!(by_name.json(), by_file.json());
    assert_eq!(
        by_name.json(),
        lint(&["--profile", "lightbulb", "--json"]).ok().json()
    );
    assert!(by_name.text().contains("`lamp 1` through"));
    let done = lint(&[&template("lightbulb"), "--profile", "workshop"]).fails(4);
    assert!(done.text().contains("profile-parameter-missing"));
    lint(&[&template("lightbulb"), "--profile", "nonesuch"]).fails(3);
}

#[test]
fn functions_are_evaluated_with_a_warning_and_a_profile_must_allow_them() {
    let base = std::fs::read_to_string(template("workshop")).unwrap();
    let name =
        "\"ThingName\": {\n          \"Ref\": \"AWS::IoT::Certificate::CommonName\"\n        }";
    let call = r#""ThingName": { "Fn::Sub": "lamp-${AWS::IoT::Certificate::CommonName}" }"#;
    assert!(base.contains(name));
    let (dir, path) = file("functions.json", &base.replace(name, call));
    let done = evaluate(&[text(&path), "--subject", "CN=1,C=DE", "--json"]).ok();
    assert_eq!(done.json()["provisioning"]["thing_name"], "lamp-1");
    assert_eq!(
        done.json()["template_warnings"][0]["rule"],
        "template-undocumented"
    );
    done.says("template-undocumented");

    let profile = std::fs::read_to_string(shared().dir.join("profiles/workshop.toml")).unwrap();
    let profile = profile.replace("jitp-workshop.json", "functions.json");
    let toml = dir.path().join("tool.toml");
    std::fs::write(&toml, &profile).unwrap();
    evaluate(&["--profile", text(&toml), "--subject", "CN=1,C=DE"])
        .fails(4)
        .silent()
        .says("jitp_undocumented = true");
    std::fs::write(&toml, format!("jitp_undocumented = true\n{profile}")).unwrap();
    let done = evaluate(&["--profile", text(&toml), "--subject", "CN=1,C=DE"]).ok();
    assert!(done.text().contains("lamp-1"));
}

#[test]
fn a_device_is_its_attributes_its_certificate_or_a_serial_number() {
    let device = Device::p256();
    let body = issued(
        &shared()
            .client("station-01")
            .issue(&device.request("lightbulb")),
    );
    let (_dir, path) = file("device.pem", body["certificate"].as_str().unwrap());
    let serial = body["serial_number"].as_str().unwrap();
    for which in [["--certificate", text(&path)], ["--serial", serial]] {
        let done = evaluate(&["--profile", "lightbulb", which[0], which[1], "--json"]).ok();
        assert_eq!(
            done.json()["provisioning"]["thing_name"],
            device.name.as_str()
        );
    }
    let unknown = "0".repeat(31) + "1";
    evaluate(&["--profile", "lightbulb", "--serial", &unknown]).fails(3);

    let done = evaluate(&[
        &template("workshop"),
        "--subject",
        "CN=a b",
        "--subject",
        "C=DE,O=A, Inc",
    ]);
    let done = done.fails(4).says("would not be provisioned");
    assert!(
        done.text()
            .starts_with("violation: thing-name-pattern CN: character 2")
    );
    for usage in [
        &["--subject", "CN"][..],
        &["--subject", "CN=a,CN=b"],
        &["--subject", "CN=a", "--serial", serial],
        &["--profile", "workshop", "--subject", "CN=a"],
        &[],
    ] {
        evaluate(&[&[template("workshop").as_str()], usage].concat())
            .fails(2)
            .silent();
    }
}

#[test]
fn a_list_tells_each_failing_row_duplicates_too_and_counts_by_rule() {
    let csv = "\u{feff}CN,serialNumber,C\r\nlamp-1,S1,DE\r\n\"lamp,2\",S2,DE\r\nlamp-3,,DE\r\n\
        lamp-1,S4,DE\r\nlamp-5,S5\r\nlamp-6,S6,de\r\n\r\nlamp-7,S7,\"DE\"\r\n";
    let (_dir, path) = file("devices.csv", csv);
    let list = |more: &[&str]| {
        let template = template("lightbulb");
        let arguments = [&template, "--devices", text(&path)];
        evaluate(&[&arguments[..], more].concat())
    };
    let done = list(&["--json"])
        .fails(4)
        .says("7 rows, 2 accepted, 5 refused");
    let summary = done.json();
    assert_eq!(summary["accepted"], 2);
    let failures = summary["failures"].as_array().unwrap().iter();
    let failures: Vec<_> = failures
        .map(|f| json!([f["row"], f["line"], f["rule"], f["attribute"]]))
        .collect();
    assert_eq!(
        failures,
        [
            json!([2, 3, "thing-name-pattern", "CN"]),
            json!([3, 4, "jitp-parameter-missing", "serialNumber"]),
            json!([4, 5, "thing-name-duplicate", "CN"]),
            json!([5, 6, "row-malformed", null]),
            json!([6, 7, "country-code", "C"]),
        ]
    );
    assert_eq!(summary["refused_by_rule"]["thing-name-duplicate"], 1);
    let done = list(&["--failures-max", "2"]).fails(4);
    assert!(
        done.text()
            .contains("row 3 (line 4): jitp-parameter-missing serialNumber")
    );
    assert!(done.text().contains("… and 3 more"));
    assert!(done.text().contains("refused 5\n"));
}

#[test]
fn a_list_may_be_ndjson_or_come_on_standard_input_and_unknown_columns_are_refused() {
    let ndjson = "{\"CN\":\"a\",\"C\":\"DE\"}\n\n{\"CN\":\"b\",\"CN\":\"c\"}\n[]\n{\"CN\":\"d\",\"C\":\"DE\",\"x\":\"y\"}";
    let (_dir, path) = file("devices.ndjson", ndjson);
    let workshop = template("workshop");
    let summary = evaluate(&[&workshop, "--devices", text(&path), "--json"])
        .fails(4)
        .json();
    assert_eq!(summary["refused_by_rule"], json!({ "row-malformed": 3 }));
    assert_eq!(summary["failures"][0]["line"], 3);
    let ignoring = [
        &workshop,
        "--devices",
        text(&path),
        "--ignore-unknown",
        "--json",
    ];
    assert_eq!(evaluate(&ignoring).fails(4).json()["accepted"], 2);

    let from_input = |arguments: &[&str], input: &str| {
        let all = [
            &["jitp", "evaluate", &workshop, "--devices", "-"],
            arguments,
        ]
        .concat();
        finish(shared().program(&all), input.as_bytes())
    };
    let semicolons = "CN;C\na;DE\nb;DE\n";
    from_input(&["--format", "csv", "--delimiter", ";"], semicolons).ok();
    from_input(&["--format", "csv"], semicolons)
        .fails(2)
        .says("--delimiter");
    from_input(&[], semicolons).fails(2).says("--format");
    from_input(&["--format", "csv"], "CN,mac,C\na,00,DE\n")
        .fails(2)
        .says("\"mac\"");
    from_input(
        &["--format", "csv", "--ignore-unknown"],
        "CN,mac,C\na,00,DE\n",
    )
    .ok();
    let endless = format!("CN,C\n\"{}", "x".repeat(200_000));
    from_input(&["--format", "csv"], &endless)
        .fails(1)
        .says("longer than");
}

#[test]
fn each_of_a_hundred_thousand_devices_is_evaluated() {
    let rows = (0..100_000).map(|n| format!("lamp-{n:06},SN{n:06},DE\n"));
    let csv = "CN,serialNumber,C\n".to_owned() + &rows.collect::<String>();
    let (_dir, path) = file("devices.csv", &csv);
    let done = evaluate(&["--profile", "lightbulb", "--devices", text(&path), "--json"]).ok();
    assert_eq!(done.json()["accepted"], 100_000);
}
