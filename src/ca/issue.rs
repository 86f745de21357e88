//! THE SPINE: one request in, one [`IssuedCertificate`] out.
//!
//! The order of the steps is the product's promise: nothing is signed before the intent is
//! durable, nothing is released before the certificate is. There is no second way to issue:
//! whatever asks, asks here, and what belongs to no device joins at `Ca::carry_out`. What a crash
//! between two steps leaves behind, [`recover`] finishes.
//!
//! [`recover`]: crate::ca::recover

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use openssl::sha::Sha256;
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::CertificateRecord;
use crate::ca::Claim;
use crate::ca::Intent;
use crate::ca::KeyOrigin;
use crate::ca::LedgerFault;
use crate::ca::Outcome;
use crate::ca::Principal;
use crate::ca::Prior;
use crate::ca::Reservation;
use crate::ca::Rework;
use crate::ca::SearchFilter;
use crate::ca::SignerFault;
use crate::ca::Turn;
use crate::ca::error::IssueError;
use crate::ca::random::REPEATED;
use crate::pki::Violation;
use crate::pki::certificate::SignedCertificate;
use crate::pki::csr::CertificationRequest;
use crate::pki::csr::CsrFault;
use crate::pki::issuer::Issuer;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::name::Subject;
use crate::pki::profile::Admission;
use crate::pki::profile::Profile;
use crate::pki::profile::Refusal;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::LeafKind;
use crate::pki::tbs::TbsCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;
use crate::pki::validity::ValidityFault;

/// A request to certify one device.
#[derive(Debug)]
pub struct IssueRequest {
    /// Profile's name.
    pub profile: String,
    /// The key to certify.
    pub key: DeviceKey,
    /// Subject attributes by short name, beside those of the profile and of the CSR.
    pub subject: Option<BTreeMap<String, String>>,
    /// Work order.
    pub order: Option<String>,
    /// 1 to 128 printable ASCII characters, unique to the principal.
    pub idempotency_key: Option<String>,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// The key to certify, and what shows that it is the device's.
#[derive(Debug)]
pub enum DeviceKey {
    /// A certification request, PEM or DER.
    Request(Vec<u8>),
    /// A batch's, judged at its intake or made for it.
    Vetted(SubjectPublicKeyInfo, KeyOrigin),
}

impl DeviceKey {
    fn turn(&self) -> Turn {
        match self {
            Self::Request(_) => Turn::Line,
            Self::Vetted(..) => Turn::Batch,
        }
    }

    fn judged(self) -> Result<(CertificationRequest, KeyOrigin), CsrFault> {
        match self {
            Self::Request(octets) => {
                CertificationRequest::parse(&octets).map(|request| (request, KeyOrigin::Request))
            }
            Self::Vetted(public_key, origin) => {
                Ok((CertificationRequest::stand_in(public_key), origin))
            }
        }
    }
}

/// The certificate that another one is to replace.
pub(super) struct Reworked {
    pub(super) rework: Rework,
    pub(super) subject: Subject,
    pub(super) device: String,
    pub(super) slot: String,
}

impl Reworked {
    /// A rework changes the key and nothing else. Where the profile has become another one since,
    /// it is no rework any more.
    fn fits(&self, admission: &Admission, profile: &Profile) -> Result<(), IssueError> {
        let same = admission.subject == self.subject
            && admission.device == self.device
            && profile.slot == self.slot;
        if same {
            return Ok(());
        }
        Err(IssueError::Refused(Refusal::SubjectMismatch(vec![
            Violation {
                rule: "rework-subject",
                attribute: None,
                detail: "the subject must be that of the certificate to replace".to_owned(),
            },
        ])))
    }
}

/// A certificate that is recorded and may leave the house. Only this module makes one.
#[derive(Debug)]
pub struct IssuedCertificate {
    record: CertificateRecord,
    replayed: bool,
}

impl IssuedCertificate {
    /// The recorded certificate.
    #[must_use]
    pub fn record(&self) -> &CertificateRecord {
        &self.record
    }

