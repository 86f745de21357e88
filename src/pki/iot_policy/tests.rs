//! Decisions as AWS documents them, and what a document may hold.

use super::*;
use crate::pki::name::AttributeType;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

/// A lamp that connects under its thing's name, less what a test changes.
struct Lamp {
    client_id: String,
    subject: Subject,
    thing: Option<&'static str>,
    type_name: Option<&'static str>,
    attributes: BTreeMap<String, String>,
}

impl Lamp {
    fn new() -> Self {
        Self {
            client_id: "lamp-1".to_owned(),
            subject: subject(&[(AttributeType::CommonName, "lamp-1")]),
            thing: Some("lamp-1"),
            type_name: Some("bulb"),
            attributes: BTreeMap::from([("room".to_owned(), "kitchen".to_owned())]),
        }
    }

    fn asks(&self, policies: &[IotPolicy], request: &Request) -> Decision {
        let context = Context {
            client_id: &self.client_id,
            domain_name: "iot.example",
            source_ip: "192.0.2.7".parse().unwrap(),
            subject: &self.subject,
            certificate_id: &"ab".repeat(32),
            thing: self.thing.map(|name| ThingContext {
                name,
                type_name: self.type_name,
                attributes: &self.attributes,
            }),
        };
        decide(policies, request, &context)
    }

    fn may(&self, statements: &Value, request: &Request) -> bool {
        self.asks(&[policy(statements)], request).allowed
    }
}

fn subject(values: &[(AttributeType, &str)]) -> Subject {
    let values = values
        .iter()
        .map(|(kind, value)| (*kind, (*value).to_owned()));
    Subject::new(values.collect()).unwrap()
}

fn policy(statements: &Value) -> IotPolicy {
    let text = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
    IotPolicy::parse(&text).unwrap()
}

fn arn(resource: &str) -> String {
    format!("arn:aws:iot:eu-central-1:123456789012:{resource}")
}

fn allow(action: &str, resource: &str) -> Value {
    json!({ "Effect": "Allow", "Action": action, "Resource": arn(resource) })
}

const CONNECT: Request = Request::Connect { attributes: &[] };

#[test]
fn what_nobody_allows_is_denied_and_a_denial_wins() {
    let lamp = Lamp::new();
    let publish = Request::Publish("a/b");
    let nothing = lamp.asks(&[], &publish);
    assert!(!nothing.allowed);
    assert_eq!(
        nothing.reason,
        "no statement allows iot:Publish on topic/a/b"
    );
    let all = allow("iot:*", "*");
    assert!(lamp.may(&all, &publish));
    let deny = json!({ "Effect": "Deny", "Action": "iot:Publish", "Resource": arn("topic/a/*") });
    assert!(!lamp.may(&json!([all, deny]), &publish));
    assert!(!lamp.may(&json!([deny, all]), &publish));
    assert!(lamp.may(&json!([all, deny]), &Request::Publish("b/a")));
    // in two policies as in one
    let decision = lamp.asks(&[policy(&all), policy(&deny)], &publish);
    assert!(!decision.allowed);
    assert_eq!(
        decision.reason,
        "the statement denies iot:Publish on topic/a/b"
    );
}

#[test]
fn action_and_kind_of_resource_belong_together() {
    let lamp = Lamp::new();
    for (action, resource, request, expected) in [
        ("iot:Publish", "topic/a", Request::Publish("a"), true),
        ("iot:publish", "topic/a", Request::Publish("a"), true),
        ("iot:Publish", "topicfilter/a", Request::Publish("a"), false),
        ("iot:Publish", "topic/a", Request::RetainPublish("a"), false),
        (
            "iot:RetainPublish",
            "topic/a",
            Request::RetainPublish("a"),
            true,
        ),
        ("iot:*Publish", "topic/a", Request::RetainPublish("a"), true),
        ("iot:Subscribe", "topic/a", Request::Subscribe("a"), false),
        (
            "iot:Subscribe",
            "topicfilter/a",
            Request::Subscribe("a"),
            true,
        ),
        ("iot:Receive", "topic/a", Request::Receive("a"), true),
        ("iot:Publish", "topic/a", Request::Receive("a"), false),
        ("iot:Connect", "client/lamp-1", CONNECT, true),
        ("iot:Connect", "client/lamp-2", CONNECT, false),
        ("*", "client/*", CONNECT, true),
    ] {
        let statement = allow(action, resource);
        assert_eq!(
            lamp.may(&statement, &request),
            expected,
            "{action} {resource} {request:?}"
        );
    }
    let whole = |resource: &str| json!({ "Effect": "Allow", "Action": "iot:Connect", "Resource": resource });
    for resource in ["*", "arn:aws:iot:*", "arn:aws-cn:iot:*:*:client/*", "arn:*"] {
        assert!(lamp.may(&whole(resource), &CONNECT), "{resource}");
    }
    assert!(!lamp.may(&whole("arn:aws:s3:*"), &CONNECT));
}

