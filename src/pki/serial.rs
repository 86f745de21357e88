//! Serial numbers: one instance byte, then 120 random bits (contract: certificates).

use crate::pki::hex;

/// A certificate's serial number, 16 octets, positive, without a leading zero.
///
/// RFC 5280 4.1.2.2 wants a positive integer of at most 20 octets; 120 random bits are more than
/// the 64 that the CA/Browser Forum asks for; the fixed length keeps every certificate of a
/// profile equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// `instance` is 0x01 to 0x7f and tells which replica issued; all 120 bits of `random` are used
    /// as they are.
    #[must_use]
    pub fn new(instance: InstanceByte, random: [u8; 15]) -> Self {
        let mut octets = [instance.get(); 16];
        let (_, tail) = octets.split_at_mut(1);
        tail.copy_from_slice(&random);
        Self(octets)
    }

    /// From the ledger or a URL path; `None` when the first octet is not 0x01..=0x7f.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let [first, ..] = bytes;
        InstanceByte::new(first).map(|_| Self(bytes))
    }

    /// From 32 lower-case hex digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut octets = [0; 16];
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                *octet = *octet << 4 | hex_value(*digit)?;
            }
        }
        Self::from_bytes(octets)
    }

    /// The 16 octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// 32 lower-case hex digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The first octet of every serial number of one replica, 0x01 to 0x7f.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceByte(u8);

impl InstanceByte {
    /// The lowest.
    pub const MIN: u8 = 1;
    /// The highest.
    pub const MAX: u8 = 0x7f;

    /// `None` outside 0x01..=0x7f.
    #[must_use]
    pub fn new(value: u8) -> Option<Self> {
        (Self::MIN..=Self::MAX)
            .contains(&value)
            .then_some(Self(value))
    }

    /// The octet.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hex_and_octets_lead_back(instance in 1u8..=0x7f, random: [u8; 15]) {
            let serial = SerialNumber::new(InstanceByte::new(instance).unwrap(), random);
            prop_assert_eq!(serial.as_bytes()[0], instance);
            prop_assert_eq!(&serial.as_bytes()[1..], &random[..]);
            prop_assert_eq!(SerialNumber::from_hex(&serial.to_hex()), Some(serial));
            prop_assert_eq!(SerialNumber::from_bytes(*serial.as_bytes()), Some(serial));
        }
    }

    #[test]
    fn only_the_canonical_text_is_a_serial_number() {
        assert!(SerialNumber::from_hex("01000000000000000000000000000000").is_some());
        for wrong in [
            "",
            "00000000000000000000000000000001",
            "80000000000000000000000000000000",
            "7F000000000000000000000000000000",
            "7f00000000000000000000000000000",
            "7f000000000000000000000000000000 ",
            "7f00000000000000000000000000000g",
            "+f000000000000000000000000000000",
        ] {
            assert_eq!(SerialNumber::from_hex(wrong), None, "{wrong}");
        }
        assert!(InstanceByte::new(0).is_none() && InstanceByte::new(0x80).is_none());
    }
}
