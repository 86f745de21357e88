//! Devices of a batch as a pattern: the same subject for all, numbered.

mod template;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;

use self::template::Template;
use crate::pki::Violation;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::name::each_name_once;

/// Devices of one batch, at most.
pub const COUNT_MAX: u32 = 1_000_000;

/// A pattern as it is written in JSON; [`Pattern::new`] judges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPattern {
    /// How many devices.
    pub count: u64,
    /// The first device's sequence number.
    pub start: u64,
    /// Attributes by their short names, each a text with `{seq}` or `{seq:0N}` where the number goes.
    #[serde(deserialize_with = "named_once")]
    pub subject: BTreeMap<String, String>,
}

/// A pattern every row of which is a well-formed subject, no two alike; kept as the JSON it came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawPattern", into = "RawPattern")]
pub struct Pattern {
    count: u32,
    start: u64,
    subject: BTreeMap<AttributeType, Template>,
}

/// Everything that is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern is invalid: {}", sentences(.0))]
pub struct PatternFaults(pub Vec<Violation>);

impl Pattern {
    /// The pattern, or all that is wrong with it at once.
    pub fn new(raw: RawPattern) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let numbers = numbers(&raw)
            .map_err(|violation| violations.push(violation))
            .ok();
        let mut subject = BTreeMap::new();
        for (name, text) in raw.subject {
            match attribute(&name, &text, numbers.map(|(_, last)| last)) {
                Ok((kind, template)) => {
                    subject.insert(kind, template);
                }
                Err(violation) => violations.push(violation),
            }
        }
        let Some((count, last)) = numbers.filter(|_| violations.is_empty()) else {
            return Err(violations);
        };
        if count > 1 && !subject.values().any(Template::is_numbered) {
            violations.push(violation(
                "pattern-sequence",
                None,
                "no attribute holds {seq}: the devices would all be one".to_owned(),
            ));
        }
        let pattern = Self {
            count,
            start: raw.start,
            subject,
        };
        // One row stands for all: they differ in digits only, and the last has the most of them.
        if let Err(found) = Subject::new(pattern.values(last)) {
            violations.extend(found);
        }
        violations.is_empty().then_some(pattern).ok_or(violations)
    }

    /// The pattern out of JSON, or all that is wrong with it at once.
    pub fn from_json(json: &[u8]) -> Result<Self, Vec<Violation>> {
        let raw = serde_json::from_slice(json)
            .map_err(|error| vec![violation("pattern-json", None, error.to_string())])?;
        Self::new(raw)
    }

    /// The pattern as JSON, which [`Self::from_json`] reads back.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let raw = RawPattern::from(self.clone());
        serde_json::json!({ "count": raw.count, "start": raw.start, "subject": raw.subject })
    }

    /// How many devices, 1 to [`COUNT_MAX`].
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The first device's sequence number.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The subject of one device by the short names of its attributes; `index` from 0, below
    /// [`Self::count`].
    #[must_use]
    pub fn row(&self, index: u32) -> BTreeMap<String, String> {
        debug_assert!(index < self.count, "a row beyond the pattern");
        self.values(self.start.saturating_add(index.into()))
            .into_iter()
            .map(|(kind, value)| (kind.short_name().to_owned(), value))
            .collect()
    }

    fn values(&self, number: u64) -> BTreeMap<AttributeType, String> {
        self.subject
            .iter()
            .map(|(kind, template)| (*kind, template.fill(number)))
            .collect()
    }
}

impl TryFrom<RawPattern> for Pattern {
    type Error = PatternFaults;

    fn try_from(raw: RawPattern) -> Result<Self, PatternFaults> {
        Self::new(raw).map_err(PatternFaults)
    }
}

impl From<Pattern> for RawPattern {
    fn from(pattern: Pattern) -> Self {
        let texts = pattern.subject.into_iter();
        Self {
            count: pattern.count.into(),
            start: pattern.start,
            subject: texts
                .map(|(kind, template)| (kind.short_name().to_owned(), template.into_text()))
                .collect(),
        }
    }
}

/// How many devices, and the last one's sequence number.
fn numbers(raw: &RawPattern) -> Result<(u32, u64), Violation> {
    let count = u32::try_from(raw.count)
        .ok()
        .filter(|count| (1..=COUNT_MAX).contains(count))
        .ok_or_else(|| {
            let detail = format!("count is {}; 1 to {COUNT_MAX} are allowed", raw.count);
            violation("pattern-count", None, detail)
        })?;
    let last = raw.start.checked_add(u64::from(count - 1)).ok_or_else(|| {
        let detail = format!("the last sequence number would be above {}", u64::MAX);
        violation("pattern-sequence", None, detail)
    })?;
    Ok((count, last))
}

/// One attribute of the subject; `last` is the number that must fit, where it is known.
fn attribute(
    name: &str,
    text: &str,
    last: Option<u64>,
) -> Result<(AttributeType, Template), Violation> {
    let kind = AttributeType::from_short_name(name).ok_or_else(|| {
        let detail = "a subject may have C, ST, L, O, OU, dnQualifier, serialNumber and CN";
        violation("attribute-unknown", Some(name), detail.to_owned())
    })?;
    let template = Template::parse(text)
        .map_err(|fault| violation("pattern-template", Some(name), fault.to_string()))?;
    match last.filter(|last| !template.fits(*last)) {
        Some(last) => {
            let detail = format!("the last sequence number, {last}, has more digits than {text}");
            Err(violation("pattern-padding", Some(name), detail))
        }
        None => Ok((kind, template)),
    }
}

