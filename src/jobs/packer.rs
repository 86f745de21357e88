//! Packages are made while their batches run, by one replica each, from nothing but rows.
//!
//! A package is the same octets whoever makes it, so whoever comes after a dead replica begins anew.
//! A full disk holds its batch up until there is more room than the package had; nothing stands under
//! the final name before it is whole.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::SignerFault;
use crate::ca::batch::Batch;
use crate::ca::batch::BatchAct;
use crate::ca::batch::DoneChunk;
use crate::ca::batch::Packed;
use crate::ca::batch::State;
use crate::ca::device_key::EnvelopeForm;
use crate::jobs::batches::BatchRunner;
use crate::jobs::package::EnvelopeFormWord;
use crate::jobs::package::Forms;
use crate::jobs::package::PackageChunk;
use crate::jobs::package::PackageDevice;
use crate::jobs::package::PackageFailure;
use crate::jobs::package::PackageHead;
use crate::jobs::package::PackageWriter;
use crate::jobs::room;
use crate::jobs::room::Room;
use crate::pki::pem;
use crate::pki::report::KEY_NAME;
use crate::pki::report::ReportToBeSigned;

/// How long nothing is looked for when there was nothing.
const IDLE: Duration = Duration::from_millis(300);
/// How often it is looked whether the next chunk is done.
const CHUNK_EVERY: Duration = Duration::from_millis(100);
/// How often, meanwhile, it is looked whether the batch still runs.
const STATE_EVERY: Duration = Duration::from_secs(1);
/// How long a disk or a neighbour that failed is left alone.
const RETRY: Duration = Duration::from_secs(3);
/// Time for the manifest's signature.
const SIGN_MAX: Duration = Duration::from_secs(10);

