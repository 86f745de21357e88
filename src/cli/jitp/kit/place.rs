//! Where a kit registers: account, Region and the two names, each in AWS's pattern.

use std::fmt;
use std::str::FromStr;

/// An AWS account id: twelve digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account(String);

/// An AWS Region whose partition is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region(String);

/// Name of an IAM role: `[\w+=,.@-]+`, 1 to 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleName(String);

/// Name of a provisioning template: `[0-9A-Za-z_-]+`, 1 to 36.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateName(String);

/// Why a text is none of these.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlaceFault(String);

impl Region {
    /// The partition its ARNs start with.
    #[must_use]
    pub fn partition(&self) -> &'static str {
        if self.0.starts_with("cn-") {
            "aws-cn"
        } else if self.0.starts_with("us-gov-") {
            "aws-us-gov"
        } else {
            "aws"
        }
    }
}

impl FromStr for Account {
    type Err = PlaceFault;

    fn from_str(text: &str) -> Result<Self, PlaceFault> {
        if text.len() == 12 && text.bytes().all(|octet| octet.is_ascii_digit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(PlaceFault("an AWS account id is twelve digits".to_owned()))
    }
}

impl FromStr for Region {
    type Err = PlaceFault;

    /// `xx-direction-N`, with up to two words in the middle. The isolated Regions (`us-iso…`) have
    /// partitions of their own and are refused.
    fn from_str(text: &str) -> Result<Self, PlaceFault> {
        let parts: Vec<&str> = text.split('-').collect();
        let lower =
            |part: &str| !part.is_empty() && part.bytes().all(|octet| octet.is_ascii_lowercase());
        let shaped = match parts.as_slice() {
            [area, words @ .., number] => {
                area.len() == 2
                    && lower(area)
                    && (1..=2).contains(&words.len())
                    && words.iter().all(|word| lower(word))
                    && (1..=2).contains(&number.len())
                    && number.bytes().all(|octet| octet.is_ascii_digit())
            }
            _ => false,
        };
        if !shaped || text.len() > 32 {
            return Err(PlaceFault(
                "an AWS Region looks like eu-central-1 or us-gov-west-1".to_owned(),
            ));
        }
        if text.starts_with("us-iso") {
            return Err(PlaceFault(
                "the isolated Regions are not known here".to_owned(),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for RoleName {
    type Err = PlaceFault;

    fn from_str(text: &str) -> Result<Self, PlaceFault> {
        name(text, 64, "_+=,.@-").map(Self).ok_or_else(|| {
            PlaceFault(format!(
                "{text:?} is no IAM role name: 1 to 64 of A-Z a-z 0-9 _ + = , . @ -"
            ))
        })
    }
}

impl FromStr for TemplateName {
    type Err = PlaceFault;

    fn from_str(text: &str) -> Result<Self, PlaceFault> {
        name(text, 36, "_-").map(Self).ok_or_else(|| {
            PlaceFault(format!(
                "{text:?} is no provisioning template name: 1 to 36 of A-Z a-z 0-9 _ -"
            ))
        })
    }
}

fn name(text: &str, length_max: usize, punctuation: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || punctuation.contains(c);
    let fits = (1..=length_max).contains(&text.len()) && text.chars().all(allowed);
    fits.then(|| text.to_owned())
}

macro_rules! shown_as_written {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
shown_as_written!(Account, Region, RoleName, TemplateName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_twelve_digits() {
        assert!("012345678901".parse::<Account>().is_ok());
        for wrong in [
            "",
            "12345678901",
            "1234567890123",
            "12345678901a",
            "１２３４",
        ] {
            assert!(wrong.parse::<Account>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_region_has_its_partition() {
        for (region, partition) in [
            ("eu-central-1", "aws"),
            ("ap-southeast-2", "aws"),
            ("cn-northwest-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
        ] {
            assert_eq!(region.parse::<Region>().unwrap().partition(), partition);
        }
        for wrong in [
            "",
            "eu",
            "eu-central",
            "EU-central-1",
            "eu-central-1a",
            "eu--1",
            "eu-central-111",
            "us-iso-east-1",
            "us-isob-east-1",
            "eu-central-1;id",
            "a-b-c-d-1",
        ] {
            assert!(wrong.parse::<Region>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_end_where_aws_ends_them() {
        assert!("a".repeat(64).parse::<RoleName>().is_ok());
        assert!("a".repeat(65).parse::<RoleName>().is_err());
        assert!("R_1+=,.@-".parse::<RoleName>().is_ok());
        assert!("a".repeat(36).parse::<TemplateName>().is_ok());
        assert!("a".repeat(37).parse::<TemplateName>().is_err());
        for wrong in ["", "a b", "a/b", "a'b", "a$b", "ä"] {
            assert!(wrong.parse::<RoleName>().is_err(), "{wrong}");
            assert!(wrong.parse::<TemplateName>().is_err(), "{wrong}");
        }
        assert!("a.b".parse::<TemplateName>().is_err());
    }
}
