//! The files of a kit, made from values alone: the same values give the same bytes.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use super::Mode;
use super::needs::Kind;
use super::needs::Name;
use super::needs::Needs;
use super::place::Account;
use super::place::Region;
use super::place::RoleName;
use super::place::TemplateName;
use super::policies;
use super::preflight;
use super::text::fill;
use super::text::markdown_code;
use super::text::shell_word;
use super::text::shell_words;
use super::throttle::Throttle;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::name::AttributeType;

/// The file that is run.
pub const SCRIPT: &str = "register.sh";
/// The file by which a folder is known to hold a kit.
pub const MANIFEST: &str = "kit.json";
/// Its `kind`.
pub const KIND: &str = "certfactory-jitp-kit";

/// What a kit is made of. The template must have passed
/// [`crate::pki::jitp::JitpTemplate::parse`].
pub struct Kit<'a> {
    /// The CA to register.
    pub issuer: &'a Issuer,
    /// The profile, where the kit is for one.
    pub profile: Option<&'a str>,
    /// The plain template body.
    pub body: &'a str,
    /// Subject attributes that are the same in every certificate.
    pub fixed: &'a BTreeMap<AttributeType, String>,
    /// Where it is registered.
    pub account: &'a Account,
    /// Where it is registered.
    pub region: &'a Region,
    /// How.
    pub mode: Mode,
    /// The role with which AWS IoT provisions.
    pub role_name: &'a RoleName,
    /// The template's name in AWS IoT.
    pub template_name: &'a TemplateName,
}

