//! Profiles against templates, and what the two promise each other, for many of both.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use regex::Regex;

use crate::pki::csr::CertificationRequest;
use crate::pki::jitp::Finding;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Policy;
use crate::pki::jitp::Provisioning;
use crate::pki::jitp::Report;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::profile::Profile;
use crate::pki::profile::Refusal;
use crate::pki::profile::SubjectRules;
use crate::pki::tbs::fixture;

const WORKSHOP: &str = include_str!("../../../../tests/data/jitp-workshop.json");
const NAME: &str = r#"{"Ref":"AWS::IoT::Certificate::CommonName"}"#;

/// A profile of the workshop's kind with these subject rules.
fn profile(subject: &str) -> String {
    format!(
        "issuer = \"line\"\nkey_algorithms = [\"P-256\"]\njitp_undocumented = true\n\
         jitp_template = \"t.json\"\nvalidity = {{ days = 1 }}\n[subject]\n{subject}\n"
    )
}

fn rules(subject: &str) -> SubjectRules {
    SubjectRules::parse("p", &profile(subject)).unwrap()
}

/// The workshop's template with another thing name, and more members.
fn template(thing_name: &str, more: &str) -> String {
    let compact: serde_json::Value = serde_json::from_str(WORKSHOP).unwrap();
    let text = compact.to_string();
    let name = format!("\"ThingName\":{NAME}");
    assert!(text.contains(&name));
    let text = text.replace(&name, &format!("\"ThingName\":{thing_name}"));
    text.replacen('{', &format!("{{{more}"), 1)
}

fn lint(subject: &str, template: &str) -> Report {
    rules(subject).lint(&JitpTemplate::parse(template).unwrap())
}

fn found(findings: &[Finding]) -> Vec<(&str, &str)> {
    let findings = findings.iter();
    findings
        .map(|found| (found.rule, found.pointer.as_str()))
        .collect()
}

#[test]
fn what_the_name_rules_admit_and_the_template_refuses_is_told_with_an_example() {
    let report = lint("required = [\"CN\", \"C\"]", WORKSHOP);
    assert_eq!(report.errors, []);
    assert_eq!(
        found(&report.warnings),
        [(
            "profile-admits-refused",
            "/Resources/thing/Properties/ThingName"
        )]
    );
    let detail = &report.warnings[0].detail;
    assert!(
        detail.contains("would let CN = `lamp 1` through"),
        "{detail}"
    );
    assert!(detail.contains("each of ! \" # $ %"), "{detail}");
    assert!(detail.contains(". / ; <"), "a colon is fine: {detail}");
    assert!(detail.contains("as jitp-violation"), "{detail}");
}

