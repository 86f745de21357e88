//! Enrolment and renewal: how stations and people come by their client certificates.
//!
//! What is made here goes the way of every certificate: `Ca::carry_out` reserves, has it signed,
//! verifies and records it. The key is put into the live table last.

use std::time::Instant;

use secrecy::SecretString;

use crate::ca::Ca;
use crate::ca::Intent;
use crate::ca::KeyOrigin;
use crate::ca::LedgerFault;
use crate::ca::Principal;
use crate::ca::Turn;
use crate::ca::error::IssueError;
use crate::ca::issue;
use crate::ca::issue::IssuedCertificate;
use crate::pki::csr::CertificationRequest;
use crate::pki::hex;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;
use crate::pki::tbs::TbsCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;

/// What stands where a device's certificate names its profile. No profile can be called so: their
/// names are of a-z, 0-9 and `-`.
pub const PROFILE: &str = "station_certificate";

/// Why there is no enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No station issuer is configured.
    #[error("this service issues no client certificates")]
    NotConfigured,
    /// The code is unknown, expired, used for another key, or for another name.
    #[error("the enrolment code is not good for this name and key, or not any more")]
    Code,
    /// The request asks for something else.
    #[error("{0}")]
    Request(String),
    /// The key is somebody's.
    #[error("the public key was enrolled before; make a new one")]
    KeyTaken,
    /// The certificate was not issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl From<LedgerFault> for EnrolError {
    fn from(fault: LedgerFault) -> Self {
        Self::Issue(fault.into())
    }
}

/// A fresh enrolment code: 256 random bits as 64 hexadecimal digits, and their SHA-256.
pub fn enrolment_code() -> Result<(SecretString, [u8; 32]), IssueError> {
    let code = hex(&issue::random::<32>()?);
    let hash = openssl::sha::sha256(code.as_bytes());
    Ok((SecretString::from(code), hash))
}

impl Ca {
    /// A client certificate for whoever holds the code; the key is theirs from then on, and earlier
    /// ones are nobody's. The same again gets the same certificate until the code expires.
    ///
    /// Run it in a task of its own, as [`Ca::issue`].
    pub async fn enrol(
        &self,
        name: &str,
        code_sha256: [u8; 32],
        csr: &[u8],
        deadline: Instant,
    ) -> Result<IssuedCertificate, EnrolError> {
        let csr = self.station_request(name, csr)?;
        let key = csr.public_key.sha256();
        let good = self
            .station_book
            .use_code(code_sha256, name.to_owned(), key);
        if !good.await? {
            return Err(EnrolError::Code);
        }
        self.certify_station(name, &csr, deadline, false).await
    }

    /// A client certificate for another key of somebody who is connected. The key so far is good
    /// for another hour. The same again gets the same certificate.
    ///
    /// Run it in a task of its own, as [`Ca::issue`].
    pub async fn renew_station(
        &self,
        principal: &Principal,
        csr: &[u8],
        deadline: Instant,
    ) -> Result<IssuedCertificate, EnrolError> {
        let csr = self.station_request(&principal.name, csr)?;
        self.certify_station(&principal.name, &csr, deadline, true)
            .await
    }

    fn station_request(&self, name: &str, csr: &[u8]) -> Result<CertificationRequest, EnrolError> {
        if self.stations.is_none() {
            return Err(EnrolError::NotConfigured);
        }
        let csr = CertificationRequest::parse(csr).map_err(IssueError::Csr)?;
        if !csr.excess_extensions.is_empty() {
            let why = "the request asks for extensions that no client certificate has";
            return Err(EnrolError::Request(why.to_owned()));
        }
        let other = |(kind, value): (&AttributeType, &String)| {
            *kind != AttributeType::CommonName || value != name
        };
        if csr.subject.iter().any(other) {
            let why = format!("the request's subject must be empty or CN={name}");
            return Err(EnrolError::Request(why));
        }
        Ok(csr)
    }

    async fn certify_station(
        &self,
        name: &str,
        csr: &CertificationRequest,
        deadline: Instant,
        others_linger: bool,
    ) -> Result<IssuedCertificate, EnrolError> {
        let issuing = self.stations.as_ref().ok_or(EnrolError::NotConfigured)?;
        let issuer = self.issuer(&issuing.issuer)?;
        let days = issuing.days;
        let (now, validity) =
            self.could_issue(issuer, |now| Validity::of_days(days, now, issuer))?;
        let subject = Subject::new([(AttributeType::CommonName, name.to_owned())].into())
            .map_err(|_| EnrolError::Request("the name cannot be a CN".to_owned()))?;
        let serial_number = SerialNumber::new(self.instance()?, issue::random()?);
        let tbs =
            TbsCertificate::station(issuer, serial_number, validity, &subject, &csr.public_key)
                .map_err(IssueError::Lint)?;
        let spki_sha256 = csr.public_key.sha256();
        let intent = Intent {
            id: issue::intent_id(now)?,
            kind: LeafKind::Station,
            serial_number,
            issuer: issuer.name.clone(),
            profile: PROFILE.to_owned(),
            // There is no profile: over nothing.
            profile_sha256: openssl::sha::sha256(&[]),
            principal: name.to_owned(),
            idempotency_key: None,
            request_sha256: issue::request_hash(&[
                PROFILE.as_bytes(),
                name.as_bytes(),
                &spki_sha256,
            ]),
            order: None,
            // One certificate a key; a name may have one after the other.
            device: name.to_owned(),
            slot: format!("{PROFILE} {}", hex(&spki_sha256)),
            subject,
            thing_name: None,
            spki_sha256,
            key_origin: KeyOrigin::Request,
            validity,
            tbs: tbs.to_be_signed().to_vec(),
            rework: None,
        };
        let certificate = self.carry_out(intent, tbs, Turn::Line, deadline).await?;
        // Last: until then nobody connects with it, and the same request comes here again.
        let added = self
            .station_book
            .add_key(name.to_owned(), spki_sha256, others_linger);
        if added.await? {
            Ok(certificate)
        } else {
            Err(EnrolError::KeyTaken)
        }
    }
}
