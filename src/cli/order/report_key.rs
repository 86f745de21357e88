//! `order report-key`: the key that signs closing reports, made in its token.

use std::io::Write;

use anyhow::Context;
use serde_json::json;

use crate::app::token_config;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::config;
use crate::config::RawConfig;
use crate::hsm::ceremony::KeyCeremony;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::pem;

/// Makes the key that the configuration names.
pub(super) fn run(global: &Global) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    crate::cli::enter_environment(&raw)?;
    if raw.site.report_key.is_none() {
        let missing = anyhow::anyhow!("no [site.report_key] is configured");
        return Err(Failure::new(Failure::NOT_FOUND, missing));
    }
    make(&raw)?;
    let Some(section) = raw.site.report_key else {
        return Ok(());
    };
    let public_key = std::fs::read_to_string(&section.public_key)?;
    if global.json {
        return crate::cli::print_json(&json!({ "public_key": public_key }));
    }
    print!("{public_key}");
    Ok(())
}

/// Makes the key and writes its public half. Never over a file that is there; the token refuses a
/// second key of the label.
pub fn make(raw: &RawConfig) -> anyhow::Result<()> {
    let section = raw
        .site
        .report_key
        .as_ref()
        .context("no [site.report_key] is configured")?;
    let named = || format!("site.report_key: {}", section.public_key.display());
    let token = raw
        .hsm
        .iter()
        .find(|hsm| hsm.name == section.hsm)
        .with_context(|| format!("no [[hsm]] is named `{}`", section.hsm))?;
    let mut file = std::fs::File::create_new(&section.public_key).with_context(named)?;
    let made = || -> anyhow::Result<Vec<u8>> {
        let pin = config::secret(&token.pin_file)?;
        let ceremony = KeyCeremony::open(&token_config(token, pin, Vec::new()))?;
        let label = &section.key_label;
        Ok(ceremony.generate(label, label.as_bytes(), KeyAlgorithm::P256)?)
    };
    let spki = made().inspect_err(|_| {
        std::fs::remove_file(&section.public_key).ok();
    })?;
    file.write_all(pem::public_key(&spki).as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(named)
}