    /// Whether an earlier request made it.
    #[must_use]
    pub fn replayed(&self) -> bool {
        self.replayed
    }
}

/// How long a repeated request waits for the first one before it finishes the work itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// First and longest pause between two looks at an open intent.
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_LONGEST: Duration = Duration::from_millis(250);

impl Ca {
    /// Issues one certificate, or answers with the one that the same request got before.
    ///
    /// Run it in a task of its own: it must come to its end even when the caller has gone.
    pub async fn issue(
        &self,
        principal: &Principal,
        request: IssueRequest,
    ) -> Result<IssuedCertificate, IssueError> {
        let start = Instant::now();
        let turn = request.key.turn();
        let _passing = self.line.pass(&request.key);
        let result = self.issue_once(principal, request, None).await;
        self.count(&result, turn, start);
        result
    }

    /// What a request that began at `start` came to.
    pub(super) fn count(
        &self,
        result: &Result<IssuedCertificate, IssueError>,
        turn: Turn,
        start: Instant,
    ) {
        if let Ok(issued) = result {
            let intent = &issued.record.intent;
            if issued.replayed {
                self.metrics
                    .replayed
                    .with_label_values(&[&intent.profile])
                    .inc();
            } else {
                self.metrics
                    .issued
                    .with_label_values(&[&intent.profile, &intent.issuer])
                    .inc();
                self.stage(turn, "total", start);
            }
        }
    }

    /// `reworked`: what the certificate is to replace, where it is not the device's first.
    pub(super) async fn issue_once(
        &self,
        principal: &Principal,
        request: IssueRequest,
        reworked: Option<Reworked>,
    ) -> Result<IssuedCertificate, IssueError> {
        let at = Instant::now();
        let turn = request.key.turn();
        let (csr, key_origin) = request.key.judged()?;
        let at = self.stage(turn, "parse", at);

        let profile = self
            .profiles
            .get(&request.profile)
            .ok_or_else(|| IssueError::UnknownProfile(request.profile.clone()))?;
        if reworked.is_none() {
            principal.may_issue(&profile.name, request.order.as_deref())?;
        }
        let issuer = self.issuer(profile.issuer_at(self.clock.now()))?;
        let admission = profile
            .admit(&csr, request.subject.as_ref())
            .map_err(IssueError::Refused)?;
        if let Some(reworked) = &reworked {
            reworked.fits(&admission, &profile)?;
        }
        self.ledger.ready().map_err(LedgerFault::Unavailable)?;
        let rule = |now| profile.validity.at(now, profile.backdate_seconds, issuer);
        let ordered = if profile.order_required && request.order.is_none() && reworked.is_none() {
            Err(IssueError::OrderRequired(profile.name.clone()))
        } else if reworked
            .as_ref()
            .is_some_and(|it| it.rework.generation > profile.reworks_max)
        {
            let (name, most) = (profile.name.clone(), profile.reworks_max);
            Err(IssueError::ReworkLimit(name, most))
        } else {
            Ok(())
        };
        let rework = reworked.map(|it| it.rework);
        let ready = match ordered.and_then(|()| self.could_issue(issuer, rule)) {
            Ok(ready) => self.take_daily(principal).await.map(|()| ready),
            Err(error) => Err(error),
        };
        let (now, validity) = match ready {
            Ok(ready) => ready,
            // What was issued before needs no order, no place in the day, no HSM, no clock and no
            // issuer that still lives.
            Err(error) => {
                let earlier = self.issued_before(&profile, &admission.device, &csr);
                let earlier = tokio::time::timeout_at(request.deadline.into(), earlier).await;
                let earlier = earlier.ok().and_then(Result::ok).flatten();
                return earlier
                    .filter(|issued| answers(&issued.record.intent, rework.as_ref()))
                    .ok_or(error);
            }
        };
        let serial_number = SerialNumber::new(self.instance()?, random()?);
        let tbs = TbsCertificate::build(
            issuer,
            serial_number,
            validity,
            &admission.subject,
            &csr.public_key,
            profile.certificate_length_max,
        )?;
        self.stage(turn, "policy", at);

        let spki_sha256 = csr.public_key.sha256();
        let subject_der = admission.subject.to_der();
        let mut meaning: Vec<&[u8]> = vec![
            profile.name.as_bytes(),
            &spki_sha256,
            &subject_der,
            request.order.as_deref().unwrap_or_default().as_bytes(),
        ];
        if let Some(rework) = &rework {
            meaning.extend([&rework.superseded.as_bytes()[..], rework.reason.as_bytes()]);
        }
        let intent = Intent {
            id: intent_id(now)?,
            kind: LeafKind::Device,
            serial_number,
            issuer: issuer.name.clone(),
            profile: profile.name.clone(),
            profile_sha256: profile.sha256,
            principal: principal.name.clone(),
            idempotency_key: request.idempotency_key,
            request_sha256: request_hash(&meaning),
            order: request.order,
            device: admission.device,
            slot: profile.slot.clone(),
            subject: admission.subject,
            thing_name: admission.thing_name,
            spki_sha256,
            key_origin,
            validity,
            tbs: tbs.to_be_signed().to_vec(),
            rework,
        };
        let outcome = self.carry_out(intent, tbs, turn, request.deadline).await;
        if !outcome.as_ref().is_ok_and(|issued| !issued.replayed) {
            self.give_back_daily(principal);
        }
        outcome
    }

