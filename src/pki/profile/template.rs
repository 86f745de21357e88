//! A profile against a provisioning template: will every subject that the profile admits provision?
//!
//! Asked by example: subjects that the name rules admit, varied one attribute at a time over every
//! character and the shortest and longest value, are evaluated. For a template that only copies
//! and joins values this is complete, since AWS's rules look at characters and lengths. A function
//! that picks one of several values can be sampled only, and the report says so.

use std::collections::BTreeMap;

use super::SubjectRules;
use crate::pki::jitp::Finding;
use crate::pki::jitp::JitpTemplate;
use crate::pki::jitp::Refusal;
use crate::pki::jitp::Report;
use crate::pki::jitp::UNDOCUMENTED;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;

/// Subjects tried at most. A template that only copies and joins needs 700.
const SAMPLES_MAX: usize = 4_096;

/// See [`SubjectRules::lint`].
pub(super) fn lint(rules: &SubjectRules, template: &JitpTemplate) -> Report {
    let mut report = Report::default();
    parameters(rules, template, &mut report);
    undocumented(rules, template, &mut report);
    thing_name(rules, template, &mut report);
    if report.errors.is_empty() {
        subjects(rules, template, &mut report);
    }
    report
}

/// AWS IoT refuses a device whose certificate lacks any parameter that the template declares.
fn parameters(rules: &SubjectRules, template: &JitpTemplate, report: &mut Report) {
    for kind in template.parameters() {
        if !rules.required.contains(kind) && !rules.fixed.contains_key(kind) {
            let name = kind.short_name();
            report.errors.push(Finding {
                rule: "profile-parameter-missing",
                pointer: JitpTemplate::parameter_pointer(*kind),
                detail: format!(
                    "the template declares {name}, which the profile neither requires nor fixes"
                ),
            });
        }
    }
}

fn undocumented(rules: &SubjectRules, template: &JitpTemplate, report: &mut Report) {
    let mut found = template.warnings().iter();
    let found = found.find(|warning| warning.rule == UNDOCUMENTED);
    if let Some(warning) = found.filter(|_| !rules.jitp_undocumented) {
        report.errors.push(Finding {
            rule: "profile-undocumented",
            pointer: warning.pointer.clone(),
            detail: "AWS does not document this for JITP; a profile whose template uses it loads \
                     only with jitp_undocumented = true, for a template that was tried in the account"
                .to_owned(),
        });
    }
}

/// Two devices of one thing name are one thing.
fn thing_name(rules: &SubjectRules, template: &JitpTemplate, report: &mut Report) {
    let Some(sources) = template.thing_name_attributes() else {
        return;
    };
    let pointer = template.thing_name_pointer().to_owned();
    let identity = rules.device_identity.short_name();
    if sources.iter().all(|kind| rules.fixed.contains_key(kind)) {
        report.errors.push(Finding {
            rule: "profile-thing-name-constant",
            pointer,
            detail: "the thing is named by attributes that the profile fixes: every device would \
                     become one thing"
                .to_owned(),
        });
    } else if !sources.contains(&rules.device_identity) {
        report.warnings.push(Finding {
            rule: "profile-thing-name-identity",
            pointer,
            detail: format!(
                "the thing's name does not depend on {identity}, by which the profile tells \
                 devices apart: two devices may become one thing"
            ),
        });
    }
}

/// A subject that the name rules admit, and how it differs from the plainest.
struct Sample {
    subject: Subject,
    varied: Option<AttributeType>,
    character: Option<char>,
}

/// What the samples say about one rule at one place for one attribute.
struct Refused {
    refusal: Refusal,
    varied: Option<AttributeType>,
    example: String,
    others: Vec<char>,
}

fn subjects(rules: &SubjectRules, template: &JitpTemplate, report: &mut Report) {
    let Some(samples) = samples(rules, template) else {
        return;
    };
    let mut refused: Vec<Refused> = Vec::new();
    let mut provisioned = 0;
    for sample in &samples {
        let refusals = template.refusals(&sample.subject);
        provisioned += usize::from(refusals.is_empty());
        for refusal in refusals {
            let known = refused.iter_mut().find(|known| {
                known.refusal.pointer == refusal.pointer
                    && known.refusal.violation.rule == refusal.violation.rule
                    && (known.varied == sample.varied
                        || known.varied.is_none()
                        || sample.varied.is_none())
            });
            match known {
                // What the plainest subject breaks is not the varied attribute's fault.
                Some(known) if known.varied.is_none() => {}
                Some(known) => known.others.extend(sample.character),
                None => refused.push(Refused {
                    refusal,
                    varied: sample.varied,
                    example: describe(&sample.subject, template.parameters(), sample.varied),
                    others: Vec::new(),
                }),
            }
        }
    }
    if provisioned == 0 && !template.picks() {
        // The plainest subject comes first, and only what is fixed can be wrong with it.
        for refusal in template.refusals(&samples[0].subject) {
            report.errors.push(Finding {
                rule: "profile-admits-nothing",
                pointer: refusal.pointer,
                detail: format!(
                    "no subject of this profile provisions: {}",
                    refusal.violation.detail
                ),
            });
        }
        return;
    }
    report.warnings.extend(refused.into_iter().map(finding));
    if template.picks() {
        report.warnings.push(Finding {
            rule: "profile-sampled",
            pointer: String::new(),
            detail: format!(
                "a function picks one of several values, so subjects were only sampled: \
                 {provisioned} of {} provision",
                samples.len()
            ),
        });
    }
}

