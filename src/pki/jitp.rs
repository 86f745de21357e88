//! AWS IoT just-in-time provisioning (JITP) templates: parsed at load, evaluated for each subject.
//!
//! At a device's first connection AWS IoT fills the template registered with our CA from the
//! subject of the device's certificate. A value it cannot use shows only then, in the customer's
//! home. So the factory evaluates the same template before it signs, and refuses what AWS IoT
//! would refuse.
//!
//! Two kinds of finding: an error is something AWS IoT refuses, or that cannot work for more than
//! one device; a warning is something on which AWS's own pages are silent or disagree, or which
//! depends on the account. Every rule is in the manual, page `jitp`.
//!
//! What it cannot see: whether thing type, groups, billing group and named policies exist in the
//! account, and whether the thing does already.

mod constraint;
mod evaluate;
mod function;
mod hazard;
mod json;
mod lint;
mod mapping;
pub mod names;
mod override_settings;
mod parameter;
mod policy_document;
mod resource;
mod source;
mod text;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::Violation;
use super::name::AttributeType;
use super::name::Subject;
use constraint::Field;
use parameter::Parameter;
use text::List;
use text::Text;

/// Rule of every warning that JITP is not documented to evaluate what stands there.
pub const UNDOCUMENTED: &str = "template-undocumented";

/// A provisioning template that JITP accepts: parsed, linted, its references resolved to
/// attribute types, so that an evaluation only copies and compares.
#[derive(Clone, Debug)]
pub struct JitpTemplate {
    /// In [`AttributeType`] order, each once.
    parameters: Vec<AttributeType>,
    thing: Option<Thing>,
    policies: Vec<PolicySource>,
    certificate_status: CertificateStatus,
    /// Evaluated for its faults only: JITP has no way to hand it to the device.
    device_configuration: Vec<Property>,
    warnings: Vec<Finding>,
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

/// One thing that the lint has to say about one place of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of the rule, kebab-case.
    pub rule: &'static str,
    /// JSON pointer (RFC 6901) into the template body, or into the registration config around it;
    /// empty for the whole.
    pub pointer: String,
    /// What is wrong or uncertain, and what would be right.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pointer = match self.pointer.as_str() {
            "" => "the template",
            pointer => pointer,
        };
        write!(f, "{} at {pointer}: {}", self.rule, self.detail)
    }
}

/// Everything that the lint has to say about a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// AWS IoT would refuse the template, or it cannot work for more than one device.
    pub errors: Vec<Finding>,
    /// What only a try in the account can settle, and what is likely not meant.
    pub warnings: Vec<Finding>,
}

/// Why a text is no template; all faults, at least one.
#[derive(Debug, thiserror::Error)]
#[error("the provisioning template is invalid")]
pub struct TemplateFault(pub Vec<Finding>);

impl JitpTemplate {
    /// Parses and lints; [`Self::warnings`] has what is doubtful.
    ///
    /// `text` is the plain template body, as `aws iot create-provisioning-template` takes it, or
    /// the registration config of `aws iot register-ca-certificate`, which holds the body as one
    /// escaped string.
    ///
    /// A parameter's `Default` is accepted and never used: AWS's pages disagree whether JITP looks
    /// at it, so a certificate must carry the attribute anyway.
    pub fn parse(text: &str) -> Result<Self, TemplateFault> {
        let (template, report) = Self::lint(text);
        template.ok_or(TemplateFault(report.errors))
    }

    /// The template, if `text` is one, and everything there is to say about it. There is a
    /// template exactly when the report has no error.
    #[must_use]
    pub fn lint(text: &str) -> (Option<Self>, Report) {
        let (body, mut errors) = source::template_body(text);
        let Some(body) = body else {
            return (None, Report::of(errors, Vec::new()));
        };
        let (template, found) = lint::compile(&body);
        errors.extend(found.errors);
        let template = template.filter(|_| errors.is_empty());
        (template, Report::of(errors, found.warnings))
    }

    /// What is doubtful about this template, by the lint.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// The subject attributes a certificate must have to be provisioned, in [`AttributeType`]
    /// order, each once: those the template declares, used or not.
    #[must_use]
    pub fn parameters(&self) -> &[AttributeType] {
        &self.parameters
    }

    /// The subject attributes that decide the thing's name; `None` without a thing.
    #[must_use]
    pub fn thing_name_attributes(&self) -> Option<BTreeSet<AttributeType>> {
        let thing = self.thing.as_ref()?;
        Some(thing.name.text.attribute_types())
    }