    /// The way of every certificate, whatever its kind: the intent becomes durable, then it is
    /// signed, verified and recorded. `tbs` is what the intent holds.
    pub(super) async fn carry_out(
        &self,
        intent: Intent,
        tbs: TbsCertificate,
        turn: Turn,
        deadline: Instant,
    ) -> Result<IssuedCertificate, IssueError> {
        let at = Instant::now();
        match self.ledger.reserve(intent.clone(), turn, deadline).await? {
            Reservation::Reserved => {
                self.stage(turn, "intent", at);
                let record = self.complete(intent, tbs, turn, deadline).await?;
                self.release(record, false, turn, deadline).await
            }
            Reservation::Barred(refusal) => Err(IssueError::Order(refusal)),
            Reservation::Taken(priors) => {
                let prior = same_request(&intent, priors).inspect_err(|error| {
                    if matches!(error, IssueError::Random(_)) {
                        self.random_watch.distrust();
                    }
                })?;
                let record = self.replay(prior, turn, deadline).await?;
                self.release(record, true, turn, deadline).await
            }
        }
    }

    /// A certificate that is recorded may leave the house once its entry is in the journal, too.
    async fn release(
        &self,
        record: CertificateRecord,
        replayed: bool,
        turn: Turn,
        deadline: Instant,
    ) -> Result<IssuedCertificate, IssueError> {
        let at = Instant::now();
        if let Err(reason) = self.may_leave(&record, deadline).await {
            // A database that is away keeps the journal from filling, too.
            self.ledger.ready().map_err(LedgerFault::Unavailable)?;
            return Err(IssueError::Log(reason));
        }
        self.stage(turn, "journal", at);
        Ok(IssuedCertificate { record, replayed })
    }

    /// Whether anything new could be issued now: the time, and the validity that `rule` makes of it.
    ///
    /// While the HSM is down nothing is reserved: an intent should not wait for a repair.
    pub(super) fn could_issue(
        &self,
        issuer: &Issuer,
        rule: impl FnOnce(DateTime<Utc>) -> Result<Validity, ValidityFault>,
    ) -> Result<(DateTime<Utc>, Validity), IssueError> {
        self.random_watch.trusted().map_err(IssueError::Random)?;
        let now = self.clock_trusted().map_err(IssueError::ClockUntrusted)?;
        self.log.ready().map_err(IssueError::Log)?;
        let validity = rule(now).map_err(|fault| match fault {
            ValidityFault::IssuerNotValid => IssueError::IssuerExpired(issuer.name.clone()),
            ValidityFault::BeyondIssuer(_) => IssueError::Validity(fault),
        })?;
        self.signer
            .ready(&issuer.name)
            .map_err(SignerFault::Unavailable)?;
        Ok((now, validity))
    }

