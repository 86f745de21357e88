//! Why a certificate is no longer good: `CRLReason` (RFC 5280 5.3.1).

/// A reason for which a device's certificate ends. Those that concern no leaf (`cACompromise`,
/// `aACompromise`) or are not for ever (`certificateHold`, `removeFromCRL`) are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevocationReason {
    /// None is given; left out of a CRL, as RFC 5280 5.3.1 asks.
    Unspecified,
    /// The device's private key is known to others.
    KeyCompromise,
    /// What the subject says is no longer so.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// The device does not work any more.
    CessationOfOperation,
    /// The device may no longer connect.
    PrivilegeWithdrawn,
}

impl RevocationReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The name in RFC 5280, which is the word in requests and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }

    /// The value in a CRL entry or an OCSP answer.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// The inverse of [`Self::code`].
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_and_code_lead_back() {
        for reason in RevocationReason::ALL {
            assert_eq!(RevocationReason::from_word(reason.as_str()), Some(reason));
            assert_eq!(RevocationReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(RevocationReason::from_word("certificateHold"), None);
        assert_eq!(RevocationReason::from_code(6), None);
    }
}
