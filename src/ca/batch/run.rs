//! One chunk to its end: keys, then every row through the spine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::ca::Ca;
use crate::ca::KeyOrigin;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::batch::Attributes;
use crate::ca::batch::Batch;
use crate::ca::batch::Chunk;
use crate::ca::batch::ChunkOutcome;
use crate::ca::batch::KeyOrder;
use crate::ca::batch::ROW_MAX;
use crate::ca::batch::RowFailure;
use crate::ca::batch::State;
use crate::ca::batch::WIDTH_MAX;
use crate::ca::device_key;
use crate::ca::device_key::SealedKeys;
use crate::ca::error::IssueError;
use crate::ca::issue::DeviceKey;
use crate::ca::issue::IssueRequest;
use crate::ca::order::OrderRefusal;
use crate::ca::station::Rights;
use crate::pki::envelope::Recipient;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::serial::SerialNumber;

/// Rows of a chunk on their way at once while the line is at work.
const WIDTH_BESIDE_THE_LINE: usize = 1;
/// How often it is looked whether the line is still at work.
const PAUSE: Duration = Duration::from_millis(20);

/// Why a chunk did not come to its end now.
#[derive(Debug)]
pub enum Stop {
    /// A neighbour's fault, which passes; the reason, for people.
    Later(String),
    /// What concerns the whole batch and does not pass by itself.
    Pause(String),
    /// The batch was paused or cancelled before the chunk was begun: nothing of it exists.
    NotBegun,
}

impl Ca {
    /// Fixes the chunk's keys unless they are, and brings each row to its outcome. May be done
    /// again by anybody, at any time, with the same result.
    pub async fn run_chunk(
        self: &Arc<Self>,
        batch: &Batch,
        chunk: &Chunk,
    ) -> Result<ChunkOutcome, Stop> {
        let rows = self.rows(batch, chunk)?;
        let public_keys = self.fixed_keys(batch, chunk, &rows).await?;
        let origin = batch.key_origin.unwrap_or(KeyOrigin::Made);
        // In the name of who ordered it; that they may was asked when they did.
        let principal = Arc::new(Principal {
            name: batch.created.0.clone(),
            role: Role::Operator,
            disabled: false,
            spki_sha256: [0; 32],
            rights: Rights::default(),
        });
        let mut waiting = rows.into_iter().zip(public_keys).enumerate();
        let mut running: FuturesUnordered<JoinHandle<(usize, String, Issued)>> =
            FuturesUnordered::new();
        let mut outcome = ChunkOutcome {
            intents: vec![None; usize::try_from(chunk.row_count).unwrap_or_default()],
            failures: Vec::new(),
        };
        let mut stop = None;
        loop {
            while stop.is_none() && running.len() < self.width(&batch.definition.profile) {
                let Some((index, ((subject, device), public_key))) = waiting.next() else {
                    break;
                };
                let request = IssueRequest {
                    profile: batch.definition.profile.clone(),
                    key: DeviceKey::Vetted(public_key, origin),
                    subject: Some(subject),
                    order: batch.definition.order.clone(),
                    idempotency_key: None,
                    deadline: Instant::now() + ROW_MAX,
                };
                let (ca, principal) = (Arc::clone(self), Arc::clone(&principal));
                running.push(tokio::spawn(async move {
                    let issued = ca.issue(&principal, request).await;
                    let issued = issued.map(|issued| issued.record().intent.id);
                    (index, device, issued)
                }));
            }
            if running.is_empty() && (stop.is_some() || waiting.len() == 0) {
                break;
            }
            let next = tokio::time::timeout(PAUSE, running.next()).await;
            let Ok(Some(ended)) = next else {
                continue;
            };
            let (index, device, issued) = ended.map_err(|panic| Stop::Later(panic.to_string()))?;
            match issued {
                Ok(intent) => outcome.intents[index] = Some(intent),
                Err(error) => {
                    if let Some(why) = judge(&error, batch.state) {
                        stop = stop.or(Some(why));
                    } else {
                        let row = chunk.first_row + i32::try_from(index).unwrap_or_default();
                        outcome.failures.push(failure(row, device, &error));
                    }
                }
            }
        }
        outcome.failures.sort_by_key(|failure| failure.row);
        stop.map_or(Ok(outcome), Err)
    }

    /// Subject and device identity of each row.
    fn rows(&self, batch: &Batch, chunk: &Chunk) -> Result<Vec<(Attributes, String)>, Stop> {
        let definition = &batch.definition;
        let profile = self.profiles.get(&definition.profile).ok_or_else(|| {
            Stop::Pause(format!("there is no profile `{}` here", definition.profile))
        })?;
        let first = u32::try_from(chunk.first_row - 1).unwrap_or_default();
        let count = u32::try_from(chunk.row_count).unwrap_or_default();
        let subjects = match (&chunk.subjects, &definition.devices) {
            (Some(subjects), _) => subjects.clone(),
            (None, Some(pattern)) => (first..first + count).map(|n| pattern.row(n)).collect(),
            (None, None) => return Err(Stop::Pause("its rows are not there".to_owned())),
        };
        let identity = profile.device_identity;
        Ok(subjects
            .into_iter()
            .map(|subject| {
                let fixed = profile.fixed.get(&identity);
                let given = subject.get(identity.short_name()).or(fixed);
                let device = given.cloned().unwrap_or_default();
                (subject, device)
            })
            .collect())
    }

