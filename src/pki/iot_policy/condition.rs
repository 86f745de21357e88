//! Conditions: the operators and keys that AWS's pages on IoT policies use.

use super::ConnectAttribute;
use super::Context;
use super::Request;
use super::pattern;
use super::pattern::Comparison;
use super::variable;

/// One key of one operator's block.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    /// As it stands in the policy, for a person.
    written: String,
    set: Set,
    operator: Option<Operator>,
    key: String,
    values: Vec<String>,
}

pub(super) enum Verdict {
    Holds,
    Fails,
    /// It cannot be decided here, and why.
    Unknown(String),
}

/// How a key with several values is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    One,
    AnyValue,
    AllValues,
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    StringEquals,
    StringNotEquals,
    StringEqualsIgnoreCase,
    StringLike,
    StringNotLike,
    Bool,
}

impl Condition {
    pub(super) fn new(operator: &str, key: &str, values: Vec<String>) -> Self {
        let (set, name) = if let Some(name) = operator.strip_prefix("ForAnyValue:") {
            (Set::AnyValue, name)
        } else if let Some(name) = operator.strip_prefix("ForAllValues:") {
            (Set::AllValues, name)
        } else {
            (Set::One, operator)
        };
        let operator = match name {
            "StringEquals" => Some(Operator::StringEquals),
            "StringNotEquals" => Some(Operator::StringNotEquals),
            "StringEqualsIgnoreCase" => Some(Operator::StringEqualsIgnoreCase),
            "StringLike" => Some(Operator::StringLike),
            "StringNotLike" => Some(Operator::StringNotLike),
            "Bool" => Some(Operator::Bool),
            _ => None,
        };
        Self {
            written: format!("{name} on {key}"),
            set,
            operator,
            key: key.to_owned(),
            values,
        }
    }

    pub(super) fn holds(&self, request: &Request, context: &Context) -> Verdict {
        let Some(operator) = self.operator else {
            return Verdict::Unknown(format!(
                "the condition {} cannot be decided here",
                self.written
            ));
        };
        let found = match self.found(request, context) {
            Ok(found) => found,
            Err(why) => return Verdict::Unknown(why),
        };
        let mut any = false;
        let mut all = true;
        for value in &found {
            match self.compare(operator, value, context) {
                Ok(true) => any = true,
                Ok(false) => all = false,
                Err(why) => return Verdict::Unknown(why),
            }
        }
        let holds = match self.set {
            Set::AllValues => all,
            Set::One | Set::AnyValue => any,
        };
        if holds {
            Verdict::Holds
        } else {
            Verdict::Fails
        }
    }

    /// The key's values in this request.
    fn found(&self, request: &Request, context: &Context) -> Result<Vec<String>, String> {
        if self.key == "iot:ConnectAttributes" {
            let Request::Connect { attributes } = request else {
                return Ok(Vec::new());
            };
            let name = |attribute: &ConnectAttribute| match attribute {
                ConnectAttribute::PersistentConnect => "PersistentConnect".to_owned(),
                ConnectAttribute::LastWill => "LastWill".to_owned(),
            };
            return Ok(attributes.iter().map(name).collect());
        }
        if self.key == "iot:Connection.Thing.IsAttached" {
            let attached = variable::key(&self.key, context).is_ok();
            return Ok(vec![attached.to_string()]);
        }
        Ok(vec![variable::key(&self.key, context)?])
    }

    fn compare(&self, operator: Operator, found: &str, context: &Context) -> Result<bool, String> {
        let one = |value: &String| match operator {
            Operator::StringEquals | Operator::StringNotEquals => {
                pattern::fits_value(value, found, Comparison::Exact, context)
            }
            Operator::StringLike | Operator::StringNotLike => {
                pattern::fits_value(value, found, Comparison::Like, context)
            }
            Operator::StringEqualsIgnoreCase | Operator::Bool => {
                pattern::fits_value(value, found, Comparison::IgnoringCase, context)
            }
        };
        let mut any = false;
        for value in &self.values {
            any |= one(value)?;
        }
        let negated = matches!(
            operator,
            Operator::StringNotEquals | Operator::StringNotLike
        );
        Ok(any != negated)
    }
}