#[test]
fn wildcards_are_the_policys_and_not_mqtts() {
    let lamp = Lamp::new();
    for (pattern, filter, expected) in [
        ("a/*", "a/+/#", true),
        ("a/#", "a/#", true),
        ("a/#", "a/b", false),
        ("a/+/c", "a/b/c", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*b*d*", "abcd", true),
        ("*b*d*e", "abcd", false),
        ("${*}", "*", true),
        ("${*}", "x", false),
        ("a${?}", "a?", true),
        ("a${$}b", "a$b", true),
        ("*", "\u{1f4a1}", true),
        ("?", "\u{1f4a1}", true),
    ] {
        let statement = allow("iot:Subscribe", &format!("topicfilter/{pattern}"));
        let request = Request::Subscribe(filter);
        assert_eq!(
            lamp.may(&statement, &request),
            expected,
            "{pattern} {filter}"
        );
    }
}

#[test]
fn variables_stand_for_the_connection() {
    let mut lamp = Lamp::new();
    lamp.subject = subject(&[
        (AttributeType::CommonName, "lamp-1"),
        (AttributeType::Organization, "Lamps"),
        (AttributeType::StateOrProvince, "Bavaria"),
    ]);
    for (pattern, topic) in [
        ("${iot:ClientId}", "lamp-1"),
        ("x/${iot:Connection.Thing.ThingName}/y", "x/lamp-1/y"),
        ("${iot:Connection.Thing.ThingTypeName}", "bulb"),
        (
            "${iot:Connection.Thing.Attributes[room]}/*",
            "kitchen/light",
        ),
        ("${iot:Certificate.Subject.CommonName}", "lamp-1"),
        ("${iot:Certificate.Subject.CommonName.0}", "lamp-1"),
        ("${iot:Certificate.Subject.Organization}", "Lamps"),
        ("${iot:Certificate.Subject.State}", "Bavaria"),
        ("${iot:DomainName}", "iot.example"),
        ("${aws:SourceIp}", "192.0.2.7"),
    ] {
        let statement = allow("iot:Publish", &format!("topic/{pattern}"));
        let decision = lamp.asks(&[policy(&statement)], &Request::Publish(topic));
        assert!(decision.allowed, "{pattern} {decision:?}");
        assert_eq!(decision.notes, Vec::<String>::new());
        assert!(
            !lamp.may(&statement, &Request::Publish("other")),
            "{pattern}"
        );
    }
}

#[test]
fn a_variable_without_a_value_keeps_its_statement_out_and_is_noted() {
    let mut lamp = Lamp::new();
    let noted = |lamp: &Lamp, variable: &str| {
        let statements = json!([
            allow("iot:Publish", &format!("topic/{variable}*")),
            { "Effect": "Deny", "Action": "iot:Publish", "Resource": arn(&format!("topic/{variable}*")) },
        ]);
        let decision = lamp.asks(&[policy(&statements)], &Request::Publish("a"));
        assert!(!decision.allowed);
        assert!(decision.reason.starts_with("no statement"), "{decision:?}");
        assert_eq!(decision.notes.len(), 2, "{decision:?}");
        decision.notes[0].clone()
    };
    for (variable, why) in [
        (
            "${iot:Connection.Thing.Attributes[floor]}",
            "no such attribute",
        ),
        ("${iot:Connection.Thing.Colour}", "knows no such variable"),
        ("${iot:Certificate.Subject.Country}", "subject lacks it"),
        (
            "${iot:Certificate.Subject.CommonName.1}",
            "subject lacks it",
        ),
    ] {
        let note = noted(&lamp, variable);
        assert!(note.contains(why) && note.contains(variable), "{note}");
    }
    lamp.client_id = "other".to_owned();
    let note = noted(&lamp, "${iot:Connection.Thing.ThingName}");
    assert!(
        note.contains("`other` is not the thing's name `lamp-1`"),
        "{note}"
    );
    lamp.thing = None;
    let note = noted(&lamp, "${iot:Connection.Thing.ThingName}");
    assert!(note.contains("attached to no thing"), "{note}");
}

#[test]
fn characters_that_mean_something_stop_or_escape_a_subject_variable() {
    let mut lamp = Lamp::new();
    let statement = allow("iot:Publish", "topic/${iot:Certificate.Subject.CommonName}");
    for character in ["*", "$", "+", "?", "#"] {
        let name = format!("lamp{character}1");
        lamp.subject = subject(&[(AttributeType::CommonName, &name)]);
        let decision = lamp.asks(&[policy(&statement)], &Request::Publish(&name));
        assert!(!decision.allowed, "{name}");
        assert!(
            decision.notes[0].contains("not substituted"),
            "{decision:?}"
        );
    }
    for (name, topic) in [
        ("a,b", "a\\,b"),
        ("a=b", "a\\=b"),
        ("a\\b", "a\\\\b"),
        ("a\"<>;b", "a\\\"\\<\\>\\;b"),
        ("a b/c", "a b/c"),
    ] {
        lamp.subject = subject(&[(AttributeType::CommonName, name)]);
        assert!(lamp.may(&statement, &Request::Publish(topic)), "{name}");
        assert_eq!(lamp.may(&statement, &Request::Publish(name)), name == topic);
    }
}

#[test]
fn a_client_id_is_never_a_wildcard_of_the_policy() {
    let mut lamp = Lamp::new();
    lamp.client_id = "*".to_owned();
    let statement = allow("iot:Publish", "topic/${iot:ClientId}");
    assert!(lamp.may(&statement, &Request::Publish("*")));
    assert!(!lamp.may(&statement, &Request::Publish("anything")));
}

#[test]
fn conditions_of_awss_examples_are_decided() {
    let mut lamp = Lamp::new();
    let with = |condition: Value| json!({ "Effect": "Allow", "Action": "iot:Connect", "Resource": "*", "Condition": condition });
    for (condition, expected) in [
        (
            json!({ "Bool": { "iot:Connection.Thing.IsAttached": ["true"] } }),
            true,
        ),
        (
            json!({ "Bool": { "iot:Connection.Thing.IsAttached": true } }),
            true,
        ),
        (
            json!({ "Bool": { "iot:Connection.Thing.IsAttached": "false" } }),
            false,
        ),
        (
            json!({ "StringEquals": { "iot:Connection.Thing.ThingTypeName": "bulb" } }),
            true,
        ),
        (
            json!({ "StringEquals": { "iot:Connection.Thing.Attributes[room]": ["bath", "kitchen"] } }),
            true,
        ),
        (
            json!({ "StringEquals": { "iot:ClientId": "lamp-*" } }),
            false,
        ),
        (json!({ "StringLike": { "iot:ClientId": "lamp-*" } }), true),
        (
            json!({ "StringNotLike": { "iot:ClientId": "lamp-*" } }),
            false,
        ),
        (
            json!({ "StringNotEquals": { "iot:ClientId": ["a", "b"] } }),
            true,
        ),
        (
            json!({ "StringEqualsIgnoreCase": { "iot:ClientId": "LAMP-1" } }),
            true,
        ),
        (
            json!({ "StringEquals": { "iot:ClientId": "${iot:Certificate.Subject.CommonName}" } }),
            true,
        ),
        (
            json!({ "StringEquals": { "iot:ClientId": "lamp-1", "iot:DomainName": "else" } }),
            false,
        ),
    ] {
        assert_eq!(
            lamp.may(&with(condition.clone()), &CONNECT),
            expected,
            "{condition}"
        );
    }
    let attributes =
        with(json!({ "ForAllValues:StringEquals": { "iot:ConnectAttributes": ["LastWill"] } }));
    for (asked, expected) in [
        (&[][..], true),
        (&[ConnectAttribute::LastWill], true),
        (&[ConnectAttribute::PersistentConnect], false),
        (
            &[
                ConnectAttribute::LastWill,
                ConnectAttribute::PersistentConnect,
            ],
            false,
        ),
    ] {
        let request = Request::Connect { attributes: asked };
        assert_eq!(lamp.may(&attributes, &request), expected, "{asked:?}");
    }
    lamp.client_id = "other".to_owned();
    let attached = with(json!({ "Bool": { "iot:Connection.Thing.IsAttached": "true" } }));
    assert!(!lamp.may(&attached, &CONNECT));
}

#[test]
fn a_condition_that_cannot_be_decided_never_allows() {
    let lamp = Lamp::new();
    let conditions = [
        json!({ "IpAddress": { "aws:SourceIp": "192.0.2.0/24" } }),
        json!({ "StringEquals": { "aws:PrincipalTag/x": "y" } }),
        json!({ "DateGreaterThan": { "aws:CurrentTime": "2020-01-01T00:00:00Z" } }),
    ];
    for condition in conditions {
        let statement = |effect: &str| json!({ "Effect": effect, "Action": "iot:Connect", "Resource": "*", "Condition": condition });
        let decision = lamp.asks(&[policy(&statement("Allow"))], &CONNECT);
        assert!(!decision.allowed);
        assert_eq!(decision.notes.len(), 1, "{decision:?}");
        let both = json!([allow("iot:Connect", "*"), statement("Deny")]);
        let decision = lamp.asks(&[policy(&both)], &CONNECT);
        assert!(!decision.allowed, "{decision:?}");
        assert_eq!(decision.notes.len(), 1);
    }
}

#[test]
fn a_denied_resource_with_a_variable_that_only_aws_knows_is_denied() {
    let lamp = Lamp::new();
    let denies = |variable: &str| {
        let resource = arn(&format!("topic/${{{variable}}}/cmd"));
        let deny = json!({ "Effect": "Deny", "Action": "iot:Publish", "Resource": resource });
        let both = json!([allow("iot:Publish", "*"), deny]);
        !lamp.may(&both, &Request::Publish("somewhere/cmd"))
    };
    assert!(denies("iot:Certificate.SerialNumber"));
    assert!(denies("iot:Certificate.Issuer.CommonName"));
    // Known, and without a value: AWS lets the statement not match.
    assert!(!denies("iot:Certificate.Subject.Country"));
    assert!(!denies("iot:ClientId"));
}

#[test]
fn an_arn_that_ends_early_in_a_wildcard_stands_for_every_resource() {
    let lamp = Lamp::new();
    for resource in ["arn:*", "arn:aws:iot:*", "arn:aws:iot:eu-central-1:*"] {
        let statement = json!({ "Effect": "Allow", "Action": "iot:Connect", "Resource": resource });
        assert!(lamp.may(&statement, &CONNECT), "{resource}");
    }
}

#[test]
fn case_is_ignored_in_what_a_variable_stands_for_too() {
    let lamp = Lamp {
        client_id: "LAMP-1".to_owned(),
        ..Lamp::new()
    };
    let statement = json!({ "Effect": "Allow", "Action": "iot:Connect", "Resource": "*",
        "Condition": { "StringEqualsIgnoreCase":
            { "iot:Certificate.Subject.CommonName": "${iot:ClientId}" } } });
    assert!(lamp.may(&statement, &CONNECT));
    let other = Lamp {
        client_id: "lamp-2".to_owned(),
        ..Lamp::new()
    };
    assert!(!other.may(&statement, &CONNECT));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn each_fault_of_a_document_has_its_rule_and_pointer() {
    let good = allow("iot:Connect", "*");
    let changed = |key: &str, value: Value| {
        let mut statement = good.clone();
        statement[key] = value;
        json!({ "Version": "2012-10-17", "Statement": [statement] })
    };
    for (document, rule, pointer) in [
        (json!([]), "policy-json", ""),
        (json!({ "Statement": good }), "policy-version", "/Version"),
        (
            // Knows no variables.
            json!({ "Version": "2008-10-17", "Statement": good }),
            "policy-version",
            "/Version",
        ),
        (
            json!({ "Version": "2020-01-01", "Statement": good }),
            "policy-version",
            "/Version",
        ),
        (
            json!({ "Version": "2012-10-17" }),
            "policy-statement",
            "/Statement",
        ),
        (
            json!({ "Version": "2012-10-17", "Statement": [] }),
            "policy-statement",
            "/Statement",
        ),
        (
            json!({ "Version": "2012-10-17", "Statement": ["x"] }),
            "policy-statement",
            "/Statement/0",
        ),
        (
            json!({ "Version": "2012-10-17", "Statement": good, "X": 1 }),
            "policy-key",
            "/X",
        ),
        (
            changed("Effect", json!("allow")),
            "policy-effect",
            "/Statement/0/Effect",
        ),
        (
            changed("Action", json!("s3:GetObject")),
            "policy-action",
            "/Statement/0/Action",
        ),
        (
            changed("Action", json!([])),
            "policy-string",
            "/Statement/0/Action",
        ),
        (
            changed("Action", json!([1])),
            "policy-string",
            "/Statement/0/Action",
        ),
        (
            changed("Resource", json!("topic/a")),
            "policy-resource",
            "/Statement/0/Resource",
        ),
        (
            changed("Resource", json!("arn:aws:s3:::x:y")),
            "policy-resource",
            "/Statement/0/Resource",
        ),
        (
            changed("Resource", json!(arn("topic/${iot:ClientId"))),
            "policy-resource",
            "/Statement/0/Resource",
        ),
        (
            changed("NotAction", json!("iot:Publish")),
            "policy-not-supported",
            "/Statement/0/NotAction",
        ),
        (
            changed("NotResource", json!("*")),
            "policy-not-supported",
            "/Statement/0/NotResource",
        ),
        (
            changed("Principal", json!("*")),
            "policy-principal",
            "/Statement/0/Principal",
        ),
        (
            changed("Colour", json!("red")),
            "policy-key",
            "/Statement/0/Colour",
        ),
        (
            changed("Condition", json!("x")),
            "policy-condition",
            "/Statement/0/Condition",
        ),
        (
            changed("Condition", json!({ "Bool": "x" })),
            "policy-condition",
            "/Statement/0/Condition/Bool",
        ),
        (
            changed("Sid", json!("x".repeat(2_048))),
            "policy-length",
            "",
        ),
    ] {
        let faults = IotPolicy::parse(&document.to_string()).unwrap_err().0;
        assert_eq!(faults.len(), 1, "{document} {faults:?}");
        assert_eq!(faults[0].rule, rule, "{document}");
        assert_eq!(faults[0].attribute.as_deref(), Some(pointer), "{document}");
    }
    assert_eq!(IotPolicy::parse("{").unwrap_err().0[0].rule, "policy-json");
}

proptest! {
    #[test]
    fn wildcards_mean_what_a_plain_search_says(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
        fn plain(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern.first(), text.first()) {
                (None, None) => true,
                (Some(b'*'), _) => {
                    plain(&pattern[1..], text) || (!text.is_empty() && plain(pattern, &text[1..]))
                }
                (Some(b'?'), Some(_)) => plain(&pattern[1..], &text[1..]),
                (Some(p), Some(t)) if p == t => plain(&pattern[1..], &text[1..]),
                _ => false,
            }
        }
        prop_assert_eq!(
            pattern::glob(&pattern, &text),
            plain(pattern.as_bytes(), text.as_bytes())
        );
    }

    #[test]
    fn no_document_is_a_panic(text in "[{}\\[\\]\":,a-zA-Z0-9$ *]{0,80}") {
        let _ = IotPolicy::parse(&text);
    }
}
