//! The public-key side of the factory, pure: no I/O, no clock, no random source.

pub mod certificate;
pub mod csr;
pub mod extension;
pub mod iot_policy;
pub mod issuer;
pub mod jitp;
pub mod key_policy;
pub mod lint;
pub mod name;
pub mod pem;
pub mod profile;
pub mod revocation;
pub mod serial;
pub mod tbs;
mod tlv;
pub mod validity;
pub mod verification;

use serde::Serialize;

/// One thing that is wrong with a request, among possibly several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Stable name of the broken rule, kebab-case.
    pub rule: &'static str,
    /// Subject attribute by its short name (`CN`), an extension's dotted OID, or a template's
    /// JSON pointer, where one is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// What is wrong and what would be right, for the person at the station.
    pub detail: String,
}

/// Octets as lower-case hexadecimal digits.
#[must_use]
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
