//! A profile's TOML, read with all its faults.

use super::Profile;
use super::SubjectRules;
use crate::pki::jitp::Finding;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::TemplateFault;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::validity::BACKDATE_SECONDS_MAX;
use crate::pki::validity::ValidityRule;
use chrono::{DateTime, Utc};
use openssl::sha::Sha256;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Component;
use std::path::Path;

/// A hundred years. Who wants more wants `no_expiry`.
const DAYS_MAX: u32 = 36_525;

/// No certificate fits in less; no device reads more.
const CERTIFICATE_LENGTHS: std::ops::RangeInclusive<usize> = 512..=65_536;

/// No device is mended so often; see [`Profile::reworks_max`].
const REWORKS_MAX: i16 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    issuer: String,
    next_issuer: Option<String>,
    switch_at: Option<String>,
    #[serde(default = "common_name")]
    device_identity: String,
    #[serde(default = "identity")]
    slot: String,
    key_algorithms: Vec<String>,
    #[serde(default = "certificate_length_max")]
    certificate_length_max: usize,
    #[serde(default)]
    order_required: bool,
    #[serde(default)]
    bare_public_keys: bool,
    #[serde(default = "reworks_max")]
    reworks_max: i16,
    jitp_template: Option<String>,
    #[serde(default)]
    jitp_undocumented: bool,
    validity: RawValidity,
    subject: RawSubject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawValidity {
    days: Option<u32>,
    #[serde(default)]
    no_expiry: bool,
    #[serde(default)]
    backdate_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSubject {
    required: Vec<String>,
    #[serde(default)]
    optional: Vec<String>,
    #[serde(default)]
    fixed: BTreeMap<String, String>,
}

fn common_name() -> String {
    "CN".to_owned()
}

fn identity() -> String {
    "identity".to_owned()
}

fn reworks_max() -> i16 {
    3
}

fn certificate_length_max() -> usize {
    4096
}

/// See [`Profile::parse`].
pub(super) fn parse(
    name: &str,
    toml: &str,
    template: Option<&str>,
) -> Result<Profile, Vec<String>> {
    let raw = read(toml)?;
    complete(name, toml, &raw, template)
}

/// See [`SubjectRules::parse`].
pub(super) fn parse_subject_rules(name: &str, toml: &str) -> Result<SubjectRules, Vec<String>> {
    let raw = RawProfile {
        jitp_template: None,
        ..read(toml)?
    };
    complete(name, toml, &raw, None).map(|profile| profile.subject_rules())
}

fn read(toml: &str) -> Result<RawProfile, Vec<String>> {
    toml::from_str(toml).map_err(|error| vec![error.to_string()])
}

fn complete(
    name: &str,
    toml: &str,
    raw: &RawProfile,
    template: Option<&str>,
) -> Result<Profile, Vec<String>> {
    let mut faults = Vec::new();
    for (what, text) in [("name", name), ("issuer", &raw.issuer), ("slot", &raw.slot)] {
        if !is_label(text) {
            faults.push(format!("{what}: {text:?} is not 1 to 64 of a-z, 0-9 and -"));
        }
    }
    if !CERTIFICATE_LENGTHS.contains(&raw.certificate_length_max) {
        let (low, high) = (CERTIFICATE_LENGTHS.start(), CERTIFICATE_LENGTHS.end());
        faults.push(format!(
            "certificate_length_max: not within {low} to {high} octets"
        ));
    }
    if raw.validity.backdate_seconds > BACKDATE_SECONDS_MAX {
        faults.push(format!(
            "validity.backdate_seconds: above {BACKDATE_SECONDS_MAX}"
        ));
    }
    if !(0..=REWORKS_MAX).contains(&raw.reworks_max) {
        faults.push(format!("reworks_max: must be 0 to {REWORKS_MAX}"));
    }
    let succession = succession(raw, &mut faults);
    let key_algorithms = key_algorithms(&raw.key_algorithms, &mut faults);
    let validity = validity(&raw.validity, &mut faults);
    let subject = Subjects::parse(&raw.subject, &mut faults);
    let device_identity =
        attribute("device_identity", &raw.device_identity, &mut faults).filter(|kind| {
            let required = subject.required.contains(kind);
            if !required {
                faults.push("device_identity: not among subject.required".to_owned());
            }
            required
        });
    let jitp = jitp(raw.jitp_template.as_deref(), template, &mut faults);
    let (Some(device_identity), Some(validity)) = (device_identity, validity) else {
        return Err(faults);
    };
    let profile = Profile {
        name: name.to_owned(),
        issuer: raw.issuer.clone(),
        succession,
        device_identity,
        slot: raw.slot.clone(),
        key_algorithms,
        validity,
        backdate_seconds: raw.validity.backdate_seconds,
        certificate_length_max: raw.certificate_length_max,
        order_required: raw.order_required,
        bare_public_keys: raw.bare_public_keys,
        reworks_max: raw.reworks_max,
        required: subject.required,
        optional: subject.optional,
        fixed: subject.fixed,
        jitp,
        jitp_undocumented: raw.jitp_undocumented,
        sha256: sha256(toml, template),
    };
    if let Some(template) = &profile.jitp {
        let report = profile.subject_rules().lint(template);
        let told = |finding: &Finding| format!("jitp_template: {finding}");
        faults.extend(report.errors.iter().map(told));
    }
    if faults.is_empty() {
        Ok(profile)
    } else {
        Err(faults)
    }
}

/// See [`Profile::template_path`].
pub(super) fn template_path(toml: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(toml).ok()?;
    table.get("jitp_template")?.as_str().map(str::to_owned)
}

fn is_label(text: &str) -> bool {
    let allowed = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

fn succession(raw: &RawProfile, faults: &mut Vec<String>) -> Option<(DateTime<Utc>, String)> {
    let (next, at) = match (&raw.next_issuer, &raw.switch_at) {
        (None, None) => return None,
        (Some(next), Some(at)) => (next, at),
        _ => {
            faults.push("next_issuer, switch_at: one needs the other".to_owned());
            return None;
        }
    };
    if !is_label(next) {
        faults.push(format!(
            "next_issuer: {next:?} is not 1 to 64 of a-z, 0-9 and -"
        ));
    }
    match at.parse::<DateTime<Utc>>() {
        Ok(at) if at.timestamp_subsec_nanos() == 0 => Some((at, next.clone())),
        _ => {
            faults.push(format!("switch_at: {at:?} is not RFC 3339 to the second"));
            None
        }
    }
}

fn key_algorithms(names: &[String], faults: &mut Vec<String>) -> Vec<KeyAlgorithm> {
    let mut algorithms = Vec::new();
    for name in names {
        match KeyAlgorithm::from_name(name) {
            Some(algorithm) if !algorithms.contains(&algorithm) => algorithms.push(algorithm),
            Some(_) => faults.push(format!("key_algorithms: {name} stands twice")),
            None => {
                let known = KeyAlgorithm::ALL.map(KeyAlgorithm::name).join(", ");
                faults.push(format!("key_algorithms: {name:?} is none of {known}"));
            }
        }
    }
    if names.is_empty() {
        faults.push("key_algorithms: empty".to_owned());
    }
    algorithms
}

fn validity(raw: &RawValidity, faults: &mut Vec<String>) -> Option<ValidityRule> {
    match (raw.days, raw.no_expiry) {
        (Some(days), false) if (1..=DAYS_MAX).contains(&days) => Some(ValidityRule::Days(days)),
        (None, true) => Some(ValidityRule::NoExpiry),
        (Some(_), false) => {
            faults.push(format!("validity.days: not within 1 to {DAYS_MAX}"));
            None
        }
        _ => {
            faults.push("validity: needs either days or no_expiry = true".to_owned());
            None
        }
    }
}

fn attribute(place: &str, name: &str, faults: &mut Vec<String>) -> Option<AttributeType> {
    let kind = AttributeType::from_short_name(name);
    if kind.is_none() {
        let known = AttributeType::ALL.map(AttributeType::short_name).join(", ");
        faults.push(format!("{place}: {name:?} is none of {known}"));
    }
    kind
}

struct Subjects {
    required: Vec<AttributeType>,
    optional: Vec<AttributeType>,
    fixed: BTreeMap<AttributeType, String>,
}

impl Subjects {
    /// Every attribute in one place and once; fixed values well-formed.
    fn parse(raw: &RawSubject, faults: &mut Vec<String>) -> Self {
        let mut seen = Vec::new();
        let mut place = |place: &str, name: &str, faults: &mut Vec<String>| {
            let kind = attribute(place, name, faults)?;
            if seen.contains(&kind) {
                faults.push(format!("{place}: {name} stands twice under [subject]"));
            }
            seen.push(kind);
            Some(kind)
        };
        let mut rules = Self {
            required: Vec::new(),
            optional: Vec::new(),
            fixed: BTreeMap::new(),
        };
        for name in &raw.required {
            rules
                .required
                .extend(place("subject.required", name, faults));
        }
        for name in &raw.optional {
            rules
                .optional
                .extend(place("subject.optional", name, faults));
        }
        for (name, value) in &raw.fixed {
            let kind = place("subject.fixed", name, faults);
            rules.fixed.extend(kind.map(|kind| (kind, value.clone())));
        }
        if let Err(violations) = Subject::new(rules.fixed.clone()) {
            faults.extend(
                violations
                    .into_iter()
                    .map(|fault| format!("subject.fixed: {}", fault.detail)),
            );
        }
        rules
    }
}

/// The template that a profile names.
fn jitp(path: Option<&str>, text: Option<&str>, faults: &mut Vec<String>) -> Option<JitpTemplate> {
    let (path, text) = match (path, text) {
        (None, None) => return None,
        (Some(path), Some(text)) => (path, text),
        (Some(path), None) => {
            faults.push(format!("jitp_template: {path:?} was not found"));
            return None;
        }
        (None, Some(_)) => {
            faults.push("jitp_template: a template is given, but none is named".to_owned());
            return None;
        }
    };
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if path.is_empty() || !Path::new(path).components().all(is_plain) {
        faults.push(format!(
            "jitp_template: {path:?} does not stay beside the profile"
        ));
    }
    match JitpTemplate::parse(text) {
        Ok(template) => Some(template),
        Err(TemplateFault(found)) => {
            let told = |finding: &Finding| format!("jitp_template: {path}: {finding}");
            faults.extend(found.iter().map(told));
            None
        }
    }
}

fn sha256(toml: &str, template: Option<&str>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in std::iter::once(toml).chain(template) {
        hash.update(&(text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.finish()
}
