//! CRLs: one of all revoked certificates of each issuer, and one of each shard.
//!
//! [`CrlPublisher::round`] is the whole of it: what is missing something, or is half its life old,
//! is built, signed, stored, and only then published. The store admits one content a number, so
//! any number of replicas may run rounds at once: one of them wins, the others publish what it
//! made. While HSM or database are down the last good CRL stays published, with its true dates.
//!
//! Nothing of it is on the way of an issuance.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use prometheus::IntGaugeVec;

use crate::ca::Ca;
use crate::ca::LedgerFault;
use crate::ca::PortFuture;
use crate::ca::SignerFault;
use crate::ca::Turn;
use crate::ca::replica::Duty;
use crate::metrics::CrlMetrics;
use crate::pki::crl::Edition;
use crate::pki::crl::RevokedCertificate;
use crate::pki::crl::TbsCertList;
use crate::pki::issuer::Issuer;
use crate::pki::lint::LintFault;

/// Rounds that whoever has not the duty waits for whoever has it.
const PATIENCE: u32 = 2;
/// Time for the HSM to sign one.
const SIGN_MAX: Duration = Duration::from_secs(10);

/// Which CRL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrlId {
    /// Issuer's name.
    pub issuer: String,
    /// The part of its certificates that it lists; `None`: all of them.
    pub shard: Option<u16>,
}

impl fmt::Display for CrlId {
    /// The name of its file, without the extension.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shard {
            None => f.write_str(&self.issuer),
            Some(shard) => write!(f, "{}-{shard}", self.issuer),
        }
    }
}

/// A CRL that was stored and so may be published.
#[derive(Clone, Debug)]
pub struct StoredCrl {
    /// Which one.
    pub id: CrlId,
    /// Its number and dates, in whole seconds.
    pub edition: Edition,
    /// Certificates it lists.
    pub entries: u64,
    /// The signed CRL, DER.
    pub der: Bytes,
}

/// What the store knows of one CRL.
#[derive(Clone, Debug)]
pub struct CrlState {
    /// Which one.
    pub id: CrlId,
    /// The newest stored one, and how many certificates it lists.
    pub newest: Option<(Edition, u64)>,
    /// Revoked certificates that name this shard; for the complete CRL, those that name none.
    pub revoked: u64,
}

/// The content of the next CRL.
#[derive(Debug)]
pub struct Revocations {
    /// Number of the newest stored CRL, read before the rest; 0 when there is none.
    pub newest: u64,
    /// Database time, not before any of the revocations.
    pub at: DateTime<Utc>,
    /// What is revoked.
    pub revoked: Vec<RevokedCertificate>,
}

/// Where CRLs and what they list are kept.
pub trait CrlStore: Send + Sync {
    /// Every CRL that was ever stored or has something to list.
    fn survey(&self) -> PortFuture<'_, Result<Vec<CrlState>, LedgerFault>>;

    /// What the next CRL has to list.
    fn revocations(&self, id: CrlId) -> PortFuture<'_, Result<Revocations, LedgerFault>>;

    /// Stores a CRL for ever or until ten newer ones are there. `false`: its number is taken, and
    /// nothing was stored.
    fn store(&self, crl: StoredCrl) -> PortFuture<'_, Result<bool, LedgerFault>>;

    /// The newest stored one.
    fn newest(&self, id: CrlId) -> PortFuture<'_, Result<Option<StoredCrl>, LedgerFault>>;
}

/// The published CRLs. Reading waits for nobody, and gets no CRL older than it got before.
#[derive(Default)]
pub struct CrlShelf(ArcSwap<BTreeMap<CrlId, Arc<StoredCrl>>>);

impl CrlShelf {
    /// The newest one; `None` before the first is made.
    #[must_use]
    pub fn get(&self, id: &CrlId) -> Option<Arc<StoredCrl>> {
        self.0.load().get(id).cloned()
    }

    fn number(&self, id: &CrlId) -> u64 {
        self.get(id).map_or(0, |crl| crl.edition.crl_number)
    }