/// Why a package is not closed.
#[derive(Debug, thiserror::Error)]
enum PackFault {
    /// The disk is full, or not there. And how many octets of it the package had taken.
    #[error("the package cannot be written: {0}")]
    Disk(io::Error, u64),
    /// The database.
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    /// The HSM.
    #[error(transparent)]
    Signer(#[from] SignerFault),
    /// The HSM's signature is wrong.
    #[error("the report key made a signature that does not verify")]
    WrongSignature,
    /// The batch does not run any more, or not as it did.
    #[error("the batch has changed its state")]
    Changed,
    /// Ours.
    #[error("{0}")]
    Internal(String),
}

impl BatchRunner {
    /// Makes packages, one after the other.
    pub(super) async fn pack(self: Arc<Self>) {
        let mut room = Room::default();
        while !self.is_stopping() {
            let Some(instance) = self.instance() else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let lacking = room.lacking(|| room::free(&self.directory));
            match self.ca.batches.lease_package(instance, lacking).await {
                Ok(Some(batch)) => self.package(batch, &mut room).await,
                Ok(None) => tokio::time::sleep(IDLE).await,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    async fn package(self: &Arc<Self>, batch: Batch, room: &mut Room) {
        let id = batch.id;
        self.hold(|held| held.package = Some(id));
        match self.write(batch).await {
            Ok(packed) => {
                let length = packed.length;
                while self
                    .ca
                    .batches
                    .act(id, BatchAct::Close(packed.clone()))
                    .await
                    .is_err()
                {
                    if self.is_stopping() {
                        return;
                    }
                    tokio::time::sleep(RETRY).await;
                }
                tracing::info!(batch = %id, length, "a batch's package is closed");
            }
            Err(PackFault::Changed) => tokio::time::sleep(IDLE).await,
            Err(fault @ PackFault::Disk(..)) => {
                let reason = fault.to_string();
                if let PackFault::Disk(error, taken) = fault
                    && error.kind() == io::ErrorKind::StorageFull
                {
                    room.used_up(id, taken);
                }
                tracing::error!(batch = %id, reason, "a batch is held up");
                let act = BatchAct::Hinder(Some(reason));
                self.ca.batches.act(id, act).await.ok();
                tokio::time::sleep(RETRY).await;
            }
            Err(fault) => {
                let reason = fault.to_string();
                tracing::warn!(batch = %id, reason, "a package waits");
                self.ca.batches.act(id, BatchAct::Note(reason)).await.ok();
                tokio::time::sleep(RETRY).await;
            }
        }
        self.hold(|held| held.package = None);
    }

    /// The whole package, from its first chunk to its name.
    async fn write(self: &Arc<Self>, batch: Batch) -> Result<Packed, PackFault> {
        let mut issuers = BTreeSet::new();
        let writer = loop {
            if let Some(writer) = self.write_chunks(&batch, &mut issuers).await? {
                break writer;
            }
        };
        let (writer, seal) = write(writer, PackageWriter::seal_payload).await?;
        let key = self.ca.report_key.as_ref();
        let key = key.ok_or_else(|| PackFault::Internal("no [site.report_key]".to_owned()))?;
        let unsigned = ReportToBeSigned::build_manifest_seal(&seal, &key.kid)
            .map_err(|error| PackFault::Internal(error.to_string()))?;
        let deadline = Instant::now() + SIGN_MAX;
        let signature = self.ca.signer.sign_report(&unsigned, deadline).await?;
        let Some(jws) = unsigned.seal(&signature, key) else {
            self.ca.signer.distrust(KEY_NAME);
            return Err(PackFault::WrongSignature);
        };
        let (_, package) = write(writer, move |writer| writer.finish(&jws)).await?;
        Ok(Packed {
            length: i64::try_from(package.length).unwrap_or(i64::MAX),
            sha256: package.sha256,
        })
    }

    /// All before the tables. `None`: a chunk has another issuer than `issuers` had, which has it now. A
    /// chain stands before all devices, and the profile may take another issuer while its batch runs: so
    /// the package is begun anew.
    async fn write_chunks(
        &self,
        batch: &Batch,
        issuers: &mut BTreeSet<String>,
    ) -> Result<Option<PackageWriter>, PackFault> {
        let (id, cancelled) = (batch.id, batch.state == State::Cancelled);
        let chunks = i32::try_from(batch.chunk_count()).unwrap_or(i32::MAX);
        let head = self.head(batch, issuers)?;
        let (directory, maker) = (self.directory.clone(), self.ca.replica.id);
        let begun = blocking(move || PackageWriter::begin(&directory, maker, head)).await?;
        let mut writer = begun.map_err(|error| PackFault::Disk(error, 0))?;
        let mut hindered = batch.hindrance.is_some();
        for number in 1..=chunks {
            let done = self
                .done_chunk(id, number, cancelled, &mut hindered)
                .await?;
            let Some(done) = done else { continue };
            let chunk = package_chunk(done);
            let known = issuers.len();
            issuers.extend(chunk.devices.iter().map(|device| device.issuer.clone()));
            if issuers.len() > known {
                return Ok(None);
            }
            (writer, ()) = write(writer, move |writer| writer.chunk(&chunk)).await?;
        }
        Ok(Some(writer))
    }

    /// Waits for the chunk; `None` for one that a cancelled batch never began.
    async fn done_chunk(
        &self,
        id: Uuid,
        number: i32,
        cancelled: bool,
        hindered: &mut bool,
    ) -> Result<Option<DoneChunk>, PackFault> {
        let mut looked = Instant::now();
        loop {
            if let Some(chunk) = self.ca.batches.done_chunk(id, number).await? {
                return Ok(Some(chunk));
            }
            if cancelled {
                return Ok(None);
            }
            if self.is_stopping() {
                return Err(PackFault::Changed);
            }
            // All that there is was written: nothing holds the batch up any more.
            if *hindered {
                self.ca.batches.act(id, BatchAct::Hinder(None)).await?;
                *hindered = false;
            }
            tokio::time::sleep(CHUNK_EVERY).await;
            if looked.elapsed() > STATE_EVERY {
                looked = Instant::now();
                let batch = self.ca.batches.show(id).await?;
                if batch.is_none_or(|batch| batch.state != State::Running) {
                    return Err(PackFault::Changed);
                }
            }
        }
    }

    fn head(&self, batch: &Batch, issuers: &BTreeSet<String>) -> Result<PackageHead, PackFault> {
        let definition = &batch.definition;
        let mut chains = BTreeMap::new();
        for name in issuers {
            let issuer = self.ca.issuers.get(name);
            let issuer =
                issuer.ok_or_else(|| PackFault::Internal(format!("no issuer `{name}` here")))?;
            let blocks = issuer
                .pem
                .iter()
                .flat_map(|pem| pem::blocks(pem).unwrap_or_default());
            chains.insert(name.clone(), blocks.map(|block| block.der).collect());
        }
        let keys = definition.keys.as_ref();
        let origin = batch.key_origin.map_or("", |origin| origin.as_str());
        let key_type = keys.map_or(origin, |keys| keys.kind.as_str());
        // Of a cancelled batch, what was begun: the rest was never ordered.
        let count = match batch.state {
            State::Cancelled => batch.begun,
            _ => batch.device_count,
        };
        Ok(PackageHead {
            batch: batch.id.to_string(),
            created_at: batch.created.1,
            site: self.site.clone(),
            profile: definition.profile.clone(),
            order: definition.order.clone(),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            key_type: key_type.to_owned(),
            envelope_form: keys.map(|keys| match keys.envelope {
                EnvelopeForm::Chunk => EnvelopeFormWord::Chunk,
                EnvelopeForm::Device => EnvelopeFormWord::Device,
            }),
            recipient_sha256: keys.map(|keys| keys.recipient_sha256.clone()),
            forms: Forms {
                pem: definition.forms.pem,
                der: definition.forms.der,
            },
            columns: definition.columns.clone(),
            chains,
        })
    }
}

fn package_chunk(done: DoneChunk) -> PackageChunk {
    let row = |row: i32| u32::try_from(row).unwrap_or_default();
    let devices = done
        .certificates
        .into_iter()
        .map(|(number, it)| PackageDevice {
            row: row(number),
            device: it.device,
            subject: it.subject,
            serial_number: it.serial_number.to_hex(),
            fingerprint_sha256: it.fingerprint,
            spki_sha256: it.spki_sha256,
            thing_name: it.thing_name,
            issuer: it.issuer,
            not_after: it.not_after,
            der: it.der,
        });
    let failures = done.failures.into_iter().map(|it| PackageFailure {
        row: it.row,
        device: it.device,
        problem: it.problem,
        detail: it.detail,
        serial_number: it.serial_number,
    });
    PackageChunk {
        number: row(done.number),
        first_row: row(done.rows.0),
        devices: devices.collect(),
        failures: failures.collect(),
        envelopes: done.envelopes,
    }
}

/// Writes more of the package, which is gone, and its room free again, where that fails.
async fn write<T: Send + 'static>(
    mut writer: PackageWriter,
    more: impl FnOnce(&mut PackageWriter) -> io::Result<T> + Send + 'static,
) -> Result<(PackageWriter, T), PackFault> {
    blocking(move || match more(&mut writer) {
        Ok(done) => Ok((writer, done)),
        Err(error) => Err(PackFault::Disk(error, writer.disk_use())),
    })
    .await?
}

/// Disk work, on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PackFault> {
    let task = tokio::task::spawn_blocking(work).await;
    task.map_err(|panic| PackFault::Internal(panic.to_string()))
}
