//! The verification certificate: the one leaf that belongs to no device.
//!
//! What is made here goes the same way as every other: `Ca::carry_out` reserves, has it signed,
//! verifies, records and releases it, and what a crash leaves open is finished by the same sweeper.

use std::time::Instant;

use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::sha::sha256;

use crate::ca::Ca;
use crate::ca::Intent;
use crate::ca::KeyOrigin;
use crate::ca::LedgerFault;
use crate::ca::Principal;
use crate::ca::Turn;
use crate::ca::error::IssueError;
use crate::ca::issue;
use crate::ca::issue::IssuedCertificate;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;
use crate::pki::tbs::TbsCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;
use crate::pki::verification::RegistrationCode;

/// What stands where a device's certificate names its profile, in the ledger and as a metric's
/// label. No profile can be called so: their names are of a-z, 0-9 and `-`.
pub const PROFILE: &str = "verification_certificate";

/// A slot that no profile can name, for the same reason.
const SLOT: &str = "verification_certificate";

/// A request to prove to AWS IoT that an issuer's key is ours.
#[derive(Debug)]
pub struct VerificationRequest {
    /// Issuer's name.
    pub issuer: String,
    /// The registration code of the AWS account and Region.
    pub code: RegistrationCode,
    /// 1 to 128 printable ASCII characters, unique to the principal.
    pub idempotency_key: Option<String>,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

impl Ca {
    /// Issues one verification certificate. The same request makes another one, unless it has the
    /// idempotency key of an earlier one, whose certificate it then gets.
    ///
    /// Run it in a task of its own, as [`Ca::issue`].
    pub async fn issue_verification(
        &self,
        principal: &Principal,
        request: VerificationRequest,
    ) -> Result<IssuedCertificate, IssueError> {
        let start = Instant::now();
        let result = self.issue_verification_once(principal, request).await;
        self.count(&result, Turn::Line, start);
        result
    }

    async fn issue_verification_once(
        &self,
        principal: &Principal,
        request: VerificationRequest,
    ) -> Result<IssuedCertificate, IssueError> {
        let VerificationRequest {
            issuer,
            code,
            idempotency_key,
            deadline,
        } = request;
        let issuer = self.issuer(&issuer)?;
        self.ledger.ready().map_err(LedgerFault::Unavailable)?;
        let (now, validity) = self.could_issue(issuer, |now| Validity::of_days(1, now, issuer))?;
        let key = key_of_nobody()?;
        let serial_number = SerialNumber::new(self.instance()?, issue::random()?);
        let tbs = TbsCertificate::verification(issuer, serial_number, validity, &code, &key)?;
        let intent = Intent {
            id: issue::intent_id(now)?,
            kind: LeafKind::Verification,
            serial_number,
            issuer: issuer.name.clone(),
            profile: PROFILE.to_owned(),
            // There is no profile: over nothing.
            profile_sha256: sha256(&[]),
            principal: principal.name.clone(),
            idempotency_key,
            request_sha256: issue::request_hash(&[
                PROFILE.as_bytes(),
                issuer.name.as_bytes(),
                code.as_str().as_bytes(),
            ]),
            order: None,
            // The claim (slot, device) must never be another's. A code will not do: an account
            // keeps its code, and registers its next CA, or this one again, with the same. So the
            // certificate stands for itself, by the number that nothing else has; and the slot
            // keeps it apart from a device that some profile would call by those 32 digits.
            device: serial_number.to_hex(),
            slot: SLOT.to_owned(),
            subject: code.subject().clone(),
            thing_name: None,
            spki_sha256: key.sha256(),
            key_origin: KeyOrigin::Made,
            validity,
            tbs: tbs.to_be_signed().to_vec(),
            rework: None,
        };
        self.carry_out(intent, tbs, Turn::Line, deadline).await
    }
}

/// The public half of a P-256 key pair whose private half is gone when this returns: OpenSSL
/// overwrites it as it frees the pair, and nothing else has seen it. That, and not the missing
/// extKeyUsage (which by RFC 5280 4.2.1.12 restricts nothing), is why nobody can ever connect with
/// the certificate.
fn key_of_nobody() -> Result<SubjectPublicKeyInfo, IssueError> {
    let generate = || -> Result<Vec<u8>, ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        EcKey::generate(&group)?.public_key_to_der()
    };
    generate()
        .ok()
        .and_then(|spki| SubjectPublicKeyInfo::from_der(&spki).ok())
        .ok_or(IssueError::Random("it gave no key pair"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_another_and_within_policy() {
        let (one, other) = (key_of_nobody().unwrap(), key_of_nobody().unwrap());
        assert_eq!(one.algorithm().name(), "P-256");
        assert_ne!(one.as_der(), other.as_der());
    }
}