    /// The keys that the chunk has for ever, made now where it has none.
    async fn fixed_keys(
        &self,
        batch: &Batch,
        chunk: &Chunk,
        rows: &[(Attributes, String)],
    ) -> Result<Vec<SubjectPublicKeyInfo>, Stop> {
        if chunk.begun {
            return stored(&chunk.public_keys);
        }
        let (made, envelopes) = match &batch.definition.keys {
            None => (stored(&chunk.public_keys)?, Vec::new()),
            Some(order) => {
                let devices = rows.iter().map(|(_, device)| device.clone()).collect();
                let sealed = self.make_keys(order.clone(), devices).await?;
                (sealed.public_keys, sealed.envelopes)
            }
        };
        let offered = made.iter().map(|key| key.as_der().to_vec()).collect();
        let begun = self
            .batches
            .begin(batch.id, chunk.number, offered, envelopes);
        let fixed = begun.await;
        let fixed = fixed.map_err(|fault| Stop::Later(fault.to_string()))?;
        let fixed = fixed.ok_or(Stop::NotBegun)?;
        // Another may have fixed its own before.
        if made.iter().map(SubjectPublicKeyInfo::as_der).eq(&fixed) {
            Ok(made)
        } else {
            stored(&fixed)
        }
    }

    async fn make_keys(&self, order: KeyOrder, devices: Vec<String>) -> Result<SealedKeys, Stop> {
        let trusted = self.random_watch.trusted();
        trusted.map_err(|reason| Stop::Later(reason.to_owned()))?;
        let now = self.clock_trusted().map_err(Stop::Later)?;
        let made = tokio::task::spawn_blocking(move || {
            let recipient = Recipient::parse(order.recipient.as_bytes(), now)
                .map_err(|fault| Stop::Pause(format!("the recipient: {fault}")))?;
            device_key::make_sealed(order.kind, &devices, &recipient, order.envelope)
                .map_err(|fault| Stop::Pause(fault.to_string()))
        });
        made.await.map_err(|panic| Stop::Later(panic.to_string()))?
    }

    /// Where there is no profile or issuer, the spine will say so.
    fn width(&self, profile: &str) -> usize {
        let alone = || {
            let profile = self.profiles.get(profile)?;
            let issuer = profile.issuer_at(self.clock.now());
            Some(self.signer.queue_depth_max(issuer).min(WIDTH_MAX))
        };
        if self.line.is_busy() {
            WIDTH_BESIDE_THE_LINE
        } else {
            alone().unwrap_or(1)
        }
    }
}

fn stored(public_keys: &[Vec<u8>]) -> Result<Vec<SubjectPublicKeyInfo>, Stop> {
    let read = public_keys
        .iter()
        .map(|spki| SubjectPublicKeyInfo::from_der(spki));
    read.collect::<Result<_, _>>()
        .map_err(|fault| Stop::Pause(format!("a stored key: {fault}")))
}

/// Whether an error is more than its row's.
fn judge(error: &IssueError, state: State) -> Option<Stop> {
    match error {
        // The row's own: somebody else had its device or its key certified.
        IssueError::DeviceAlreadyCertified(_)
        | IssueError::PublicKeyAlreadyCertified(_)
        | IssueError::Succeeded(_)
        | IssueError::Scrapped
        | IssueError::Csr(_)
        | IssueError::TooLong(_)
        | IssueError::IdempotencyKeyReused
        | IssueError::Order(OrderRefusal::Mismatch(..)) => None,
        // What was begun before a cancellation ends, with or without certificates.
        IssueError::UnknownProfile(_)
        | IssueError::Refused(_)
        | IssueError::ProfileNotAllowed(_)
        | IssueError::NotAllowed(_)
        | IssueError::OrderRequired(_)
        | IssueError::Order(_)
        | IssueError::Validity(_)
        | IssueError::ReworkLimit(..)
            if state == State::Cancelled =>
        {
            None
        }
        IssueError::UnknownProfile(_)
        | IssueError::Refused(_)
        | IssueError::ProfileNotAllowed(_)
        | IssueError::NotAllowed(_)
        | IssueError::OrderRequired(_)
        | IssueError::Order(_)
        | IssueError::Validity(_)
        | IssueError::ReworkLimit(..)
        | IssueError::Lint(_)
        | IssueError::Inconsistent(_) => Some(Stop::Pause(error.to_string())),
        IssueError::DailyCap(_)
        | IssueError::RequestInProgress
        | IssueError::Signer(_)
        | IssueError::Ledger(_)
        | IssueError::IssuerExpired(_)
        | IssueError::ClockUntrusted(_)
        | IssueError::Log(_)
        | IssueError::WrongSignature(_)
        | IssueError::Random(_) => Some(Stop::Later(error.to_string())),
    }
}

/// What came of a row: its intent.
type Issued = Result<Uuid, IssueError>;

fn failure(row: i32, device: String, error: &IssueError) -> RowFailure {
    let (problem, serial_number) = match error {
        IssueError::DeviceAlreadyCertified(serial) => ("device-already-certified", Some(serial)),
        IssueError::PublicKeyAlreadyCertified(serial) => {
            ("public-key-already-certified", Some(serial))
        }
        IssueError::Succeeded(serial) => ("rework-conflict", Some(serial)),
        IssueError::Scrapped => ("rework-conflict", None),
        IssueError::Csr(fault) => (fault.slug(), None),
        IssueError::Refused(refusal) => (refusal.slug(), None),
        IssueError::Order(OrderRefusal::Closed(..)) => ("order-closed", None),
        IssueError::Order(OrderRefusal::Exhausted(_)) => ("order-exhausted", None),
        IssueError::Order(_) => ("order-mismatch", None),
        _ => ("not-issued", None),
    };
    RowFailure {
        row: u32::try_from(row).unwrap_or_default(),
        device,
        problem: problem.to_owned(),
        detail: error.to_string(),
        serial_number: serial_number.map(SerialNumber::to_hex),
    }
}