    /// The policies that do not depend on a subject: names and documents that stand in the template.
    #[must_use]
    pub fn fixed_policies(&self) -> Vec<Policy> {
        let fixed = |PolicySource(property): &PolicySource| {
            let text = property.text.literal()?.to_owned();
            Some(match property.field {
                Field::PolicyDocument => Policy::Document(text),
                _ => Policy::Name(text),
            })
        };
        self.policies.iter().filter_map(fixed).collect()
    }

    /// What a certificate with this subject becomes, or every reason why it would be refused; a
    /// violation's attribute is the short name of the subject attribute to blame.
    ///
    /// Values are taken as they stand. There are signs that AWS IoT escapes `,` `=` and a leading
    /// `#` with a backslash first, which an `AttributeValue` could not hold; AWS documents nothing
    /// of the kind, and its pattern takes these characters, so they pass here.
    pub fn evaluate(&self, subject: &Subject) -> Result<Provisioning, Vec<Violation>> {
        let (provisioning, refusals) = evaluate::evaluate(self, subject);
        if refusals.is_empty() {
            return Ok(provisioning);
        }
        let mut violations = Vec::new();
        for refusal in refusals {
            if !violations.contains(&refusal.violation) {
                violations.push(refusal.violation);
            }
        }
        Err(violations)
    }

    /// What AWS IoT accepts and the device may yet stumble over: rule, subject attribute, detail.
    #[must_use]
    pub fn hazards(&self, subject: &Subject, provisioning: &Provisioning) -> Vec<Violation> {
        hazard::hazards(self, subject, provisioning)
    }

    /// Where an attribute is declared.
    pub(in crate::pki) fn parameter_pointer(kind: AttributeType) -> String {
        Parameter::Subject(kind).pointer()
    }

    /// Where the thing's name stands; the root without a thing.
    pub(in crate::pki) fn thing_name_pointer(&self) -> &str {
        let thing = self.thing.as_ref();
        thing.map_or("", |thing| thing.name.pointer.as_str())
    }

    /// Each refusal of a subject, with the place in the template that refuses it.
    pub(in crate::pki) fn refusals(&self, subject: &Subject) -> Vec<Refusal> {
        evaluate::evaluate(self, subject).1
    }

    /// Whether a value passes through a function that picks one of several, so that samples of
    /// the admitted subjects prove nothing about the rest.
    pub(in crate::pki) fn picks(&self) -> bool {
        self.properties().any(|property| property.text.picks())
            || matches!(&self.thing, Some(Thing { groups: Groups::Computed(_, list), .. }) if list.picks())
    }

    /// Literals that values are compared with, the keys of the mappings in use.
    pub(in crate::pki) fn mapping_keys(&self) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        for property in self.properties() {
            property.text.mapping_keys(&mut keys);
        }
        if let Some(Thing {
            groups: Groups::Computed(_, list),
            ..
        }) = &self.thing
        {
            list.mapping_keys(&mut keys);
        }
        keys
    }

    fn properties(&self) -> impl Iterator<Item = &Property> {
        let thing = self.thing.iter().flat_map(Thing::properties);
        let policies = self.policies.iter().map(|policy| &policy.0);
        thing.chain(policies).chain(&self.device_configuration)
    }
}

/// One reason why a subject is refused.
#[derive(Debug)]
pub(in crate::pki) struct Refusal {
    /// Where in the template.
    pub(in crate::pki) pointer: String,
    /// The reason.
    pub(in crate::pki) violation: Violation,
}

impl Report {
    fn of(errors: Vec<Finding>, warnings: Vec<Finding>) -> Self {
        Self { errors, warnings }
    }

    /// Adds what another lint found.
    pub fn extend(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.warnings.extend(other.warnings);
    }
}

/// The template's thing resource.
#[derive(Clone, Debug)]
struct Thing {
    name: Property,
    type_name: Option<Property>,
    groups: Groups,
    attributes: Vec<(String, Property)>,
    billing_group: Option<Property>,
}

impl Thing {
    fn properties(&self) -> impl Iterator<Item = &Property> {
        let groups = match &self.groups {
            Groups::Each(groups) => groups.as_slice(),
            Groups::Computed(..) => &[],
        };
        std::iter::once(&self.name)
            .chain(&self.type_name)
            .chain(groups)
            .chain(self.attributes.iter().map(|(_, value)| value))
            .chain(&self.billing_group)
    }
}

/// The groups of a thing.
#[derive(Clone, Debug)]
enum Groups {
    /// Each written down.
    Each(Vec<Property>),
    /// A function that gives the whole list, and where it stands.
    Computed(String, List),
}

/// One policy resource: a `PolicyName` or a `PolicyDocument`.
#[derive(Clone, Debug)]
struct PolicySource(Property);

/// One place of the template that takes a text.
#[derive(Clone, Debug)]
struct Property {
    pointer: String,
    field: Field,
    text: Text,
}

#[cfg(test)]
mod tests;
