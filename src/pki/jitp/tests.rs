//! Templates that AWS publishes, templates broken in one place each, and subjects that break them.

use std::collections::BTreeMap;

use super::*;

const LIGHTBULB: &str = include_str!("../../../tests/data/jitp-lightbulb.json");
const WORKSHOP: &str = include_str!("../../../tests/data/jitp-workshop.json");
const REGISTRATION_CONFIG: &str = include_str!("../../../tests/data/jitp-registration-config.json");
const BAD_TEMPLATES: &str = include_str!("../../../tests/data/jitp/bad_templates.json");
const BAD_SUBJECTS: &str = include_str!("../../../tests/data/bad_subjects.json");

fn subject(values: &[(AttributeType, &str)]) -> Subject {
    let values = values
        .iter()
        .map(|(kind, text)| (*kind, (*text).to_owned()));
    Subject::new(values.collect()).unwrap()
}

fn lamp() -> Subject {
    subject(&[
        (AttributeType::CommonName, "lamp-000001"),
        (AttributeType::SerialNumber, "SN000001"),
        (AttributeType::Country, "DE"),
    ])
}

/// (rule, pointer) of each error.
fn faults(text: &str) -> Vec<(&'static str, String)> {
    let TemplateFault(errors) = JitpTemplate::parse(text).unwrap_err();
    assert!(!errors.is_empty());
    errors
        .into_iter()
        .map(|found| (found.rule, found.pointer))
        .collect()
}

/// The lightbulb template with one spot changed.
fn broken(from: &str, to: &str) -> String {
    assert_eq!(LIGHTBULB.matches(from).count(), 1, "{from}");
    LIGHTBULB.replace(from, to)
}

#[test]
fn the_lightbulb_template_makes_a_typed_thing_in_the_group_of_its_country() {
    let template = JitpTemplate::parse(LIGHTBULB).unwrap();
    assert_eq!(
        template.parameters(),
        [
            AttributeType::Country,
            AttributeType::SerialNumber,
            AttributeType::CommonName
        ]
    );
    let provisioning = template.evaluate(&lamp()).unwrap();
    let document = serde_json::from_str::<serde_json::Value>(LIGHTBULB).unwrap();
    let document = document["Resources"]["policy"]["Properties"]["PolicyDocument"]
        .as_str()
        .unwrap();
    assert_eq!(
        serde_json::to_value(provisioning).unwrap(),
        serde_json::json!({
            "thing_name": "lamp-000001",
            "thing_type": "lightBulb-versionA",
            "groups": ["v1-lightbulbs", "DE"],
            "attributes": { "version": "v1", "serialNumber": "SN000001" },
            "billing_group": null,
            "policies": [{ "document": document }],
            "certificate_status": "ACTIVE",
        })
    );
}

#[test]
fn the_workshop_template_names_a_policy_and_takes_no_serial_number() {
    let template = JitpTemplate::parse(WORKSHOP).unwrap();
    assert_eq!(
        template.parameters(),
        [AttributeType::Country, AttributeType::CommonName]
    );
    let provisioning = template.evaluate(&lamp()).unwrap();
    assert_eq!(provisioning.thing_name.as_deref(), Some("lamp-000001"));
    assert_eq!(provisioning.thing_type, None);
    assert_eq!(provisioning.attributes["Country"], "DE");
    assert_eq!(provisioning.groups, ["bulk-group"]);
    assert_eq!(
        provisioning.policies,
        [Policy::Name("FactoryDevicePolicy".to_owned())]
    );
}

#[test]
fn a_registration_config_holds_the_same_template_as_its_body() {
    let wrapped = JitpTemplate::parse(REGISTRATION_CONFIG).unwrap();
    let plain = JitpTemplate::parse(LIGHTBULB).unwrap();
    assert_eq!(wrapped.evaluate(&lamp()), plain.evaluate(&lamp()));
    assert_eq!(wrapped.parameters(), plain.parameters());
}

