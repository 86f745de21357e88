//! AWS IoT just-in-time provisioning (JITP) templates: parsed at load, evaluated for each subject.
//!
//! At a device's first connection AWS IoT fills the template registered with our CA from the
//! subject of the device's certificate. A value it cannot use shows only then, in the customer's
//! home. So the factory evaluates the same template before it signs, and refuses what AWS IoT
//! would refuse.
//!
//! What it cannot see: whether thing type, groups, billing group and named policies exist in the
//! account, and whether the thing does already.

mod constraint;
mod json;
mod lint;
mod override_settings;
mod resource;
mod source;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Serialize;

use super::Violation;
use super::name::AttributeType;
use super::name::Subject;
use constraint::Constraint;

/// A provisioning template that JITP accepts: parsed, linted, its references resolved to
/// attribute types, so that an evaluation only copies and compares.
#[derive(Clone, Debug)]
pub struct JitpTemplate {
    /// In [`AttributeType`] order, each once.
    parameters: Vec<AttributeType>,
    thing: Option<Thing>,
    policies: Vec<PolicySource>,
    certificate_status: CertificateStatus,
}

/// What AWS IoT would make of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provisioning {
    /// The thing's name; absent when the template has no thing.
    pub thing_name: Option<String>,
    /// The thing's type, which must exist in the account.
    pub thing_type: Option<String>,
    /// The groups the thing joins, in the template's order, each once; they must exist.
    pub groups: Vec<String>,
    /// The thing's attributes.
    pub attributes: BTreeMap<String, String>,
    /// The billing group the thing joins, which must exist.
    pub billing_group: Option<String>,
    /// The policies attached to the certificate.
    pub policies: Vec<Policy>,
    /// The certificate's status at the end of provisioning.
    pub certificate_status: CertificateStatus,
}

/// A policy attached to the certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// One that must exist in the account.
    Name(String),
    /// One that AWS IoT makes of the template's document: its JSON text as it stands in the
    /// template. (AWS names such a policy by a hash of it.)
    Document(String),
}

/// The status that provisioning leaves a certificate in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CertificateStatus {
    /// The device may connect.
    Active,
    /// Somebody must activate the certificate first.
    Inactive,
}

/// Why a text is no template; all faults, at least one. Each names a rule and, as its attribute,
/// a JSON pointer into the template body (or into the registration config around it).
#[derive(Debug, thiserror::Error)]
#[error("the provisioning template is invalid")]
pub struct TemplateFault(pub Vec<Violation>);

impl JitpTemplate {
    /// Parses and lints.
    ///
    /// `text` is the plain template body, as `aws iot create-provisioning-template` takes it, or
    /// the registration config of `aws iot register-ca-certificate`, which holds the body as one
    /// escaped string.
    ///
    /// A parameter's `Default` is accepted and never used: AWS's pages disagree whether JITP looks
    /// at it, so a certificate must carry the attribute anyway.
    pub fn parse(text: &str) -> Result<Self, TemplateFault> {
        let (body, mut faults) = source::template_body(text);
        match body.map(|body| lint::compile(&body)) {
            Some(Ok(template)) if faults.is_empty() => return Ok(template),
            Some(Err(more)) => faults.extend(more),
            Some(Ok(_)) | None => {}
        }
        Err(TemplateFault(faults))
    }

    /// The subject attributes a certificate must have to be provisioned, in [`AttributeType`]
    /// order, each once: those the template declares, used or not.
    #[must_use]
    pub fn parameters(&self) -> &[AttributeType] {
        &self.parameters
    }

    /// What a certificate with this subject becomes, or every reason why it would be refused; a
    /// violation's attribute is the short name of the subject attribute to blame.
    ///
    /// Values are taken as they stand. There are signs that AWS IoT escapes `,` `=` and a leading
    /// `#` with a backslash first, which an `AttributeValue` could not hold; AWS documents nothing
    /// of the kind, and its pattern takes these characters, so they pass here.
    pub fn evaluate(&self, subject: &Subject) -> Result<Provisioning, Vec<Violation>> {
        let mut resolver = Resolver {
            subject,
            violations: Vec::new(),
        };
        resolver.require(&self.parameters);
        let mut provisioning = Provisioning {
            thing_name: None,
            thing_type: None,
            groups: Vec::new(),
            attributes: BTreeMap::new(),
            billing_group: None,
            policies: resolver.policies(&self.policies),
            certificate_status: self.certificate_status,
        };
        if let Some(thing) = &self.thing {
            resolver.thing(thing, &mut provisioning);
        }
        if resolver.violations.is_empty() {
            Ok(provisioning)
        } else {
            Err(resolver.violations)
        }
    }
}

/// The template's thing resource.
#[derive(Clone, Debug)]
struct Thing {
    name: Value,
    type_name: Option<Value>,
    groups: Vec<Value>,
    attributes: Vec<(String, Value)>,
    billing_group: Option<Value>,
}

