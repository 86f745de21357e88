//! What AWS IoT accepts as a name, for those who name things without a JITP template: bulk
//! registration, single things. One function a kind of name; an empty answer means accepted.
//! Source: the API model of AWS IoT (botocore `iot/2015-05-28`).

use super::constraint;
use super::constraint::Constraint;
use crate::pki::Violation;

/// `ThingName`: `[a-zA-Z0-9:_-]+`, 1 to 128.
#[must_use]
pub fn thing(name: &str) -> Vec<Violation> {
    check(&constraint::THING_NAME, name)
}

/// `ThingTypeName`: as a thing's.
#[must_use]
pub fn thing_type(name: &str) -> Vec<Violation> {
    check(&constraint::THING_TYPE_NAME, name)
}

/// `ThingGroupName`: as a thing's.
#[must_use]
pub fn thing_group(name: &str) -> Vec<Violation> {
    check(&constraint::THING_GROUP_NAME, name)
}

/// `PolicyName`: `[\w+=,.@-]+`, 1 to 128.
#[must_use]
pub fn policy(name: &str) -> Vec<Violation> {
    check(&constraint::POLICY_NAME, name)
}

fn check(constraint: &Constraint, name: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    constraint.check(name, "", &mut violations);
    violations
}
