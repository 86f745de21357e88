//! Finds the template body in the two forms that AWS's tools take.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::pki::jitp::Finding;
use crate::pki::jitp::json::Node;
use crate::pki::jitp::json::child;

/// Longest text in octets that is looked at: a body of the longest kind, every character escaped.
const TEXT_LENGTH_MAX: usize = 128 * 1024;

/// `RoleArn`, in characters.
const ROLE_ARN_LENGTH: std::ops::RangeInclusive<usize> = 20..=2048;

/// The body itself, or the unescaped `templateBody` of a registration config; and what is wrong
/// around it. Without a body there is at least one finding.
pub(super) fn template_body(text: &str) -> (Option<Cow<'_, str>>, Vec<Finding>) {
    if text.len() > TEXT_LENGTH_MAX {
        let detail = format!(
            "the text has {} octets; no template needs more than {TEXT_LENGTH_MAX}",
            text.len()
        );
        return (None, vec![fault("template-length", "", detail)]);
    }
    match Node::parse(text) {
        Ok(Node::Object(members)) if is_registration_config(&members) => {
            let (body, faults) = registration_config(members);
            (body.map(Cow::Owned), faults)
        }
        // What is wrong with a body, JSON or not, is for the lint to say.
        _ => (Some(Cow::Borrowed(text)), Vec::new()),
    }
}

fn is_registration_config(members: &[(String, Node)]) -> bool {
    let is_its_own = |key: &str| matches!(key, "templateBody" | "templateName" | "roleArn");
    members.iter().any(|(key, _)| is_its_own(key))
}

fn registration_config(members: Vec<(String, Node)>) -> (Option<String>, Vec<Finding>) {
    let mut body = None;
    let mut faults = Vec::new();
    let mut refuse = |key: &str, detail: String| {
        faults.push(fault("registration-config", &child("", key), detail));
    };
    let mut seen = BTreeSet::new();
    for (key, value) in members {
        match (key.as_str(), value) {
            ("templateBody", Node::String(text)) => body = Some(text),
            ("templateBody", other) => refuse(
                &key,
                format!(
                    "templateBody is {}; it must be the template as one escaped string",
                    other.kind()
                ),
            ),
            ("roleArn", Node::String(arn)) if ROLE_ARN_LENGTH.contains(&arn.chars().count()) => {}
            ("roleArn", _) => refuse(
                &key,
                "roleArn must be a string of 20 to 2048 characters".to_owned(),
            ),
            ("templateName", _) => refuse(
                &key,
                "templateName names a template in the account, which cannot be read here; \
                 give its body as templateBody"
                    .to_owned(),
            ),
            _ => refuse(
                &key,
                "a registration config has the members templateBody and roleArn only".to_owned(),
            ),
        }
        if !seen.insert(key.clone()) {
            refuse(&key, format!("{key} stands more than once"));
        }
    }
    if !seen.contains("templateBody") && !seen.contains("templateName") {
        refuse("templateBody", "templateBody is missing".to_owned());
    }
    if !seen.contains("roleArn") {
        refuse(
            "roleArn",
            "roleArn is missing: without a role AWS IoT provisions nothing and the certificate \
             stays PENDING_ACTIVATION"
                .to_owned(),
        );
    }
    (body, faults)
}

fn fault(rule: &'static str, pointer: &str, detail: String) -> Finding {
    Finding {
        rule,
        pointer: pointer.to_owned(),
        detail,
    }
}
