//! AWS IoT's patterns and lengths, as its API model states them, without a regex engine.

use crate::pki::jitp::policy_document;

/// What a text of a template becomes, and so what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// `ThingName`
    ThingName,
    /// `ThingTypeName`
    ThingTypeName,
    /// An entry of `ThingGroups`
    ThingGroupName,
    /// `BillingGroup`
    BillingGroupName,
    /// A name in `AttributePayload`
    AttributeName,
    /// A value in `AttributePayload`
    AttributeValue,
    /// `PolicyName`
    PolicyName,
    /// `PolicyDocument`
    PolicyDocument,
    /// A value in `DeviceConfiguration`: anything.
    DeviceConfiguration,
}

/// A rule that a value breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    /// The rule.
    pub(super) rule: &'static str,
    /// What is wrong.
    pub(super) detail: String,
}

impl Field {
    /// Each way in which a value is not one of these.
    pub(super) fn breaches(self, value: &str) -> Vec<Breach> {
        let constraint = match self {
            Self::ThingName => &THING_NAME,
            Self::ThingTypeName => &THING_TYPE_NAME,
            Self::ThingGroupName => &THING_GROUP_NAME,
            Self::BillingGroupName => &BILLING_GROUP_NAME,
            Self::AttributeName => &ATTRIBUTE_NAME,
            Self::AttributeValue => &ATTRIBUTE_VALUE,
            Self::PolicyName => &POLICY_NAME,
            Self::PolicyDocument => return policy_document::breaches(value),
            Self::DeviceConfiguration => return Vec::new(),
        };
        constraint.breaches(value)
    }
}

/// What AWS IoT accepts in one kind of field: characters (all ASCII, so octets equal characters
/// in every value that passes) and length.
#[derive(Debug)]
struct Constraint {
    /// The field in AWS's own spelling.
    field: &'static str,
    /// The accepted characters, for a person.
    characters: &'static str,
    accepts: fn(char) -> bool,
    length_min: usize,
    length_max: usize,
    pattern_rule: &'static str,
    length_rule: &'static str,
}

/// `[a-zA-Z0-9:_-]+`, 1 to 128: things, thing types, groups and billing groups are named alike.
const NAME: Constraint = Constraint {
    field: "ThingName",
    characters: "A-Z a-z 0-9 : _ -",
    accepts: |character| character.is_ascii_alphanumeric() || matches!(character, ':' | '_' | '-'),
    length_min: 1,
    length_max: 128,
    pattern_rule: "thing-name-pattern",
    length_rule: "thing-name-length",
};

/// `ThingName`
static THING_NAME: Constraint = NAME;

/// `ThingTypeName`
static THING_TYPE_NAME: Constraint = Constraint {
    field: "ThingTypeName",
    pattern_rule: "thing-type-name-pattern",
    length_rule: "thing-type-name-length",
    ..NAME
};

/// `ThingGroupName`, an entry of `ThingGroups`
static THING_GROUP_NAME: Constraint = Constraint {
    field: "ThingGroupName",
    pattern_rule: "thing-group-name-pattern",
    length_rule: "thing-group-name-length",
    ..NAME
};

/// `BillingGroupName`
static BILLING_GROUP_NAME: Constraint = Constraint {
    field: "BillingGroupName",
    pattern_rule: "billing-group-name-pattern",
    length_rule: "billing-group-name-length",
    ..NAME
};

/// `AttributeName`: `[a-zA-Z0-9_.,@/:#-]+`, 1 to 128
static ATTRIBUTE_NAME: Constraint = Constraint {
    field: "AttributeName",
    characters: "A-Z a-z 0-9 _ . , @ / : # -",
    accepts: |character| {
        character.is_ascii_alphanumeric()
            || matches!(character, '_' | '.' | ',' | '@' | '/' | ':' | '#' | '-')
    },
    length_min: 1,
    length_max: 128,
    pattern_rule: "thing-attribute-name-pattern",
    length_rule: "thing-attribute-name-length",
};

