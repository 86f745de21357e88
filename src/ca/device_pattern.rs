//! What the device identities of a work order look like.

/// Longest pattern, in characters.
pub const LENGTH_MAX: usize = 256;

/// One character of the pattern for one of the identity: `#` a digit, `@` a letter, `?` any
/// printable ASCII character, `\` makes the next one itself; every other character is itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePattern(String);

impl DevicePattern {
    /// A pattern: 1 to [`LENGTH_MAX`] printable ASCII characters, no `\` at the end.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let printable = text.bytes().all(|b| (0x20..=0x7e).contains(&b));
        let pattern = Self(text.to_owned());
        let whole = (1..=LENGTH_MAX).contains(&text.len()) && printable;
        (whole && pattern.places().all(|place| place.is_some())).then_some(pattern)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole identity looks like this.
    #[must_use]
    pub fn matches(&self, device: &str) -> bool {
        let mut octets = device.bytes();
        self.places().all(|place| {
            let octet = octets.next();
            place.zip(octet).is_some_and(|(place, b)| place.takes(b))
        }) && octets.next().is_none()
    }

    /// `None` for a `\` without its character.
    fn places(&self) -> impl Iterator<Item = Option<Place>> {
        let mut octets = self.0.bytes();
        std::iter::from_fn(move || {
            Some(match octets.next()? {
                b'#' => Some(Place::Digit),
                b'@' => Some(Place::Letter),
                b'?' => Some(Place::Any),
                b'\\' => octets.next().map(Place::Itself),
                octet => Some(Place::Itself(octet)),
            })
        })
    }
}

enum Place {
    Digit,
    Letter,
    Any,
    Itself(u8),
}

impl Place {
    fn takes(&self, octet: u8) -> bool {
        match self {
            Self::Digit => octet.is_ascii_digit(),
            Self::Letter => octet.is_ascii_alphabetic(),
            Self::Any => (0x20..=0x7e).contains(&octet),
            Self::Itself(itself) => octet == *itself,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::DevicePattern;

    #[test]
    fn a_pattern_takes_identities_of_its_length_and_its_characters() {
        for (pattern, device, fits) in [
            ("lamp-######", "lamp-000017", true),
            ("lamp-######", "lamp-00001", false),
            ("lamp-######", "lamp-0000170", false),
            ("lamp-######", "Lamp-000017", false),
            ("lamp-######", "lamp-00001a", false),
            ("@@-?", "Ab- ", true),
            ("@@-?", "A1-x", false),
            (r"\#\\#", r"#\7", true),
            (r"\#\\#", r"1\7", false),
            ("?", "é", false),
            ("lamp.", "lampx", false),
        ] {
            let parsed = DevicePattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(device), fits, "{pattern} {device}");
        }
        for pattern in ["", "a\\", "é", "a\nb", &"#".repeat(257)] {
            assert_eq!(DevicePattern::parse(pattern), None, "{pattern}");
        }
    }
}
