//! OCSP answers: signed by a delegated key in the HSM, kept while they are true.
//!
//! A request for one certificate without a nonce gets the answer that the one before it got, until
//! half of the answer's life is over. Every so often its status is looked up again, which costs no
//! signature: so a revocation shows as soon as it does in a CRL. While HSM or database are down an
//! answer that is kept is still given, with its true dates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Semaphore;

use crate::ca::Ca;
use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::Turn;
use crate::metrics::OcspMetrics;
use crate::pki::ocsp::CertId;
use crate::pki::ocsp::CertStatus;
use crate::pki::ocsp::OcspRequest;
use crate::pki::ocsp::Refusal;
use crate::pki::ocsp::Responder;
use crate::pki::ocsp::TbsResponseData;
use crate::pki::ocsp::Window;
use crate::pki::serial::SerialNumber;

/// From `thisUpdate` to `nextUpdate`.
const LIFE: TimeDelta = TimeDelta::hours(12);
/// Answers that are kept; when there are more, all are dropped and made again as they are asked for.
const KEPT_MAX: usize = 100_000;
/// Answers that are signed at a time: whoever asks with nonces must not take the HSM from the line.
const SIGNING_MAX: usize = 1;
/// Time for the HSM to sign one.
const SIGN_MAX: Duration = Duration::from_secs(3);

/// Where a certificate stands, as the ledger knows it.
pub trait StatusBook: Send + Sync {
    /// `Unknown` when this issuer issued no such certificate.
    fn cert_status(
        &self,
        issuer: String,
        serial_number: SerialNumber,
    ) -> PortFuture<'_, Result<CertStatus, LedgerFault>>;
}

/// An answer, and for how long it may be kept by who gets it.
#[derive(Clone, Debug)]
pub struct OcspAnswer {
    /// DER of the `OCSPResponse`.
    pub der: Bytes,
    /// `None`: not at all.
    pub kept: Option<Duration>,
}

struct Kept {
    status: CertStatus,
    der: Bytes,
    looked_up: Instant,
    this_update: DateTime<Utc>,
}

/// Answers for all issuers that have a responder.
pub struct OcspService {
    /// Issuers, HSM and clock.
    pub ca: Arc<Ca>,
    /// By the issuer's name.
    pub responders: HashMap<String, Arc<Responder>>,
    /// Where statuses are looked up.
    pub book: Arc<dyn StatusBook>,
    /// How long a status counts without being looked up again.
    pub every: Duration,
    /// What it counts.
    pub metrics: Arc<OcspMetrics>,
    kept: Mutex<HashMap<CertId, Kept>>,
    signing: Semaphore,
}

impl OcspService {
    /// A service that has answered nothing yet.
    #[must_use]
    pub fn new(
        ca: Arc<Ca>,
        responders: HashMap<String, Arc<Responder>>,
        book: Arc<dyn StatusBook>,
        every: Duration,
        metrics: Arc<OcspMetrics>,
    ) -> Self {
        Self {
            ca,
            responders,
            book,
            every,
            metrics,
            kept: Mutex::default(),
            signing: Semaphore::new(SIGNING_MAX),
        }
    }

    /// Answers a request to an issuer's responder; `None` when the issuer has none.
    pub async fn answer(&self, issuer: &str, request: &[u8]) -> Option<OcspAnswer> {
        let responder = self.responders.get(issuer)?;
        let (source, answer) = match OcspRequest::parse(request) {
            Err(_) => ("refused", Err(Refusal::MalformedRequest)),
            Ok(request) => self.answer_parsed(responder, &request).await,
        };
        self.metrics
            .answers
            .with_label_values(&[issuer, source])
            .inc();
        Some(answer.unwrap_or_else(|refusal| OcspAnswer {
            der: refusal.to_der().into(),
            kept: None,
        }))
    }

