//! Subject names: attribute types, lengths, string types (RFC 5280 appendix A, X.520).

mod requested;

pub use requested::each_name_once;

use super::Violation;
use super::tlv;
use der::Decode;
use der::Tag;
use der::Tagged;
use der::asn1::ObjectIdentifier;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use std::collections::BTreeMap;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::Name;

/// The attribute types a subject may have, in the order they are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttributeType {
    /// `C`, 2.5.4.6
    Country,
    /// `ST`, 2.5.4.8
    StateOrProvince,
    /// `L`, 2.5.4.7
    Locality,
    /// `O`, 2.5.4.10
    Organization,
    /// `OU`, 2.5.4.11
    OrganizationalUnit,
    /// `dnQualifier`, 2.5.4.46
    DnQualifier,
    /// `serialNumber`, 2.5.4.5
    SerialNumber,
    /// `CN`, 2.5.4.3
    CommonName,
}

impl AttributeType {
    /// All types, in encoding order.
    pub const ALL: [Self; 8] = [
        Self::Country,
        Self::StateOrProvince,
        Self::Locality,
        Self::Organization,
        Self::OrganizationalUnit,
        Self::DnQualifier,
        Self::SerialNumber,
        Self::CommonName,
    ];

    /// The name used in REST, profiles and RFC 4514 strings: `C ST L O OU dnQualifier serialNumber CN`.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Country => "C",
            Self::StateOrProvince => "ST",
            Self::Locality => "L",
            Self::Organization => "O",
            Self::OrganizationalUnit => "OU",
            Self::DnQualifier => "dnQualifier",
            Self::SerialNumber => "serialNumber",
            Self::CommonName => "CN",
        }
    }

    /// The inverse of [`Self::short_name`]; exact spelling.
    #[must_use]
    pub fn from_short_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.short_name() == name)
    }

    /// Its object identifier, `id-at` plus one arc (RFC 5280 appendix A.1).
    #[must_use]
    pub fn oid(self) -> ObjectIdentifier {
        match self {
            Self::Country => const { ObjectIdentifier::new_unwrap("2.5.4.6") },
            Self::StateOrProvince => const { ObjectIdentifier::new_unwrap("2.5.4.8") },
            Self::Locality => const { ObjectIdentifier::new_unwrap("2.5.4.7") },
            Self::Organization => const { ObjectIdentifier::new_unwrap("2.5.4.10") },
            Self::OrganizationalUnit => const { ObjectIdentifier::new_unwrap("2.5.4.11") },
            Self::DnQualifier => const { ObjectIdentifier::new_unwrap("2.5.4.46") },
            Self::SerialNumber => const { ObjectIdentifier::new_unwrap("2.5.4.5") },
            Self::CommonName => const { ObjectIdentifier::new_unwrap("2.5.4.3") },
        }
    }

    /// The inverse of [`Self::oid`].
    #[must_use]
    pub fn from_oid(oid: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.oid() == oid)
    }

    /// Upper bound in characters (`ub-common-name` and its kin, RFC 5280 appendix A.1; 64 for a
    /// dnQualifier, which the standard leaves open).
    #[must_use]
    pub fn length_max(self) -> usize {
        match self {
            Self::Country => 2,
            Self::StateOrProvince | Self::Locality => 128,
            _ => 64,
        }
    }

    /// The string type it is encoded as: `PrintableString` where RFC 5280 prescribes it,
    /// `UTF8String` for the rest.
    fn string_tag(self) -> Tag {
        match self {
            Self::Country | Self::DnQualifier | Self::SerialNumber => Tag::PrintableString,
            _ => Tag::Utf8String,
        }
    }
}

/// By its short name, out of a text that can be borrowed from.
impl<'de> Deserialize<'de> for AttributeType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <&str>::deserialize(deserializer)?;
        Self::from_short_name(name)
            .ok_or_else(|| D::Error::custom(format!("{name} is no subject attribute")))
    }
}

/// A subject every value of which is well-formed. One value a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject(BTreeMap<AttributeType, String>);

