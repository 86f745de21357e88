//! Inline policies: an escaped JSON object within AWS's quota, and what it lets a device do.

use crate::pki::jitp::constraint::Breach;
use crate::pki::jitp::json::Node;

/// A policy document, in characters that are not white space (AWS service quotas).
const LENGTH_MAX: usize = 2_048;

/// Each way in which a text is no policy document.
pub(super) fn breaches(text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut add = |rule, detail| breaches.push(Breach { rule, detail });
    match Node::parse(text) {
        Ok(document @ Node::Object(_)) => {
            let twice = document.duplicate_keys("");
            if !twice.is_empty() {
                add(
                    "template-duplicate-key",
                    format!(
                        "keys that stand more than once inside the policy: {}",
                        twice.join(" ")
                    ),
                );
            }
        }
        Ok(other) => add(
            "template-policy-document",
            format!("a policy is a JSON object, not {}", other.kind()),
        ),
        Err(fault) => add(
            "template-policy-document",
            format!("the policy is no JSON: {fault}"),
        ),
    }
    let length = text.chars().filter(|c| !c.is_whitespace()).count();
    if length > LENGTH_MAX {
        add(
            "template-policy-document-length",
            format!(
                "the policy has {length} characters without white space; AWS IoT takes {LENGTH_MAX}"
            ),
        );
    }
    breaches
}

/// Whether some statement may let a device connect. A statement in a form that this does not know
/// counts as one that does.
pub(super) fn allows_connect(text: &str) -> bool {
    let Ok(document @ Node::Object(_)) = Node::parse(text) else {
        return true;
    };
    match document.member("Statement") {
        Some(Node::Array(statements)) => statements.iter().any(statement_allows_connect),
        Some(statement) => statement_allows_connect(statement),
        None => false,
    }
}

fn statement_allows_connect(statement: &Node) -> bool {
    let denies =
        matches!(statement.member("Effect"), Some(Node::String(effect)) if effect == "Deny");
    if denies {
        return false;
    }
    match statement.member("Action") {
        Some(Node::Array(actions)) => actions.iter().any(action_is_connect),
        Some(action) => action_is_connect(action),
        // `NotAction`, or nothing that AWS would take.
        None => true,
    }
}

fn action_is_connect(action: &Node) -> bool {
    let Node::String(action) = action else {
        return true;
    };
    match action.split_once('*') {
        Some((before, _)) => {
            let before = before.to_ascii_lowercase();
            "iot:connect".starts_with(&before)
        }
        None => action.eq_ignore_ascii_case("iot:Connect"),
    }
}
