//! SIGHUP: the configuration is read again, judged whole, and taken into use at once or not at all.
//!
//! What can change while the service runs: the profiles with their templates, what is logged, and the
//! TLS files. Whatever else differs is a fault that names it, also where a file changed under its name: a
//! half of a configuration is never in force.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Value;

use crate::app::log;
use crate::app::upkeep::show_last_seconds;
use crate::ca::Ca;
use crate::ca::log::NoteKind;
use crate::config::Config;
use crate::config::RawConfig;
use crate::http::tls::Tls;
use crate::metrics::ReloadMetrics;
use crate::telemetry::Level;

/// Settings that change while the service runs; `issuance.profiles` is only where they are.
const CHANGEABLE: [&str; 2] = ["issuance.profiles", "log.level"];

/// What a new configuration is compared with, and what takes it.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    /// The one that the service was started with.
    pub(super) started: Arc<Config>,
    /// What its files held then.
    pub(super) files: BTreeMap<String, Option<[u8; 32]>>,
    pub(super) ca: Arc<Ca>,
    pub(super) tls: Arc<Tls>,
    pub(super) level: Level,
    pub(super) metrics: ReloadMetrics,
}

impl Reloader {
    /// Reads everything again. What is wrong is in the log, a line each, and on the metric.
    pub(super) async fn reload(&self) {
        // A fault of theirs keeps the rest from nothing, and has a metric of its own.
        self.tls.reload(self.ca.clock.now());
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || Config::load(&path)).await;
        let judged = match read {
            Ok(Ok(config)) => self.judge(&config).map(|()| config),
            Ok(Err(faults)) => Err(faults.0),
            Err(panicked) => Err(vec![panicked.to_string()]),
        };
        let result = match judged {
            Ok(config) => {
                self.take(&config);
                "accepted"
            }
            Err(faults) => {
                for fault in faults {
                    tracing::error!(
                        fault,
                        "the configuration is refused; the earlier one stays in force"
                    );
                }
                self.metrics.refused.set(1);
                "refused"
            }
        };
        self.metrics.reloads.with_label_values(&[result]).inc();
    }

    /// Whether it can be taken into use as a whole.
    fn judge(&self, config: &Config) -> Result<(), Vec<String>> {
        let mut faults: Vec<String> = differing(&self.started.raw, &config.raw)
            .into_iter()
            .map(|setting| format!("{setting}: changes by a restart only"))
            .collect();
        let found = files(&config.raw);
        for (setting, content) in &self.files {
            if found.get(setting).is_some_and(|found| found != content) {
                faults.push(format!(
                    "{setting}: its file changed, which counts by a restart only"
                ));
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn take(&self, config: &Config) {
        if let Err(fault) = self.level.set(&config.raw.log.level) {
            tracing::error!(%fault, "log.level");
        }
        self.ca.profiles.replace(&config.profiles);
        show_last_seconds(&self.ca);
        self.metrics.refused.set(0);
        self.metrics.at.set(self.ca.clock.now().timestamp());
        self.ca
            .tell(NoteKind::Configured, log::beginning(config, &self.ca));
        tracing::info!(
            profiles = config.profiles.len(),
            "the configuration was read again"
        );
    }
}

/// Digests of the files that are read at the start, by the setting that names them; `None`: not readable.
pub(super) fn files(raw: &RawConfig) -> BTreeMap<String, Option<[u8; 32]>> {
    let mut named: Vec<(String, &Path)> = Vec::new();
    for hsm in &raw.hsm {
        named.push((format!("hsm `{}`: pin_file", hsm.name), &hsm.pin_file));
    }
    for issuer in &raw.issuer {
        let name = &issuer.name;
        named.push((format!("issuer `{name}`: certificate"), &issuer.certificate));
        if let Some(ocsp) = &issuer.ocsp {
            named.push((
                format!("issuer `{name}`: ocsp.certificate"),
                &ocsp.certificate,
            ));
        }
    }
    for key in &raw.ticket_key {
        named.push((
            format!("ticket_key `{}`: public_key", key.kid),
            &key.public_key,
        ));
    }
    if let Some(key) = &raw.site.report_key {
        named.push(("site.report_key.public_key".to_owned(), &key.public_key));
    }
    if let Some(audit) = &raw.audit {
        named.push((
            "audit.log_key.public_key".to_owned(),
            &audit.log_key.public_key,
        ));
        for witness in &audit.witness {
            let setting = format!("audit.witness `{}`: public_key", witness.name);
            named.push((setting, &witness.public_key));
        }
    }
    if let Some(path) = &raw.database.password_file {
        named.push(("database.password_file".to_owned(), path));
    }
    let archive = raw.database.archive.as_ref();
    if let Some(path) = archive.and_then(|archive| archive.password_file.as_ref()) {
        named.push(("database.archive.password_file".to_owned(), path));
    }
    let digest = |path: &Path| {
        let content = std::fs::read(path).ok().map(zeroize::Zeroizing::new)?;
        Some(openssl::sha::sha256(&content))
    };
    named
        .into_iter()
        .map(|(setting, path)| (setting, digest(path)))
        .collect()
}

/// The settings in which two configurations differ, but for those that may.
fn differing(running: &RawConfig, wanted: &RawConfig) -> Vec<String> {
    let mut found = BTreeSet::new();
    match (Value::try_from(running), Value::try_from(wanted)) {
        (Ok(running), Ok(wanted)) => compare("", &running, &wanted, &mut found),
        _ => {
            found.insert("the configuration".to_owned());
        }
    }
    found
        .into_iter()
        .filter(|setting| !CHANGEABLE.contains(&setting.as_str()))
        .collect()
}

/// Tables are compared setting by setting, all else as a whole.
fn compare(name: &str, one: &Value, other: &Value, found: &mut BTreeSet<String>) {
    let (Value::Table(a), Value::Table(b)) = (one, other) else {
        if one != other {
            found.insert(name.to_owned());
        }
        return;
    };
    for key in a.keys().chain(b.keys()) {
        let inner = if name.is_empty() {
            key.clone()
        } else {
            format!("{name}.{key}")
        };
        match (a.get(key), b.get(key)) {
            (Some(one), Some(other)) => compare(&inner, one, other, found),
            _ => {
                found.insert(inner);
            }
        }
    }
}