impl Subject {
    /// Checks every value; reports all violations at once. An empty map is an empty subject.
    pub fn new(values: BTreeMap<AttributeType, String>) -> Result<Self, Vec<Violation>> {
        let violations: Vec<_> = values
            .iter()
            .filter_map(|(kind, value)| check_value(*kind, value))
            .collect();
        if violations.is_empty() {
            Ok(Self(values))
        } else {
            Err(violations)
        }
    }

    /// The inverse of [`Self::to_der`], as strict as a certification request's subject is read.
    pub fn from_der(der: &[u8]) -> Result<Self, Vec<Violation>> {
        let name = Name::from_der(der).map_err(|error| {
            vec![Violation {
                rule: "subject-der",
                attribute: None,
                detail: format!("the subject is no DER: {error}"),
            }]
        })?;
        Self::new(attributes_of(&name)?)
    }

    /// The value of one attribute.
    #[must_use]
    pub fn get(&self, kind: AttributeType) -> Option<&str> {
        self.0.get(&kind).map(String::as_str)
    }

    /// All attributes in encoding order.
    pub fn iter(&self) -> impl Iterator<Item = (AttributeType, &str)> {
        self.0.iter().map(|(kind, value)| (*kind, value.as_str()))
    }

    /// DER of the `Name`, one attribute a RDN, in encoding order.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut rdns = Vec::new();
        for (kind, value) in self.iter() {
            let mut attribute = tlv::element(tlv::OBJECT_IDENTIFIER, kind.oid().as_bytes());
            let tag = kind.string_tag().number().value();
            // String types are universal tags below 31: one identifier octet, the number itself.
            attribute.extend(tlv::element(tag.to_be_bytes()[3], value.as_bytes()));
            let attribute = tlv::element(tlv::SEQUENCE, &attribute);
            rdns.extend(tlv::element(tlv::SET, &attribute));
        }
        tlv::element(tlv::SEQUENCE, &rdns)
    }
}

/// The first rule that one value breaks.
fn check_value(kind: AttributeType, value: &str) -> Option<Violation> {
    let name = kind.short_name();
    let fault = |rule, detail| {
        Some(Violation {
            rule,
            attribute: Some(name.to_owned()),
            detail,
        })
    };
    if kind == AttributeType::Country {
        // ISO 3166 alpha-2, upper case (X.520 6.3.1).
        let is_code = value.len() == 2 && value.bytes().all(|octet| octet.is_ascii_uppercase());
        return if is_code {
            None
        } else {
            fault(
                "country-code",
                "C is two letters from A to Z, such as DE".to_owned(),
            )
        };
    }
    // Counted in characters, not octets (RFC 5280 appendix A).
    let length = value.chars().count();
    let length_max = kind.length_max();
    if length == 0 || length > length_max {
        let detail = format!("{name} has {length} characters; 1 to {length_max} are allowed");
        return fault("attribute-length", detail);
    }
    let printable_only = kind.string_tag() == Tag::PrintableString;
    let allowed = |character: char| {
        if printable_only {
            is_printable_string(character)
        } else {
            // ASCII only: no control characters, no bidirectional overrides, no look-alikes.
            matches!(character, ' '..='~')
        }
    };
    if let Some((index, wrong)) = value
        .chars()
        .enumerate()
        .find(|(_, character)| !allowed(*character))
    {
        let set = if printable_only {
            "A-Z a-z 0-9 space ' ( ) + , - . / : = ?"
        } else {
            "printable ASCII"
        };
        let wrong = u32::from(wrong);
        let position = index + 1;
        let detail = match char::from_u32(wrong).filter(char::is_ascii_graphic) {
            Some(shown) => {
                format!("character {position} of {name} is {shown} (U+{wrong:04X}); allowed: {set}")
            }
            None => format!("character {position} of {name} is U+{wrong:04X}; allowed: {set}"),
        };
        return fault("attribute-characters", detail);
    }
    if value.starts_with(' ') || value.ends_with(' ') {
        return fault(
            "attribute-characters",
            format!("{name} begins or ends with a space"),
        );
    }
    None
}

/// The character set of `PrintableString` (X.680 41.4).
fn is_printable_string(character: char) -> bool {
    character.is_ascii_alphanumeric() || " '()+,-./:=?".contains(character)
}

