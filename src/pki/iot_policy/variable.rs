//! Policy variables: `${iot:ClientId}` and its kin.

use super::Context;
use crate::pki::name::AttributeType;

/// Variables that are no attribute of certificate or thing.
const KEYS: [&str; 4] = [
    "iot:ClientId",
    "iot:DomainName",
    "aws:SourceIp",
    "iot:CertificateId",
];

/// A longer value is not substituted ("X.509 certificate policy variables").
const VALUE_LENGTH_MAX: usize = 1_024;

/// Every `${` is closed.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("${") {
        let Some((_, tail)) = after.split_once('}') else {
            return Err(format!("a variable is not closed in `{text}`"));
        };
        rest = tail;
    }
    Ok(())
}

/// A variable's value, or why it has none: then the statement cannot match.
pub(super) fn value(name: &str, context: &Context) -> Result<String, String> {
    // The three characters that mean something, as themselves.
    if matches!(name, "*" | "?" | "$") {
        return Ok(name.to_owned());
    }
    if let Some(attribute) = name.strip_prefix("iot:Certificate.Subject.") {
        return subject(name, attribute, context);
    }
    key(name, context)
}

/// Whether this is a variable whose value, or lack of one, can be told here.
pub(super) fn is_known(name: &str) -> bool {
    let subject = name.strip_prefix("iot:Certificate.Subject.");
    matches!(name, "*" | "?" | "$")
        || KEYS.contains(&name)
        || name.starts_with("iot:Connection.Thing.")
        || subject.is_some_and(|attribute| {
            // `.1` is the second value of several.
            let (base, index) = attribute.rsplit_once('.').unwrap_or((attribute, "0"));
            index.parse::<u8>().is_ok() && attribute_type(base).is_some()
        })
}

/// The value of a condition key or variable, as it is.
pub(super) fn key(name: &str, context: &Context) -> Result<String, String> {
    let none = |why: &str| Err(format!("${{{name}}} has no value: {why}"));
    if let Some(attribute) = name.strip_prefix("iot:Certificate.Subject.") {
        return match subject_value(attribute, context) {
            Some(value) => Ok(value.to_owned()),
            None => none("the certificate's subject lacks it"),
        };
    }
    if let Some(property) = name.strip_prefix("iot:Connection.Thing.") {
        let Some(thing) = context.thing.as_ref() else {
            return none("the certificate is attached to no thing");
        };
        if thing.name != context.client_id {
            return none(&format!(
                "the client id `{}` is not the thing's name `{}`",
                context.client_id, thing.name
            ));
        }
        if let Some(attribute) = property
            .strip_prefix("Attributes[")
            .and_then(|rest| rest.strip_suffix(']'))
        {
            return match thing.attributes.get(attribute) {
                Some(value) => Ok(value.clone()),
                None => none("the thing has no such attribute"),
            };
        }
        return match property {
            "ThingName" => Ok(thing.name.to_owned()),
            "ThingTypeName" => match thing.type_name {
                Some(value) => Ok(value.to_owned()),
                None => none("the thing has no type"),
            },
            "IsAttached" => Ok("true".to_owned()),
            _ => none("AWS IoT knows no such variable of a thing"),
        };
    }
    match name {
        "iot:ClientId" => Ok(context.client_id.to_owned()),
        "iot:DomainName" => Ok(context.domain_name.to_owned()),
        "aws:SourceIp" => Ok(context.source_ip.to_string()),
        "iot:CertificateId" => Ok(context.certificate_id.to_owned()),
        _ => none("it is none of the variables that are known here"),
    }
}

/// A subject attribute in a resource: escaped, and refused where AWS stops the substitution.
fn subject(name: &str, attribute: &str, context: &Context) -> Result<String, String> {
    let Some(value) = subject_value(attribute, context) else {
        return Err(format!(
            "${{{name}}} has no value: the certificate's subject lacks it"
        ));
    };
    if value.chars().count() > VALUE_LENGTH_MAX {
        return Err(format!(
            "${{{name}}} is not substituted: longer than {VALUE_LENGTH_MAX} characters"
        ));
    }
    if let Some(character) = value.chars().find(|c| "*$+?#".contains(*c)) {
        return Err(format!(
            "${{{name}}} is not substituted: its value holds `{character}`"
        ));
    }
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if ",\"\\+=<>;".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    Ok(escaped)
}

/// One value a type, so `.0` is the value and no other index has one.
fn subject_value<'a>(attribute: &str, context: &Context<'a>) -> Option<&'a str> {
    context.subject.get(attribute_type(attribute)?)
}

fn attribute_type(attribute: &str) -> Option<AttributeType> {
    Some(match attribute.strip_suffix(".0").unwrap_or(attribute) {
        "Country" => AttributeType::Country,
        "State" => AttributeType::StateOrProvince,
        "Organization" => AttributeType::Organization,
        "OrganizationalUnit" => AttributeType::OrganizationalUnit,
        "DistinguishedNameQualifier" => AttributeType::DnQualifier,
        "SerialNumber" => AttributeType::SerialNumber,
        "CommonName" => AttributeType::CommonName,
        _ => return None,
    })
}
