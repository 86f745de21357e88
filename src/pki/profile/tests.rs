//! Profiles as they are written, and requests as they come.

use super::*;
use crate::pki::tbs::fixture;
use openssl::pkey::PKey;
use openssl::pkey::Private;

const LIGHTBULB: &str = include_str!("../../../deploy/profiles/lightbulb.toml");
const WORKSHOP: &str = include_str!("../../../deploy/profiles/workshop.toml");
const LIGHTBULB_TEMPLATE: &str = include_str!("../../../deploy/profiles/jitp-lightbulb.json");
const WORKSHOP_TEMPLATE: &str = include_str!("../../../deploy/profiles/jitp-workshop.json");

const PLAIN: &str = r#"
issuer = "line-ec"
key_algorithms = ["P-256"]
validity = { days = 10 }
[subject]
required = ["CN", "C"]
optional = ["L"]
fixed = { O = "Example" }
"#;

fn plain() -> Profile {
    Profile::parse("plain", PLAIN, None).unwrap()
}

fn csr(key: &PKey<Private>, values: &[(AttributeType, &str)]) -> CertificationRequest {
    CertificationRequest {
        subject: values
            .iter()
            .map(|(kind, value)| (*kind, (*value).to_owned()))
            .collect(),
        public_key: fixture::public(key),
        excess_extensions: Vec::new(),
    }
}

fn requested(values: &[(&str, &str)]) -> BTreeMap<String, String> {
    values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn rules(refusal: &Refusal) -> Vec<(&'static str, String)> {
    match refusal {
        Refusal::KeyType(_) => Vec::new(),
        Refusal::ExtensionNotAllowed(violations)
        | Refusal::SubjectInvalid(violations)
        | Refusal::SubjectMismatch(violations)
        | Refusal::JitpViolation(violations) => violations
            .iter()
            .map(|violation| {
                (
                    violation.rule,
                    violation.attribute.clone().unwrap_or_default(),
                )
            })
            .collect(),
    }
}

#[test]
fn the_profiles_we_deliver_are_complete() {
    let lightbulb = Profile::parse("lightbulb", LIGHTBULB, Some(LIGHTBULB_TEMPLATE)).unwrap();
    assert_eq!(lightbulb.validity, ValidityRule::Days(7300));
    assert_eq!(lightbulb.slot, "identity");
    assert_eq!(lightbulb.required.len(), 3);
    let workshop = Profile::parse("workshop", WORKSHOP, Some(WORKSHOP_TEMPLATE)).unwrap();
    assert_eq!(workshop.validity, ValidityRule::NoExpiry);
    assert_eq!(
        workshop.key_algorithms,
        [KeyAlgorithm::P256, KeyAlgorithm::Rsa2048]
    );
    assert_eq!(
        Profile::template_path(LIGHTBULB).as_deref(),
        Some("jitp-lightbulb.json")
    );
    assert_eq!(Profile::template_path(PLAIN), None);
    assert_ne!(lightbulb.sha256, workshop.sha256);
}

#[test]
fn a_lamp_becomes_its_thing_and_one_that_aws_would_refuse_is_refused() {
    let profile = Profile::parse("lightbulb", LIGHTBULB, Some(LIGHTBULB_TEMPLATE)).unwrap();
    let csr = csr(&fixture::ec_key(), &[]);
    let subject = [
        ("CN", "lamp-000001"),
        ("serialNumber", "SN000001"),
        ("C", "DE"),
    ];
    let admission = profile.admit(&csr, Some(&requested(&subject))).unwrap();
    assert_eq!(admission.thing_name.as_deref(), Some("lamp-000001"));
    let subject = [("CN", "lamp 1"), ("serialNumber", "SN000001"), ("C", "DE")];
    let refusal = profile.admit(&csr, Some(&requested(&subject))).unwrap_err();
    assert_eq!(refusal.slug(), "jitp-violation");
}

#[test]
fn a_template_that_declares_an_attribute_nobody_must_give_is_a_fault() {
    let toml = LIGHTBULB.replace(
        "required = [\"CN\", \"serialNumber\", \"C\"]",
        "required = [\"CN\"]\nfixed = { C = \"DE\" }",
    );
    let faults = Profile::parse("lightbulb", &toml, Some(LIGHTBULB_TEMPLATE)).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("serialNumber"), "{faults:?}");
}

#[test]
fn all_faults_of_a_profile_come_at_once() {
    let toml = r#"
issuer = "Line EC"
device_identity = "serialNumber"
slot = ""
key_algorithms = ["P-256", "P-256", "P-521"]
certificate_length_max = 100
jitp_template = "../t.json"
[validity]
days = 0
backdate_seconds = 3601
[subject]
required = ["CN", "C", "cn"]
optional = ["C"]
fixed = { O = "", CN = "x" }
"#;
    let faults = Profile::parse("Up", toml, None).unwrap_err();
    for expected in [
        "name: \"Up\"",
        "issuer: \"Line EC\"",
        "slot: \"\"",
        "P-256 stands twice",
        "\"P-521\" is none of",
        "certificate_length_max",
        "validity.days",
        "validity.backdate_seconds",
        "subject.required: \"cn\"",
        "subject.optional: C stands twice",
        "subject.fixed: CN stands twice",
        "subject.fixed: O has 0 characters",
        "device_identity: not among subject.required",
        "jitp_template: \"../t.json\" was not found",
    ] {
        let found = faults
            .iter()
            .filter(|fault| fault.contains(expected))
            .count();
        assert_eq!(found, 1, "{expected} in {faults:#?}");
    }
    assert_eq!(faults.len(), 14, "{faults:#?}");
}

