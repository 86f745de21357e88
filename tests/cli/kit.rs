//! `jitp kit`: the folder itself. What its `register.sh` does is in tests/aws.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::world::shared;
use crate::{Done, run, text, tool};

const PLACE: [&str; 4] = ["--account", "123456789012", "--region", "eu-central-1"];

fn kit(out: &Path, arguments: &[&str]) -> Done {
    let base = ["jitp", "kit", "--out", text(out)];
    run(shared(), &[&base[..], arguments].concat())
}

fn lightbulb(out: &Path, more: &[&str]) -> Done {
    kit(
        out,
        &[&["--profile", "lightbulb"], &PLACE[..], more].concat(),
    )
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entry = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read_to_string(entry.path()).unwrap())
    };
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|found| entry(found.unwrap())).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A template on disk, the lightbulb's with one change.
fn template(dir: &TempDir, change: impl FnOnce(&mut Value)) -> String {
    let path = dir.path().join("template.json");
    let own = shared().dir.join("profiles/jitp-lightbulb.json");
    let mut body = json(&fs::read_to_string(own).unwrap());
    change(&mut body);
    fs::write(&path, body.to_string()).unwrap();
    text(&path).to_owned()
}

#[test]
fn the_same_input_makes_the_same_complete_kit() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let done = lightbulb(&one, &[]).ok().says("register.sh --dry-run");
    lightbulb(&two, &[]).ok();
    let made = files(&one);
    assert_eq!(made, files(&two));
    let names: Vec<&str> = made.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "README.md",
            "ca.pem",
            "device-policy.json",
            "kit.json",
            "operator-policy.json",
            "preflight.json",
            "preflight.md",
            "register.sh",
            "registration-config-by-name.json",
            "registration-config.json",
            "role-permissions.json",
            "role-trust-policy.json",
            "template-body.json",
        ]
    );
    for (name, text) in &made {
        assert!(!text.contains("@{"), "{name} has an empty place");
        // AWS IoT counts every character of the body, a line end too.
        assert_eq!(text.ends_with('\n'), name != "template-body.json", "{name}");
        if name.ends_with(".json") {
            json(text);
        }
    }

    // OpenSSL finds the same CA and the same id.
    let issuer = shared().dir.join("issuers/line-ec.pem");
    assert_eq!(made["ca.pem"], fs::read_to_string(&issuer).unwrap());
    let ca = one.join("ca.pem");
    let fingerprint = tool(
        "openssl",
        &[
            "x509",
            "-in",
            text(&ca),
            "-noout",
            "-fingerprint",
            "-sha256",
        ],
    );
    let id = fingerprint.trim().rsplit('=').next().unwrap();
    let id = id.replace(':', "").to_lowercase();
    let manifest = json(&made["kit.json"]);
    assert_eq!(manifest["ca_certificate_id"], id);
    let arn = format!("arn:aws:iot:eu-central-1:123456789012:cacert/{id}");
    assert_eq!(manifest["ca_certificate_arn"], arn);
    for place in [&made["README.md"], &done.text()] {
        assert!(place.contains(&arn), "{place}");
    }

    // Both forms of the template are the profile's.
    let body = json(&made["template-body.json"]);
    let own = shared().dir.join("profiles/jitp-lightbulb.json");
    assert_eq!(body, json(&fs::read_to_string(own).unwrap()));
    let config = json(&made["registration-config.json"]);
    assert_eq!(json(config["templateBody"].as_str().unwrap()), body);
    let role = "arn:aws:iam::123456789012:role/certfactory-jitp-eu-central-1";
    assert_eq!(config["roleArn"], role);
    assert_eq!(
        json(&made["registration-config-by-name.json"]),
        json!({ "templateName": "certfactory-lightbulb" })
    );

    // Only this account and Region may have AWS IoT take the role.
    let condition = &json(&made["role-trust-policy.json"])["Statement"][0]["Condition"];
    assert_eq!(
        condition["StringEquals"]["aws:SourceAccount"],
        "123456789012"
    );
    assert_eq!(
        condition["ArnLike"]["aws:SourceArn"],
        "arn:aws:iot:eu-central-1:123456789012:*"
    );
    // A device's policy fits where AWS IoT keeps policies.
    let characters = made["device-policy.json"]
        .chars()
        .filter(|c| !c.is_whitespace());
    assert!(characters.count() <= 2_048);
    // The lightbulb's policy is for another Region, which would be found out in the field.
    done.says("names arn:aws:iot:us-east-1:123456789012:topic/foo/bar");
    // Two groups, one policy document: RegisterThing is the narrow place.
    assert!(made["README.md"].contains("36000 devices an hour; 100,000 take 2.8 hours"));
}