    fn put(&self, crl: &Arc<StoredCrl>) {
        self.0.rcu(|published| {
            let mut all = BTreeMap::clone(published);
            let known = all.get(&crl.id).map_or(0, |known| known.edition.crl_number);
            if known < crl.edition.crl_number {
                all.insert(crl.id.clone(), Arc::clone(crl));
            }
            all
        });
    }
}

/// Why a CRL was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The clocks of the service and of the database differ.
    #[error("{0}")]
    ClockUntrusted(String),
    /// The HSM.
    #[error(transparent)]
    Signer(#[from] SignerFault),
    /// The database.
    #[error(transparent)]
    Store(#[from] LedgerFault),
    /// A signature that does not verify: nothing was stored.
    #[error("the HSM returned a signature that does not verify")]
    WrongSignature,
    /// The bytes we built break a rule.
    #[error(transparent)]
    Lint(#[from] LintFault),
    /// A task of ours ended early.
    #[error("the work was broken off: {0}")]
    Broken(String),
}

/// Makes and publishes the CRLs of all issuers.
///
/// One of the replicas that work has the duty ([`Duty::Crls`]); another of them renews what was found out of
/// date `PATIENCE` times. One that only answers stations publishes what is stored.
pub struct CrlPublisher {
    /// Issuers, HSM and clock.
    pub ca: Arc<Ca>,
    /// Where CRLs are stored.
    pub store: Arc<dyn CrlStore>,
    /// Where they are published.
    pub shelf: Arc<CrlShelf>,
    /// From `thisUpdate` to `nextUpdate`; half of it after `thisUpdate` a CRL is renewed.
    pub life: TimeDelta,
    /// What it counts.
    pub metrics: Arc<CrlMetrics>,
    /// Rounds in which something was out of date, one after the other.
    pub waited: AtomicU32,
}

impl CrlPublisher {
    /// Publishes what is stored, then renews what is out of date; returns how many CRLs could not
    /// be. An error says that the database could not be asked; what went wrong with one CRL is
    /// logged and counted, and keeps no other.
    pub async fn round(&self) -> Result<usize, LedgerFault> {
        let survey = self.publish_stored().await?;
        let mut due = self.wanted(&survey);
        due.retain(|id, _| {
            let newest = survey.iter().find(|s| s.id == *id).and_then(|s| s.newest);
            self.is_due(newest, revoked(&survey, id))
        });
        if due.is_empty() {
            self.waited.store(0, Ordering::Relaxed);
        }
        if due.is_empty() || !self.has_its_turn() {
            return Ok(0);
        }
        let mut failed = 0;
        for (id, issuer) in due {
            let start = Instant::now();
            let outcome = match self.renew(&id, &issuer).await {
                Ok(true) => "stored",
                Ok(false) => "lost",
                Err(error) => {
                    tracing::error!(crl = %id, %error, "the CRL was not renewed");
                    failed += 1;
                    "failed"
                }
            };
            self.metrics.count(&id.issuer, outcome, start.elapsed());
        }
        Ok(failed)
    }

    /// Whether this replica renews what is out of date.
    fn has_its_turn(&self) -> bool {
        let replica = &self.ca.replica;
        replica.part.works()
            && (replica.has(Duty::Crls) || self.waited.fetch_add(1, Ordering::Relaxed) >= PATIENCE)
    }

    /// Publishes the newest stored CRLs; returns what the store knows.
    pub async fn publish_stored(&self) -> Result<Vec<CrlState>, LedgerFault> {
        let survey = self.store.survey().await?;
        for state in &survey {
            let stored = state.newest.map_or(0, |(edition, _)| edition.crl_number);
            if stored > self.shelf.number(&state.id) {
                self.publish_newest(&state.id).await?;
            }
        }
        Ok(survey)
    }

    /// The complete CRL of every issuer that is valid, the shards it has now, and those it had: a
    /// certificate keeps its shard for life.
    fn wanted(&self, survey: &[CrlState]) -> BTreeMap<CrlId, Arc<Issuer>> {
        let mut wanted = BTreeMap::new();
        let now = self.ca.clock.now();
        let issuers = self.ca.issuers.values();
        for issuer in issuers.filter(|i| i.signs_crls && i.validity.contains(now)) {
            let once = survey.iter().filter(|s| s.id.issuer == issuer.name);
            let once = once.filter_map(|s| s.id.shard);
            let shards: BTreeSet<u16> = match issuer.crl_shards {
                Some(shards) => once.chain(0..shards).collect(),
                // Without a URL for them there is nothing to name them by; the complete CRL lists
                // what they would.
                None => BTreeSet::new(),
            };
            for shard in std::iter::once(None).chain(shards.into_iter().map(Some)) {
                let id = CrlId {
                    issuer: issuer.name.clone(),
                    shard,
                };
                wanted.insert(id, Arc::clone(issuer));
            }
        }
        wanted
    }

    fn is_due(&self, newest: Option<(Edition, u64)>, revoked: u64) -> bool {
        newest.is_none_or(|(edition, entries)| {
            let half_life = (edition.next_update - edition.this_update) / 2;
            revoked > entries || self.ca.clock.now() >= edition.this_update + half_life
        })
    }

    /// Builds, signs, stores, publishes. `false`: another replica was first, and its CRL is
    /// published.
    async fn renew(&self, id: &CrlId, issuer: &Arc<Issuer>) -> Result<bool, CrlError> {
        self.ca.clock_trusted().map_err(CrlError::ClockUntrusted)?;
        self.ca
            .signer
            .ready(&id.issuer)
            .map_err(SignerFault::Unavailable)?;

        let Revocations {
            newest,
            at,
            revoked,
        } = self.store.revocations(id.clone()).await?;
        let this_update = at.trunc_subsecs(0);
        let edition = Edition {
            crl_number: newest + 1,
            this_update,
            next_update: this_update + self.life,
        };
        let entries = revoked.len() as u64;
        let (of, shard) = (Arc::clone(issuer), id.shard);
        let tbs = aside(move || TbsCertList::build(&of, shard, edition, revoked)).await??;
        let deadline = Instant::now() + SIGN_MAX;
        let signature = self
            .ca
            .signer
            .sign(&id.issuer, &tbs, Turn::Line, deadline)
            .await?;
        let der = aside(move || tbs.assemble(&signature)).await?;
        let der = der.map_err(|_| {
            self.ca.signer.distrust(&id.issuer);
            CrlError::WrongSignature
        })?;
        let crl = StoredCrl {
            id: id.clone(),
            edition,
            entries,
            der: der.into(),
        };
        let stored = self.store.store(crl.clone()).await?;
        if stored {
            tracing::info!(crl = %id, crl_number = edition.crl_number, entries, "stored a CRL");
            self.publish(crl);
        } else {
            self.publish_newest(id).await?;
        }
        Ok(stored)
    }

    async fn publish_newest(&self, id: &CrlId) -> Result<(), LedgerFault> {
        if let Some(crl) = self.store.newest(id.clone()).await? {
            self.publish(crl);
        }
        Ok(())
    }

    fn publish(&self, crl: StoredCrl) {
        let crl = Arc::new(crl);
        self.shelf.put(&crl);
        let shard = crl.id.shard.map(|shard| shard.to_string());
        let labels = [&crl.id.issuer, shard.as_deref().unwrap_or_default()];
        let gauge = |of: &IntGaugeVec, value: i64| of.with_label_values(&labels).set(value);
        let (edition, metrics) = (crl.edition, &self.metrics);
        gauge(
            &metrics.number,
            i64::try_from(edition.crl_number).unwrap_or(i64::MAX),
        );
        gauge(&metrics.this_update, edition.this_update.timestamp());
        gauge(&metrics.next_update, edition.next_update.timestamp());
        gauge(
            &metrics.entries,
            i64::try_from(crl.entries).unwrap_or(i64::MAX),
        );
    }
}

/// How many certificates a CRL would list now.
fn revoked(survey: &[CrlState], id: &CrlId) -> u64 {
    let listed = |state: &&CrlState| {
        state.id.issuer == id.issuer && (id.shard.is_none() || state.id.shard == id.shard)
    };
    survey
        .iter()
        .filter(listed)
        .map(|state| state.revoked)
        .sum()
}

/// Runs what takes long on a thread that nobody's request waits for.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CrlError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| CrlError::Broken(error.to_string()))
}
