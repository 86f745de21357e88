//! The log at start and at work: checked, followed, told what has no row of its own.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use openssl::ssl::SslConnector;
use openssl::ssl::SslMethod;
use serde_json::json;

use crate::ca::Ca;
use crate::ca::log::LogBook;
use crate::ca::log::LogPart;
use crate::ca::log::LogWatch;
use crate::ca::log::NoteKind;
use crate::ca::log::fresh::FreshEntries;
use crate::ca::log::seen::SeenLog;
use crate::config::Config;
use crate::config::WitnessSection;
use crate::jobs::log::Follower;
use crate::jobs::log::LogSigning;
use crate::jobs::log::outside;
use crate::jobs::log::outside::Outside;
use crate::jobs::log::start;
use crate::jobs::log::start::Started;
use crate::journal::Journal;
use crate::journal::JournalConfig;
use crate::metrics::LogMetrics;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::hex;
use crate::pki::note::VerifierKey;
use crate::pki::serial::InstanceByte;

/// How often it is looked whether HSM, clock and log are as they were.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long after the start they are first looked at.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Octets of a segment of the journal.
const SEGMENT_LENGTH: u64 = 64 << 20;

/// The log, checked.
pub(super) struct Log {
    /// How far it is kept and proved.
    pub(super) watch: Arc<LogWatch>,
    signing: Option<LogSigning>,
    journal: Option<Arc<Journal>>,
    started: Started,
}

/// How the configuration has the log signed.
#[must_use]
pub(super) fn signing(config: &Config) -> Option<LogSigning> {
    let (audit, key) = config.raw.audit.as_ref().zip(config.log_key.as_ref())?;
    Some(LogSigning {
        origin: audit.origin.clone(),
        key: key.verifier.clone(),
        every: Duration::from_millis(audit.checkpoint_every_ms),
        file: audit.checkpoint_file.clone(),
    })
}

/// Holds the log against its last checkpoint and the journal against the log.
pub(super) async fn open(config: &Config, book: &dyn LogBook) -> anyhow::Result<Log> {
    let section = config.raw.audit.as_ref();
    let journal = match section.and_then(|audit| audit.journal.as_ref()) {
        Some(journal) => {
            let opened = Journal::open(JournalConfig {
                directory: journal.directory.clone(),
                segment_length: SEGMENT_LENGTH,
            });
            let opened = opened
                .with_context(|| format!("the journal in {}", journal.directory.display()))?;
            if opened.cut_octets > 0 {
                tracing::warn!(
                    octets = opened.cut_octets,
                    "the journal ended in the middle of a record, which was never released"
                );
            }
            Some((journal.directory.clone(), Arc::new(opened.journal)))
        }
        None => None,
    };
    let signing = signing(config);
    let beside = journal
        .as_ref()
        .map(|(path, journal)| (path.as_path(), &**journal));
    let started = start::check(book, signing.as_ref(), beside).await?;
    let watch = LogWatch::new(journal.is_some());
    watch.set_kept(started.kept);
    watch.set_proved(started.proved);
    Ok(Log {
        watch: Arc::new(watch),
        signing,
        journal: journal.map(|(_, journal)| journal),
        started,
    })
}

impl Log {
    /// Follows the log from now on, and tells it that the service has started.
    pub(super) fn follow(
        self,
        config: &Config,
        ca: &Arc<Ca>,
        (fresh, seen): (Arc<FreshEntries>, Arc<SeenLog>),
        metrics: Arc<LogMetrics>,
    ) -> anyhow::Result<()> {
        ca.tell(NoteKind::Started, beginning(config, ca));
        let works = ca.replica.part.works();
        for witness in witnesses(config)?.into_iter().filter(|_| works) {
            witness.start(Arc::clone(ca), Arc::clone(&metrics));
        }
        let section = config.raw.audit.as_ref();
        if let Some(hours) = section.and_then(|audit| audit.witness_hours_max) {
            outside::watch_age(Arc::clone(ca), hours, ca.clock.now());
        }
        let follower = Follower {
            ca: Arc::clone(ca),
            signing: self.signing,
            journal: self.journal,
            fresh,
            seen,
            metrics,
        };
        let signed = follower.signing.is_some();
        let following = follower.start(self.started);
        let watch = Arc::clone(&ca.log);
        tokio::spawn(async move {
            if let Err(panicked) = following.await {
                tracing::error!(%panicked, "the log is followed no more");
                let reason = "the log is followed no more, by a defect of the service: restart it";
                watch.set_fault(LogPart::Journal, Some(reason.to_owned()));
            }
        });
        tokio::spawn(keep_watching(Arc::clone(ca), signed));
        Ok(())
    }
}