fn finding(refused: Refused) -> Finding {
    let Refused {
        refusal,
        example,
        mut others,
        ..
    } = refused;
    others.dedup();
    let others = match others.len() {
        0 => String::new(),
        _ => format!(
            ", and so with each of {}",
            others
                .iter()
                .map(char::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        ),
    };
    Finding {
        rule: "profile-admits-refused",
        pointer: refusal.pointer,
        detail: format!(
            "the profile's name rules alone would let {example} through{others}; the template \
             refuses it ({}: {}), and so the service does, as jitp-violation, before anything is \
             reserved",
            refusal.violation.rule, refusal.violation.detail
        ),
    }
}

/// The attribute that was varied, or all that the template takes.
fn describe(subject: &Subject, all: &[AttributeType], varied: Option<AttributeType>) -> String {
    let kinds = varied.as_ref().map_or(all, std::slice::from_ref);
    let shown = kinds.iter().map(|kind| {
        let value = subject.get(*kind).unwrap_or_default();
        let name = kind.short_name();
        match value.len() {
            0..=40 => format!("{name} = `{value}`"),
            length => format!("{name} = `{}…` of {length} characters", &value[..8]),
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Subjects that the name rules admit, the plainest first; `None` when the rules admit none.
fn samples(rules: &SubjectRules, template: &JitpTemplate) -> Option<Vec<Sample>> {
    let free: Vec<AttributeType> = template
        .parameters()
        .iter()
        .filter(|kind| !rules.fixed.contains_key(kind))
        .copied()
        .collect();
    let plain = plainest(rules, template, &free)?;
    let admitted = |values: &BTreeMap<AttributeType, String>| Subject::new(values.clone()).ok();
    let mut samples = vec![Sample {
        subject: admitted(&plain)?,
        varied: None,
        character: None,
    }];
    let mut longest = plain.clone();
    for kind in &free {
        longest.insert(*kind, "A".repeat(kind.length_max()));
    }
    for kind in &free {
        for (character, value) in variants(*kind, template) {
            let mut values = plain.clone();
            values.insert(*kind, value);
            samples.extend(admitted(&values).map(|subject| Sample {
                subject,
                varied: Some(*kind),
                character,
            }));
        }
    }
    samples.truncate(SAMPLES_MAX - 1);
    samples.extend(admitted(&longest).map(|subject| Sample {
        subject,
        varied: None,
        character: None,
    }));
    Some(samples)
}

/// The plainest values, and where the template looks values up, values that it finds.
fn plainest(
    rules: &SubjectRules,
    template: &JitpTemplate,
    free: &[AttributeType],
) -> Option<BTreeMap<AttributeType, String>> {
    let mut values = rules.fixed.clone();
    for kind in free {
        values.insert(*kind, plain(*kind).to_owned());
    }
    let count = |values: &BTreeMap<AttributeType, String>| {
        let subject = Subject::new(values.clone()).ok()?;
        Some(template.refusals(&subject).len())
    };
    let mut refusals = count(&values)?;
    let keys = template.mapping_keys();
    for kind in free {
        for key in keys
            .iter()
            .take(SAMPLES_MAX / AttributeType::ALL.len())
            .cloned()
        {
            let mut other = values.clone();
            other.insert(*kind, key);
            if let Some(fewer) = count(&other).filter(|fewer| *fewer < refusals) {
                (values, refusals) = (other, fewer);
            }
        }
    }
    Some(values)
}

/// A value that no template minds.
fn plain(kind: AttributeType) -> &'static str {
    match kind {
        AttributeType::Country => "DE",
        AttributeType::StateOrProvince => "Hessen",
        AttributeType::Locality => "Berlin",
        AttributeType::Organization => "Example",
        AttributeType::OrganizationalUnit => "Lamps",
        AttributeType::DnQualifier => "q1",
        AttributeType::SerialNumber => "SN1",
        AttributeType::CommonName => "lamp1",
    }
}

/// Values of an attribute, well-formed or not, each with the character that it is to try.
fn variants(kind: AttributeType, template: &JitpTemplate) -> Vec<(Option<char>, String)> {
    let mut variants = Vec::new();
    if kind == AttributeType::Country {
        if template.picks() {
            let codes = ('A'..='Z').flat_map(|first| ('A'..='Z').map(move |last| (first, last)));
            variants.extend(codes.map(|(first, last)| (None, format!("{first}{last}"))));
        }
        return variants;
    }
    let plain = plain(kind).trim_end_matches('1');
    for character in ' '..='~' {
        variants.push((Some(character), format!("{plain}{character}1")));
        if template.picks() {
            variants.push((
                Some(character),
                format!("a{character}b{character}c{character}d"),
            ));
        }
    }
    variants.push((None, "A".to_owned()));
    variants.push((None, "A".repeat(kind.length_max())));
    variants.extend(template.mapping_keys().into_iter().map(|key| (None, key)));
    variants
}

#[cfg(test)]
mod tests;
