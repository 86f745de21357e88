//! Certificates of entries, verified on all processors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::thread::ScopedJoinHandle;

use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;

use crate::pki::certificate::VerifiedCertificate;
use crate::pki::entry::Entry;
use crate::pki::entry::Issued;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::tbs::LeafKind;

/// Certificates that may wait; the reader is faster.
const WAITING_MAX: usize = 4_096;

/// An entry to examine: its index, what it says, its octets.
type Case = (u64, Issued, Vec<u8>);

/// Threads that verify.
pub(super) struct Examiners<'scope> {
    cases: Sender<Case>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    found: Arc<Found>,
}

#[derive(Default)]
struct Found {
    good: AtomicU64,
    bad: Mutex<Vec<(u64, String)>>,
}

impl<'scope> Examiners<'scope> {
    /// One a processor.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        issuers: &'env BTreeMap<String, Arc<Issuer>>,
    ) -> Self {
        let (cases, arrivals) = crossbeam_channel::bounded(WAITING_MAX);
        let found = Arc::new(Found::default());
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..count).map(|_| {
            let (arrivals, found) = (arrivals.clone(), Arc::clone(&found));
            scope.spawn(move || work(&arrivals, issuers, &found))
        });
        Self {
            threads: threads.collect(),
            cases,
            found,
        }
    }

    /// Has one examined; waits while too many do.
    pub(super) fn examine(&self, index: u64, issued: Issued, leaf: Vec<u8>) {
        // Nobody is there to take it only when all have panicked, which `finish` says.
        let _ = self.cases.send((index, issued, leaf));
    }

    /// Those that are wrong. Adds to `good` those that are not.
    pub(super) fn finish(self, good: &mut u64) -> Vec<(u64, String)> {
        drop(self.cases);
        let died = self
            .threads
            .into_iter()
            .filter_map(|thread| thread.join().err())
            .count();
        *good += self.found.good.load(Ordering::Relaxed);
        let mut bad = std::mem::take(&mut *lock(&self.found));
        if died > 0 {
            bad.push((0, "certificates could not be examined".to_owned()));
        }
        bad
    }
}

fn lock(found: &Found) -> std::sync::MutexGuard<'_, Vec<(u64, String)>> {
    found.bad.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(arrivals: &Receiver<Case>, issuers: &BTreeMap<String, Arc<Issuer>>, found: &Found) {
    for (index, issued, leaf) in arrivals {
        match examine(&issued, &leaf, issuers) {
            Ok(()) => {
                found.good.fetch_add(1, Ordering::Relaxed);
            }
            Err(what) => lock(found).push((index, what)),
        }
    }
}

fn examine(
    issued: &Issued,
    leaf: &[u8],
    issuers: &BTreeMap<String, Arc<Issuer>>,
) -> Result<(), String> {
    let entry = Entry::parse(leaf).map_err(|e| e.to_string())?;
    let der = entry.certificate.unwrap_or_default();
    let signer = issuers
        .get(&issued.issuer)
        .ok_or_else(|| format!("its issuer {} was not given (--issuer)", issued.issuer))?;
    let kind = LeafKind::from_word(&issued.kind)
        .ok_or_else(|| format!("there is no kind {} of certificate", issued.kind))?;
    let read = VerifiedCertificate::read_linted(kind, der, signer)
        .map_err(|fault| format!("certificate {}: {fault}", issued.serial_number))?;
    let differs = |what: &str| format!("its certificate has another {what} than it says");
    if hex(&read.serial_number) != issued.serial_number {
        return Err(differs("serial number"));
    }
    if hex(&read.spki_sha256) != issued.spki_sha256 {
        return Err(differs("public key"));
    }
    Ok(())
}
