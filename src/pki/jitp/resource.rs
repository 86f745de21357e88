//! The `Resources` of a template: at most one thing, exactly one certificate, policies.

use crate::pki::jitp::CertificateStatus;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Parameter;
use crate::pki::jitp::PolicySource;
use crate::pki::jitp::Thing;
use crate::pki::jitp::Value;
use crate::pki::jitp::constraint;
use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;
use crate::pki::jitp::lint::Lint;
use crate::pki::jitp::override_settings;
use crate::pki::name::AttributeType;

/// Attributes of a thing without and with a thing type (AWS service quotas).
const ATTRIBUTES_MAX: usize = 3;
const ATTRIBUTES_MAX_WITH_TYPE: usize = 50;
/// Groups of one thing.
const GROUPS_MAX: usize = 10;
/// Policies of one certificate.
const POLICIES_MAX: usize = 10;
/// A policy document, in characters that are not white space.
const POLICY_DOCUMENT_LENGTH_MAX: usize = 2_048;

/// The resources read so far.
#[derive(Default)]
pub(super) struct Resources {
    things: Vec<Option<Thing>>,
    certificates: Vec<Option<CertificateStatus>>,
    policies: Vec<Option<PolicySource>>,
}

impl Resources {
    /// Reads the `Resources` object. Logical names are free.
    pub(super) fn read(&mut self, node: &Node, pointer: &str, lint: &mut Lint) {
        for (name, resource) in lint.object(node, pointer) {
            self.resource(resource, &child(pointer, name), lint);
        }
    }

    fn resource(&mut self, node: &Node, pointer: &str, lint: &mut Lint) {
        let members = lint.object(node, pointer);
        for (key, _) in members {
            if !matches!(key.as_str(), "Type" | "Properties" | "OverrideSettings") {
                lint.fault(
                    "template-resource-member",
                    &child(pointer, key),
                    "a resource has the members Type, Properties and OverrideSettings only",
                );
            }
        }
        let member = |name: &str| {
            let found = members.iter().find(|(key, _)| key == name);
            found.map(|(key, value)| (value, child(pointer, key)))
        };
        let empty = Node::Object(Vec::new());
        let (properties, properties_pointer) =
            member("Properties").unwrap_or((&empty, pointer.to_owned()));
        let properties = Properties {
            members: lint.object(properties, &properties_pointer),
            pointer: properties_pointer,
        };
        let overrides: override_settings::Table = match member("Type") {
            Some((Node::String(kind), _)) if kind == "AWS::IoT::Thing" => {
                self.things.push(properties.thing(lint));
                override_settings::THING
            }
            Some((Node::String(kind), _)) if kind == "AWS::IoT::Certificate" => {
                self.certificates.push(properties.certificate(lint));
                override_settings::CERTIFICATE
            }
            Some((Node::String(kind), _)) if kind == "AWS::IoT::Policy" => {
                self.policies.push(properties.policy(lint));
                override_settings::POLICY
            }
            _ => {
                lint.fault(
                    "template-resource-type",
                    pointer,
                    "the Type of a resource is AWS::IoT::Thing, AWS::IoT::Certificate or \
                     AWS::IoT::Policy",
                );
                return;
            }
        };
        if let Some((settings, pointer)) = member("OverrideSettings") {
            override_settings::check(settings, overrides, &pointer, lint);
        }
    }

    /// Checks the counts and puts the template together; nothing when a resource is missing or broken.
    pub(super) fn finish(
        self,
        parameters: Vec<AttributeType>,
        lint: &mut Lint,
    ) -> Option<JitpTemplate> {
        let at = "/Resources";
        if self.things.len() > 1 {
            let count = self.things.len();
            lint.fault(
                "template-thing-count",
                at,
                format!("a template makes one thing at most, not {count}"),
            );
        }
        if self.certificates.len() != 1 {
            let count = self.certificates.len();
            lint.fault(
                "template-certificate-count",
                at,
                format!("a template has exactly one certificate resource, not {count}"),
            );
        }
        if self.policies.len() > POLICIES_MAX {
            let count = self.policies.len();
            lint.fault(
                "template-policy-count",
                at,
                format!("a certificate takes {POLICIES_MAX} policies, not {count}"),
            );
        }
        Some(JitpTemplate {
            parameters,
            thing: match self.things.into_iter().next() {
                Some(thing) => Some(thing?),
                None => None,
            },
            policies: self.policies.into_iter().collect::<Option<_>>()?,
            certificate_status: self.certificates.into_iter().next()??,
        })
    }
}