impl Kit<'_> {
    /// Names and contents, all of them text.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let needs = Needs::of(self.body, self.fixed);
        vec![
            (
                "ca.pem",
                self.issuer.pem.first().cloned().unwrap_or_default(),
            ),
            // No line end: AWS IoT counts it.
            ("template-body.json", self.body.to_owned()),
            (
                "registration-config.json",
                pretty(&json!({ "templateBody": self.body, "roleArn": self.role_arn() })),
            ),
            (
                "registration-config-by-name.json",
                pretty(&json!({ "templateName": self.template_name.to_string() })),
            ),
            ("role-trust-policy.json", pretty(&policies::trust(self))),
            (
                "role-permissions.json",
                pretty(&policies::permissions(&needs)),
            ),
            (
                "operator-policy.json",
                pretty(&policies::operator(self, &needs)),
            ),
            ("device-policy.json", pretty(&policies::device(self))),
            ("preflight.json", pretty(&preflight::json(self, &needs))),
            ("preflight.md", preflight::markdown(self, &needs)),
            (SCRIPT, self.script(&needs)),
            ("README.md", self.readme(&needs)),
            // Last: a folder is a kit's only when everything else is there.
            (MANIFEST, pretty(&self.manifest())),
        ]
    }

    /// What a person should know before, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let needs = Needs::of(self.body, self.fixed);
        let mut warnings = Vec::new();
        if !needs.makes_thing {
            warnings.push(
                "the template makes no thing: thing policy variables and shadows will not work"
                    .to_owned(),
            );
        }
        if !needs.activates {
            warnings.push(
                "the template leaves the certificate INACTIVE: no device connects until somebody \
                 activates its certificate"
                    .to_owned(),
            );
        }
        if needs.policies == 0 {
            warnings.push(
                "the template attaches no policy: a device is disconnected as soon as it is \
                 provisioned, unless one of its groups has a policy"
                    .to_owned(),
            );
        }
        for document in &needs.documents {
            for arn in self.foreign_arns(document) {
                warnings.push(format!(
                    "a policy in the template names {arn}, which is not in account {} and {}",
                    self.account, self.region
                ));
            }
        }
        warnings
    }

    /// SHA-256 of the CA certificate's DER, which AWS IoT takes as the CA's id.
    #[must_use]
    pub fn ca_certificate_id(&self) -> String {
        hex(&openssl::sha::sha256(&self.issuer.certificate))
    }

    /// The CA's ARN once it is registered.
    #[must_use]
    pub fn ca_arn(&self) -> String {
        self.iot_arn(&format!("cacert/{}", self.ca_certificate_id()))
    }

    /// The role's ARN.
    #[must_use]
    pub fn role_arn(&self) -> String {
        format!(
            "arn:{}:iam::{}:role/{}",
            self.region.partition(),
            self.account,
            self.role_name
        )
    }

    /// The provisioning template's ARN.
    #[must_use]
    pub fn template_arn(&self) -> String {
        self.iot_arn(&format!("provisioningtemplate/{}", self.template_name))
    }

    /// An ARN of AWS IoT in the kit's account and Region.
    #[must_use]
    pub fn iot_arn(&self, resource: &str) -> String {
        format!(
            "arn:{}:iot:{}:{}:{resource}",
            self.region.partition(),
            self.region,
            self.account
        )
    }

    /// What the kit is for, for programs.
    #[must_use]
    pub fn manifest(&self) -> Value {
        let needs = Needs::of(self.body, self.fixed);
        json!({
            "kind": KIND,
            "issuer": self.issuer.name,
            "profile": self.profile,
            "account": self.account.to_string(),
            "region": self.region.to_string(),
            "certificate_mode": self.mode.as_str(),
            "ca_certificate_id": self.ca_certificate_id(),
            "ca_certificate_arn": self.ca_arn(),
            "ca_subject": self.issuer.subject,
            "ca_not_after": self.issuer.validity.not_after.to_rfc3339(),
            "device_certificate_arn": self.iot_arn("cert/FINGERPRINT_SHA256"),
            "role_arn": self.role_arn(),
            "template_name": self.template_name.to_string(),
            "template_arn": self.template_arn(),
            "throttle": Throttle::of(&needs).json(),
            "warnings": self.warnings(),
        })
    }

    /// AWS's own policy for the role.
    pub(super) fn managed_policy_arn(&self) -> String {
        format!(
            "arn:{}:iam::aws:policy/service-role/AWSIoTThingsRegistration",
            self.region.partition()
        )
    }

    /// ARNs in a policy document that name another partition, Region or account of AWS IoT.
    fn foreign_arns(&self, document: &str) -> Vec<String> {
        let ours = |place: &str, own: &str| place == own || place.contains(['*', '?', '$']);
        let mut foreign = Vec::new();
        for part in document.split("arn:").skip(1) {
            let end = part.find(['"', '\\', ' ', ']']).unwrap_or(part.len());
            let arn = &part[..end];
            let mut fields = arn.split(':');
            let mut next = || fields.next().unwrap_or_default();
            let (partition, service, region, account) = (next(), next(), next(), next());
            let is_foreign = service == "iot"
                && !(ours(partition, self.region.partition())
                    && ours(region, &self.region.to_string())
                    && ours(account, &self.account.to_string()));
            let arn = format!("arn:{arn}");
            if is_foreign && !foreign.contains(&arn) {
                foreign.push(arn);
            }
        }
        foreign
    }

    fn script(&self, needs: &Needs) -> String {
        let words = |kind: Kind| shell_words(needs.literals(kind));
        let per_value = needs.names.iter().filter_map(|need| match &need.name {
            Name::Literal(_) => None,
            Name::PerValue(attributes) => Some(preflight::per_value(need.kind, attributes)),
        });
        let per_value: Vec<String> = per_value.collect();
        fill(
            include_str!("register.sh"),
            &[
                ("ISSUER", shell_word(&self.issuer.name)),
                ("ACCOUNT", shell_word(&self.account.to_string())),
                ("REGION", shell_word(&self.region.to_string())),
                ("MODE", shell_word(self.mode.as_str())),
                ("CA_ID", shell_word(&self.ca_certificate_id())),
                ("ROLE_NAME", shell_word(&self.role_name.to_string())),
                ("ROLE_ARN", shell_word(&self.role_arn())),
                ("MANAGED_POLICY_ARN", shell_word(&self.managed_policy_arn())),
                ("TEMPLATE_NAME", shell_word(&self.template_name.to_string())),
                ("THING_TYPES", words(Kind::ThingType)),
                ("THING_GROUPS", words(Kind::ThingGroup)),
                ("BILLING_GROUPS", words(Kind::BillingGroup)),
                ("POLICIES", words(Kind::Policy)),
                (
                    "PER_VALUE",
                    shell_words(per_value.iter().map(String::as_str)),
                ),
            ],
        )
    }

    fn readme(&self, needs: &Needs) -> String {
        let throttle = Throttle::of(needs);
        let proof = match self.mode {
            Mode::Default => include_str!("proof-default.md"),
            Mode::SniOnly => include_str!("proof-sni-only.md"),
        };
        let issuer = ("ISSUER", shell_word(&self.issuer.name));
        let proof = fill(proof, std::slice::from_ref(&issuer));
        fill(
            include_str!("README.md"),
            &[
                issuer,
                ("SUBJECT", markdown_code(&self.issuer.subject)),
                (
                    "NOT_AFTER",
                    self.issuer.validity.not_after.format("%F").to_string(),
                ),
                ("ACCOUNT", self.account.to_string()),
                ("REGION", self.region.to_string()),
                ("MODE", self.mode.as_str().to_owned()),
                ("PROOF", proof),
                ("CA_ID", self.ca_certificate_id()),
                ("CA_ARN", self.ca_arn()),
                ("ROLE_NAME", self.role_name.to_string()),
                ("ROLE_ARN", self.role_arn()),
                ("TEMPLATE_NAME", self.template_name.to_string()),
                ("TEMPLATE_ARN", self.template_arn()),
                ("DEVICE_ARN", self.iot_arn("cert/FINGERPRINT_SHA256")),
                ("QUOTA_ROWS", throttle.rows().trim_end().to_owned()),
                ("NARROWEST", throttle.narrowest_operation().to_owned()),
                ("PER_HOUR", throttle.devices_per_hour().to_string()),
                ("HOURS", throttle.hours_for(100_000)),
                ("WARNINGS", list(&self.warnings())),
            ],
        )
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

pub(super) fn list(lines: &[String]) -> String {
    if lines.is_empty() {
        return "None.".to_owned();
    }
    let lines: Vec<String> = lines.iter().map(|line| format!("- {line}")).collect();
    lines.join("\n")
}