    /// The certificate that this device has for this key by this profile.
    async fn issued_before(
        &self,
        profile: &Profile,
        device: &str,
        csr: &CertificationRequest,
    ) -> Result<Option<IssuedCertificate>, LedgerFault> {
        let filter = SearchFilter {
            device: Some(device.to_owned()),
            profile: Some(profile.name.clone()),
            spki: Some(csr.public_key.sha256()),
            ..SearchFilter::default()
        };
        let record = self.archive.search(filter, 1, None).await?.items.pop();
        let Some(record) = record else {
            return Ok(None);
        };
        let kept = self.may_leave(&record, Instant::now() + PATIENCE).await;
        kept.map_err(LedgerFault::Unavailable)?;
        Ok(Some(IssuedCertificate {
            record,
            replayed: true,
        }))
    }

    /// Signs, verifies and records a durable intent. Whoever records first wins, and everybody
    /// gets the winner's certificate; so doing it twice is harmless.
    pub(crate) async fn complete(
        &self,
        intent: Intent,
        tbs: TbsCertificate,
        turn: Turn,
        deadline: Instant,
    ) -> Result<CertificateRecord, IssueError> {
        let at = Instant::now();
        let signature = self.signer.sign(&intent.issuer, &tbs, turn, deadline);
        let signature = signature.await?;
        let at = self.stage(turn, "sign", at);
        let certificate = SignedCertificate::assemble(tbs, &signature).map_err(|_| {
            self.signer.distrust(&intent.issuer);
            IssueError::WrongSignature(intent.issuer.clone())
        })?;
        let at = self.stage(turn, "verify", at);
        let record = self
            .ledger
            .record(intent, certificate, turn, deadline)
            .await?;
        self.stage(turn, "record", at);
        Ok(record)
    }

    /// The certificate of an earlier, same request; finishes it when nobody else seems to.
    async fn replay(
        &self,
        prior: Prior,
        turn: Turn,
        deadline: Instant,
    ) -> Result<CertificateRecord, IssueError> {
        if let Some(record) = prior.certificate {
            return Ok(record);
        }
        // Whoever had a batch's row had its chunk, which is this one's now.
        let patience = match turn {
            Turn::Line => deadline.min(Instant::now() + PATIENCE),
            Turn::Batch => Instant::now(),
        };
        let mut pause = POLL_FIRST;
        while Instant::now() + pause < patience {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_LONGEST);
            // Only the ledger's queue is waited for: dropping the wait loses the answer, no work.
            let outcome = self.ledger.outcome(prior.intent.id);
            let outcome = tokio::time::timeout_at(deadline.into(), outcome).await;
            match outcome.map_err(|_| IssueError::RequestInProgress)?? {
                Some(Outcome::Issued(record)) => return Ok(record),
                // Its claims are free again: the station's next try starts afresh.
                Some(Outcome::Abandoned) => return Err(IssueError::RequestInProgress),
                None => {}
            }
        }
        if Instant::now() >= deadline {
            return Err(IssueError::RequestInProgress);
        }
        let tbs = self.reopen(&prior.intent)?;
        self.complete(prior.intent, tbs, turn, deadline).await
    }

    /// The stored bytes of an intent, linted again; never rebuilt.
    pub(crate) fn reopen(&self, intent: &Intent) -> Result<TbsCertificate, IssueError> {
        let issuer = self.issuer(&intent.issuer)?;
        Ok(TbsCertificate::reopen(
            intent.kind,
            intent.tbs.clone(),
            issuer,
        )?)
    }

