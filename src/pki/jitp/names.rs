//! What AWS IoT accepts as a name, for those who name things without a JITP template: bulk
//! registration, single things. One function a kind of name; an empty answer means accepted.
//! Source: the API model of AWS IoT (botocore `iot/2015-05-28`).

use super::constraint::Field;
use crate::pki::Violation;

/// `ThingName`: `[a-zA-Z0-9:_-]+`, 1 to 128.
#[must_use]
pub fn thing(name: &str) -> Vec<Violation> {
    check(Field::ThingName, name)
}

/// `ThingTypeName`: as a thing's.
#[must_use]
pub fn thing_type(name: &str) -> Vec<Violation> {
    check(Field::ThingTypeName, name)
}

/// `ThingGroupName`: as a thing's.
#[must_use]
pub fn thing_group(name: &str) -> Vec<Violation> {
    check(Field::ThingGroupName, name)
}

/// `PolicyName`: `[\w+=,.@-]+`, 1 to 128.
#[must_use]
pub fn policy(name: &str) -> Vec<Violation> {
    check(Field::PolicyName, name)
}

fn check(field: Field, name: &str) -> Vec<Violation> {
    let breaches = field.breaches(name).into_iter();
    breaches
        .map(|breach| Violation {
            rule: breach.rule,
            attribute: None,
            detail: breach.detail,
        })
        .collect()
}
