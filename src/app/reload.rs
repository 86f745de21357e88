//! SIGHUP: the configuration is read again, judged whole, and taken into use at once or not at all.
//!
//! What can change while the service runs: the profiles with their templates, what is logged, the
//! rows of stations and people, and the TLS files. Whatever else differs is a fault that names it: a
//! half of a configuration is never in force.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use actix_web::web::Data;
use toml::Value;

use crate::app::log;
use crate::ca::Archive;
use crate::ca::Ca;
use crate::ca::log::NoteKind;
use crate::config::Config;
use crate::config::RawConfig;
use crate::http::principal::Principals;
use crate::http::tls::Tls;
use crate::metrics::ReloadMetrics;
use crate::telemetry;
use crate::telemetry::Level;

/// Settings that change while the service runs; `issuance.profiles` is only where they are.
const CHANGEABLE: [&str; 2] = ["issuance.profiles", "log.level"];

/// What a new configuration is compared with, and what takes it.
pub(super) struct Reloader {
    pub(super) path: PathBuf,
    /// The one that the service was started with.
    pub(super) started: RawConfig,
    pub(super) ca: Arc<Ca>,
    pub(super) tls: Arc<Tls>,
    pub(super) principals: Data<Principals>,
    pub(super) watch: Arc<dyn Archive>,
    pub(super) level: Level,
    pub(super) metrics: ReloadMetrics,
}

impl Reloader {
    /// Reads everything again. What is wrong is in the log, a line each, and on the metric.
    pub(super) async fn reload(&self) {
        // A fault of theirs keeps the rest from nothing, and has a metric of its own.
        self.tls.reload(self.ca.clock.now());
        if let Ok(table) = self.watch.principals().await {
            self.principals.replace(table);
        }
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
        let mut faults: Vec<String> = differing(&self.started, &config.raw)
            .into_iter()
            .map(|setting| format!("{setting}: changes by a restart only"))
            .collect();
        for issuer in &config.issuers {
            let running = self.ca.issuers.get(&issuer.name);
            if running.is_some_and(|running| running.pem != issuer.pem) {
                let name = &issuer.name;
                faults.push(format!(
                    "issuer `{name}`: its certificate changes by a restart only"
                ));
            }
        }
        if let Err(fault) = telemetry::check(&config.raw.log.level) {
            faults.push(format!("log.level: {fault}"));
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
        self.metrics.refused.set(0);
        self.metrics.at.set(self.ca.clock.now().timestamp());
        self.ca.tell(NoteKind::Configured, log::beginning(config));
        tracing::info!(
            profiles = config.profiles.len(),
            "the configuration was read again"
        );
    }
}

/// The settings in which two configurations differ, but for those that may.
fn differing(running: &RawConfig, wanted: &RawConfig) -> Vec<String> {
    let mut found = BTreeSet::new();
    let value = |raw: &RawConfig| Value::try_from(raw).unwrap_or(Value::Boolean(false));
    compare("", &value(running), &value(wanted), &mut found);
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
