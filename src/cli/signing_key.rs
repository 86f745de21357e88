//! A key that signs for the site and no certificate, made in its token: `order report-key`,
//! `audit log-key`, `headquarters ticket-key`.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::app::token_config;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config;
use crate::config::HsmSection;
use crate::config::RawConfig;
use crate::hsm::ceremony::KeyCeremony;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::pem;

/// Where the configuration says a key is to be.
pub struct Place<'a> {
    /// The section that says so.
    pub section: &'static str,
    /// The `[[hsm]]`.
    pub hsm: &'a str,
    /// `CKA_LABEL`.
    pub key_label: &'a str,
    /// Where its public half goes.
    pub public_key: &'a Path,
}

/// Makes the key that `place` finds in the configuration, and prints its public half.
pub(super) fn run(
    global: &Global,
    section: &'static str,
    place: impl Fn(&RawConfig) -> Option<Place<'_>>,
) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    crate::cli::enter_environment(&raw)?;
    let Some(place) = place(&raw) else {
        let missing = anyhow::anyhow!("no [{section}] is configured");
        return Err(Failure::new(Failure::NOT_FOUND, missing));
    };
    make(&raw, &place)?;
    show(global, &place)
}

/// Prints its public half.
pub(super) fn show(global: &Global, place: &Place<'_>) -> Outcome {
    let public_key = std::fs::read_to_string(place.public_key)?;
    if global.json {
        return crate::cli::print_json(&json!({ "public_key": public_key }));
    }
    print!("{public_key}");
    Ok(())
}

/// Makes the key, P-256, and writes its public half. Never over a file that is there; the token
/// refuses a second key of the label.
pub fn make(raw: &RawConfig, place: &Place<'_>) -> anyhow::Result<()> {
    make_in(&raw.hsm, place)
}

/// The same, in one of these tokens.
pub(super) fn make_in(tokens: &[HsmSection], place: &Place<'_>) -> anyhow::Result<()> {
    let named = || format!("{}: {}", place.section, place.public_key.display());
    let token = tokens
        .iter()
        .find(|hsm| hsm.name == place.hsm)
        .with_context(|| format!("no [[hsm]] is named `{}`", place.hsm))?;
    let mut file = std::fs::File::create_new(place.public_key).with_context(named)?;
    let made = || -> anyhow::Result<Vec<u8>> {
        let pin = config::secret(&token.pin_file)?;
        let ceremony = KeyCeremony::open(&token_config(token, pin, Vec::new()))?;
        let label = place.key_label;
        Ok(ceremony.generate(label, label.as_bytes(), KeyAlgorithm::P256)?)
    };
    let spki = made().inspect_err(|_| {
        std::fs::remove_file(place.public_key).ok();
    })?;
    file.write_all(pem::public_key(&spki).as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(named)
}

/// Of the key that signs closing reports.
pub fn report_key(raw: &RawConfig) -> Option<Place<'_>> {
    let section = raw.site.report_key.as_ref()?;
    Some(Place {
        section: "site.report_key",
        hsm: &section.hsm,
        key_label: &section.key_label,
        public_key: &section.public_key,
    })
}

/// Of the key that signs checkpoints of the log.
pub fn log_key(raw: &RawConfig) -> Option<Place<'_>> {
    let section = &raw.audit.as_ref()?.log_key;
    Some(Place {
        section: "audit.log_key",
        hsm: &section.hsm,
        key_label: &section.key_label,
        public_key: &section.public_key,
    })
}