fn violation(rule: &'static str, attribute: Option<&str>, detail: String) -> Violation {
    Violation {
        rule,
        attribute: attribute.map(str::to_owned),
        detail,
    }
}

fn sentences(violations: &[Violation]) -> String {
    let details: Vec<_> = violations.iter().map(|v| v.detail.as_str()).collect();
    details.join("; ")
}

fn named_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    each_name_once(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<&'static str> {
        Pattern::from_json(json.as_bytes())
            .unwrap_err()
            .iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn rows_are_numbered_from_the_start_and_padded_as_written() {
        let json = r#"{"count":100000,"start":1,"subject":
            {"CN":"lamp-{seq:08}","serialNumber":"SN{seq}","OU":"{{{seq:06}}}","C":"DE"}}"#;
        let pattern = Pattern::from_json(json.as_bytes()).unwrap();
        assert_eq!((pattern.count(), pattern.start()), (100_000, 1));
        for (index, common_name, serial_number, unit) in [
            (0, "lamp-00000001", "SN1", "{000001}"),
            (9, "lamp-00000010", "SN10", "{000010}"),
            (99_999, "lamp-00100000", "SN100000", "{100000}"),
        ] {
            let row = pattern.row(index);
            assert_eq!(row["CN"], common_name);
            assert_eq!(row["serialNumber"], serial_number);
            assert_eq!(row["OU"], unit);
            assert_eq!(row["C"], "DE");
            assert_eq!(row.len(), 4);
        }
    }

    #[test]
    fn a_pattern_reads_back_from_its_own_json() {
        let json = r#"{"count":2,"start":18446744073709551614,"subject":{"CN":"{{a}}-{seq}"}}"#;
        let pattern = Pattern::from_json(json.as_bytes()).unwrap();
        let kept = pattern.to_json();
        assert_eq!(
            kept,
            serde_json::from_str::<serde_json::Value>(json).unwrap()
        );
        assert_eq!(kept, serde_json::to_value(&pattern).unwrap());
        assert_eq!(serde_json::from_value::<Pattern>(kept).unwrap(), pattern);
        assert_eq!(pattern.row(1)["CN"], "{a}-18446744073709551615");
    }

    #[test]
    fn everything_wrong_comes_at_once() {
        let json = r#"{"count":1000001,"start":1,"subject":
            {"CN":"{seq:8}","cn":"a","O":"}"}}"#;
        assert_eq!(
            rules(json),
            [
                "pattern-count",
                "pattern-template",
                "pattern-template",
                "attribute-unknown"
            ]
        );
        let json =
            r#"{"count":100,"start":1,"subject":{"CN":"{seq:02}","serialNumber":"{seq:01}"}}"#;
        assert_eq!(rules(json), ["pattern-padding", "pattern-padding"]);
    }

    #[test]
    fn the_last_number_decides_whether_the_padding_is_wide_enough() {
        let of = |count: u32, start: u64| {
            let json =
                format!(r#"{{"count":{count},"start":{start},"subject":{{"CN":"{{seq:02}}"}}}}"#);
            Pattern::from_json(json.as_bytes()).is_ok()
        };
        assert!(of(99, 1) && of(100, 0) && of(1, 99));
        assert!(!of(100, 1) && !of(1, 100));
    }

    #[test]
    fn counts_and_numbers_have_their_bounds() {
        let of = |count: &str, start: &str, common_name: &str| {
            format!(r#"{{"count":{count},"start":{start},"subject":{{"CN":"{common_name}"}}}}"#)
        };
        assert!(Pattern::from_json(of("1000000", "0", "{seq}").as_bytes()).is_ok());
        assert!(Pattern::from_json(of("1", "7", "lamp").as_bytes()).is_ok());
        for (count, start, common_name, rule) in [
            ("0", "1", "{seq}", "pattern-count"),
            ("1000001", "1", "{seq}", "pattern-count"),
            ("4294967297", "1", "{seq}", "pattern-count"),
            ("2", "18446744073709551615", "{seq}", "pattern-sequence"),
            ("2", "1", "lamp", "pattern-sequence"),
            ("-1", "1", "{seq}", "pattern-json"),
            ("1.5", "1", "{seq}", "pattern-json"),
        ] {
            let json = of(count, start, common_name);
            assert_eq!(rules(&json), [rule], "{json}");
        }
    }

    #[test]
    fn a_row_that_is_no_subject_is_refused_before_it_is_made() {
        let common_name = "a".repeat(63);
        for (subject, rule) in [
            (
                format!(r#"{{"CN":"{common_name}{{seq}}"}}"#),
                "attribute-length",
            ),
            (r#"{"CN":"{seq}","C":"{seq}"}"#.to_owned(), "country-code"),
            (r#"{"CN":"{seq} "}"#.to_owned(), "attribute-characters"),
            (r#"{"CN":"{seq}","O":""}"#.to_owned(), "attribute-length"),
        ] {
            let json = format!(r#"{{"count":10,"start":1,"subject":{subject}}}"#);
            assert_eq!(rules(&json), [rule], "{json}");
        }
    }

    #[test]
    fn nothing_unknown_and_nothing_said_twice_is_taken() {
        for json in [
            r#"{"count":1,"start":1,"subject":{"CN":"a"},"step":2}"#,
            r#"{"count":1,"start":1,"subject":{"CN":"a","CN":"b"}}"#,
            r#"{"count":1,"count":2,"start":1,"subject":{"CN":"a"}}"#,
            r#"{"count":1,"subject":{"CN":"a"}}"#,
            r#"{"count":1,"start":1,"subject":{"CN":7}}"#,
            "[]",
        ] {
            assert_eq!(rules(json), ["pattern-json"], "{json}");
        }
    }
}