#[test]
fn a_registration_config_without_role_or_with_an_unescaped_body_is_refused_with_its_body() {
    let config = |body: serde_json::Value| serde_json::json!({ "templateBody": body }).to_string();
    assert_eq!(
        faults(&config("{}".into())),
        [
            ("registration-config", "/roleArn".to_owned()),
            ("template-member", String::new()),
            ("template-member", String::new()),
            ("template-certificate-count", "/Resources".to_owned()),
        ]
    );
    let unescaped = serde_json::from_str(LIGHTBULB).unwrap();
    assert_eq!(
        faults(&config(unescaped)),
        [
            ("registration-config", "/templateBody".to_owned()),
            ("registration-config", "/roleArn".to_owned())
        ]
    );
    for config in [
        r#"{"roleArn":"arn:aws:iam::123456789012:role/JITPRole"}"#,
        r#"{"roleArn":"arn:aws:iam::123456789012:role/JITPRole","templateName":"x"}"#,
        r#"{"roleArn":"arn:aws:iam::123456789012:role/JITPRole","templateBody":"x","templateBody":"x"}"#,
    ] {
        assert_eq!(faults(config)[0].0, "registration-config", "{config}");
    }
}

#[derive(serde::Deserialize)]
struct BadTemplate {
    name: String,
    base: String,
    replace: String,
    with: String,
    rule: String,
    pointer: String,
}