/// One policy resource.
#[derive(Clone, Debug)]
enum PolicySource {
    Name(Value),
    Document(String),
}

/// Where a property's value comes from.
#[derive(Clone, Debug)]
enum Value {
    /// From the template; checked at load.
    Literal(String),
    /// From a declared parameter; checked at each evaluation.
    Subject(AttributeType),
}

struct Resolver<'a> {
    subject: &'a Subject,
    violations: Vec<Violation>,
}

impl Resolver<'_> {
    /// A parameter that the certificate lacks ends provisioning with "Cannot resolve reference
    /// value", used or not. A [`Subject`] has one value a type, so none can be there twice.
    fn require(&mut self, parameters: &[AttributeType]) {
        for parameter in parameters {
            if self.subject.get(*parameter).is_none_or(str::is_empty) {
                self.violations.push(Violation {
                    rule: "jitp-parameter-missing",
                    attribute: Some(parameter.short_name().to_owned()),
                    detail: format!(
                        "the provisioning template takes {0} from the subject, which has no {0}",
                        parameter.short_name()
                    ),
                });
            }
        }
    }

    fn policies(&mut self, sources: &[PolicySource]) -> Vec<Policy> {
        let policy = |source: &PolicySource| match source {
            PolicySource::Name(name) => Policy::Name(self.resolve(name, &constraint::POLICY_NAME)),
            PolicySource::Document(document) => Policy::Document(document.clone()),
        };
        sources.iter().map(policy).collect()
    }

    fn thing(&mut self, thing: &Thing, provisioning: &mut Provisioning) {
        provisioning.thing_name = Some(self.resolve(&thing.name, &constraint::THING_NAME));
        provisioning.thing_type = thing
            .type_name
            .as_ref()
            .map(|name| self.resolve(name, &constraint::THING_TYPE_NAME));
        for group in &thing.groups {
            let name = self.resolve(group, &constraint::THING_GROUP_NAME);
            if !provisioning.groups.contains(&name) {
                provisioning.groups.push(name);
            }
        }
        for (name, value) in &thing.attributes {
            let value = self.resolve(value, &constraint::ATTRIBUTE_VALUE);
            provisioning.attributes.insert(name.clone(), value);
        }
        provisioning.billing_group = thing
            .billing_group
            .as_ref()
            .map(|name| self.resolve(name, &constraint::BILLING_GROUP_NAME));
    }

    /// The value, or an empty string for one that `require` has reported already.
    fn resolve(&mut self, value: &Value, constraint: &Constraint) -> String {
        let parameter = match value {
            Value::Literal(literal) => return literal.clone(),
            Value::Subject(parameter) => *parameter,
        };
        match self.subject.get(parameter) {
            None | Some("") => String::new(),
            Some(text) => {
                constraint.check(text, parameter.short_name(), &mut self.violations);
                text.to_owned()
            }
        }
    }
}

/// What the eight names that JITP offers stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Parameter {
    /// AWS's certificate id: SHA-256 over the certificate.
    CertificateId,
    /// A subject attribute.
    Subject(AttributeType),
}

impl Parameter {
    /// All that JITP knows (AWS IoT developer guide, "Just-in-time provisioning"): no locality,
    /// no e-mail address, no extension.
    const ALL: [(&'static str, Self); 8] = [
        (
            "AWS::IoT::Certificate::Country",
            Self::Subject(AttributeType::Country),
        ),
        (
            "AWS::IoT::Certificate::Organization",
            Self::Subject(AttributeType::Organization),
        ),
        (
            "AWS::IoT::Certificate::OrganizationalUnit",
            Self::Subject(AttributeType::OrganizationalUnit),
        ),
        (
            "AWS::IoT::Certificate::DistinguishedNameQualifier",
            Self::Subject(AttributeType::DnQualifier),
        ),
        (
            "AWS::IoT::Certificate::StateName",
            Self::Subject(AttributeType::StateOrProvince),
        ),
        (
            "AWS::IoT::Certificate::CommonName",
            Self::Subject(AttributeType::CommonName),
        ),
        (
            "AWS::IoT::Certificate::SerialNumber",
            Self::Subject(AttributeType::SerialNumber),
        ),
        ("AWS::IoT::Certificate::Id", Self::CertificateId),
    ];

    fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, parameter)| *parameter)
    }

    /// The subject attributes among these, in [`AttributeType`] order.
    fn attribute_types(declared: &BTreeSet<Self>) -> Vec<AttributeType> {
        let attribute_type = |parameter: &Self| match parameter {
            Self::CertificateId => None,
            Self::Subject(attribute_type) => Some(*attribute_type),
        };
        declared.iter().filter_map(attribute_type).collect()
    }
}

#[cfg(test)]
mod tests;
