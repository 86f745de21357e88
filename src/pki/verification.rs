//! The verification certificate: how AWS IoT has the possession of a CA's key proved to it.
//!
//! `RegisterCACertificate` in `DEFAULT` mode wants a certificate that the CA signed and whose CN is
//! the account's registration code (AWS IoT developer guide, "Register your CA certificate").
//! It is a real leaf under that CA, so it has a kind of its own, a day to live, no extKeyUsage, and
//! a key that nobody has.

use std::collections::BTreeMap;

use super::name::AttributeType;
use super::name::Subject;

/// What a [`Validity`](super::validity::Validity) of a verification certificate spans at most, in
/// seconds: long enough to register a CA, too short to be of use to anybody else.
pub const SECONDS_MAX: i64 = 86_400;

/// Hexadecimal digits of a registration code.
const DIGITS: usize = 64;

/// A registration code, as `aws iot get-registration-code` prints it: 64 hexadecimal digits.
///
/// Kept exactly as it was given, capitals and all: AWS IoT compares it with the CN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationCode(Subject);

impl RegistrationCode {
    /// `None` unless it is 64 hexadecimal digits and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_code = text.len() == DIGITS && text.bytes().all(|octet| octet.is_ascii_hexdigit());
        let values = BTreeMap::from([(AttributeType::CommonName, text.to_owned())]);
        Subject::new(values).ok().filter(|_| is_code).map(Self)
    }

    /// The code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get(AttributeType::CommonName).unwrap_or_default()
    }

    /// The subject of its certificate: the code as CN, and nothing else.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_64_hexadecimal_digits_and_stays_as_it_is() {
        for good in ["0123456789abcdef".repeat(4), "ABCDEF0123456789".repeat(4)] {
            let code = RegistrationCode::parse(&good).unwrap();
            assert_eq!(code.as_str(), good);
            let subject: Vec<_> = code.subject().iter().collect();
            assert_eq!(subject, [(AttributeType::CommonName, good.as_str())]);
        }
        let digits = "a".repeat(63);
        for wrong in [
            "",
            &digits,
            &format!("{digits}aa"),
            &format!("{digits}g"),
            &format!("{digits} "),
            &format!("0x{}", "a".repeat(62)),
            &format!("{}\u{e9}", "a".repeat(62)),
            &"\u{ff11}".repeat(64),
        ] {
            assert_eq!(RegistrationCode::parse(wrong), None, "{wrong:?}");
        }
    }
}