    async fn answer_parsed(
        &self,
        responder: &Arc<Responder>,
        request: &OcspRequest,
    ) -> (&'static str, Result<OcspAnswer, Refusal>) {
        let keeps = match request.asked.as_slice() {
            [one] if !request.has_nonce() => Some(one),
            _ => None,
        };
        if let Some(der) = keeps.and_then(|id| self.fresh(id)) {
            return ("kept", Ok(self.kept_answer(der)));
        }
        match self.look_up(responder, request).await {
            Err(Refusal::TryLater) => match keeps.and_then(|id| self.reusable(id, None)) {
                Some(der) => ("kept", Ok(self.kept_answer(der))),
                None => ("refused", Err(Refusal::TryLater)),
            },
            Err(refusal) => ("refused", Err(refusal)),
            Ok(statuses) => {
                let unchanged = statuses.first().copied();
                if let Some(der) = keeps.and_then(|id| self.reusable(id, unchanged)) {
                    return ("kept", Ok(self.kept_answer(der)));
                }
                let Some((der, this_update)) = self.sign(responder, request, &statuses).await
                else {
                    return ("refused", Err(Refusal::TryLater));
                };
                if let (Some(id), Some(status)) = (keeps, unchanged) {
                    self.keep(id, status, &der, this_update);
                    return ("signed", Ok(self.kept_answer(der)));
                }
                ("signed", Ok(OcspAnswer { der, kept: None }))
            }
        }
    }

    fn kept_answer(&self, der: Bytes) -> OcspAnswer {
        OcspAnswer {
            der,
            kept: Some(self.every),
        }
    }

    async fn look_up(
        &self,
        responder: &Responder,
        request: &OcspRequest,
    ) -> Result<Vec<CertStatus>, Refusal> {
        let issuer = self.ca.issuers.get(&responder.issuer);
        let issuer = issuer.ok_or(Refusal::Unauthorized)?;
        if !request.asked.iter().all(|id| id.is_of(issuer)) {
            return Err(Refusal::Unauthorized);
        }
        let mut statuses = Vec::with_capacity(request.asked.len());
        for id in &request.asked {
            statuses.push(match id.serial_number() {
                None => CertStatus::Unknown,
                Some(serial) => {
                    let status = self.book.cert_status(issuer.name.clone(), serial).await;
                    status.map_err(|error| {
                        tracing::warn!(%error, "no status was looked up");
                        Refusal::TryLater
                    })?
                }
            });
        }
        Ok(statuses)
    }

    async fn sign(
        &self,
        responder: &Arc<Responder>,
        request: &OcspRequest,
        statuses: &[CertStatus],
    ) -> Option<(Bytes, DateTime<Utc>)> {
        let signed = self.try_sign(responder, request, statuses).await;
        signed
            .map_err(|error| {
                tracing::warn!(
                    issuer = responder.issuer,
                    error,
                    "no OCSP answer was signed"
                );
            })
            .ok()
    }

    async fn try_sign(
        &self,
        responder: &Arc<Responder>,
        request: &OcspRequest,
        statuses: &[CertStatus],
    ) -> Result<(Bytes, DateTime<Utc>), String> {
        let now = self.ca.clock_trusted()?;
        if !responder.validity.contains(now) {
            return Err("the responder's certificate is not valid now".to_owned());
        }
        let permit = self.signing.acquire().await;
        let _permit = permit.map_err(|error| error.to_string())?;
        let window = Window {
            this_update: now,
            next_update: (now + LIFE).min(responder.validity.not_after),
        };
        let tbs = TbsResponseData::build(responder, request, statuses, window)
            .map_err(|error| error.to_string())?;
        let key = responder.key_name();
        let deadline = Instant::now() + SIGN_MAX;
        let signature = self.ca.signer.sign(&key, &tbs, Turn::Line, deadline).await;
        let signature = signature.map_err(|error| error.to_string())?;
        let der = tbs.assemble(&signature).map_err(|error| {
            self.ca.signer.distrust(&key);
            error.to_string()
        })?;
        Ok((der.into(), now))
    }

    /// What needs no look at the ledger.
    fn fresh(&self, id: &CertId) -> Option<Bytes> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(id)?;
        let fresh = found.looked_up.elapsed() < self.every && self.is_young(found);
        fresh.then(|| found.der.clone())
    }

    /// What was signed before and says this status; whatever it says where the status is not known.
    fn reusable(&self, id: &CertId, status: Option<CertStatus>) -> Option<Bytes> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get_mut(id)?;
        let same = status.is_none_or(|status| status == found.status);
        if !same || !self.is_young(found) {
            return None;
        }
        if status.is_some() {
            found.looked_up = Instant::now();
        }
        Some(found.der.clone())
    }

    fn is_young(&self, kept: &Kept) -> bool {
        self.ca.clock.now() < kept.this_update + LIFE / 2
    }

    fn keep(&self, id: &CertId, status: CertStatus, der: &Bytes, this_update: DateTime<Utc>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let looked_up = Instant::now();
        let entry = Kept {
            status,
            der: der.clone(),
            looked_up,
            this_update,
        };
        kept.insert(id.clone(), entry);
    }
}