#[test]
fn a_value_that_grows_too_long_is_found_where_only_its_length_is_wrong() {
    let long = format!(r#"{{"Fn::Join":["",["{}",{NAME}]]}}"#, "x".repeat(80));
    let report = lint("required = [\"CN\", \"C\"]", &template(&long, ""));
    let lengths = report
        .warnings
        .iter()
        .filter(|found| found.detail.contains("thing-name-length"));
    let details: Vec<_> = lengths.map(|found| found.detail.as_str()).collect();
    assert!(
        details[0].contains("CN = `AAAAAAAA…` of 64 characters"),
        "{details:?}"
    );
}

#[test]
fn parameters_must_be_required_or_fixed_and_what_is_fixed_must_fit() {
    let report = lint("required = [\"CN\"]\noptional = [\"C\"]", WORKSHOP);
    assert_eq!(
        found(&report.errors),
        [(
            "profile-parameter-missing",
            "/Parameters/AWS::IoT::Certificate::Country"
        )]
    );
    assert_eq!(
        lint("required = [\"CN\"]\nfixed = { C = \"DE\" }", WORKSHOP).errors,
        []
    );
    let by_organization = WORKSHOP.replace("::Country", "::Organization");
    let report = lint(
        "required = [\"CN\"]\nfixed = { O = \"Example Corp\" }",
        &by_organization,
    );
    assert_eq!(
        found(&report.errors),
        [(
            "profile-admits-nothing",
            "/Resources/thing/Properties/AttributePayload/Country"
        )]
    );
}

#[test]
fn a_thing_must_be_named_by_what_tells_devices_apart() {
    let country = r#"{"Ref":"AWS::IoT::Certificate::Country"}"#;
    let pointer = "/Resources/thing/Properties/ThingName";
    let shared = template(country, "").replace(
        "\"Parameters\":{",
        "\"Parameters\":{\"AWS::IoT::Certificate::SerialNumber\":{\"Type\":\"String\"},",
    );
    let report = lint(
        "required = [\"CN\", \"serialNumber\"]\nfixed = { C = \"DE\" }",
        &shared,
    );
    assert_eq!(
        found(&report.errors),
        [("profile-thing-name-constant", pointer)]
    );
    let report = lint("required = [\"CN\", \"serialNumber\", \"C\"]", &shared);
    assert_eq!(
        found(&report.warnings)[0],
        ("profile-thing-name-identity", pointer)
    );
}

#[test]
fn a_template_with_functions_loads_only_where_the_profile_says_so() {
    let text = template(&format!(r#"{{"Fn::Join":["",["a",{NAME}]]}}"#), "");
    let toml = profile("required = [\"CN\", \"C\"]");
    assert!(Profile::parse("p", &toml, Some(&text)).is_ok());
    let careful = toml.replace("jitp_undocumented = true\n", "");
    let faults = Profile::parse("p", &careful, Some(&text)).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("profile-undocumented"), "{faults:?}");
    assert!(
        faults[0].contains("/Resources/thing/Properties/ThingName/Fn::Join"),
        "{faults:?}"
    );
}

#[test]
fn a_choice_is_sampled_starting_from_the_keys_that_the_template_knows() {
    let name = format!(
        r#"{{"Fn::Join":["-",[{{"Fn::FindInMap":["Sites",{{"Ref":"AWS::IoT::Certificate::Country"}},"hall"]}},{NAME}]]}}"#
    );
    let mappings = r#""Mappings":{"Sites":{"FR":{"hall":"lyon"}}},"#;
    let report = lint("required = [\"CN\", \"C\"]", &template(&name, mappings));
    assert_eq!(report.errors, []);
    let details: Vec<_> = report
        .warnings
        .iter()
        .map(|found| found.detail.as_str())
        .collect();
    assert!(
        details
            .iter()
            .any(|d| d.contains("C = `AA`") && d.contains("jitp-function")),
        "{details:?}"
    );
    assert_eq!(report.warnings.last().unwrap().rule, "profile-sampled");
    let fixed = lint(
        "required = [\"CN\"]\nfixed = { C = \"FR\" }",
        &template(&name, mappings),
    );
    assert!(
        fixed
            .warnings
            .iter()
            .all(|found| !found.detail.contains("jitp-function"))
    );
}

/// A text of a template in a few shapes, over the four parameters that generated ones declare.
fn text() -> impl Strategy<Value = String> {
    let parameter =
        prop::sample::select(vec!["CommonName", "Country", "Organization", "StateName"]);
    let parameter = parameter.prop_map(|name| format!("AWS::IoT::Certificate::{name}"));
    let reference = parameter
        .clone()
        .prop_map(|name| format!(r#"{{"Ref":"{name}"}}"#));
    let literal = "[a-zA-Z0-9:_-]{0,12}".prop_map(|text| format!("\"{text}\""));
    let leaf = prop_oneof![4 => reference.clone(), 1 => literal];
    let tree = leaf.prop_recursive(3, 12, 3, move |inner| {
        let delimiter = "[-_:. ]{0,2}";
        prop_oneof![
            (delimiter, prop::collection::vec(inner.clone(), 0..3))
                .prop_map(|(d, items)| format!(r#"{{"Fn::Join":["{d}",[{}]]}}"#, items.join(","))),
            (0..3usize, "[-. ]", inner.clone()).prop_map(|(n, d, text)| format!(
                r#"{{"Fn::Select":[{n},{{"Fn::Split":["{d}",{text}]}}]}}"#
            )),
            (0..2usize, inner.clone(), inner.clone())
                .prop_map(|(n, a, b)| format!(r#"{{"Fn::Select":["{n}",[{a},{b}]]}}"#)),
            (parameter.clone(), inner.clone())
                .prop_map(|(p, v)| format!(r#"{{"Fn::Sub":["${{{p}}}-${{v}}",{{"v":{v}}}]}}"#)),
            inner.prop_map(|key| format!(r#"{{"Fn::FindInMap":["M",{key},"k"]}}"#)),
        ]
    });
    let joined = (reference.clone(), reference.clone())
        .prop_map(|(a, b)| format!(r#"{{"Fn::Join":["-",[{a},{b}]]}}"#));
    prop_oneof![4 => reference, 2 => joined, 2 => tree]
}

/// A whole template: a thing named by the subject, groups, attributes, policy.
fn templates() -> impl Strategy<Value = String> {
    (text(), text(), text(), text(), text(), text(), any::<bool>()).prop_map(
        |(name, kind, group, attribute, billing, policy, split)| {
            let groups = if split {
                format!(r#"{{"Fn::Split":["-",{group}]}}"#)
            } else {
                format!("[{group}]")
            };
            let declared = ["CommonName", "Country", "Organization", "StateName", "Id"];
            let declared = declared.map(|name| format!(r#""AWS::IoT::Certificate::{name}":{{"Type":"String"}}"#));
            format!(
                r#"{{"Parameters":{{{}}},
                "Mappings":{{"M":{{"DE":{{"k":"berlin"}},"a":{{"k":"has space"}}}}}},
                "Resources":{{
                "t":{{"Type":"AWS::IoT::Thing","Properties":{{"ThingName":{name},"ThingTypeName":{kind},
                "ThingGroups":{groups},"AttributePayload":{{"x":{attribute}}},"BillingGroup":{billing}}}}},
                "c":{{"Type":"AWS::IoT::Certificate","Properties":{{"CertificateId":{{"Ref":"AWS::IoT::Certificate::Id"}},"Status":"ACTIVE"}}}},
                "p":{{"Type":"AWS::IoT::Policy","Properties":{{"PolicyName":{policy}}}}}}}}}"#,
                declared.join(",")
            )
        },
    )
}

/// Subjects that often fit, and often do not.
fn subjects() -> impl Strategy<Value = BTreeMap<AttributeType, String>> {
    let value = prop_oneof![12 => "[a-zA-Z0-9:_-]{1,20}", 1 => "[ -~]{1,20}", 1 => "[a-z]{60,64}", 1 => Just("a".to_owned())];
    let country = prop_oneof![Just("DE".to_owned()), "[A-Z]{2}"];
    (
        value.clone(),
        country,
        prop::option::weighted(0.8, value.clone()),
        value,
    )
        .prop_map(|(common_name, country, organization, state)| {
            let pairs = [
                (AttributeType::CommonName, Some(common_name)),
                (AttributeType::Country, Some(country)),
                (AttributeType::Organization, organization),
                (AttributeType::StateOrProvince, Some(state)),
            ];
            let pairs = pairs.into_iter();
            pairs
                .filter_map(|(kind, value)| Some((kind, value?)))
                .collect()
        })
}

/// AWS's patterns, as its API model writes them.
fn fits(provisioning: &Provisioning) -> bool {
    let is = |pattern: &str, value: &str, lengths: std::ops::RangeInclusive<usize>| {
        let pattern = Regex::new(&format!("^(?-u:{pattern})$")).unwrap();
        pattern.is_match(value) && lengths.contains(&value.chars().count())
    };
    let name = |value: &str| is("[a-zA-Z0-9:_-]+", value, 1..=128);
    let policy = |policy: &Policy| match policy {
        Policy::Name(policy) => is(r"[\w+=,.@-]+", policy, 1..=128),
        Policy::Document(_) => false,
    };
    let attribute = |(key, value): (&String, &String)| {
        is("[a-zA-Z0-9_.,@/:#-]+", key, 1..=128) && is(r"[a-zA-Z0-9_.,@/:#=\[\]-]*", value, 0..=800)
    };
    provisioning.thing_name.as_deref().is_some_and(name)
        && provisioning.thing_type.as_deref().is_some_and(name)
        && provisioning.billing_group.as_deref().is_some_and(name)
        && provisioning.groups.iter().all(|group| name(group))
        && provisioning.groups.len() <= 10
        && provisioning.attributes.iter().all(attribute)
        && provisioning.policies.iter().all(policy)
}

/// Whatever is admitted provisions within AWS's patterns; whatever the template refuses is refused
/// by `admit`, so before an intent exists; and the lint of the profile says beforehand that the
/// name rules admit such subjects.
#[test]
fn what_is_admitted_provisions_and_what_would_not_is_refused_before_an_intent() {
    let key = fixture::ec_key();
    let (admitted, refused) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 2048,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let case = |(text, subject, fixed): (String, BTreeMap<AttributeType, String>, bool)| {
        let names = if fixed {
            "required = [\"CN\", \"O\", \"ST\"]\nfixed = { C = \"DE\" }"
        } else {
            "required = [\"CN\", \"C\", \"O\", \"ST\"]"
        };
        // A template may be refused, for a constant that does not fit; such a profile does not load.
        let loaded = Profile::parse("p", &profile(names), Some(&text));
        let Ok(profile) = loaded else {
            return Ok(());
        };
        let template = profile.jitp.as_ref().unwrap();
        let mut given = subject;
        if fixed {
            given.remove(&AttributeType::Country);
        }
        let request = CertificationRequest {
            subject: given.clone(),
            public_key: fixture::public(&key),
            excess_extensions: Vec::new(),
        };
        let mut whole = given;
        whole.extend(profile.fixed.clone());
        let evaluated = Subject::new(whole).map(|subject| template.evaluate(&subject));
        match profile.admit(&request, None) {
            Ok(admission) => {
                admitted.set(admitted.get() + 1);
                let provisioning = evaluated.unwrap().unwrap();
                prop_assert!(fits(&provisioning), "{provisioning:?}");
                prop_assert_eq!(admission.thing_name, provisioning.thing_name);
            }
            Err(Refusal::JitpViolation(violations)) => {
                refused.set(refused.get() + 1);
                prop_assert_eq!(evaluated.unwrap().unwrap_err(), violations);
                let report = profile.subject_rules().lint(template);
                let told = |found: &Finding| {
                    matches!(found.rule, "profile-admits-refused" | "profile-sampled")
                };
                prop_assert!(report.warnings.iter().any(told), "{report:?}");
            }
            Err(Refusal::SubjectInvalid(violations)) => {
                prop_assert!(!violations.is_empty());
                // Malformed, or without an attribute that the template declares.
                prop_assert!(evaluated.is_err() || evaluated.unwrap().is_err());
            }
            Err(other) => prop_assert!(false, "{other:?}"),
        }
        Ok(())
    };
    let cases = (templates(), subjects(), any::<bool>());
    runner.run(&cases, case).unwrap();
    // Neither half was proved of nothing.
    assert!(admitted.get() >= 150, "{} admitted", admitted.get());
    assert!(refused.get() >= 150, "{} refused", refused.get());
}
