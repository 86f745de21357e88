//! The curves on which a recipient's key may be, and what each brings along.

use const_oid::ObjectIdentifier;
use openssl::md::Md;
use openssl::md::MdRef;
use openssl::nid::Nid;

/// A curve of recipients' keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(super) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    pub(super) fn nid(self) -> Nid {
        match self {
            Self::P256 => Nid::X9_62_PRIME256V1,
            Self::P384 => Nid::SECP384R1,
            Self::P521 => Nid::SECP521R1,
        }
    }

    /// RFC 5480 2.1.1.1
    pub(super) fn oid(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Self::P256 => "1.2.840.10045.3.1.7",
            Self::P384 => "1.3.132.0.34",
            Self::P521 => "1.3.132.0.35",
        })
    }

    pub(super) fn coordinate_length(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// As strong as the curve (RFC 5753 8).
    pub(super) fn digest(self) -> &'static MdRef {
        match self {
            Self::P256 => Md::sha256(),
            Self::P384 => Md::sha384(),
            Self::P521 => Md::sha512(),
        }
    }

    /// dhSinglePass-stdDH with that digest (RFC 5753 7.1.4).
    pub(super) fn scheme(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Self::P256 => "1.3.132.1.11.1",
            Self::P384 => "1.3.132.1.11.2",
            Self::P521 => "1.3.132.1.11.3",
        })
    }
}
