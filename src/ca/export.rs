//! A certificate as those outside see it, which is what exports are made of.

use chrono::DateTime;
use chrono::Utc;
use uuid::Uuid;

use crate::ca::CertificateRecord;
use crate::ca::KeyOrigin;
use crate::ca::Status;
use crate::pki::name::Subject;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;
use crate::pki::validity::Validity;

/// A [`CertificateRecord`] without what only the ledger needs: a long export reads no more than this.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Its intent.
    pub id: Uuid,
    /// What it is for.
    pub kind: LeafKind,
    /// Its serial number.
    pub serial_number: SerialNumber,
    /// Issuer's name.
    pub issuer: String,
    /// Profile's name.
    pub profile: String,
    /// Who asked: the principal's name.
    pub principal: String,
    /// Work order, where one was named.
    pub order: Option<String>,
    /// Device identity.
    pub device: String,
    /// The whole subject.
    pub subject: Subject,
    /// The thing AWS IoT will make.
    pub thing_name: Option<String>,
    /// SHA-256 over its `SubjectPublicKeyInfo`.
    pub spki_sha256: [u8; 32],
    /// How its key came here.
    pub key_origin: KeyOrigin,
    /// Validity.
    pub validity: Validity,
    /// The certificate it is to replace.
    pub superseded: Option<SerialNumber>,
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// SHA-256 over `der`.
    pub fingerprint: [u8; 32],
    /// Database time of its recording.
    pub issued_at: DateTime<Utc>,
    /// Place in the log.
    pub log_index: i64,
    /// Where it stands in its life.
    pub status: Status,
    /// The certificate that is to replace it.
    pub successor: Option<SerialNumber>,
}

impl From<&CertificateRecord> for Exported {
    fn from(record: &CertificateRecord) -> Self {
        let intent = &record.intent;
        Self {
            id: intent.id,
            kind: intent.kind,
            serial_number: intent.serial_number,
            issuer: intent.issuer.clone(),
            profile: intent.profile.clone(),
            principal: intent.principal.clone(),
            order: intent.order.clone(),
            device: intent.device.clone(),
            subject: intent.subject.clone(),
            thing_name: intent.thing_name.clone(),
            spki_sha256: intent.spki_sha256,
            key_origin: intent.key_origin,
            validity: intent.validity,
            superseded: intent.rework.as_ref().map(|rework| rework.superseded),
            der: record.der.clone(),
            fingerprint: record.fingerprint,
            issued_at: record.issued_at,
            log_index: record.log_index,
            status: record.status,
            successor: record.successor,
        }
    }
}