#[test]
fn a_kit_for_an_issuer_and_a_registration_config_is_the_same_as_for_its_profile() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    lightbulb(&one, &["--template-name", "T"]).ok();
    let config = one.join("registration-config.json");
    let from = ["--issuer", "line-ec", "--template", text(&config)];
    let done = kit(
        &two,
        &[&from, &PLACE[..], &["--template-name", "T", "--json"]].concat(),
    )
    .ok();
    let (mut one, mut two) = (files(&one), files(&two));
    assert_eq!(done.json(), json(&two["kit.json"]));
    // They differ in what they were made for.
    assert_eq!(
        json(&one.remove("kit.json").unwrap())["profile"],
        "lightbulb"
    );
    assert_eq!(
        json(&two.remove("kit.json").unwrap())["profile"],
        Value::Null
    );
    assert_eq!(one, two);
}

#[test]
fn each_partition_has_its_own_arns() {
    let dir = TempDir::new().unwrap();
    for (region, partition) in [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")] {
        let out = dir.path().join(region);
        let place = ["--account", "123456789012", "--region", region];
        let done = kit(
            &out,
            &[&["--profile", "workshop"], &place[..], &["--json"]].concat(),
        )
        .ok();
        for arn in [
            "ca_certificate_arn",
            "device_certificate_arn",
            "template_arn",
            "role_arn",
        ] {
            let arn = done.json()[arn].clone();
            let prefix = format!("arn:{partition}:");
            assert!(arn.as_str().unwrap().starts_with(&prefix), "{arn}");
        }
        for (name, text) in files(&out) {
            assert!(!text.contains("arn:aws:"), "{name}");
        }
    }
}

#[test]
fn an_earlier_kit_is_replaced_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("kit");
    lightbulb(&out, &[]).ok();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    lightbulb(&out, &["--mode", "sni-only"]).ok();
    let made = files(&out);
    assert_eq!(made["notes.txt"], "mine");
    assert_eq!(json(&made["kit.json"])["certificate_mode"], "SNI_ONLY");

    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("README.md"), "mine").unwrap();
    lightbulb(&other, &[])
        .fails(4)
        .silent()
        .says("no earlier kit");
    assert_eq!(files(&other).len(), 1);
}

#[test]
fn a_place_that_aws_would_not_take_is_a_usage_error() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("kit");
    for (account, region, more) in [
        ("12345678901", "eu-central-1", &[][..]),
        ("1234567890123", "eu-central-1", &[]),
        ("123456789012", "eu-central-1a", &[]),
        ("123456789012", "$(id)", &[]),
        ("123456789012", "us-iso-east-1", &[]),
        ("123456789012", "eu-central-1", &["--role-name", "a b"]),
        (
            "123456789012",
            "eu-central-1",
            &["--role-name", "path/role"],
        ),
        ("123456789012", "eu-central-1", &["--template-name", "a.b"]),
        ("123456789012", "eu-central-1", &["--mode", "other"]),
        ("123456789012", "eu-central-1", &["--issuer", "line-ec"]),
    ] {
        let place = [
            "--profile",
            "lightbulb",
            "--account",
            account,
            "--region",
            region,
        ];
        kit(&out, &[&place, more].concat()).fails(2).silent();
    }
    kit(&out, &[&["--issuer", "line-ec"], &PLACE[..]].concat()).fails(2);
    kit(&out, &PLACE).fails(2);
    assert!(!out.exists());
}

#[test]
fn what_is_not_there_is_not_found() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("kit");
    let body = template(&dir, |_| {});
    for source in [
        &["--profile", "unknown"][..],
        &["--issuer", "unknown", "--template", &body],
        &["--issuer", "line-ec", "--template", "/nowhere.json"],
    ] {
        kit(&out, &[source, &PLACE[..]].concat()).fails(3).silent();
    }
    assert!(!out.exists());
}

#[test]
fn a_template_that_aws_or_the_profile_would_refuse_is_refused() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("kit");
    let broken = template(&dir, |body| {
        body["Resources"]["certificate"]["Properties"]["Status"] = json!("ON");
    });
    kit(
        &out,
        &[&["--issuer", "line-ec", "--template", &broken], &PLACE[..]].concat(),
    )
    .fails(4)
    .silent()
    .says("template-certificate-status at /Resources/certificate/Properties/Status");

    // O is optional in the profile: a certificate without it would not be provisioned.
    let demanding = template(&dir, |body| {
        body["Parameters"]["AWS::IoT::Certificate::Organization"] = json!({ "Type": "String" });
    });
    lightbulb(&out, &["--template", &demanding])
        .fails(4)
        .silent()
        .says("declares O, which the profile neither requires nor fixes");
    assert!(!out.exists());
}

#[test]
fn a_template_that_leaves_devices_outside_is_warned_of() {
    let dir = TempDir::new().unwrap();
    let bare = template(&dir, |body| {
        let resources = body["Resources"].as_object_mut().unwrap();
        resources.remove("thing");
        resources.remove("policy");
        resources["certificate"]["Properties"]["Status"] = json!("INACTIVE");
    });
    lightbulb(&dir.path().join("kit"), &["--template", &bare])
        .ok()
        .says("makes no thing")
        .says("leaves the certificate INACTIVE")
        .says("attaches no policy");
}
