//! One attribute of a pattern: text, and places where the sequence number goes.

use std::fmt::Write as _;

/// A text with `{seq}` (as many digits as it takes) or `{seq:0N}` (N digits, zeros in front) in
/// it; `{{` and `}}` are the braces themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// With the number of digits; 0: as many as it takes.
    Sequence(usize),
}

/// Why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateFault {
    #[error("a brace is opened and not closed; {{{{ is the brace itself")]
    Open,
    #[error("a brace is closed and was not opened; }}}} is the brace itself")]
    Closed,
    #[error("braces hold seq, or seq:0N for N digits, N from 1 to 19; {{{{ is the brace itself")]
    Unknown,
}

/// Digits that a number is padded to, at most.
const DIGITS_MAX: usize = 19;

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, TemplateFault> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(brace);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else {
                let inside = from.strip_prefix('{').ok_or(TemplateFault::Closed)?;
                let (inside, after) = inside.split_once('}').ok_or(TemplateFault::Open)?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Sequence(
                    digits(inside).ok_or(TemplateFault::Unknown)?,
                ));
                rest = after;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Whether the sequence number is in it.
    pub(super) fn is_numbered(&self) -> bool {
        self.parts
            .iter()
            .any(|part| matches!(part, Part::Sequence(_)))
    }

    /// Whether the number fits the digits of every place.
    pub(super) fn fits(&self, number: u64) -> bool {
        let needed = number.to_string().len();
        self.parts
            .iter()
            .all(|part| !matches!(part, Part::Sequence(digits @ 1..) if needed > *digits))
    }

    pub(super) fn fill(&self, number: u64) -> String {
        let mut filled = String::with_capacity(self.text.len() + DIGITS_MAX);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => filled.push_str(literal),
                // Writing to a String cannot fail.
                Part::Sequence(digits) => {
                    let _ = write!(filled, "{number:0digits$}");
                }
            }
        }
        filled
    }

    /// As it was written.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// `seq` or `seq:0N`.
fn digits(inside: &str) -> Option<usize> {
    let Some(format) = inside.strip_prefix("seq:0") else {
        return (inside == "seq").then_some(0);
    };
    let plain = !format.starts_with('0') && format.bytes().all(|octet| octet.is_ascii_digit());
    let digits = plain.then(|| format.parse().ok()).flatten()?;
    (1..=DIGITS_MAX).contains(&digits).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::Template;
    use super::TemplateFault;
    use proptest::prelude::*;

    #[test]
    fn places_are_filled_and_doubled_braces_are_braces() {
        for (text, number, filled) in [
            ("lamp", 7, "lamp"),
            ("", 7, ""),
            ("{seq}", 7, "7"),
            ("{seq}", u64::MAX, "18446744073709551615"),
            ("a{seq:01}b{seq:03}c", 7, "a7b007c"),
            ("{seq:010}", 7, "0000000007"),
            ("{seq:019}", 7, "0000000000000000007"),
            ("{{seq}}", 7, "{seq}"),
            ("{{{seq}}}", 7, "{7}"),
            ("}}{{", 7, "}{"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.fill(number), filled, "{text}");
            assert_eq!(template.into_text(), text);
        }
    }

    #[test]
    fn anything_else_in_braces_is_refused() {
        for text in [
            "{}",
            "{ seq}",
            "{SEQ}",
            "{seq:}",
            "{seq:0}",
            "{seq:8}",
            "{seq:00}",
            "{seq:008}",
            "{seq:020}",
            "{seq:0+8}",
            "{seq:0999999999999999999999}",
            "{seq:x}",
            "{sequence}",
            "{a{seq}",
        ] {
            assert_eq!(Template::parse(text), Err(TemplateFault::Unknown), "{text}");
        }
        for (text, fault) in [
            ("{seq", TemplateFault::Open),
            ("a{", TemplateFault::Open),
            ("a}", TemplateFault::Closed),
            ("{seq}}", TemplateFault::Closed),
        ] {
            assert_eq!(Template::parse(text), Err(fault), "{text}");
        }
        assert_eq!(
            TemplateFault::Open.to_string(),
            "a brace is opened and not closed; {{ is the brace itself"
        );
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "[{}a]{0,8}(seq(:0[0-9]{0,2})?)?[{}a]{0,8}", number: u64) {
            if let Ok(template) = Template::parse(&text) {
                template.fill(number);
            }
        }
    }
}