/// The table is used over the command line and over HTTP too.
#[test]
fn each_bad_template_has_the_one_fault_that_it_names() {
    let rows: Vec<BadTemplate> = serde_json::from_str(BAD_TEMPLATES).unwrap();
    assert!(rows.len() >= 60);
    let mut wrong = Vec::new();
    for row in &rows {
        let base = match row.base.as_str() {
            "lightbulb" => LIGHTBULB,
            _ => WORKSHOP,
        };
        assert_eq!(base.matches(&row.replace).count(), 1, "{}", row.name);
        let found = faults(&base.replace(&row.replace, &row.with));
        if found != [(row.rule.as_str(), row.pointer.clone())] {
            wrong.push(format!("{}: {found:?}", row.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What there is to say about the two templates that AWS publishes, and nothing more.
#[test]
fn the_published_templates_have_no_error_and_exactly_these_warnings() {
    let warnings = |text: &str| -> Vec<(&'static str, String)> {
        let (template, report) = JitpTemplate::lint(text);
        assert_eq!(report.errors, []);
        assert_eq!(template.unwrap().warnings(), report.warnings);
        let warnings = report.warnings.into_iter();
        warnings.map(|found| (found.rule, found.pointer)).collect()
    };
    let thing = "/Resources/thing/Properties";
    let lightbulb = [
        (
            "template-serial-number",
            format!("{thing}/AttributePayload/serialNumber/Ref"),
        ),
        ("template-exists-by-value", format!("{thing}/ThingGroups/1")),
        (
            "template-policy-connect",
            "/Resources/policy/Properties/PolicyDocument".to_owned(),
        ),
    ];
    assert_eq!(warnings(LIGHTBULB), lightbulb);
    assert_eq!(warnings(REGISTRATION_CONFIG), lightbulb);
    assert_eq!(warnings(WORKSHOP), []);
}

#[test]
fn a_template_with_faults_in_many_places_is_told_all_of_them() {
    let text = broken(r#""ACTIVE""#, r#""BROKEN""#)
        .replace("v1-lightbulbs", "v1 lightbulbs")
        .replace(r#""version": "v1""#, r#""version": {"Fn::If": "x"}"#)
        .replace("\"MERGE\"", "\"KEEP\"");
    let rules: Vec<_> = faults(&text).into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(
        rules,
        [
            "template-function-unknown",
            "thing-group-name-pattern",
            "template-override-value",
            "template-certificate-status"
        ]
    );
}

/// The workshop's template with another thing name and mappings.
fn named(thing_name: &str) -> String {
    let name =
        "\"ThingName\": {\n          \"Ref\": \"AWS::IoT::Certificate::CommonName\"\n        }";
    assert!(WORKSHOP.contains(name));
    let mappings =
        r#"{ "Mappings": { "Sites": { "DE": { "hall": "berlin", "lines": ["l1", "l2"] } } },"#;
    WORKSHOP
        .replace(name, &format!("\"ThingName\": {thing_name}"))
        .replacen('{', mappings, 1)
}

#[test]
fn functions_make_what_aws_documents_for_fleet_templates() {
    for (call, expected) in [
        (r#"{"Fn::Join":["-",["x",CN,C]]}"#, "x-lamp-000001-DE"),
        (r#"{"Fn::Join":["",[CN]]}"#, "lamp-000001"),
        (
            r#"{"Fn::Join":["_",{"Fn::Split":["-",CN]}]}"#,
            "lamp_000001",
        ),
        (r#"{"Fn::Select":[1,{"Fn::Split":["-",CN]}]}"#, "000001"),
        (r#"{"Fn::Select":["0",[CN,"x"]]}"#, "lamp-000001"),
        (
            r#"{"Fn::Select":[1,{"Fn::Split":["000",{"Fn::Join":["",[CN,"b"]]}]}]}"#,
            "001b",
        ),
        (
            r#"{"Fn::Join":["-",[{"Fn::FindInMap":["Sites",C,"hall"]},CN]]}"#,
            "berlin-lamp-000001",
        ),
        (
            r#"{"Fn::Join":["-",[{"Fn::Select":[1,{"Fn::FindInMap":["Sites",C,"lines"]}]},CN]]}"#,
            "l2-lamp-000001",
        ),
        (
            r#"{"Fn::Sub":"a-${AWS::IoT::Certificate::CommonName}"}"#,
            "a-lamp-000001",
        ),
        (
            r#"{"Fn::Sub":["${x}:${x}-${AWS::IoT::Certificate::Country}",{"x":CN}]}"#,
            "lamp-000001:lamp-000001-DE",
        ),
    ] {
        let call = call
            .replace("CN", r#"{"Ref":"AWS::IoT::Certificate::CommonName"}"#)
            .replace(",C", r#",{"Ref":"AWS::IoT::Certificate::Country"}"#);
        let template = JitpTemplate::parse(&named(&call)).unwrap();
        let provisioning = template.evaluate(&lamp()).unwrap();
        assert_eq!(provisioning.thing_name.as_deref(), Some(expected), "{call}");
        let functions = call.matches("Fn::").count();
        let told = template
            .warnings()
            .iter()
            .filter(|w| w.rule == UNDOCUMENTED);
        assert_eq!(
            told.count(),
            functions + 1,
            "each function and Mappings: {call}"
        );
    }
}

#[test]
fn a_function_that_has_no_value_for_a_subject_refuses_the_subject() {
    for (call, detail) in [
        (
            r#"{"Fn::Select":[2,{"Fn::Split":["-",CN]}]}"#,
            "index 2 of a list of 2",
        ),
        (r#"{"Fn::Select":[CN,["a","b"]]}"#, "is no index"),
        (r#"{"Fn::FindInMap":["Sites",CN,"hall"]}"#, "Sites has no"),
        (
            r#"{"Fn::Join":["",[CN,{"Fn::FindInMap":["Sites","DE","lines"]}]]}"#,
            "is a list",
        ),
        (
            r#"{"Fn::Join":["",{"Fn::FindInMap":["Sites",{"Fn::Join":["",["DE"]]},{"Fn::Sub":"${AWS::IoT::Certificate::Country}"}]}]}"#,
            "Sites has no",
        ),
    ] {
        let call = call.replace("CN", r#"{"Ref":"AWS::IoT::Certificate::CommonName"}"#);
        let violations = JitpTemplate::parse(&named(&call))
            .unwrap()
            .evaluate(&lamp())
            .unwrap_err();
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!(violations[0].rule, "jitp-function");
        assert!(violations[0].detail.contains(detail), "{violations:?}");
    }
}

/// Each level doubles the one below: 2^60 without a bound, and as many evaluations if a variable
/// were evaluated at each of its places.
#[test]
fn functions_that_grow_end_at_once() {
    for leaf in [
        r#"{"Ref":"AWS::IoT::Certificate::CommonName"}"#,
        r#"{"Fn::Select":[0,{"Fn::Split":["l",{"Ref":"AWS::IoT::Certificate::CommonName"}]}]}"#,
    ] {
        let mut call = leaf.to_owned();
        for _ in 0..30 {
            call = format!(r#"{{"Fn::Sub":["${{v}}${{v}}${{v}}${{v}}",{{"v":{call}}}]}}"#);
        }
        let template = JitpTemplate::parse(&named(&call)).unwrap();
        let violations = template.evaluate(&lamp()).unwrap_err();
        assert!(
            matches!(violations[0].rule, "jitp-function" | "thing-name-length"),
            "{violations:?}"
        );
    }
}

#[test]
fn groups_and_a_policy_may_come_out_of_functions_and_are_checked_for_each_subject() {
    let text = WORKSHOP
        .replace(
            "[\n          \"bulk-group\"\n        ]",
            r#"{"Fn::Split":["-",{"Ref":"AWS::IoT::Certificate::CommonName"}]}"#,
        )
        .replace(
            r#""PolicyName": "FactoryDevicePolicy""#,
            r#""PolicyDocument": {"Fn::Join":["",["{\"a\":\"",{"Ref":"AWS::IoT::Certificate::CommonName"},"\"}"]]}"#,
        );
    let template = JitpTemplate::parse(&text).unwrap();
    let provisioning = template.evaluate(&lamp()).unwrap();
    assert_eq!(provisioning.groups, ["lamp", "000001"]);
    let document = r#"{"a":"lamp-000001"}"#.to_owned();
    assert_eq!(provisioning.policies, [Policy::Document(document)]);
    let rules = |name: &str| -> Vec<&'static str> {
        let subject = subject(&[
            (AttributeType::CommonName, name),
            (AttributeType::Country, "DE"),
        ]);
        let violations = template.evaluate(&subject).unwrap_err();
        violations.iter().map(|violation| violation.rule).collect()
    };
    assert_eq!(rules("a-1-2-3-4-5-6-7-8-9-10"), ["thing-group-count"]);
    assert_eq!(rules("a--b"), ["thing-group-name-length"]);
    assert_eq!(
        rules("a\"b"),
        [
            "template-policy-document",
            "thing-name-pattern",
            "thing-group-name-pattern"
        ]
    );
}

#[test]
fn each_doubt_is_a_warning_at_its_place() {
    let thing = "/Resources/thing/Properties";
    let policy = "/Resources/policy/Properties";
    for (from, to, rule, pointer) in [
        (
            r#""Parameters": {"#,
            r#""Parameters": { "AWS::IoT::Certificate::StateName": { "Type": "String" },"#,
            "template-parameter-unused",
            "/Parameters/AWS::IoT::Certificate::StateName".to_owned(),
        ),
        (
            "\"AWS::IoT::Certificate::Country\": {\n      \"Type\": \"String\"",
            "\"AWS::IoT::Certificate::Country\": {\n      \"Type\": \"String\", \"Default\": \"DE\"",
            "template-default",
            "/Parameters/AWS::IoT::Certificate::Country/Default".to_owned(),
        ),
        (
            r#""Status": "ACTIVE""#,
            r#""Status": "inactive""#,
            "template-certificate-inactive",
            "/Resources/certificate/Properties/Status".to_owned(),
        ),
        (
            r#""Ref": "AWS::IoT::Certificate::CommonName""#,
            r#""Fn::Sub": "${AWS::IoT::Certificate::CommonName}""#,
            "template-undocumented",
            format!("{thing}/ThingName/Fn::Sub"),
        ),
        (
            r#""Parameters": {"#,
            r#""DeviceConfiguration": {}, "Parameters": {"#,
            "template-undocumented",
            "/DeviceConfiguration".to_owned(),
        ),
        (
            r#""PolicyName": "FactoryDevicePolicy""#,
            r#""PolicyName": { "Ref": "AWS::IoT::Certificate::Country" }"#,
            "template-exists-by-value",
            format!("{policy}/PolicyName"),
        ),
        (
            r#""PolicyName": "FactoryDevicePolicy""#,
            r#""PolicyDocument": "{\"Statement\":{\"Effect\":\"Allow\",\"Action\":\"iot:*\",\"Resource\":\"arn:aws:iot:eu-west-1:1:client/${iot:Certificate.Subject.CommonName}\"}}""#,
            "template-policy-variable",
            format!("{policy}/PolicyDocument"),
        ),
        (
            r#""PolicyName": "FactoryDevicePolicy""#,
            r#""PolicyDocument": "{\"Statement\":[{\"Effect\":\"Deny\",\"Action\":\"iot:Connect\"},{\"Effect\":\"Allow\",\"Action\":[\"iot:Pub*\"]}]}""#,
            "template-policy-connect",
            format!("{policy}/PolicyDocument"),
        ),
    ] {
        assert_eq!(WORKSHOP.matches(from).count(), 1, "{from}");
        let (_, report) = JitpTemplate::lint(&WORKSHOP.replace(from, to));
        assert_eq!(report.errors, [], "{to}");
        let found: Vec<_> = report
            .warnings
            .iter()
            .map(|w| (w.rule, w.pointer.clone()))
            .collect();
        assert_eq!(found, [(rule, pointer)], "{to}");
    }
    let text = WORKSHOP.replace(
        "\"Ref\": \"AWS::IoT::Certificate::CommonName\"",
        "\"Ref\": \"AWS::IoT::Certificate::Country\"",
    );
    let rules: Vec<_> = JitpTemplate::lint(&text)
        .1
        .warnings
        .into_iter()
        .map(|w| w.rule)
        .collect();
    assert_eq!(
        rules,
        ["template-thing-name-shared", "template-parameter-unused"]
    );
    let mut bare: serde_json::Value = serde_json::from_str(WORKSHOP).unwrap();
    let resources = bare["Resources"].as_object_mut().unwrap();
    resources.retain(|name, _| name == "certificate");
    let rules: Vec<_> = JitpTemplate::lint(&bare.to_string())
        .1
        .warnings
        .into_iter()
        .map(|w| w.rule)
        .collect();
    assert_eq!(
        rules,
        [
            "template-parameter-unused",
            "template-parameter-unused",
            "template-no-thing",
            "template-no-policy"
        ]
    );
}

#[test]
fn a_device_may_stumble_over_a_colon_and_over_characters_of_its_policy() {
    let document = r#"{\"Statement\":{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"${iot:Certificate.Subject.Organization}\"}}"#;
    let text = WORKSHOP.replace(
        r#""PolicyName": "FactoryDevicePolicy""#,
        &format!(r#""PolicyDocument": "{document}""#),
    );
    let template = JitpTemplate::parse(&text).unwrap();
    let hazards = |name: &str, organization: &str| -> Vec<(&'static str, String)> {
        let subject = subject(&[
            (AttributeType::CommonName, name),
            (AttributeType::Country, "DE"),
            (AttributeType::Organization, organization),
            (AttributeType::OrganizationalUnit, "a*b"),
        ]);
        let provisioning = template.evaluate(&subject).unwrap();
        let hazards = template.hazards(&subject, &provisioning).into_iter();
        hazards
            .map(|hazard| (hazard.rule, hazard.attribute.unwrap()))
            .collect()
    };
    assert_eq!(hazards("lamp-1", "Lamps GmbH"), []);
    assert_eq!(
        hazards("lamp:1", "Lamps"),
        [("thing-name-greengrass", "CN".to_owned())]
    );
    let variable = [("policy-variable-characters", "O".to_owned())];
    assert_eq!(hazards("lamp-1", "Lamps #1"), variable);
    assert_eq!(hazards("lamp-1", "Lamps, Inc"), variable);
}

#[test]
fn what_is_no_json_object_is_no_template() {
    for text in ["", "{", "null", "[]", "\"{}\"", "42"] {
        assert!(JitpTemplate::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_body_ends_at_10240_characters_and_a_policy_at_2048_without_white_space() {
    let padded = |length: usize| format!("{LIGHTBULB}{}", " ".repeat(length - LIGHTBULB.len()));
    assert!(JitpTemplate::parse(&padded(10_240)).is_ok());
    assert_eq!(
        faults(&padded(10_241)),
        [("template-length", String::new())]
    );
    assert_eq!(
        faults(&" ".repeat(1_000_000)),
        [("template-length", String::new())]
    );

    // {"a":"…"} is 8 characters longer than what it holds; spaces between do not count.
    let policy = |length: usize| {
        let document = format!(r#"{{\"a\":   \"{}\"}}"#, "x".repeat(length - 8));
        let properties = format!(r#""PolicyDocument": "{document}""#);
        WORKSHOP.replace(r#""PolicyName": "FactoryDevicePolicy""#, &properties)
    };
    assert!(JitpTemplate::parse(&policy(2_048)).is_ok());
    assert_eq!(
        faults(&policy(2_049)),
        [(
            "template-policy-document-length",
            "/Resources/policy/Properties/PolicyDocument".to_owned()
        )]
    );
}

#[test]
fn a_thing_takes_3_attributes_without_a_type_and_50_with_one() {
    let template = |count: usize, thing_type: &str| {
        let attributes: Vec<String> = (0..count).map(|n| format!(r#""a{n}": "x""#)).collect();
        WORKSHOP.replace(
            r#""AttributePayload": {"#,
            &format!(
                r#"{thing_type} "AttributePayload": {{ {},"#,
                attributes.join(",")
            ),
        )
    };
    let with = r#""ThingTypeName": "bench","#;
    assert!(JitpTemplate::parse(&template(2, "")).is_ok());
    assert!(JitpTemplate::parse(&template(49, with)).is_ok());
    for text in [template(3, ""), template(50, with)] {
        assert_eq!(
            faults(&text),
            [(
                "template-attribute-count",
                "/Resources/thing/Properties/AttributePayload".to_owned()
            )]
        );
    }
}

#[test]
fn a_certificate_takes_10_policies() {
    let template = |count: usize| {
        let policy = |n| {
            format!(
                r#""p{n}": {{ "Type": "AWS::IoT::Policy", "Properties": {{ "PolicyName": "p{n}" }} }},"#
            )
        };
        let policies: String = (1..count).map(policy).collect();
        WORKSHOP.replace(r#""policy": {"#, &format!("{policies} \"policy\": {{"))
    };
    let parsed = JitpTemplate::parse(&template(10)).unwrap();
    assert_eq!(parsed.evaluate(&lamp()).unwrap().policies.len(), 10);
    assert_eq!(
        faults(&template(11)),
        [("template-policy-count", "/Resources".to_owned())]
    );
}

#[test]
fn a_template_without_a_thing_provisions_the_certificate_alone() {
    let mut template: serde_json::Value = serde_json::from_str(WORKSHOP).unwrap();
    template["Resources"]
        .as_object_mut()
        .unwrap()
        .remove("thing");
    template["Resources"]["certificate"]["Properties"]["Status"] = "Inactive".into();
    let provisioning = JitpTemplate::parse(&template.to_string())
        .unwrap()
        .evaluate(&lamp())
        .unwrap();
    assert_eq!(provisioning.thing_name, None);
    assert_eq!(provisioning.certificate_status, CertificateStatus::Inactive);
}

#[test]
fn a_declared_parameter_must_be_there_even_if_unused_or_with_a_default() {
    let text = WORKSHOP.replace(
        r#""Parameters": {"#,
        r#""Parameters": { "AWS::IoT::Certificate::StateName": { "Type": "String", "Default": "WA" },
           "AWS::IoT::Certificate::Organization": { "Type": "String" },"#,
    );
    let template = JitpTemplate::parse(&text).unwrap();
    let violations = template.evaluate(&lamp()).unwrap_err();
    let missing: Vec<_> = violations
        .iter()
        .map(|violation| (violation.rule, violation.attribute.as_deref()))
        .collect();
    assert_eq!(
        missing,
        [
            ("jitp-parameter-missing", Some("ST")),
            ("jitp-parameter-missing", Some("O"))
        ]
    );
}

#[test]
fn every_field_a_subject_can_reach_is_checked_and_all_violations_are_told_at_once() {
    let text = r#"{
        "Parameters": {
            "AWS::IoT::Certificate::Country": { "Type": "String" },
            "AWS::IoT::Certificate::CommonName": { "Type": "String" },
            "AWS::IoT::Certificate::Organization": { "Type": "String" },
            "AWS::IoT::Certificate::OrganizationalUnit": { "Type": "String" },
            "AWS::IoT::Certificate::StateName": { "Type": "String" },
            "AWS::IoT::Certificate::DistinguishedNameQualifier": { "Type": "String" },
            "AWS::IoT::Certificate::SerialNumber": { "Type": "String" },
            "AWS::IoT::Certificate::Id": { "Type": "String" }
        },
        "Resources": {
            "t": { "Type": "AWS::IoT::Thing", "Properties": {
                "ThingName": { "Ref": "AWS::IoT::Certificate::CommonName" },
                "ThingTypeName": { "Ref": "AWS::IoT::Certificate::Organization" },
                "ThingGroups": [
                    { "Ref": "AWS::IoT::Certificate::OrganizationalUnit" },
                    { "Ref": "AWS::IoT::Certificate::OrganizationalUnit" }
                ],
                "BillingGroup": { "Ref": "AWS::IoT::Certificate::StateName" },
                "AttributePayload": {
                    "q": { "Ref": "AWS::IoT::Certificate::DistinguishedNameQualifier" } } } },
            "c": { "Type": "AWS::IoT::Certificate", "Properties": {
                "CertificateId": { "Ref": "AWS::IoT::Certificate::Id" }, "Status": "ACTIVE" } },
            "p": { "Type": "AWS::IoT::Policy", "Properties": {
                "PolicyName": { "Ref": "AWS::IoT::Certificate::SerialNumber" } } }
        }
    }"#;
    let template = JitpTemplate::parse(text).unwrap();
    assert_eq!(template.parameters().len(), 7);
    let violations = template
        .evaluate(&subject(&[
            (AttributeType::Country, "DE"),
            (AttributeType::StateOrProvince, "New York"),
            (AttributeType::Organization, "Example Corp"),
            (AttributeType::OrganizationalUnit, "R&D"),
            (AttributeType::DnQualifier, "a b"),
            (AttributeType::SerialNumber, "a/b"),
            (AttributeType::CommonName, "a.b"),
        ]))
        .unwrap_err();
    let found: Vec<_> = violations
        .iter()
        .map(|violation| (violation.rule, violation.attribute.as_deref().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ("policy-name-pattern", "serialNumber"),
            ("thing-name-pattern", "CN"),
            ("thing-type-name-pattern", "O"),
            ("thing-group-name-pattern", "OU"),
            ("thing-attribute-value-pattern", "dnQualifier"),
            ("billing-group-name-pattern", "ST"),
        ]
    );
    let provisioning = template
        .evaluate(&subject(&[
            (AttributeType::Country, "DE"),
            (AttributeType::StateOrProvince, "Hessen"),
            (AttributeType::Organization, "Example"),
            (AttributeType::OrganizationalUnit, "Lamps"),
            (AttributeType::DnQualifier, "4,5=6"),
            (AttributeType::SerialNumber, "SN1"),
            (AttributeType::CommonName, "a:b_c-d"),
        ]))
        .unwrap();
    assert_eq!(provisioning.groups, ["Lamps"]);
    assert_eq!(provisioning.billing_group.as_deref(), Some("Hessen"));
    assert_eq!(provisioning.attributes["q"], "4,5=6");
}

/// What the development world's two profiles ask for, besides the optional attributes.
fn required(profile: &str) -> &'static [&'static str] {
    match profile {
        "lightbulb" => &["CN", "serialNumber", "C"],
        "workshop" => &["CN", "C"],
        other => panic!("{other}"),
    }
}

#[derive(serde::Deserialize)]
struct BadSubject {
    name: String,
    profile: String,
    subject: BTreeMap<String, String>,
    problem: String,
    rule: String,
    attribute: String,
}

/// The table is used over HTTP too; here each row must break the rule it names in the layer it
/// names, and a row for the template must pass every check before it.
#[test]
fn each_bad_subject_breaks_the_rule_it_names() {
    let rows: Vec<BadSubject> = serde_json::from_str(BAD_SUBJECTS).unwrap();
    assert!(rows.len() >= 50);
    for row in &rows {
        let attribute = Some(row.attribute.clone());
        let (required, optional) = (
            required(&row.profile),
            ["O", "OU", "L", "ST", "dnQualifier"],
        );
        let allowed = |name: &str| required.contains(&name) || optional.contains(&name);
        let known: BTreeMap<AttributeType, String> = row
            .subject
            .iter()
            .filter_map(|(key, text)| Some((AttributeType::from_short_name(key)?, text.clone())))
            .collect();
        let broken: Vec<Violation> = match row.rule.as_str() {
            "attribute-unknown" => {
                assert!(row.subject.contains_key(&row.attribute), "{}", row.name);
                let kind = AttributeType::from_short_name(&row.attribute);
                assert_eq!(kind, None, "{}", row.name);
                continue;
            }
            "attribute-missing" => {
                assert!(required.contains(&row.attribute.as_str()), "{}", row.name);
                assert!(!row.subject.contains_key(&row.attribute), "{}", row.name);
                continue;
            }
            "attribute-not-allowed" => {
                assert!(row.subject.contains_key(&row.attribute), "{}", row.name);
                assert!(!allowed(&row.attribute), "{}", row.name);
                continue;
            }
            _ if row.problem == "subject-invalid" => Subject::new(known).unwrap_err(),
            _ => {
                assert_eq!(row.problem, "jitp-violation", "{}", row.name);
                for name in required {
                    assert!(row.subject.contains_key(*name), "{}", row.name);
                }
                assert!(row.subject.keys().all(|key| allowed(key)), "{}", row.name);
                let template = match row.profile.as_str() {
                    "lightbulb" => JitpTemplate::parse(LIGHTBULB),
                    _ => JitpTemplate::parse(WORKSHOP),
                };
                let subject = Subject::new(known).unwrap();
                template.unwrap().evaluate(&subject).unwrap_err()
            }
        };
        assert!(
            broken
                .iter()
                .any(|found| found.rule == row.rule && found.attribute == attribute),
            "{}: {broken:?}",
            row.name
        );
    }
}

/// A body within the body limit of the service, with as many faults as fit, each at a long place.
#[test]
fn a_template_that_is_all_faults_makes_a_report_of_bounded_size() {
    let long = "A".repeat(4_000);
    let members = r#""":0,"#.repeat(1_200);
    let text = format!(
        r#"{{"Parameters":{{}},"Resources":{{"{long}":{{{}}}}}}}"#,
        members.trim_end_matches(',')
    );
    assert!(text.chars().count() <= 10_240);
    let (template, report) = JitpTemplate::lint(&text);
    assert!(template.is_none());
    assert_eq!(report.errors.len(), 101);
    assert_eq!(report.errors.last().unwrap().rule, "template-findings");
    // One character more than AWS takes, and nothing else is looked at.
    let (_, report) = JitpTemplate::lint(&format!("{text}{}", " ".repeat(10_240)));
    let rules: Vec<_> = report.errors.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, ["template-length"]);
}