/// The attributes of a parsed `Name`: known types, one value each, string types as RFC 5280 has
/// them, every value well-formed. All violations at once; an empty name gives an empty map.
pub(super) fn attributes_of(
    name: &Name,
) -> Result<BTreeMap<AttributeType, String>, Vec<Violation>> {
    let mut values = BTreeMap::new();
    let mut violations = Vec::new();
    for rdn in name.iter_rdn() {
        if rdn.len() != 1 {
            violations.push(Violation {
                rule: "attribute-multi-valued",
                attribute: None,
                detail: format!(
                    "a relative name holds {} attributes; one is allowed",
                    rdn.len()
                ),
            });
        }
        for attribute in rdn.iter() {
            match attribute_of(attribute) {
                Ok((kind, value)) => {
                    if values.insert(kind, value).is_some() {
                        violations.push(Violation {
                            rule: "attribute-duplicate",
                            attribute: Some(kind.short_name().to_owned()),
                            detail: format!("{} appears more than once", kind.short_name()),
                        });
                    }
                }
                Err(violation) => violations.push(violation),
            }
        }
    }
    if violations.is_empty() {
        Ok(values)
    } else {
        Err(violations)
    }
}

fn attribute_of(attribute: &AttributeTypeAndValue) -> Result<(AttributeType, String), Violation> {
    let kind = AttributeType::from_oid(attribute.oid).ok_or_else(|| Violation {
        rule: "attribute-unknown",
        attribute: Some(attribute.oid.to_string()),
        detail: "a subject may have C, ST, L, O, OU, dnQualifier, serialNumber and CN".to_owned(),
    })?;
    let string_type = |detail| Violation {
        rule: "attribute-string-type",
        attribute: Some(kind.short_name().to_owned()),
        detail,
    };
    let name = kind.short_name();
    let tag = attribute.value.tag();
    if tag != Tag::PrintableString && tag != kind.string_tag() {
        let wanted = match kind.string_tag() {
            Tag::Utf8String => "UTF8String or PrintableString",
            _ => "PrintableString",
        };
        return Err(string_type(format!(
            "{name} is a {tag}; it must be a {wanted}"
        )));
    }
    let value = std::str::from_utf8(attribute.value.value())
        .map_err(|_| string_type(format!("{name} is not valid UTF-8")))?;
    if tag == Tag::PrintableString && !value.chars().all(is_printable_string) {
        let detail = format!("{name} is a PrintableString with characters outside that set");
        return Err(string_type(detail));
    }
    match check_value(kind, value) {
        Some(violation) => Err(violation),
        None => Ok((kind, value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use der::Decode;
    use der::Encode;
    use proptest::prelude::*;

    fn rule(kind: AttributeType, value: &str) -> Option<&'static str> {
        Subject::new(BTreeMap::from([(kind, value.to_owned())]))
            .err()
            .map(|violations| violations[0].rule)
    }

    #[test]
    fn each_attribute_has_its_length_and_characters() {
        use AttributeType::{CommonName, Country, DnQualifier, Locality, SerialNumber};
        let long = |length| "a".repeat(length);
        for (kind, value, expected) in [
            (CommonName, "lamp_000001, model=#7".to_owned(), None),
            (CommonName, String::new(), Some("attribute-length")),
            (CommonName, long(64), None),
            (CommonName, long(65), Some("attribute-length")),
            (Locality, long(128), None),
            (Locality, long(129), Some("attribute-length")),
            (CommonName, "a\0b".to_owned(), Some("attribute-characters")),
            (CommonName, "a\nb".to_owned(), Some("attribute-characters")),
            (
                CommonName,
                "l\u{e4}mp".to_owned(),
                Some("attribute-characters"),
            ),
            (
                CommonName,
                "a\u{202e}b".to_owned(),
                Some("attribute-characters"),
            ),
            (CommonName, " a".to_owned(), Some("attribute-characters")),
            (CommonName, "a ".to_owned(), Some("attribute-characters")),
            (SerialNumber, "PID:X SN:1".to_owned(), None),
            (
                SerialNumber,
                "SN_1".to_owned(),
                Some("attribute-characters"),
            ),
            (DnQualifier, "q@1".to_owned(), Some("attribute-characters")),
            (DnQualifier, long(65), Some("attribute-length")),
            (Country, "DE".to_owned(), None),
            (Country, "de".to_owned(), Some("country-code")),
            (Country, "DEU".to_owned(), Some("country-code")),
            (Country, "D1".to_owned(), Some("country-code")),
        ] {
            assert_eq!(rule(kind, &value), expected, "{kind:?} {value:?}");
        }
    }

    #[test]
    fn all_violations_come_at_once_and_name_the_character() {
        let violations = Subject::new(BTreeMap::from([
            (AttributeType::Country, "Germany".to_owned()),
            (AttributeType::SerialNumber, "SN*1".to_owned()),
        ]))
        .unwrap_err();
        assert_eq!(violations.len(), 2);
        assert_eq!(violations[1].attribute.as_deref(), Some("serialNumber"));
        assert!(
            violations[1]
                .detail
                .contains("character 3 of serialNumber is * (U+002A)")
        );
    }

    #[test]
    fn types_lead_back_from_their_names() {
        for kind in AttributeType::ALL {
            assert_eq!(
                AttributeType::from_short_name(kind.short_name()),
                Some(kind)
            );
            assert_eq!(AttributeType::from_oid(kind.oid()), Some(kind));
        }
        assert_eq!(AttributeType::from_short_name("cn"), None);
    }

    #[test]
    fn encoding_follows_the_prescribed_order_and_string_types() {
        let subject = Subject::new(BTreeMap::from([
            (AttributeType::CommonName, "lamp".to_owned()),
            (AttributeType::SerialNumber, "S1".to_owned()),
            (AttributeType::Country, "DE".to_owned()),
        ]))
        .unwrap();
        let expected = [
            &[0x30, 41][..],
            &[0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 6, 0x13, 2, b'D', b'E'],
            &[0x31, 11, 0x30, 9, 6, 3, 0x55, 4, 5, 0x13, 2, b'S', b'1'],
            &[
                0x31, 13, 0x30, 11, 6, 3, 0x55, 4, 3, 0x0c, 4, b'l', b'a', b'm', b'p',
            ],
        ]
        .concat();
        assert_eq!(subject.to_der(), expected);
    }

    #[test]
    fn a_parsed_name_has_known_types_one_to_a_relative_name() {
        let rules = |text: &str| -> Vec<_> {
            let name: Name = text.parse().unwrap();
            let violations = attributes_of(&name).unwrap_err();
            violations.iter().map(|violation| violation.rule).collect()
        };
        assert_eq!(rules("1.2.3.4=#0c0161,CN=a"), ["attribute-unknown"]);
        assert_eq!(rules("DC=example"), ["attribute-unknown"]);
        assert_eq!(rules("CN=a+O=b"), ["attribute-multi-valued"]);
        assert_eq!(
            rules("CN=a,CN=b,L=#1e020061"),
            ["attribute-string-type", "attribute-duplicate"]
        );
        // An underscore is outside PrintableString, whatever tag the value wears.
        assert_eq!(rules("CN=#1303615f62"), ["attribute-string-type"]);
    }

    prop_compose! {
        fn subjects()(
            country in proptest::option::of("[A-Z]{2}"),
            locality in proptest::option::of("[!-~]{1,128}"),
            organization in proptest::option::of("[!-~]([ -~]{0,62}[!-~])?"),
            serial_number in proptest::option::of("[A-Za-z0-9'()+,./:=?-]{1,64}"),
            common_name in proptest::option::of("[!-~]{1,64}"),
        ) -> BTreeMap<AttributeType, String> {
            [
                (AttributeType::Country, country),
                (AttributeType::Locality, locality),
                (AttributeType::Organization, organization),
                (AttributeType::SerialNumber, serial_number),
                (AttributeType::CommonName, common_name),
            ]
            .into_iter()
            .filter_map(|(kind, value)| Some((kind, value?)))
            .collect()
        }
    }

    proptest! {
        #[test]
        fn an_encoded_subject_is_strict_der_and_reads_back(values in subjects()) {
            let der = Subject::new(values.clone()).unwrap().to_der();
            let name = Name::from_der(&der).unwrap();
            prop_assert_eq!(&name.to_der().unwrap(), &der);
            prop_assert_eq!(attributes_of(&name).unwrap(), values);
        }
    }
}
