//! `[audit]`: the log, its key, its second copy and its witnesses; and what the section names.

use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::config::LogKey;
use crate::config::RawConfig;
use crate::pki::note::VerifierKey;
use crate::pki::report::ReportKey;

/// `[audit]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct AuditSection {
    /// The log's name, for ever: a URL without its scheme (C2SP tlog-checkpoint).
    pub origin: String,
    /// The key that signs checkpoints.
    pub log_key: LogKeySection,
    /// How often a checkpoint is made when there is news, 100 to 60000.
    #[serde(default = "default_checkpoint_every_ms")]
    pub checkpoint_every_ms: u64,
    /// A file that always holds the newest checkpoint, on another disk or another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_file: Option<PathBuf>,
    /// The second copy of the log; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalSection>,
    /// Witnesses, one entry each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witness: Vec<WitnessSection>,
    /// Hours after the last acknowledgement by a witness from which nothing is issued; absent: it
    /// may be as old as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness_hours_max: Option<u32>,
}

fn default_checkpoint_every_ms() -> u64 {
    1_000
}

/// `[audit.log_key]`: a P-256 key that signs checkpoints and nothing else.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct LogKeySection {
    /// The `[[hsm]]` that holds it.
    pub hsm: String,
    /// `CKA_LABEL` of its private key.
    pub key_label: String,
    /// Its public half, PEM.
    pub public_key: PathBuf,
}

/// `[audit.journal]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct JournalSection {
    /// Where it is: on another disk than the database. Of this replica alone.
    pub directory: PathBuf,
}

/// `[[audit.witness]]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct WitnessSection {
    /// Its name in cosignatures.
    pub name: String,
    /// Where it takes checkpoints: `http://…` or `https://…`, without `/add-checkpoint`.
    pub url: String,
    /// Its public key, PEM: Ed25519.
    pub public_key: PathBuf,
    /// Trust anchors of its TLS certificate, PEM; for `https` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// The public half of the log key, under the log's name.
pub(super) fn log_key(raw: &RawConfig, faults: &mut Vec<String>) -> Option<LogKey> {
    let audit = raw.audit.as_ref()?;
    let section = &audit.log_key;
    let mut wrong = |what: String| faults.push(format!("audit.{what}"));
    if !(100..=60_000).contains(&audit.checkpoint_every_ms) {
        wrong("checkpoint_every_ms: must be 100 to 60000".into());
    }
    if audit.witness_hours_max.is_some() && audit.witness.is_empty() {
        wrong("witness_hours_max: no [[audit.witness]] is configured".into());
    }
    if !raw.hsm.iter().any(|hsm| hsm.name == section.hsm) {
        wrong(format!("log_key: no [[hsm]] is named `{}`", section.hsm));
    }
    // Whoever signs certificates could also say that he has not.
    let same = |hsm: &str, label: &str| hsm == section.hsm && label == section.key_label;
    let issuers = raw.issuer.iter();
    let mut others = issuers
        .map(|issuer| (&issuer.hsm, &issuer.key_label))
        .chain(
            raw.site
                .report_key
                .as_ref()
                .map(|it| (&it.hsm, &it.key_label)),
        );
    if others.any(|(hsm, label)| same(hsm, label)) {
        wrong("log_key: must be a key of its own, and no issuer's".into());
    }
    let read = || -> Result<LogKey, String> {
        let pem = std::fs::read_to_string(&section.public_key).map_err(|e| e.to_string())?;
        Ok(LogKey {
            public_key: ReportKey::from_pem(&pem)?.public_key,
            verifier: VerifierKey::from_pem(&audit.origin, pem.as_bytes())?,
        })
    };
    let path = section.public_key.display();
    read()
        .map_err(|e| wrong(format!("log_key.public_key: {path}: {e}")))
        .ok()
}

/// The keys of the witnesses, by order of the file.
pub(super) fn witnesses(raw: &RawConfig, faults: &mut Vec<String>) -> Vec<VerifierKey> {
    let mut keys: Vec<VerifierKey> = Vec::new();
    for section in raw.audit.iter().flat_map(|audit| &audit.witness) {
        let mut wrong = |what: String| {
            faults.push(format!("audit.witness `{}`: {what}", section.name));
        };
        let tls = section.url.starts_with("https://");
        if !tls && !section.url.starts_with("http://") {
            wrong("url: must begin with http:// or https://".into());
        }
        if tls != section.ca.is_some() {
            wrong("ca: must be there for https, and for nothing else".into());
        }
        if keys.iter().any(|key| key.name() == section.name) {
            wrong("is there twice".into());
        }
        let key = std::fs::read(&section.public_key)
            .map_err(|e| e.to_string())
            .and_then(|pem| VerifierKey::cosigner_from_pem(&section.name, &pem));
        match key {
            Ok(key) => keys.push(key),
            Err(e) => wrong(format!("{}: {e}", section.public_key.display())),
        }
    }
    keys
}
