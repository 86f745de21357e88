//! `OverrideSettings`: what provisioning does with a thing or a certificate that exists already.
//!
//! The developer guide's text spells the keys `ATTRIBUTE_PAYLOAD` and so on, its examples as here;
//! the examples are known to work.

use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;
use crate::pki::jitp::lint::Lint;

/// Which values each key of a resource's `OverrideSettings` takes.
pub(super) type Table = &'static [(&'static str, &'static [&'static str])];

/// Of `AWS::IoT::Thing`.
pub(super) const THING: Table = &[
    (
        "AttributePayload",
        &["DO_NOTHING", "REPLACE", "FAIL", "MERGE"],
    ),
    ("ThingGroups", &["DO_NOTHING", "REPLACE", "FAIL", "MERGE"]),
    ("ThingTypeName", &["DO_NOTHING", "REPLACE", "FAIL"]),
];

/// Of `AWS::IoT::Certificate`.
pub(super) const CERTIFICATE: Table = &[("Status", &["DO_NOTHING", "REPLACE", "FAIL"])];

/// Of `AWS::IoT::Policy`: it has none.
pub(super) const POLICY: Table = &[];

/// Checks one resource's settings.
pub(super) fn check(node: &Node, table: Table, pointer: &str, lint: &mut Lint) {
    for (key, setting) in lint.object(node, pointer) {
        let pointer = child(pointer, key);
        let Some((_, values)) = table.iter().find(|(known, _)| known == key) else {
            let keys: Vec<&str> = table.iter().map(|(known, _)| *known).collect();
            let detail = if keys.is_empty() {
                "a policy has no override settings".to_owned()
            } else {
                format!(
                    "{key:?} cannot be overridden here, only {}",
                    keys.join(", ")
                )
            };
            lint.fault("template-override-key", &pointer, detail);
            continue;
        };
        if !matches!(setting, Node::String(value) if values.contains(&value.as_str())) {
            lint.fault(
                "template-override-value",
                &pointer,
                format!("{key} takes {}", values.join(", ")),
            );
        }
    }
}
