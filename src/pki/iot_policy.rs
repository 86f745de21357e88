//! AWS IoT Core policies: what a connected device may do, decided as AWS's message broker decides.
//!
//! A policy is a list of statements. A request is allowed when one statement allows it and none
//! denies it. Sources: AWS IoT developer guide, "AWS IoT Core policies", "Policy variables",
//! "X.509 certificate policy variables", "Publish/Subscribe policy examples".
//!
//! Region and account of an ARN are not compared: the one who asks knows neither.

mod condition;
mod document;
mod pattern;
mod variable;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Violation;
use super::name::Subject;
use condition::Condition;
use condition::Verdict;
use pattern::Pattern;

/// A policy document, parsed.
#[derive(Clone, Debug)]
pub struct IotPolicy {
    statements: Vec<Statement>,
}

/// Why a text is no policy that can be decided here; all faults, at least one. Each names a rule
/// and, as its attribute, a JSON pointer into the document.
#[derive(Debug, thiserror::Error)]
#[error("the policy document is invalid")]
pub struct PolicyFault(pub Vec<Violation>);

/// One thing a device asks for. Each has its action and its kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// `iot:Connect` on `client/CLIENT_ID`.
    Connect {
        /// What the connection asks for beside being one.
        attributes: &'a [ConnectAttribute],
    },
    /// `iot:Publish` on `topic/TOPIC`.
    Publish(&'a str),
    /// `iot:RetainPublish` on `topic/TOPIC`, asked beside `iot:Publish` for a retained message.
    RetainPublish(&'a str),
    /// `iot:Subscribe` on `topicfilter/FILTER`.
    Subscribe(&'a str),
    /// `iot:Receive` on `topic/TOPIC`, asked for each message on its way to a subscriber.
    Receive(&'a str),
}

/// A value of the condition key `iot:ConnectAttributes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectAttribute {
    /// A session that outlives the connection.
    PersistentConnect,
    /// A last will.
    LastWill,
}

/// Who asks: what the policy variables stand for.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// MQTT client id of the connection.
    pub client_id: &'a str,
    /// The host name it connected to.
    pub domain_name: &'a str,
    /// Where it comes from.
    pub source_ip: IpAddr,
    /// The certificate's subject.
    pub subject: &'a Subject,
    /// AWS IoT's id of the certificate: 64 lower-case hexadecimal digits.
    pub certificate_id: &'a str,
    /// The thing the certificate is attached to.
    pub thing: Option<ThingContext<'a>>,
}

/// The thing a certificate is attached to. Its variables have a value only in a connection whose
/// client id is the thing's name ("Thing policy variables").
#[derive(Clone, Debug)]
pub struct ThingContext<'a> {
    /// `iot:Connection.Thing.ThingName`
    pub name: &'a str,
    /// `iot:Connection.Thing.ThingTypeName`
    pub type_name: Option<&'a str>,
    /// `iot:Connection.Thing.Attributes[NAME]`
    pub attributes: &'a BTreeMap<String, String>,
}

/// What the policies say to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the device may.
    pub allowed: bool,
    /// Why, in a sentence.
    pub reason: String,
    /// What kept a statement from taking part though it was about this action: a variable without
    /// a value, a condition that cannot be decided here. Each once.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Statement {
    /// `Sid`, else its place, for a person.
    name: String,
    allow: bool,
    /// Patterns in lower case: actions are compared without case.
    actions: Vec<String>,
    resources: Vec<Pattern>,
    conditions: Vec<Condition>,
}

impl IotPolicy {
    /// Parses a policy document; refuses what AWS IoT would refuse, and what cannot be decided
    /// here (`NotAction`, `NotResource`).
    pub fn parse(text: &str) -> Result<Self, PolicyFault> {
        let statements = document::statements(text).map_err(PolicyFault)?;
        Ok(Self { statements })
    }
}

impl Request<'_> {
    /// `iot:Connect` and its kin.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "iot:Connect",
            Self::Publish(_) => "iot:Publish",
            Self::RetainPublish(_) => "iot:RetainPublish",
            Self::Subscribe(_) => "iot:Subscribe",
            Self::Receive(_) => "iot:Receive",
        }
    }

    /// The last part of the ARN it is about, such as `topicfilter/a/+`.
    #[must_use]
    pub fn resource(&self, context: &Context) -> String {
        match self {
            Self::Connect { .. } => format!("client/{}", context.client_id),
            Self::Publish(topic) | Self::RetainPublish(topic) | Self::Receive(topic) => {
                format!("topic/{topic}")
            }
            Self::Subscribe(filter) => format!("topicfilter/{filter}"),
        }
    }
}

/// Decides one request under all policies of a certificate: a denial wins, and what nobody allows
/// is denied.
///
/// An allowing statement with a condition, or a resource, that cannot be decided here does not
/// allow; a denying one denies. Both are noted. A variable that is known and has no value keeps its
/// statement from matching, as at AWS.
#[must_use]
pub fn decide<'a>(
    policies: impl IntoIterator<Item = &'a IotPolicy>,
    request: &Request,
    context: &Context,
) -> Decision {
    let resource = request.resource(context);
    let mut notes = BTreeSet::new();
    let mut allowed_by = None;
    for statement in policies.into_iter().flat_map(|policy| &policy.statements) {
        if !statement.is_about(request.action()) {
            continue;
        }
        let matches = |pattern: &Pattern| match pattern.matches(&resource, context) {
            Ok(matches) => matches,
            Err(why) => {
                notes.insert(format!("{}: {why}", statement.name));
                !statement.allow && pattern.holds_an_unknown_variable()
            }
        };
        // Every resource is looked at, so that every variable without a value is noted.
        if statement
            .resources
            .iter()
            .map(matches)
            .filter(|m| *m)
            .count()
            == 0
        {
            continue;
        }
        let mut holds = true;
        for condition in &statement.conditions {
            match condition.holds(request, context) {
                Verdict::Holds => {}
                Verdict::Fails => holds = false,
                Verdict::Unknown(why) => {
                    notes.insert(format!("{}: {why}", statement.name));
                    holds = holds && !statement.allow;
                }
            }
        }
        if !holds {
            continue;
        }
        if !statement.allow {
            return Decision {
                allowed: false,
                reason: format!(
                    "{} denies {} on {resource}",
                    statement.name,
                    request.action()
                ),
                notes: notes.into_iter().collect(),
            };
        }
        allowed_by.get_or_insert(&statement.name);
    }
    let reason = match allowed_by {
        Some(name) => format!("{name} allows {} on {resource}", request.action()),
        None => format!("no statement allows {} on {resource}", request.action()),
    };
    Decision {
        allowed: allowed_by.is_some(),
        reason,
        notes: notes.into_iter().collect(),
    }
}

impl Statement {
    fn is_about(&self, action: &str) -> bool {
        let action = action.to_ascii_lowercase();
        self.actions
            .iter()
            .any(|pattern| pattern::glob(pattern, &action))
    }
}

#[cfg(test)]
mod tests;
