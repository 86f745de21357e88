//! One device against a template, alone or with the profile it goes with.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Profile;
use super::Refusal;
use crate::pki::Violation;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Provisioning;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;

/// What devices are evaluated against.
#[derive(Clone, Copy, Debug)]
pub enum Basis<'a> {
    /// A template: the name rules that hold for every subject, then the template.
    Template(&'a JitpTemplate),
    /// A profile: its name rules and fixed attributes, too, then its template.
    Profile(&'a Profile),
}

/// What becomes of one device: a provisioning or violations, never both.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Evaluation {
    /// What AWS IoT would make of it.
    pub provisioning: Option<Provisioning>,
    /// Why it would not be issued, or not be provisioned.
    pub violations: Vec<Violation>,
    /// What it may stumble over although AWS IoT provisions it.
    pub warnings: Vec<Violation>,
}

impl<'a> Basis<'a> {
    /// The template; `None` for a profile without one.
    #[must_use]
    pub fn template(&self) -> Option<&'a JitpTemplate> {
        match self {
            Self::Template(template) => Some(template),
            Self::Profile(profile) => profile.jitp.as_ref(),
        }
    }

    /// Evaluates one device by its subject attributes.
    #[must_use]
    pub fn evaluate(&self, attributes: BTreeMap<AttributeType, String>) -> Evaluation {
        let outcome = match self {
            Self::Template(template) => Subject::new(attributes).and_then(|subject| {
                let provisioning = template.evaluate(&subject)?;
                Ok((subject, Some(provisioning)))
            }),
            Self::Profile(profile) => profile
                .provision(&attributes, &BTreeMap::new())
                .map_err(Refusal::into_violations),
        };
        match outcome {
            Ok((subject, provisioning)) => {
                let warnings = match (self.template(), &provisioning) {
                    (Some(template), Some(made)) => template.hazards(&subject, made),
                    _ => Vec::new(),
                };
                Evaluation {
                    provisioning,
                    violations: Vec::new(),
                    warnings,
                }
            }
            Err(violations) => Evaluation {
                violations,
                ..Evaluation::default()
            },
        }
    }
}
