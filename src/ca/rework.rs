//! Rework: a new key for a device that has a certificate, on purpose and with a reason.
//!
//! The new certificate goes the way of every other ([`crate::ca::issue`]). The old one stays good
//! until the new one is confirmed ([`crate::ca::life`]), so a rework that fails half-way leaves no
//! device with nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ca::Ca;
use crate::ca::Principal;
use crate::ca::Rework;
use crate::ca::Status;
use crate::ca::Turn;
use crate::ca::error::IssueError;
use crate::ca::issue::DeviceKey;
use crate::ca::issue::IssueRequest;
use crate::ca::issue::IssuedCertificate;
use crate::ca::issue::Reworked;
use crate::ca::life::Deed;
use crate::ca::life::LifeError;
use crate::pki::serial::SerialNumber;

/// A request for a certificate that is to replace another one.
#[derive(Debug)]
pub struct ReworkRequest {
    /// The one to replace: the newest of its device.
    pub serial_number: SerialNumber,
    /// The certification request, PEM or DER, with a new key; its subject is empty or the same.
    pub csr: Vec<u8>,
    /// Why.
    pub reason: String,
    /// 1 to 128 printable ASCII characters, unique to the principal.
    pub idempotency_key: Option<String>,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// Why there was no rework.
#[derive(Debug, thiserror::Error)]
pub enum ReworkError {
    /// The device is none that the principal may rework.
    #[error(transparent)]
    Device(#[from] LifeError),
    /// The certificate was not issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl Ca {
    /// Issues a certificate to the device of another one, by its profile, with its subject and
    /// under its order. The same request gets the same certificate.
    ///
    /// Run it in a task of its own, as [`Ca::issue`].
    pub async fn supersede(
        &self,
        principal: &Principal,
        request: ReworkRequest,
    ) -> Result<IssuedCertificate, ReworkError> {
        let start = Instant::now();
        let request_key = DeviceKey::Request(request.csr);
        let _passing = self.line.pass(&request_key);
        let old = self
            .device_for(principal, request.serial_number, Deed::Rework)
            .await?;
        if old.status == Status::Scrapped {
            return Err(IssueError::Scrapped.into());
        }
        let generation = old.generation() + 1;
        let subject: BTreeMap<String, String> = old
            .intent
            .subject
            .iter()
            .map(|(kind, value)| (kind.short_name().to_owned(), value.to_owned()))
            .collect();
        let rework = Rework {
            supersedes: old.intent.id,
            superseded: old.intent.serial_number,
            generation,
            reason: request.reason,
        };
        let request = IssueRequest {
            profile: old.intent.profile,
            key: request_key,
            subject: Some(subject),
            order: old.intent.order,
            idempotency_key: request.idempotency_key,
            deadline: request.deadline,
        };
        let reworked = Reworked {
            rework,
            subject: old.intent.subject,
            device: old.intent.device,
            slot: old.intent.slot,
        };
        let result = self.issue_once(principal, request, Some(reworked)).await;
        self.count(&result, Turn::Line, start);
        Ok(result?)
    }
}
