//! What happens to a certificate after it was issued: confirmed at the end of the line, superseded
//! by its rework, revoked, or scrapped with its device.
//!
//! Every step is an event that is stored once; the first end counts, and whoever asks for the same
//! again is told what was stored. What may follow what is kept by the database's constraints
//! (`migrations/20261127080000_life.sql`): the checks here are for a clear answer.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::SearchFilter;
use crate::ca::Status;
use crate::ca::issue;
use crate::ca::station::Act;
use crate::pki::Violation;
use crate::pki::crl::shard_of;
use crate::pki::readback;
use crate::pki::readback::Readback;
use crate::pki::revocation::RevocationReason;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;

/// Longest reason in words, in characters.
pub const REASON_LENGTH_MAX: usize = 200;

/// Something that happened to a certificate.
#[derive(Clone, Debug)]
pub struct LifeEvent {
    /// The status it gave the certificate; never [`Status::Issued`].
    pub kind: Status,
    /// Name of the principal who did it.
    pub principal: String,
    /// Why, in the words of who did it; of a confirmation, what was compared.
    pub reason: Option<String>,
    /// Of an end: what the CRL says.
    pub reason_code: Option<RevocationReason>,
    /// Database time.
    pub at: DateTime<Utc>,
}

/// An event to store.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The certificate's intent.
    pub intent: Uuid,
    /// Name of its issuer.
    pub issuer: String,
    /// The status it gives; never [`Status::Issued`].
    pub kind: Status,
    /// Why.
    pub reason: Option<String>,
    /// Of an end.
    pub reason_code: Option<RevocationReason>,
    /// Which of its issuer's CRLs lists it; `None` where there is one.
    pub crl_shard: Option<i16>,
}

/// Events that are stored together or not at all, in their order.
#[derive(Clone, Debug)]
pub struct LifeAct {
    /// The certificate it is about.
    pub intent: Uuid,
    /// Name of the principal who does it.
    pub principal: String,
    /// Work orders whose counts the events change.
    pub orders: Vec<String>,
    /// One or more.
    pub events: Vec<NewEvent>,
}

/// The book of what happened to certificates.
pub trait LifeBook: Send + Sync {
    /// Stores those events of the act that are not stored yet, and answers with all events of its
    /// certificate, oldest first. An event that contradicts an earlier one is left out. Safe to repeat.
    fn act(&self, act: LifeAct) -> PortFuture<'_, Result<Vec<LifeEvent>, LedgerFault>>;

    /// All events of a certificate, oldest first.
    fn events(&self, intent: Uuid) -> PortFuture<'_, Result<Vec<LifeEvent>, LedgerFault>>;

    /// Remembers a nonce that the device of this certificate is to sign.
    fn challenge(&self, intent: Uuid, nonce: [u8; 32]) -> PortFuture<'_, Result<(), LedgerFault>>;

    /// Whether the nonce was given out for this certificate within the last ten minutes.
    fn challenged(
        &self,
        intent: Uuid,
        nonce: [u8; 32],
    ) -> PortFuture<'_, Result<bool, LedgerFault>>;
}

/// What a device at the end of the line was found to hold.
#[derive(Debug)]
pub struct EndOfLine {
    /// What was read back.
    pub readback: Readback,
    /// A nonce of [`Ca::challenge`], and its signature by the device's key; see
    /// [`readback::proves_possession`].
    pub proof: Option<([u8; 32], Vec<u8>)>,
}

/// A certificate, and what happened to it.
#[derive(Debug)]
pub struct Life {
    /// The certificate, with the status that the last event gave it.
    pub record: CertificateRecord,
    /// All events, oldest first.
    pub events: Vec<LifeEvent>,
}

/// Why nothing happened.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// No such certificate, or none that the principal may see.
    #[error("no device certificate with this serial number that you may see")]
    NotFound,
    /// The principal may see it, but not do this.
    #[error("`{0}` may not do this")]
    Forbidden(String),
    /// The device does not hold what it should; everything that differs.
    #[error("the device does not hold what it should")]
    Differs(Vec<Violation>),
    /// The certificate is not the newest of its device, which this one is.
    #[error("certificate {} took its place", .0.to_hex())]
    Succeeded(SerialNumber),
    /// Something else happened to the device between our look and our act.
    #[error("something else happened to the device meanwhile; look at it again")]
    Overtaken,
    /// The database.
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    /// The random source failed.
    #[error("the random source failed")]
    Random,
}

/// What may be done to a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Confirm,
    Rework,
    Scrap,
    Revoke,
}

impl Ca {
    /// One certificate and what happened to it.
    pub async fn life(&self, serial: SerialNumber) -> Result<Option<Life>, LedgerFault> {
        let Some(record) = self.archive.certificate(serial).await? else {
            return Ok(None);
        };
        let events = self.lives.events(record.intent.id).await?;
        Ok(Some(Life::new(record, events)))
    }

