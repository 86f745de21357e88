//! The public-key side of the factory, pure: no I/O, no clock, no random source.

pub mod certificate;
pub mod crl;
pub mod csr;
pub mod entry;
pub mod envelope;
pub mod extension;
pub mod iot_policy;
pub mod issuer;
pub mod jitp;
pub mod jws;
pub mod key_policy;
pub mod lint;
pub mod merkle;
pub mod name;
pub mod note;
pub mod ocsp;
pub mod pem;
pub mod profile;
pub mod readback;
pub mod report;
pub mod revocation;
pub mod roads;
pub mod serial;
pub mod tbs;
pub mod tile;
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
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |index: u8| char::from(DIGITS[usize::from(index)]);
    let mut text = String::with_capacity(2 * octets.len());
    for octet in octets {
        text.push(digit(octet >> 4));
        text.push(digit(octet & 0xf));
    }
    text
}

/// `N` octets from exactly `2 N` hexadecimal digits.
#[must_use]
pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut octets = [0; N];
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks(2)) {
        *octet = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(octets)
}
