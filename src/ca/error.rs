//! Why an issuance did not end in a certificate: the station's fault, a neighbour's, or ours.

use crate::ca::LedgerFault;
use crate::ca::SignerFault;
use crate::ca::order::OrderRefusal;
use crate::pki::csr::CsrFault;
use crate::pki::lint::LintFault;
use crate::pki::lint::TbsFault;
use crate::pki::profile::Refusal;
use crate::pki::serial::SerialNumber;
use crate::pki::validity::ValidityFault;

/// Every way an issuance ends without a certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    // The station's fault: the same request will be refused again.
    /// No profile of this name.
    #[error("there is no profile `{0}`")]
    UnknownProfile(String),
    /// The certification request itself is refused.
    #[error(transparent)]
    Csr(#[from] CsrFault),
    /// The profile refuses it.
    #[error("the profile refuses the request")]
    Refused(Refusal),
    /// The principal's rights do not name the profile.
    #[error("your rights do not include profile `{0}`")]
    ProfileNotAllowed(String),
    /// The principal's rights do not include it.
    #[error("your rights do not let you {0}")]
    NotAllowed(&'static str),
    /// The principal has had as many devices certified today as it may.
    #[error("you may have {0} devices certified a day, and had them")]
    DailyCap(u32),
    /// The profile is made to order only.
    #[error("profile `{0}` needs a work order")]
    OrderRequired(String),
    /// The work order does not take the device.
    #[error(transparent)]
    Order(OrderRefusal),
    /// The validity the profile asks for cannot be given by its issuer.
    #[error(transparent)]
    Validity(ValidityFault),
    /// The certificate would not fit the device.
    #[error("{0}")]
    TooLong(String),
    /// The idempotency key was used before, for another request.
    #[error("the idempotency key was used before, for another request")]
    IdempotencyKeyReused,
    /// The device has a live certificate for another key or by another profile.
    #[error("the device already has certificate {}", .0.to_hex())]
    DeviceAlreadyCertified(SerialNumber),
    /// Another certificate already replaces, or will replace, the one named.
    #[error("certificate {} already takes its place", .0.to_hex())]
    Succeeded(SerialNumber),
    /// The device was scrapped: it never gets another certificate.
    #[error("the device was scrapped")]
    Scrapped,
    /// The device had as many certificates as its profile allows.
    #[error("profile `{0}` allows {1} reworks of a device, and it had them")]
    ReworkLimit(String, i16),
    /// The key is certified for another device.
    #[error("the public key is already certified by {}", .0.to_hex())]
    PublicKeyAlreadyCertified(SerialNumber),
    /// The same request is being worked on and was not finished by the deadline.
    #[error("the same request is still being worked on")]
    RequestInProgress,

    // A neighbour's fault: the same request, later, will do.
    /// The HSM.
    #[error(transparent)]
    Signer(#[from] SignerFault),
    /// The database.
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    /// The issuer's certificate is not valid now.
    #[error("issuer `{0}` is not valid now")]
    IssuerExpired(String),
    /// The clocks of the service and of the database differ.
    #[error("{0}")]
    ClockUntrusted(String),
    /// The log is halted, its journal cannot be written, or nobody outside has acknowledged it for
    /// too long.
    #[error("{0}")]
    Log(String),
    /// A signature that does not verify: nothing was released.
    #[error("the HSM of issuer `{0}` returned a signature that does not verify")]
    WrongSignature(String),

    // Ours.
    /// The bytes we built break a rule.
    #[error(transparent)]
    Lint(#[from] LintFault),
    /// The random source failed, or repeated a serial number.
    #[error("the random source failed: {0}")]
    Random(&'static str),
    /// The ledger holds something the configuration cannot explain.
    #[error("{0}")]
    Inconsistent(String),
}

impl From<TbsFault> for IssueError {
    fn from(fault: TbsFault) -> Self {
        match fault {
            TbsFault::Lint(fault) => Self::Lint(fault),
            TbsFault::TooLong { .. } => Self::TooLong(fault.to_string()),
        }
    }
}