    pub(super) fn issuer(&self, name: &str) -> Result<&std::sync::Arc<Issuer>, IssueError> {
        self.issuers
            .get(name)
            .ok_or_else(|| IssueError::Inconsistent(format!("no issuer `{name}` is configured")))
    }

    /// A stage that began at `since` is over. A batch's are not measured: they wait by design.
    fn stage(&self, turn: Turn, stage: &str, since: Instant) -> Instant {
        let now = Instant::now();
        if turn == Turn::Line {
            self.metrics
                .seconds
                .with_label_values(&[stage])
                .observe((now - since).as_secs_f64());
        }
        now
    }
}

/// Decides what a collision means: the same request again, or a conflict.
///
/// The order of the questions is the order of the answers a station gets, so that the same
/// input always gets the same slug, however many claims collide.
fn same_request(new: &Intent, priors: Vec<Prior>) -> Result<Prior, IssueError> {
    let mut by_claim = [None, None, None, None];
    for prior in priors {
        let slot = match prior.claim {
            // 120 random bits do not repeat; a source that does must not be trusted for keys either.
            Claim::SerialNumber => return Err(IssueError::Random(REPEATED)),
            Claim::Idempotency => 0,
            Claim::PublicKey => 1,
            Claim::Device => 2,
            Claim::Successor => 3,
        };
        by_claim[slot] = Some(prior);
    }
    let [idempotency, public_key, device, successor] = by_claim;
    if let Some(prior) = idempotency {
        // What a request means is its profile's part, too: a request that is repeated after the profile was
        // changed is judged by device and key, which it still names.
        let is_of_key = public_key
            .as_ref()
            .is_some_and(|other| other.intent.id == prior.intent.id);
        let changed = prior.intent.profile_sha256 != new.profile_sha256;
        if prior.intent.request_sha256 == new.request_sha256 {
            return Ok(prior);
        }
        if !(changed && is_of_key && prior.intent.order == new.order) {
            return Err(IssueError::IdempotencyKeyReused);
        }
    }
    // Also when it was a rework that certified the key; but a rework is for a new one.
    let same = |prior: &Prior| {
        (
            &prior.intent.device,
            &prior.intent.slot,
            &prior.intent.profile,
        ) == (&new.device, &new.slot, &new.profile)
    };
    match (public_key, device, successor) {
        (Some(prior), _, _) if same(&prior) && answers(&prior.intent, new.rework.as_ref()) => {
            Ok(prior)
        }
        (_, Some(prior), _) => Err(IssueError::DeviceAlreadyCertified(
            prior.intent.serial_number,
        )),
        (_, None, Some(prior)) => Err(IssueError::Succeeded(prior.intent.serial_number)),
        (Some(prior), None, None) => Err(IssueError::PublicKeyAlreadyCertified(
            prior.intent.serial_number,
        )),
        (None, None, None) => Err(IssueError::RequestInProgress),
    }
}

/// Whether a certificate for the same device and key is what a request asks for: a rework wants one
/// that replaces the same certificate.
fn answers(prior: &Intent, rework: Option<&Rework>) -> bool {
    let replaces = |rework: &Rework| rework.supersedes;
    rework.is_none() || prior.rework.as_ref().map(replaces) == rework.map(replaces)
}

/// SHA-256 over the request's meaning: each part by length, so that no two requests run together.
pub(super) fn request_hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish()
}

/// UUIDv7 of the service's time: new intents land at one end of the index.
pub(super) fn intent_id(now: DateTime<Utc>) -> Result<Uuid, IssueError> {
    let milliseconds = u64::try_from(now.timestamp_millis()).unwrap_or_default();
    Ok(uuid::Builder::from_unix_timestamp_millis(milliseconds, &random()?).into_uuid())
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], IssueError> {
    let mut bytes = [0; N];
    openssl::rand::rand_bytes(&mut bytes)
        .map_err(|_| IssueError::Random("the generator gave no bytes"))?;
    Ok(bytes)
}