#[test]
fn unknown_keys_and_unclear_validity_are_faults() {
    for (from, to) in [
        ("issuer =", "serial = 1\nissuer ="),
        ("days = 10", "days = 10, no_expiry = true"),
        ("days = 10", ""),
        ("days = 10", "no_expiry = false"),
        ("days = 10", "days = 10, hours = 1"),
        ("days = 10", "days = -1"),
        ("[\"P-256\"]", "[]"),
    ] {
        assert!(
            Profile::parse("plain", &PLAIN.replace(from, to), None).is_err(),
            "{to}"
        );
    }
    assert!(Profile::parse("plain", PLAIN, Some("{}")).is_err());
}

#[test]
fn the_three_sources_make_one_subject() {
    let csr = csr(&fixture::ec_key(), &[(AttributeType::CommonName, "lamp-1")]);
    let admission = plain()
        .admit(
            &csr,
            Some(&requested(&[
                ("CN", "lamp-1"),
                ("C", "DE"),
                ("O", "Example"),
            ])),
        )
        .unwrap();
    let subject: Vec<_> = admission.subject.iter().collect();
    assert_eq!(
        subject,
        [
            (AttributeType::Country, "DE"),
            (AttributeType::Organization, "Example"),
            (AttributeType::CommonName, "lamp-1"),
        ]
    );
    assert_eq!(admission.device, "lamp-1");
    assert_eq!(admission.thing_name, None);
}

#[test]
fn sources_that_differ_are_all_told() {
    let given = [
        (AttributeType::CommonName, "lamp-2"),
        (AttributeType::Organization, "Other"),
    ];
    let csr = csr(&fixture::ec_key(), &given);
    let refusal = plain()
        .admit(&csr, Some(&requested(&[("CN", "lamp-1")])))
        .unwrap_err();
    assert_eq!(refusal.slug(), "subject-mismatch");
    assert_eq!(
        rules(&refusal),
        [
            ("attribute-mismatch", "O".to_owned()),
            ("attribute-mismatch", "CN".to_owned())
        ]
    );
}

#[test]
fn missing_unwanted_and_malformed_attributes_are_all_told() {
    let csr = csr(&fixture::ec_key(), &[]);
    let refusal = plain()
        .admit(&csr, Some(&requested(&[("CN", ""), ("OU", "line 1")])))
        .unwrap_err();
    assert_eq!(refusal.slug(), "subject-invalid");
    assert_eq!(
        rules(&refusal),
        [
            ("attribute-missing", "C".to_owned()),
            ("attribute-not-allowed", "OU".to_owned()),
            ("attribute-length", "CN".to_owned()),
        ]
    );
    assert_eq!(
        plain().admit(&csr, None).unwrap_err().slug(),
        "subject-invalid"
    );
}

#[test]
fn faults_come_in_one_order() {
    let mut request = csr(
        &fixture::rsa_key(),
        &[(AttributeType::CommonName, "lamp-2")],
    );
    request.excess_extensions.push(Violation {
        rule: "extension-not-granted",
        attribute: Some("2.5.29.17".to_owned()),
        detail: String::new(),
    });
    let wrong = requested(&[("CN", "lamp-1"), ("emailAddress", "a@b")]);
    let slug = |request: &CertificationRequest, subject: &BTreeMap<String, String>| {
        plain().admit(request, Some(subject)).unwrap_err().slug()
    };
    assert_eq!(slug(&request, &wrong), "key-type");
    request.public_key = fixture::public(&fixture::ec_key());
    assert_eq!(slug(&request, &wrong), "extension-not-allowed");
    request.excess_extensions.clear();
    assert_eq!(slug(&request, &wrong), "subject-invalid");
    assert_eq!(
        slug(&request, &requested(&[("CN", "lamp-1")])),
        "subject-mismatch"
    );
}

#[test]
fn the_hash_tells_profile_and_template_apart() {
    let template = |text| {
        Profile::parse("workshop", WORKSHOP, Some(text))
            .unwrap()
            .sha256
    };
    let longer = format!("{WORKSHOP_TEMPLATE}\n");
    assert_ne!(template(WORKSHOP_TEMPLATE), template(&longer));
    let commented = Profile::parse("plain", &format!("{PLAIN}#"), None).unwrap();
    assert_ne!(plain().sha256, commented.sha256);
}

#[test]
fn another_issuer_takes_over_at_its_moment_and_not_a_second_sooner() {
    let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let with = |lines: &str| Profile::parse("plain", &format!("{lines}{PLAIN}"), None);
    let profile = with("next_issuer = 'line-ec-g2'\nswitch_at = '2027-01-01T07:00:00+01:00'\n");
    let profile = profile.unwrap();
    assert_eq!(profile.issuer_at(time("2027-01-01T05:59:59.9Z")), "line-ec");
    assert_eq!(
        profile.issuer_at(time("2027-01-01T06:00:00Z")),
        "line-ec-g2"
    );
    assert_eq!(
        profile.issuers().collect::<Vec<_>>(),
        ["line-ec", "line-ec-g2"]
    );
    assert_eq!(plain().issuer_at(time("2099-01-01T00:00:00Z")), "line-ec");
    for (wrong, fault) in [
        ("next_issuer = 'line-ec-g2'\n", "one needs the other"),
        (
            "switch_at = '2027-01-01T06:00:00Z'\n",
            "one needs the other",
        ),
        ("next_issuer = 'x'\nswitch_at = 'soon'\n", "RFC 3339"),
        (
            "next_issuer = 'X'\nswitch_at = '2027-01-01T06:00:00Z'\n",
            "next_issuer",
        ),
        (
            "next_issuer = 'x'\nswitch_at = '2027-01-01T06:00:00.5Z'\n",
            "to the second",
        ),
    ] {
        let faults = with(wrong).unwrap_err().join("; ");
        assert!(faults.contains(fault), "{wrong}: {faults}");
    }
}
