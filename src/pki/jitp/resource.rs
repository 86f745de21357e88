//! The `Resources` of a template: at most one thing, exactly one certificate, policies.

use std::collections::BTreeSet;

use crate::pki::jitp::CertificateStatus;
use crate::pki::jitp::Groups;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::PolicySource;
use crate::pki::jitp::Property;
use crate::pki::jitp::Thing;
use crate::pki::jitp::constraint::Field;
use crate::pki::jitp::function;
use crate::pki::jitp::hazard;
use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;
use crate::pki::jitp::lint::Lint;
use crate::pki::jitp::override_settings;
use crate::pki::jitp::parameter::Parameter;
use crate::pki::jitp::policy_document;
use crate::pki::jitp::text::Text;
use crate::pki::name::AttributeType;

/// Attributes of a thing without and with a thing type (AWS service quotas).
const ATTRIBUTES_MAX: usize = 3;
const ATTRIBUTES_MAX_WITH_TYPE: usize = 50;
/// Groups of one thing.
pub(super) const GROUPS_MAX: usize = 10;
/// Policies of one certificate.
const POLICIES_MAX: usize = 10;
/// Attributes that devices share, so that no thing should be named by them alone.
const SHARED: [AttributeType; 4] = [
    AttributeType::Country,
    AttributeType::StateOrProvince,
    AttributeType::Organization,
    AttributeType::OrganizationalUnit,
];

/// The resources read so far.
#[derive(Default)]
pub(super) struct Resources {
    things: Vec<Option<Thing>>,
    certificates: Vec<Option<CertificateStatus>>,
    policies: Vec<Option<PolicySource>>,
    device_configuration: Vec<Property>,
}

impl Resources {
    /// Reads the `Resources` object. Logical names are free.
    pub(super) fn read(&mut self, node: &Node, pointer: &str, lint: &mut Lint) {
        for (name, resource) in lint.object(node, pointer) {
            self.resource(resource, &child(pointer, name), lint);
        }
    }

    /// Reads the `DeviceConfiguration` object: texts, and nothing nested.
    pub(super) fn read_device_configuration(
        &mut self,
        node: &Node,
        pointer: &str,
        lint: &mut Lint,
    ) {
        for (name, node) in lint.object(node, pointer) {
            let pointer = child(pointer, name);
            let property = lint.property(node, Field::DeviceConfiguration, &pointer);
            self.device_configuration.extend(property);
        }
    }