/// The `Properties` of one resource.
struct Properties<'a> {
    members: &'a [(String, Node)],
    pointer: String,
}

impl Properties<'_> {
    fn thing(&self, lint: &mut Lint) -> Option<Thing> {
        let mut name = None;
        let mut type_name = None;
        let mut groups = Vec::new();
        let mut attributes = Vec::new();
        let mut billing_group = None;
        for (key, node) in self.members {
            let pointer = child(&self.pointer, key);
            match key.as_str() {
                "ThingName" => name = lint.value(node, &constraint::THING_NAME, &pointer),
                "ThingTypeName" => {
                    type_name = lint.value(node, &constraint::THING_TYPE_NAME, &pointer);
                }
                "BillingGroup" => {
                    billing_group = lint.value(node, &constraint::BILLING_GROUP_NAME, &pointer);
                }
                "ThingGroups" => groups = thing_groups(node, &pointer, lint),
                "AttributePayload" => {
                    self.attribute_count(node, &pointer, lint);
                    attributes = attribute_payload(node, &pointer, lint);
                }
                "PackageVersions" => lint.fault(
                    "template-resource-property",
                    &pointer,
                    "the factory cannot check PackageVersions",
                ),
                _ => lint.fault(
                    "template-resource-property",
                    &pointer,
                    "a thing has the properties ThingName, AttributePayload, ThingTypeName, \
                     ThingGroups and BillingGroup only",
                ),
            }
        }
        self.require("ThingName", lint);
        Some(Thing {
            name: name?,
            type_name,
            groups,
            attributes,
            billing_group,
        })
    }

    fn attribute_count(&self, payload: &Node, pointer: &str, lint: &mut Lint) {
        let count = match payload {
            Node::Object(members) => members.len(),
            _ => 0,
        };
        let (limit, which) = if self.has("ThingTypeName") {
            (ATTRIBUTES_MAX_WITH_TYPE, "with")
        } else {
            (ATTRIBUTES_MAX, "without")
        };
        if count > limit {
            lint.fault(
                "template-attribute-count",
                pointer,
                format!("a thing {which} a thing type takes {limit} attributes, not {count}"),
            );
        }
    }

    fn certificate(&self, lint: &mut Lint) -> Option<CertificateStatus> {
        let mut status = None;
        for (key, node) in self.members {
            let pointer = child(&self.pointer, key);
            match key.as_str() {
                "CertificateId" => certificate_id(node, &pointer, lint),
                "Status" => status = certificate_status(node, &pointer, lint),
                _ => lint.fault(
                    "template-resource-property",
                    &pointer,
                    "in JITP a certificate has the properties CertificateId and Status only: \
                     the device has its certificate already",
                ),
            }
        }
        if !self.has("CertificateId") {
            certificate_id_fault(&self.pointer, lint);
        }
        if !self.has("Status") {
            certificate_status_fault(&self.pointer, lint);
        }
        status
    }

    fn policy(&self, lint: &mut Lint) -> Option<PolicySource> {
        let mut policy = None;
        for (key, node) in self.members {
            let pointer = child(&self.pointer, key);
            match key.as_str() {
                "PolicyName" => {
                    let name = lint.value(node, &constraint::POLICY_NAME, &pointer);
                    policy = name.map(PolicySource::Name);
                }
                "PolicyDocument" => {
                    let document = policy_document(node, &pointer, lint);
                    policy = document.map(PolicySource::Document);
                }
                _ => lint.fault(
                    "template-resource-property",
                    &pointer,
                    "a policy has the property PolicyName or PolicyDocument only",
                ),
            }
        }
        if self.has("PolicyName") == self.has("PolicyDocument") {
            lint.fault(
                "template-policy-source",
                &self.pointer,
                "a policy has exactly one of PolicyName and PolicyDocument",
            );
        }
        policy
    }

    fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(key, _)| key == name)
    }

    fn require(&self, name: &str, lint: &mut Lint) {
        if !self.has(name) {
            lint.fault(
                "template-property-missing",
                &self.pointer,
                format!("{name} is missing"),
            );
        }
    }
}

