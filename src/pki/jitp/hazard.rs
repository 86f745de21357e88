//! What AWS IoT accepts and the device may yet stumble over.

use crate::pki::Violation;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Policy;
use crate::pki::jitp::Provisioning;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;

/// The policy variables over a certificate's subject (developer guide, "X.509 certificate AWS IoT
/// Core policy variables"), as far as a subject of ours can have the attribute.
const POLICY_VARIABLES: [(&str, AttributeType); 7] = [
    ("Country", AttributeType::Country),
    ("State", AttributeType::StateOrProvince),
    ("Organization", AttributeType::Organization),
    ("OrganizationalUnit", AttributeType::OrganizationalUnit),
    ("DistinguishedNameQualifier", AttributeType::DnQualifier),
    ("SerialNumber", AttributeType::SerialNumber),
    ("CommonName", AttributeType::CommonName),
];

/// How such a variable begins.
pub(super) const SUBJECT_VARIABLE: &str = "${iot:Certificate.Subject.";

/// Characters that stop the substitution, and those that are escaped in it (the same page).
const STOPPING: &str = "*$+?#";
const ESCAPED: &str = ",\"\\+=<>;";

/// See [`JitpTemplate::hazards`].
pub(super) fn hazards(
    template: &JitpTemplate,
    subject: &Subject,
    provisioning: &Provisioning,
) -> Vec<Violation> {
    let mut hazards = Vec::new();
    if provisioning
        .thing_name
        .as_ref()
        .is_some_and(|name| name.contains(':'))
    {
        let sources = template.thing_name_attributes().unwrap_or_default();
        hazards.push(Violation {
            rule: "thing-name-greengrass",
            attribute: sources.first().map(|kind| kind.short_name().to_owned()),
            detail: "the thing's name has a colon; a Greengrass nucleus refuses such a name"
                .to_owned(),
        });
    }
    for (variable, kind) in POLICY_VARIABLES {
        let Some(value) = subject.get(kind) else {
            continue;
        };
        let name = kind.short_name();
        let variable = format!("{SUBJECT_VARIABLE}{variable}");
        let used = |policy: &Policy| match policy {
            Policy::Document(document) => names_variable(document, &variable),
            Policy::Name(_) => false,
        };
        if !provisioning.policies.iter().any(used) {
            continue;
        }
        let found = |set: &str| value.chars().find(|character| set.contains(*character));
        let detail = if let Some(character) = found(STOPPING) {
            format!(
                "{name} has {character:?}, with which AWS IoT does not substitute {variable}}} in \
                 a policy: what depends on it is denied"
            )
        } else if let Some(character) = found(ESCAPED) {
            format!(
                "{name} has {character:?}, which stands with a backslash before it where a policy \
                 names {variable}}}"
            )
        } else {
            continue;
        };
        hazards.push(Violation {
            rule: "policy-variable-characters",
            attribute: Some(name.to_owned()),
            detail,
        });
    }
    hazards
}

/// Whether a document names the variable, alone (`}`) or with the index of a value (`.`).
fn names_variable(document: &str, variable: &str) -> bool {
    document
        .match_indices(variable)
        .filter_map(|(position, _)| document[position + variable.len()..].chars().next())
        .any(|next| matches!(next, '}' | '.'))
}
