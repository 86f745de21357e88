//! What must exist in the account before a template's first device: read from the template body.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::pki::name::AttributeType;

/// Prefix of the parameters that JITP offers.
const PARAMETER: &str = "AWS::IoT::Certificate::";

/// What a template refers to by name, and how much it makes for each device.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names that must exist, in the template's order, each once.
    pub names: Vec<Need>,
    /// Whether a thing is made.
    pub makes_thing: bool,
    /// Groups that each thing joins.
    pub groups: usize,
    /// Whether each thing joins a billing group.
    pub billing_group: bool,
    /// Policies attached to each certificate.
    pub policies: usize,
    /// Policy documents that stand in the template itself.
    pub documents: Vec<String>,
    /// Whether the certificate ends ACTIVE.
    pub activates: bool,
}

/// One name.
#[derive(Debug, PartialEq, Eq)]
pub struct Need {
    /// What kind of thing it names.
    pub kind: Kind,
    /// The name itself.
    pub name: Name,
}

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ThingTypeName`
    ThingType,
    /// An entry of `ThingGroups`
    ThingGroup,
    /// `BillingGroup`
    BillingGroup,
    /// `PolicyName`
    Policy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::ThingType,
        Self::ThingGroup,
        Self::BillingGroup,
        Self::Policy,
    ];

    /// In prose.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ThingType => "thing type",
            Self::ThingGroup => "thing group",
            Self::BillingGroup => "billing group",
            Self::Policy => "policy",
        }
    }

    /// In JSON.
    #[must_use]
    pub fn slug(self) -> &'static str {
        match self {
            Self::ThingType => "thing_type",
            Self::ThingGroup => "thing_group",
            Self::BillingGroup => "billing_group",
            Self::Policy => "policy",
        }
    }

    /// The AWS CLI's call that finds one.
    #[must_use]
    pub fn check(self, name: &str) -> String {
        match self {
            Self::ThingType => format!("aws iot describe-thing-type --thing-type-name {name}"),
            Self::ThingGroup => format!("aws iot describe-thing-group --thing-group-name {name}"),
            Self::BillingGroup => {
                format!("aws iot describe-billing-group --billing-group-name {name}")
            }
            Self::Policy => format!("aws iot get-policy --policy-name {name}"),
        }
    }

    /// The AWS CLI's call that makes one.
    #[must_use]
    pub fn create(self, name: &str) -> String {
        match self {
            Self::ThingType => format!("aws iot create-thing-type --thing-type-name {name}"),
            Self::ThingGroup => format!("aws iot create-thing-group --thing-group-name {name}"),
            Self::BillingGroup => {
                format!("aws iot create-billing-group --billing-group-name {name}")
            }
            Self::Policy => format!(
                "aws iot create-policy --policy-name {name} --policy-document file://device-policy.json"
            ),
        }
    }
}

/// A name, as far as it is known before there is a device.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// The same for every device.
    Literal(String),
    /// Depends on the certificate's subject: these attributes, by short name.
    PerValue(Vec<&'static str>),
}

impl Needs {
    /// Reads a body that [`crate::pki::jitp::JitpTemplate::parse`] accepted. `fixed`: attributes
    /// that are the same in every certificate, so that a `Ref` to one is a literal.
    #[must_use]
    pub fn of(body: &str, fixed: &BTreeMap<AttributeType, String>) -> Self {
        let mut needs = Self::default();
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let resources = body["Resources"].as_object();
        for resource in resources.into_iter().flat_map(serde_json::Map::values) {
            let properties = &resource["Properties"];
            match resource["Type"].as_str() {
                Some("AWS::IoT::Thing") => needs.thing(properties, fixed),
                Some("AWS::IoT::Certificate") => {
                    needs.activates = properties["Status"]
                        .as_str()
                        .is_some_and(|status| status.eq_ignore_ascii_case("ACTIVE"));
                }
                Some("AWS::IoT::Policy") => {
                    needs.policies += 1;
                    needs.add(Kind::Policy, &properties["PolicyName"], fixed);
                    let document = properties["PolicyDocument"].as_str();
                    needs.documents.extend(document.map(str::to_owned));
                }
                _ => {}
            }
        }
        needs
    }

    /// The literal names of one kind.
    pub fn literals(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.names.iter().filter_map(move |need| match &need.name {
            Name::Literal(name) if need.kind == kind => Some(name.as_str()),
            _ => None,
        })
    }

    fn thing(&mut self, properties: &Value, fixed: &BTreeMap<AttributeType, String>) {
        self.makes_thing = true;
        self.add(Kind::ThingType, &properties["ThingTypeName"], fixed);
        let groups = properties["ThingGroups"].as_array();
        for group in groups.into_iter().flatten() {
            self.groups += 1;
            self.add(Kind::ThingGroup, group, fixed);
        }
        self.billing_group = !properties["BillingGroup"].is_null();
        self.add(Kind::BillingGroup, &properties["BillingGroup"], fixed);
    }

    fn add(&mut self, kind: Kind, node: &Value, fixed: &BTreeMap<AttributeType, String>) {
        let name = match node {
            Value::Null => return,
            Value::String(literal) => Name::Literal(literal.clone()),
            other => {
                let mut attributes = BTreeSet::new();
                references(other, &mut attributes);
                let only = attributes.iter().copied().next();
                let fixed_value = only
                    .filter(|_| is_reference(other))
                    .and_then(AttributeType::from_short_name)
                    .and_then(|kind| fixed.get(&kind));
                match fixed_value {
                    Some(value) => Name::Literal(value.clone()),
                    None => Name::PerValue(attributes.into_iter().collect()),
                }
            }
        };
        let need = Need { kind, name };
        if !self.names.contains(&need) {
            self.names.push(need);
        }
    }
}

fn is_reference(node: &Value) -> bool {
    node.as_object()
        .is_some_and(|members| members.len() == 1 && members.contains_key("Ref"))
}

/// The subject attributes that a node refers to, at any depth.
fn references(node: &Value, found: &mut BTreeSet<&'static str>) {
    match node {
        Value::Object(members) => {
            for (key, value) in members {
                if key == "Ref" {
                    found.extend(value.as_str().and_then(attribute));
                } else {
                    references(value, found);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn attribute(parameter: &str) -> Option<&'static str> {
    Some(match parameter.strip_prefix(PARAMETER)? {
        "Country" => "C",
        "Organization" => "O",
        "OrganizationalUnit" => "OU",
        "DistinguishedNameQualifier" => "dnQualifier",
        "StateName" => "ST",
        "CommonName" => "CN",
        "SerialNumber" => "serialNumber",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIGHTBULB: &str = include_str!("../../../../deploy/profiles/jitp-lightbulb.json");

    fn need(kind: Kind, literal: &str) -> Need {
        Need {
            kind,
            name: Name::Literal(literal.to_owned()),
        }
    }

    #[test]
    fn the_lightbulb_needs_a_type_a_group_and_a_group_for_each_country() {
        let needs = Needs::of(LIGHTBULB, &BTreeMap::new());
        assert_eq!(
            needs.names,
            [
                need(Kind::ThingType, "lightBulb-versionA"),
                need(Kind::ThingGroup, "v1-lightbulbs"),
                Need {
                    kind: Kind::ThingGroup,
                    name: Name::PerValue(vec!["C"])
                },
            ]
        );
        assert!(needs.makes_thing && needs.activates && !needs.billing_group);
        assert_eq!(
            (needs.groups, needs.policies, needs.documents.len()),
            (2, 1, 1)
        );
    }

    #[test]
    fn a_reference_to_a_fixed_attribute_is_a_literal() {
        let fixed = BTreeMap::from([(AttributeType::Country, "DE".to_owned())]);
        let needs = Needs::of(LIGHTBULB, &fixed);
        assert_eq!(
            needs.literals(Kind::ThingGroup).collect::<Vec<_>>(),
            ["v1-lightbulbs", "DE"]
        );
    }
}