fn thing_groups(node: &Node, pointer: &str, lint: &mut Lint) -> Vec<Value> {
    let Node::Array(items) = node else {
        lint.wrong_kind(node, "an array", pointer);
        return Vec::new();
    };
    if items.len() > GROUPS_MAX {
        let count = items.len();
        lint.fault(
            "template-group-count",
            pointer,
            format!("a thing joins {GROUPS_MAX} groups at most, not {count}"),
        );
    }
    let group = |(position, item): (usize, &Node)| {
        let pointer = format!("{pointer}/{position}");
        lint.value(item, &constraint::THING_GROUP_NAME, &pointer)
    };
    items.iter().enumerate().filter_map(group).collect()
}

fn attribute_payload(node: &Node, pointer: &str, lint: &mut Lint) -> Vec<(String, Value)> {
    if lint.intrinsic_function(node, pointer) {
        return Vec::new();
    }
    let mut attributes = Vec::new();
    for (name, node) in lint.object(node, pointer) {
        let pointer = child(pointer, name);
        if name == "Ref" {
            lint.fault(
                "template-value",
                &pointer,
                "an attribute cannot be called Ref, and the whole payload cannot be a reference",
            );
            continue;
        }
        lint.literal(name, &constraint::ATTRIBUTE_NAME, &pointer);
        if let Some(value) = lint.value(node, &constraint::ATTRIBUTE_VALUE, &pointer) {
            attributes.push((name.clone(), value));
        }
    }
    attributes
}

fn certificate_id(node: &Node, pointer: &str, lint: &mut Lint) {
    let refers = match node {
        Node::Object(members) => match members.as_slice() {
            [(key, Node::String(name))] => {
                key == "Ref" && Parameter::from_name(name) == Some(Parameter::CertificateId)
            }
            _ => false,
        },
        _ => false,
    };
    if refers {
        // It must be declared, too.
        lint.reference(node, pointer);
    } else {
        certificate_id_fault(pointer, lint);
    }
}

/// In AWS's words: "`CertificateId` must contain a reference to `AWS::IoT::Certificate::Id`".
fn certificate_id_fault(pointer: &str, lint: &mut Lint) {
    lint.fault(
        "template-certificate-id",
        pointer,
        "CertificateId must be {\"Ref\": \"AWS::IoT::Certificate::Id\"}",
    );
}

fn certificate_status(node: &Node, pointer: &str, lint: &mut Lint) -> Option<CertificateStatus> {
    let status = match node {
        Node::String(text) if text.eq_ignore_ascii_case("ACTIVE") => CertificateStatus::Active,
        Node::String(text) if text.eq_ignore_ascii_case("INACTIVE") => CertificateStatus::Inactive,
        _ => {
            certificate_status_fault(pointer, lint);
            return None;
        }
    };
    Some(status)
}

fn certificate_status_fault(pointer: &str, lint: &mut Lint) {
    lint.fault(
        "template-certificate-status",
        pointer,
        "Status must be ACTIVE or INACTIVE",
    );
}

/// The document's text.
fn policy_document(node: &Node, pointer: &str, lint: &mut Lint) -> Option<String> {
    let text = match node {
        Node::String(text) => text,
        other => {
            let expected = "the policy as one escaped JSON string";
            lint.wrong_kind(other, expected, pointer);
            return None;
        }
    };
    match Node::parse(text) {
        Ok(document @ Node::Object(_)) => {
            if !document.duplicate_keys("").is_empty() {
                lint.fault(
                    "template-duplicate-key",
                    pointer,
                    format!(
                        "keys that stand more than once inside the policy: {}",
                        document.duplicate_keys("").join(" ")
                    ),
                );
            }
        }
        Ok(other) => lint.fault(
            "template-policy-document",
            pointer,
            format!("a policy is a JSON object, not {}", other.kind()),
        ),
        Err(fault) => lint.fault(
            "template-policy-document",
            pointer,
            format!("the policy is no JSON: {fault}"),
        ),
    }
    let length = text.chars().filter(|c| !c.is_whitespace()).count();
    if length > POLICY_DOCUMENT_LENGTH_MAX {
        lint.fault(
            "template-policy-document-length",
            pointer,
            format!(
                "the policy has {length} characters without white space; AWS IoT takes \
                 {POLICY_DOCUMENT_LENGTH_MAX}"
            ),
        );
    }
    Some(text.clone())
}