/// Where checkpoints go.
fn witnesses(config: &Config) -> anyhow::Result<Vec<Outside>> {
    let sections = config.raw.audit.iter().flat_map(|audit| &audit.witness);
    let witness = |(section, key): (&WitnessSection, &VerifierKey)| {
        let named = || format!("audit.witness `{}`", section.name);
        let tls = match &section.ca {
            Some(anchor) => {
                let mut tls = SslConnector::builder(SslMethod::tls_client())?;
                tls.set_ca_file(anchor).with_context(named)?;
                Some(tls.build())
            }
            None => None,
        };
        Ok(Outside {
            key: key.clone(),
            url: section.url.parse().with_context(named)?,
            tls,
        })
    };
    sections.zip(&config.witnesses).map(witness).collect()
}

/// What runs, and by which configuration.
pub(super) fn beginning(config: &Config, ca: &Ca) -> serde_json::Value {
    let file = toml::to_string(&config.raw).unwrap_or_default();
    let profiles: BTreeMap<&str, String> = config
        .profiles
        .iter()
        .map(|profile| (profile.name.as_str(), hex(&profile.sha256)))
        .collect();
    json!({
        "instance": instance(ca),
        "role": ca.replica.part.as_str(),
        "version": env!("CARGO_PKG_VERSION"),
        "binary_sha256": binary_sha256(),
        "configuration_sha256": hex(&openssl::sha::sha256(file.as_bytes())),
        "profiles": profiles,
    })
}

/// The instance octet as it is now.
fn instance(ca: &Ca) -> Option<u8> {
    ca.replica.octet().ok().map(InstanceByte::get)
}

/// Piece by piece: a binary with its symbols is large. Null where it cannot be read.
fn binary_sha256() -> Option<String> {
    // It is the same for the process's life, and long.
    static KNOWN: OnceLock<Option<String>> = OnceLock::new();
    let hash = || -> std::io::Result<[u8; 32]> {
        let mut binary = std::fs::File::open("/proc/self/exe")?;
        let mut sha256 = openssl::sha::Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            let length = binary.read(&mut piece)?;
            if length == 0 {
                return Ok(sha256.finish());
            }
            sha256.update(&piece[..length]);
        }
    };
    let known = KNOWN.get_or_init(|| {
        hash()
            .inspect_err(|error| tracing::warn!(%error, "this program cannot read its own binary"))
            .ok()
            .map(|sha256| hex(&sha256))
    });
    known.clone()
}

/// Tells the log when an issuer's key or the clock becomes unusable, and when it is again.
async fn keep_watching(ca: Arc<Ca>, signed: bool) {
    let mut before: BTreeMap<String, Option<String>> = BTreeMap::new();
    // That keys have not proved themselves in the first moments is no news.
    tokio::time::sleep(SETTLED_AFTER).await;
    loop {
        let keys = ca.issuers.keys().map(String::as_str);
        for issuer in keys.chain(signed.then_some(LOG_KEY_NAME)) {
            let reason = ca.signer.ready(issuer).err();
            if changes(&mut before, issuer, reason.as_ref()) {
                let event = json!({ "instance": instance(&ca), "issuer": issuer, "signs": reason.is_none(), "reason": reason });
                ca.tell(NoteKind::Hsm, event);
            }
        }
        let reason = ca.clock_trusted().err();
        if changes(&mut before, "/clock", reason.as_ref()) {
            let event =
                json!({ "instance": instance(&ca), "trusted": reason.is_none(), "reason": reason });
            ca.tell(NoteKind::Clock, event);
        }
        if let Ok(head) = ca.log_book.head().await {
            let halted = head
                .halted
                .map(|reason| format!("the log is halted: {reason}"));
            ca.log.set_fault(LogPart::Tree, halted);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Whether this is news, beside that all has been well from the beginning.
fn changes(
    before: &mut BTreeMap<String, Option<String>>,
    what: &str,
    now: Option<&String>,
) -> bool {
    let earlier = before.insert(what.to_owned(), now.cloned());
    earlier.unwrap_or(None).is_none() != now.is_none()
}
