//! The one DER primitive that cannot fail: tag, definite length, value (X.690 8.1.3, 10.1).
//!
//! Names and signed envelopes are written with it, so that neither needs an error that can never
//! happen. Everything else is encoded and decoded by the `der` crate.

/// SEQUENCE, constructed.
pub(super) const SEQUENCE: u8 = 0x30;
/// SET, constructed.
pub(super) const SET: u8 = 0x31;
/// OBJECT IDENTIFIER.
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
/// ENUMERATED.
pub(super) const ENUMERATED: u8 = 0x0a;
/// OCTET STRING.
pub(super) const OCTET_STRING: u8 = 0x04;
/// INTEGER.
pub(super) const INTEGER: u8 = 0x02;
/// Context-specific 0, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;
/// Context-specific 0, primitive.
pub(super) const CONTEXT_0_PRIMITIVE: u8 = 0x80;
/// Context-specific 1, constructed.
pub(super) const CONTEXT_1: u8 = 0xa1;
/// Context-specific 2, constructed.
pub(super) const CONTEXT_2: u8 = 0xa2;
/// BIT STRING.
pub(super) const BIT_STRING: u8 = 0x03;

/// One element; the length in its shortest form.
pub(super) fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut der = Vec::with_capacity(value.len() + 6);
    write_head(&mut der, tag, value.len());
    der.extend_from_slice(value);
    der
}

/// What stands before a value of so many octets.
pub(super) fn head(tag: u8, length: usize) -> Vec<u8> {
    let mut der = Vec::with_capacity(6);
    write_head(&mut der, tag, length);
    der
}

fn write_head(der: &mut Vec<u8>, tag: u8, length: usize) {
    der.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let octets = length.to_be_bytes();
            let significant = octets.iter().skip_while(|octet| **octet == 0);
            der.push(0x80 | significant.clone().fold(0, |count, _| count + 1));
            der.extend(significant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_the_shortest_that_hold() {
        let head = |length: usize| {
            let der = element(SEQUENCE, &vec![0; length]);
            let head = head(SEQUENCE, length);
            assert_eq!(der.len(), head.len() + length);
            assert!(der.starts_with(&head));
            head
        };
        assert_eq!(head(0), [0x30, 0]);
        assert_eq!(head(127), [0x30, 127]);
        assert_eq!(head(128), [0x30, 0x81, 128]);
        assert_eq!(head(255), [0x30, 0x81, 255]);
        assert_eq!(head(256), [0x30, 0x82, 1, 0]);
        assert_eq!(head(65_536), [0x30, 0x83, 1, 0, 0]);
    }
}