    /// A nonce for the device to sign, good for ten minutes.
    pub async fn challenge(
        &self,
        principal: &Principal,
        serial: SerialNumber,
    ) -> Result<[u8; 32], LifeError> {
        let record = self.device_for(principal, serial, Deed::Confirm).await?;
        let nonce = issue::random().map_err(|_| LifeError::Random)?;
        self.lives.challenge(record.intent.id, nonce).await?;
        Ok(nonce)
    }

    /// Confirms that the device holds this certificate and no other. Those that it replaces are
    /// superseded in the same moment. The same again is answered with what was stored.
    pub async fn confirm(
        &self,
        principal: &Principal,
        serial: SerialNumber,
        found: EndOfLine,
    ) -> Result<Life, LifeError> {
        let record = self.device_for(principal, serial, Deed::Confirm).await?;
        let compared = self.compare(&record, &found).await?;
        let mut events = vec![NewEvent {
            kind: Status::Confirmed,
            reason: Some(compared),
            reason_code: None,
            ..self.end(&record)
        }];
        self.add_earlier(&record, Status::Confirmed, &mut events)
            .await?;
        self.act(principal, record, events, Status::Confirmed).await
    }

    /// Revokes one certificate: it is on the next CRL. The first end of a certificate counts.
    pub async fn revoke(
        &self,
        principal: &Principal,
        serial: SerialNumber,
        code: RevocationReason,
        reason: Option<String>,
    ) -> Result<Life, LifeError> {
        let record = self.device_for(principal, serial, Deed::Revoke).await?;
        let event = NewEvent {
            kind: Status::Revoked,
            reason,
            reason_code: Some(code),
            ..self.end(&record)
        };
        self.act(principal, record, vec![event], Status::Revoked)
            .await
    }

    /// Scraps a device by its newest certificate. All its certificates end; no other is ever issued
    /// to it, and its order may have a scrap allowance that gives the place to another device.
    pub async fn scrap(
        &self,
        principal: &Principal,
        serial: SerialNumber,
        reason: Option<String>,
    ) -> Result<Life, LifeError> {
        let record = self.device_for(principal, serial, Deed::Scrap).await?;
        if let Some(successor) = record.successor {
            return Err(LifeError::Succeeded(successor));
        }
        let mut events = vec![NewEvent {
            kind: Status::Scrapped,
            reason,
            reason_code: Some(RevocationReason::CessationOfOperation),
            ..self.end(&record)
        }];
        self.add_earlier(&record, Status::Scrapped, &mut events)
            .await?;
        self.act(principal, record, events, Status::Scrapped).await
    }

    /// A device's certificate, of a device to which the principal may do this.
    pub(super) async fn device_for(
        &self,
        principal: &Principal,
        serial: SerialNumber,
        deed: Deed,
    ) -> Result<CertificateRecord, LifeError> {
        let act = match deed {
            Deed::Confirm => Some(Act::Confirm),
            Deed::Rework => Some(Act::Rework),
            Deed::Scrap => Some(Act::Scrap),
            Deed::Revoke => None,
        };
        let may = match principal.role {
            Role::Operator => true,
            Role::Station => act.is_some_and(|act| principal.may(act)),
            Role::Auditor | Role::Administrator => false,
        };
        if !may {
            return Err(LifeError::Forbidden(principal.name.clone()));
        }
        let found = self.archive.certificate(serial).await?;
        found
            .filter(|record| record.intent.kind == LeafKind::Device)
            .filter(|CertificateRecord { intent, .. }| {
                principal.may_see(&intent.profile, &intent.principal)
            })
            .ok_or(LifeError::NotFound)
    }

    /// What the device should hold against what it holds; answers with what was compared.
    async fn compare(
        &self,
        record: &CertificateRecord,
        found: &EndOfLine,
    ) -> Result<String, LifeError> {
        let mut violations = Vec::new();
        let mut differs = |rule, detail: String| {
            violations.push(Violation {
                rule,
                attribute: None,
                detail,
            });
        };
        let mut compared = vec!["certificate"];
        if found.readback.leaf == record.der {
            match (record.status, record.successor) {
                (Status::Superseded, Some(successor)) => differs(
                    "old-certificate",
                    format!("certificate {} took its place", successor.to_hex()),
                ),
                (status, _) if status.has_ended() => differs(
                    "ended-certificate",
                    format!("the certificate is {}", status.as_str()),
                ),
                _ => {}
            }
        } else {
            let (rule, detail) = self.name_stranger(record, &found.readback).await?;
            differs(rule, detail);
        }
        if !found.readback.chain.is_empty() {
            compared.push("chain");
            let issuer = self.issuers.get(&record.intent.issuer);
            let expected = issuer.map(|issuer| {
                std::iter::once(&issuer.certificate)
                    .chain(&issuer.chain)
                    .collect::<Vec<_>>()
            });
            let fits = expected.is_some_and(|expected| {
                let chain: Vec<_> = found.readback.chain.iter().collect();
                expected.starts_with(&chain)
            });
            if !fits {
                differs(
                    "wrong-chain",
                    format!(
                        "the other certificates are not the chain of issuer `{}`, nearest first",
                        record.intent.issuer
                    ),
                );
            }
        }
        if let Some((nonce, signature)) = &found.proof {
            compared.push("signature");
            // A repeat, for whom the first one's nonce may have become too old meanwhile.
            let repeated = record.status == Status::Confirmed;
            if !repeated && !self.lives.challenged(record.intent.id, *nonce).await? {
                differs(
                    "nonce",
                    "the nonce was not given out for this certificate within ten minutes"
                        .to_owned(),
                );
            } else if !readback::proves_possession(&record.der, nonce, signature) {
                differs(
                    "wrong-key",
                    "the signature over the nonce is not by the certificate's key".to_owned(),
                );
            }
        }
        if violations.is_empty() {
            Ok(format!("compared: {}", compared.join(", ")))
        } else {
            Err(LifeError::Differs(violations))
        }
    }