    fn resource(&mut self, node: &Node, pointer: &str, lint: &mut Lint) {
        let Node::Object(members) = node else {
            lint.wrong_kind(node, "an object", pointer);
            return;
        };
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
            let found = node.member(name);
            found.map(|value| (value, child(pointer, name)))
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
        if self.things.is_empty() {
            lint.warn(
                "template-no-thing",
                at,
                "no thing is made: the certificate alone is registered",
            );
        }
        if self.policies.is_empty() {
            lint.warn(
                "template-no-policy",
                at,
                "no policy is attached: the device may not even connect until somebody attaches one",
            );
        }
        let policies: Vec<PolicySource> = self.policies.into_iter().collect::<Option<_>>()?;
        may_connect(&policies, lint);
        Some(JitpTemplate {
            parameters,
            thing: match self.things.into_iter().next() {
                Some(thing) => Some(thing?),
                None => None,
            },
            policies,
            certificate_status: self.certificates.into_iter().next()??,
            device_configuration: self.device_configuration,
            warnings: Vec::new(),
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
        let mut groups = Some(Groups::Each(Vec::new()));
        let mut attributes = Vec::new();
        let mut billing_group = None;
        for (key, node) in self.members {
            let pointer = child(&self.pointer, key);
            match key.as_str() {
                "ThingName" => name = thing_name(node, &pointer, lint),
                "ThingTypeName" => type_name = existing(node, Field::ThingTypeName, &pointer, lint),
                "BillingGroup" => {
                    billing_group = existing(node, Field::BillingGroupName, &pointer, lint);
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
            groups: groups?,
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
                    policy = existing(node, Field::PolicyName, &pointer, lint);
                }
                "PolicyDocument" => {
                    policy = document(node, &pointer, lint);
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
        policy.map(PolicySource)
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

/// The name of a thing must tell devices apart.
fn thing_name(node: &Node, pointer: &str, lint: &mut Lint) -> Option<Property> {
    let property = lint.property(node, Field::ThingName, pointer)?;
    let sources = property.text.attribute_types();
    if sources.is_empty() {
        lint.fault(
            "template-thing-name-constant",
            pointer,
            "every device would become this one thing",
        );
    } else if sources.iter().all(|kind| SHARED.contains(kind)) {
        let names: Vec<&str> = sources.iter().map(|kind| kind.short_name()).collect();
        lint.warn(
            "template-thing-name-shared",
            pointer,
            format!(
                "all devices with the same {} become one thing",
                names.join(" and ")
            ),
        );
    }
    Some(property)
}

/// The name of something that the account must have already: for a name that comes from the
/// subject, one for each value.
fn existing(node: &Node, field: Field, pointer: &str, lint: &mut Lint) -> Option<Property> {
    let property = lint.property(node, field, pointer)?;
    for_each_value(&property.text.attribute_types(), pointer, lint);
    Some(property)
}

fn for_each_value(sources: &BTreeSet<AttributeType>, pointer: &str, lint: &mut Lint) {
    if sources.is_empty() {
        return;
    }
    let names: Vec<&str> = sources.iter().map(|kind| kind.short_name()).collect();
    lint.warn(
        "template-exists-by-value",
        pointer,
        format!(
            "for each value of {} one of this name must exist in the account; else the device is \
             not provisioned",
            names.join(" and ")
        ),
    );
}

fn thing_groups(node: &Node, pointer: &str, lint: &mut Lint) -> Option<Groups> {
    let Node::Array(items) = node else {
        return computed_groups(node, pointer, lint);
    };
    group_count(items.len(), pointer, lint);
    let mut groups = Vec::new();
    for (position, item) in items.iter().enumerate() {
        let pointer = format!("{pointer}/{position}");
        groups.push(existing(item, Field::ThingGroupName, &pointer, lint));
    }
    groups.into_iter().collect::<Option<_>>().map(Groups::Each)
}

fn computed_groups(node: &Node, pointer: &str, lint: &mut Lint) -> Option<Groups> {
    let names = function::list(node, pointer, lint)?;
    if !names.attribute_types().is_empty() {
        for_each_value(&names.attribute_types(), pointer, lint);
        return Some(Groups::Computed(pointer.to_owned(), names));
    }
    let names = lint.constant_list(&names, pointer)?;
    group_count(names.len(), pointer, lint);
    let mut groups = Vec::new();
    for name in names {
        lint.literal(&name, Field::ThingGroupName, pointer);
        groups.push(Property {
            pointer: pointer.to_owned(),
            field: Field::ThingGroupName,
            text: Text::Literal(name),
        });
    }
    Some(Groups::Each(groups))
}

fn group_count(count: usize, pointer: &str, lint: &mut Lint) {
    if count > GROUPS_MAX {
        lint.fault(
            "template-group-count",
            pointer,
            format!("a thing joins {GROUPS_MAX} groups at most, not {count}"),
        );
    }
}

fn attribute_payload(node: &Node, pointer: &str, lint: &mut Lint) -> Vec<(String, Property)> {
    let mut attributes = Vec::new();
    for (name, node) in lint.object(node, pointer) {
        let pointer = child(pointer, name);
        if name == "Ref" || name.starts_with("Fn::") {
            lint.fault(
                "template-value",
                &pointer,
                format!(
                    "an attribute cannot be called {name}, and the whole payload can be neither a \
                     reference nor a function"
                ),
            );
            continue;
        }
        lint.literal(name, Field::AttributeName, &pointer);
        if let Some(value) = lint.property(node, Field::AttributeValue, &pointer) {
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
    match node {
        Node::String(text) if text.eq_ignore_ascii_case("ACTIVE") => {
            Some(CertificateStatus::Active)
        }
        Node::String(text) if text.eq_ignore_ascii_case("INACTIVE") => {
            lint.warn(
                "template-certificate-inactive",
                pointer,
                "no device can connect until somebody activates its certificate",
            );
            Some(CertificateStatus::Inactive)
        }
        _ => {
            certificate_status_fault(pointer, lint);
            None
        }
    }
}

fn certificate_status_fault(pointer: &str, lint: &mut Lint) {
    lint.fault(
        "template-certificate-status",
        pointer,
        "Status must be ACTIVE or INACTIVE",
    );
}

fn document(node: &Node, pointer: &str, lint: &mut Lint) -> Option<Property> {
    if matches!(node, Node::Object(_)) && function::call(node).is_none() && !is_reference(node) {
        let expected = "the policy as one escaped JSON string";
        lint.wrong_kind(node, expected, pointer);
        return None;
    }
    let property = lint.property(node, Field::PolicyDocument, pointer)?;
    let literal = property.text.literal();
    if literal.is_some_and(|document| document.contains(hazard::SUBJECT_VARIABLE)) {
        lint.warn(
            "template-policy-variable",
            pointer,
            "the policy depends on the subject: AWS IoT does not substitute a value with * $ + ? \
             or #, and puts a backslash before , \" \\ + = < > and ;",
        );
    }
    Some(property)
}

fn is_reference(node: &Node) -> bool {
    node.member("Ref").is_some()
}

/// A device whose policies all stand here must be allowed to connect by one of them.
fn may_connect(policies: &[PolicySource], lint: &mut Lint) {
    let denied = |PolicySource(property): &PolicySource| {
        property.field == Field::PolicyDocument
            && property
                .text
                .literal()
                .is_some_and(|document| !policy_document::allows_connect(document))
    };
    if let Some(PolicySource(first)) = policies.first()
        && policies.iter().all(denied)
    {
        lint.warn(
            "template-policy-connect",
            &first.pointer,
            "no policy allows iot:Connect: the device is provisioned, and refused at every \
             connection",
        );
    }
}