/// `AttributeValue`: `[a-zA-Z0-9_.,@/:#=\[\]-]*`, 0 to 800. No space: `O=Example Corp` cannot be one.
static ATTRIBUTE_VALUE: Constraint = Constraint {
    field: "AttributeValue",
    characters: "A-Z a-z 0-9 _ . , @ / : # = [ ] -",
    accepts: |character| {
        character.is_ascii_alphanumeric()
            || matches!(
                character,
                '_' | '.' | ',' | '@' | '/' | ':' | '#' | '=' | '[' | ']' | '-'
            )
    },
    length_min: 0,
    length_max: 800,
    pattern_rule: "thing-attribute-value-pattern",
    length_rule: "thing-attribute-value-length",
};

/// `PolicyName`: `[\w+=,.@-]+`, 1 to 128
static POLICY_NAME: Constraint = Constraint {
    field: "PolicyName",
    characters: "A-Z a-z 0-9 _ + = , . @ -",
    accepts: |character| {
        character.is_ascii_alphanumeric()
            || matches!(character, '_' | '+' | '=' | ',' | '.' | '@' | '-')
    },
    length_min: 1,
    length_max: 128,
    pattern_rule: "policy-name-pattern",
    length_rule: "policy-name-length",
};

impl Constraint {
    fn breaches(&self, value: &str) -> Vec<Breach> {
        let Self {
            field,
            characters,
            length_min,
            length_max,
            ..
        } = self;
        let mut breaches = Vec::new();
        if let Some((position, character)) =
            (1..).zip(value.chars()).find(|(_, c)| !(self.accepts)(*c))
        {
            breaches.push(Breach {
                rule: self.pattern_rule,
                detail: format!(
                    "character {position} is {character:?}; AWS IoT takes only {characters} in a {field}"
                ),
            });
        }
        let length = value.chars().count();
        if !(*length_min..=*length_max).contains(&length) {
            breaches.push(Breach {
                rule: self.length_rule,
                detail: format!(
                    "{length} characters; AWS IoT takes {length_min} to {length_max} in a {field}"
                ),
            });
        }
        breaches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(constraint: &Constraint, value: &str) -> Vec<&'static str> {
        let breaches = constraint.breaches(value);
        breaches.iter().map(|breach| breach.rule).collect()
    }

    /// The accepted set of each constraint, over all of Latin-1, against AWS's pattern spelled out.
    #[test]
    fn each_constraint_accepts_exactly_the_characters_of_its_pattern() {
        let alphanumeric = ('0'..='9').chain('A'..='Z').chain('a'..='z');
        for (constraint, punctuation) in [
            (&THING_NAME, ":_-"),
            (&THING_TYPE_NAME, ":_-"),
            (&THING_GROUP_NAME, ":_-"),
            (&BILLING_GROUP_NAME, ":_-"),
            (&ATTRIBUTE_NAME, "_.,@/:#-"),
            (&ATTRIBUTE_VALUE, "_.,@/:#=[]-"),
            (&POLICY_NAME, "_+=,.@-"),
        ] {
            let pattern: Vec<char> = alphanumeric.clone().chain(punctuation.chars()).collect();
            for character in '\0'..='\u{ff}' {
                assert_eq!(
                    rules(constraint, &character.to_string()).is_empty(),
                    pattern.contains(&character),
                    "{character:?} in a {}",
                    constraint.field
                );
            }
        }
    }

    #[test]
    fn each_constraint_ends_at_its_last_length() {
        for (constraint, length_min, length_max) in [
            (&THING_NAME, 1, 128),
            (&THING_TYPE_NAME, 1, 128),
            (&THING_GROUP_NAME, 1, 128),
            (&BILLING_GROUP_NAME, 1, 128),
            (&ATTRIBUTE_NAME, 1, 128),
            (&ATTRIBUTE_VALUE, 0, 800),
            (&POLICY_NAME, 1, 128),
        ] {
            assert!(rules(constraint, &"a".repeat(length_min)).is_empty());
            assert!(rules(constraint, &"a".repeat(length_max)).is_empty());
            assert_eq!(
                rules(constraint, &"a".repeat(length_max + 1)),
                [constraint.length_rule]
            );
            assert_eq!(rules(constraint, "").is_empty(), length_min == 0);
        }
    }

    #[test]
    fn a_value_that_is_too_long_and_has_a_wrong_character_breaks_both_rules() {
        assert_eq!(
            rules(&THING_NAME, &" ".repeat(129)),
            ["thing-name-pattern", "thing-name-length"]
        );
    }
}