    /// What a certificate is that is not the one expected.
    async fn name_stranger(
        &self,
        expected: &CertificateRecord,
        readback: &Readback,
    ) -> Result<(&'static str, String), LedgerFault> {
        let Some((serial, spki)) = readback.names() else {
            let detail = "the certificate was not issued here".to_owned();
            return Ok(("unknown-certificate", detail));
        };
        let other = self.archive.certificate(serial).await?;
        let other = other.filter(|other| other.der == readback.leaf);
        let same_device = |other: &CertificateRecord| {
            (&other.intent.device, &other.intent.slot)
                == (&expected.intent.device, &expected.intent.slot)
        };
        Ok(match other {
            Some(other) if same_device(&other) => (
                "old-certificate",
                format!(
                    "it holds {}, another certificate of the same device",
                    serial.to_hex()
                ),
            ),
            Some(other) => (
                "wrong-unit",
                format!(
                    "it holds {}, the certificate of device `{}`",
                    serial.to_hex(),
                    other.intent.device
                ),
            ),
            None if spki != expected.intent.spki_sha256 => (
                "wrong-key",
                "it holds a certificate that was not issued here, for another key".to_owned(),
            ),
            None => (
                "altered-certificate",
                "it holds a certificate for the same key that was not issued here".to_owned(),
            ),
        })
    }

    /// Adds that the certificates before this one of its device are superseded, the newest first,
    /// since this one is now `why`.
    async fn add_earlier(
        &self,
        record: &CertificateRecord,
        why: Status,
        events: &mut Vec<NewEvent>,
    ) -> Result<(), LedgerFault> {
        if record.intent.rework.is_none() {
            return Ok(());
        }
        let filter = SearchFilter {
            device: Some(record.intent.device.clone()),
            ..SearchFilter::default()
        };
        // A profile bounds how often a device is reworked, far below a page.
        let mut earlier = self.archive.search(filter, 1_000, None).await?.items;
        earlier.retain(|other| {
            other.intent.slot == record.intent.slot && other.generation() < record.generation()
        });
        earlier.sort_by_key(|other| std::cmp::Reverse(other.generation()));
        earlier.retain(|other| !other.status.has_ended());
        let serial = record.intent.serial_number.to_hex();
        events.extend(earlier.iter().map(|other| NewEvent {
            kind: Status::Superseded,
            reason: Some(format!("{serial} is {}", why.as_str())),
            reason_code: Some(RevocationReason::Superseded),
            ..self.end(other)
        }));
        Ok(())
    }

    /// An event of this certificate, to be completed.
    fn end(&self, record: &CertificateRecord) -> NewEvent {
        let issuer = self.issuers.get(&record.intent.issuer);
        let shard = issuer.and_then(|issuer| shard_of(&record.der, issuer));
        NewEvent {
            intent: record.intent.id,
            issuer: record.intent.issuer.clone(),
            kind: Status::Issued,
            reason: None,
            reason_code: None,
            crl_shard: shard.and_then(|shard| i16::try_from(shard).ok()),
        }
    }

    async fn act(
        &self,
        principal: &Principal,
        record: CertificateRecord,
        events: Vec<NewEvent>,
        wanted: Status,
    ) -> Result<Life, LifeError> {
        let act = LifeAct {
            intent: record.intent.id,
            principal: principal.name.clone(),
            // A rework stays within the order of the certificate it replaces.
            orders: record.intent.order.iter().cloned().collect(),
            events,
        };
        let stored = self.lives.act(act).await?;
        let life = Life::new(record, stored);
        // The first end counts, and is an answer; that nothing happened is none.
        if life.events.iter().any(|event| event.kind == wanted)
            || (wanted == Status::Revoked && life.record.status.has_ended())
        {
            Ok(life)
        } else {
            Err(LifeError::Overtaken)
        }
    }
}

impl Life {
    fn new(mut record: CertificateRecord, events: Vec<LifeEvent>) -> Self {
        record.status = status(&events);
        Self { record, events }
    }
}

/// Where a certificate stands to which this happened: that its device was scrapped counts, then how
/// it ended, whatever came before.
fn status(events: &[LifeEvent]) -> Status {
    let kinds = || events.iter().map(|event| event.kind);
    kinds()
        .find(|kind| *kind == Status::Scrapped)
        .or_else(|| kinds().find(|kind| kind.has_ended()))
        .or_else(|| kinds().next())
        .unwrap_or(Status::Issued)
}
