//! The eight parameters that JITP offers a template.

use std::collections::BTreeSet;

use crate::pki::name::AttributeType;

/// What the eight names that JITP offers stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Parameter {
    /// AWS's certificate id: SHA-256 over the certificate.
    CertificateId,
    /// A subject attribute.
    Subject(AttributeType),
}

impl Parameter {
    /// All that JITP knows (AWS IoT developer guide, "Just-in-time provisioning"): no locality,
    /// no e-mail address, no extension.
    pub(super) const ALL: [(&'static str, Self); 8] = [
        (
            "AWS::IoT::Certificate::Country",
            Self::Subject(AttributeType::Country),
        ),
        (
            "AWS::IoT::Certificate::Organization",
            Self::Subject(AttributeType::Organization),
        ),
        (
            "AWS::IoT::Certificate::OrganizationalUnit",
            Self::Subject(AttributeType::OrganizationalUnit),
        ),
        (
            "AWS::IoT::Certificate::DistinguishedNameQualifier",
            Self::Subject(AttributeType::DnQualifier),
        ),
        (
            "AWS::IoT::Certificate::StateName",
            Self::Subject(AttributeType::StateOrProvince),
        ),
        (
            "AWS::IoT::Certificate::CommonName",
            Self::Subject(AttributeType::CommonName),
        ),
        (
            "AWS::IoT::Certificate::SerialNumber",
            Self::Subject(AttributeType::SerialNumber),
        ),
        ("AWS::IoT::Certificate::Id", Self::CertificateId),
    ];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, parameter)| *parameter)
    }

    /// The subject attributes among these, in [`AttributeType`] order.
    pub(super) fn attribute_types(declared: &BTreeSet<Self>) -> Vec<AttributeType> {
        let attribute_type = |parameter: &Self| match parameter {
            Self::CertificateId => None,
            Self::Subject(attribute_type) => Some(*attribute_type),
        };
        declared.iter().filter_map(attribute_type).collect()
    }

    /// The name a template calls it by.
    pub(super) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, parameter)| *parameter == self);
        // `Self::ALL` has all but the locality, which no template can declare.
        found.map_or("AWS::IoT::Certificate::Locality", |(name, _)| *name)
    }

    /// JSON pointer of its declaration. None of the names has a character to escape.
    pub(super) fn pointer(self) -> String {
        format!("/Parameters/{}", self.name())
    }
}
