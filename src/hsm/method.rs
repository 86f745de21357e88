//! Which mechanism makes our signatures in a token, and what goes in and comes out.

use cryptoki::{
    mechanism::{Mechanism, MechanismType},
    object::ObjectHandle,
    session::Session,
};
use openssl::sha::sha256;

use crate::hsm::encoding;
use crate::hsm::error::HsmFault;
use crate::pki::key_policy::SignatureAlgorithm;

/// How a token makes a signature of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// `CKM_ECDSA` over our digest
    Ecdsa,
    /// `CKM_ECDSA_SHA256`
    EcdsaSha256,
    /// `CKM_RSA_PKCS` over our `DigestInfo`
    RsaPkcs,
    /// `CKM_SHA256_RSA_PKCS`
    Sha256RsaPkcs,
}

impl Method {
    /// The first that the token offers: hashing here is a microsecond, sending the bytes may not be.
    pub(crate) fn choose(
        algorithm: SignatureAlgorithm,
        offered: &[MechanismType],
    ) -> Result<Self, HsmFault> {
        let (preferences, names) = match algorithm {
            SignatureAlgorithm::EcdsaWithSha256 => (
                [
                    (Self::Ecdsa, MechanismType::ECDSA),
                    (Self::EcdsaSha256, MechanismType::ECDSA_SHA256),
                ],
                "CKM_ECDSA nor CKM_ECDSA_SHA256",
            ),
            SignatureAlgorithm::Sha256WithRsa => (
                [
                    (Self::RsaPkcs, MechanismType::RSA_PKCS),
                    (Self::Sha256RsaPkcs, MechanismType::SHA256_RSA_PKCS),
                ],
                "CKM_RSA_PKCS nor CKM_SHA256_RSA_PKCS",
            ),
        };
        preferences
            .into_iter()
            .find_map(|(method, mechanism)| offered.contains(&mechanism).then_some(method))
            .ok_or_else(|| HsmFault::KeyRefused(format!("the token offers neither {names}")))
    }

    /// `C_SignInit` and `C_Sign`; the signature in X.509 form.
    pub(crate) fn sign(
        self,
        session: &Session,
        key: ObjectHandle,
        message: &[u8],
    ) -> Result<Vec<u8>, HsmFault> {
        let raw = match self {
            Self::Ecdsa => session.sign(&Mechanism::Ecdsa, key, &sha256(message)),
            Self::EcdsaSha256 => session.sign(&Mechanism::EcdsaSha256, key, message),
            Self::RsaPkcs => session.sign(
                &Mechanism::RsaPkcs,
                key,
                &encoding::digest_info(&sha256(message)),
            ),
            Self::Sha256RsaPkcs => session.sign(&Mechanism::Sha256RsaPkcs, key, message),
        }?;
        match self {
            Self::RsaPkcs | Self::Sha256RsaPkcs => Ok(raw),
            Self::Ecdsa | Self::EcdsaSha256 => encoding::ecdsa_sig_value(&raw).ok_or_else(|| {
                HsmFault::KeyRefused(format!(
                    "C_Sign gave {} octets, which is no r and s",
                    raw.len()
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_cannot_take_a_digest_hashes_itself_and_one_that_can_do_neither_is_refused() {
        use MechanismType as Has;
        use SignatureAlgorithm::{EcdsaWithSha256, Sha256WithRsa};
        let choose = |algorithm, offered: &[Has]| {
            Method::choose(algorithm, offered).map_err(|fault| fault.to_string())
        };
        assert_eq!(
            choose(Sha256WithRsa, &[Has::SHA256_RSA_PKCS, Has::RSA_PKCS]),
            Ok(Method::RsaPkcs)
        );
        assert_eq!(
            choose(Sha256WithRsa, &[Has::SHA256_RSA_PKCS]),
            Ok(Method::Sha256RsaPkcs)
        );
        assert_eq!(choose(EcdsaWithSha256, &[Has::ECDSA]), Ok(Method::Ecdsa));
        assert_eq!(
            choose(EcdsaWithSha256, &[Has::RSA_PKCS]),
            Err("the token offers neither CKM_ECDSA nor CKM_ECDSA_SHA256".to_owned())
        );
    }
}
