//! The subjects of a pattern: what was said, and what can be guessed of the rest.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::Failure;
use crate::pki::name::AttributeType;

/// What is guessed for an attribute that the profile requires.
pub struct Defaults {
    /// Common name before the device's number.
    pub common_name: String,
    /// Serial number before the device's number.
    pub serial_number: String,
    /// Country.
    pub country: String,
}

impl Defaults {
    fn template(&self, attribute: &str) -> Option<String> {
        match AttributeType::from_short_name(attribute)? {
            AttributeType::CommonName => Some(format!("{}{{seq:08}}", self.common_name)),
            AttributeType::SerialNumber => Some(format!("{}{{seq:08}}", self.serial_number)),
            AttributeType::Country => Some(self.country.clone()),
            _ => None,
        }
    }
}

/// What is read of a profile.
#[derive(Deserialize)]
struct Profile {
    name: String,
    required: Vec<String>,
    fixed: BTreeMap<String, String>,
}

/// The template of each attribute: those given, and for the others that the profile requires and
/// does not fix, the default. Names all that have none.
pub fn subject(
    profiles: &Value,
    profile: &str,
    defaults: &Defaults,
    given: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let profiles = Vec::<Profile>::deserialize(profiles).context("the service's profiles")?;
    let profile = profiles
        .into_iter()
        .find(|it| it.name == profile)
        .ok_or_else(|| {
            let none = anyhow!("the service has no profile `{profile}`");
            Failure::new(Failure::NOT_FOUND, none)
        })?;
    let mut subject = given;
    let mut missing = Vec::new();
    for attribute in profile.required {
        if profile.fixed.contains_key(&attribute) || subject.contains_key(&attribute) {
            continue;
        }
        match defaults.template(&attribute) {
            Some(template) => {
                subject.insert(attribute, template);
            }
            None => missing.push(format!("--subject {attribute}=…")),
        }
    }
    if missing.is_empty() {
        return Ok(subject);
    }
    let missing = anyhow!("the profile requires {}", missing.join(" and "));
    Err(Failure::new(2, missing))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::Defaults;
    use super::subject;
    use crate::cli::Failure;

    fn made(profile: &str, given: &[(&str, &str)]) -> Result<BTreeMap<String, String>, Failure> {
        let profiles = json!([
            { "name": "lamp", "required": ["CN", "serialNumber", "C"], "fixed": {}, "optional": ["O"] },
            { "name": "meter", "required": ["dnQualifier", "O", "L", "C"], "fixed": { "O": "Acme" } },
        ]);
        let defaults = Defaults {
            common_name: format!("{profile}-"),
            serial_number: "SN".to_owned(),
            country: "DE".to_owned(),
        };
        let given = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        subject(&profiles, profile, &defaults, given)
    }

    #[test]
    fn what_the_profile_requires_and_nobody_said_has_a_default() {
        let all = made("lamp", &[]).unwrap();
        let expected = json!({ "CN": "lamp-{seq:08}", "serialNumber": "SN{seq:08}", "C": "DE" });
        assert_eq!(json!(all), expected);
        let some = made("lamp", &[("CN", "l{seq:02}"), ("O", "Acme")]).unwrap();
        let expected =
            json!({ "CN": "l{seq:02}", "serialNumber": "SN{seq:08}", "C": "DE", "O": "Acme" });
        assert_eq!(json!(some), expected);
    }

    #[test]
    fn what_cannot_be_guessed_is_named_all_at_once() {
        let failure = made("meter", &[]).unwrap_err();
        assert_eq!(failure.code, 2);
        let text = failure.error.to_string();
        assert!(
            text.contains("--subject dnQualifier=… and --subject L=…"),
            "{text}"
        );
        assert!(!text.contains(" O="), "{text}");
        assert_eq!(made("kettle", &[]).unwrap_err().code, Failure::NOT_FOUND);
    }
}
