//! Configuration: `RawConfig` is the file as written, [`Config`] is checked and complete.
//!
//! Relative paths are relative to the configuration file. Secrets are never in it: PIN and
//! password come from files of their own, also from systemd's `${CREDENTIALS_DIRECTORY}`. All faults
//! are reported at once.

mod audit;
mod check;
mod credential;
mod files;
pub mod headquarters;
mod section;

pub use audit::AuditSection;
pub use audit::JournalSection;
pub use audit::LogKeySection;
pub use audit::WitnessSection;
pub use section::ArchiveSection;
pub use section::BatchesSection;
pub use section::CrlSection;
pub use section::DatabaseSection;
pub use section::HsmSection;
pub use section::HttpSection;
pub use section::IssuanceSection;
pub use section::IssuerSection;
pub use section::LimitsSection;
pub use section::LogFormat;
pub use section::LogSection;
pub use section::OcspSection;
pub use section::OperationsSection;
pub use section::ReportKeySection;
pub use section::RepositorySection;
pub use section::SiteSection;
pub use section::StationsSection;
pub use section::TicketKeySection;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::pki::issuer::Issuer;
use crate::pki::jws::JwsKey;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::note::VerifierKey;
use crate::pki::ocsp::Responder;
use crate::pki::profile::Profile;
use crate::pki::report::ReportKey;
use crate::pki::serial::InstanceByte;

/// The file as written.
#[derive(Debug, Deserialize, Serialize)]
pub struct RawConfig {
    /// The REST listener.
    pub http: HttpSection,
    /// The operations listener.
    #[serde(default)]
    pub operations: OperationsSection,
    /// The repository listener; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositorySection>,
    /// The ledger.
    pub database: DatabaseSection,
    /// Tokens, one entry each.
    pub hsm: Vec<HsmSection>,
    /// Issuing CAs, one entry each.
    pub issuer: Vec<IssuerSection>,
    /// Which site this is.
    #[serde(default)]
    pub site: SiteSection,
    /// Keys that sign tickets, one entry each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ticket_key: Vec<TicketKeySection>,
    /// How CRLs are made.
    #[serde(default)]
    pub crl: CrlSection,
    /// How certificates are issued.
    #[serde(default)]
    pub issuance: IssuanceSection,
    /// How stations and people come by client certificates; without it, not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stations: Option<StationsSection>,
    /// What one principal may ask of the service.
    #[serde(default)]
    pub limits: LimitsSection,
    /// Batches; absent: none are taken here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<BatchesSection>,
    /// The log of all events: how it is signed, copied and witnessed; absent: it is only written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditSection>,
    /// Logging.
    #[serde(default)]
    pub log: LogSection,
}
/// Checked and complete: every file it names was read and makes sense.
pub struct Config {
    /// The file, with paths made absolute.
    pub raw: RawConfig,
    /// By order of the file.
    pub issuers: Vec<Arc<Issuer>>,
    /// OCSP responders of some of them.
    pub responders: Vec<Arc<Responder>>,
    /// By order of name.
    pub profiles: Vec<Arc<Profile>>,
    /// By order of the file.
    pub ticket_keys: Vec<JwsKey>,
    /// Of [`SiteSection::report_key`].
    pub report_key: Option<ReportKey>,
    /// Of [`AuditSection::log_key`].
    pub log_key: Option<LogKey>,
    /// Keys of [`AuditSection::witness`], by order of the file.
    pub witnesses: Vec<VerifierKey>,
    /// User PINs, by order of `raw.hsm`.
    pub pins: Vec<SecretString>,
    /// Password of the service's database role.
    pub database_password: Option<SecretString>,
    /// The same at the standby.
    pub archive_password: Option<SecretString>,
    /// See [`IssuanceSection::instance`].
    pub instance: Option<InstanceByte>,
    /// See [`IssuanceSection::deadline_ms`].
    pub deadline: Duration,
    /// See [`IssuanceSection::clock_difference_max_ms`].
    pub clock_difference_max: TimeDelta,
}

/// The public half of the key that signs checkpoints: P-256.
#[derive(Clone)]
pub struct LogKey {
    /// Under the log's name.
    pub verifier: VerifierKey,
    /// Itself.
    pub public_key: SubjectPublicKeyInfo,
}

/// Everything that is wrong with the configuration, a line each; never a secret.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigFaults(pub Vec<String>);

impl RawConfig {
    /// Reads the file and makes its paths absolute. Refuses what does not belong in it; the files
    /// it names are not looked at.
    pub fn read(path: &Path) -> Result<Self, ConfigFaults> {
        let (raw, faults) = Self::parse(path)?;
        if faults.is_empty() {
            Ok(raw)
        } else {
            Err(ConfigFaults(faults))
        }
    }

    /// The file, and what is in it that does not belong there.
    fn parse(path: &Path) -> Result<(Self, Vec<String>), ConfigFaults> {
        let fault = |what: String| ConfigFaults(vec![format!("{}: {what}", path.display())]);
        let text = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
        let mut faults = Vec::new();
        let mut raw: Self = toml::Deserializer::parse(&text)
            .and_then(|toml| {
                serde_ignored::deserialize(toml, |field| {
                    faults.push(format!("{}: unknown field `{field}`", path.display()));
                })
            })
            .map_err(|e| fault(without_value(&e, &text)))?;
        for (name, url) in [
            ("url", Some(&raw.database.url)),
            ("owner_url", raw.database.owner_url.as_ref()),
            (
                "archive.url",
                raw.database.archive.as_ref().map(|it| &it.url),
            ),
        ] {
            if url.is_some_and(|url| holds_password(url)) {
                faults.push(format!(
                    "database.{name}: a password does not belong here; name a password_file"
                ));
            }
        }
        let base = std::path::absolute(path)
            .ok()
            .and_then(|p| p.parent().map(Path::to_path_buf))
            .unwrap_or_default();
        raw.resolve(&base);
        Ok((raw, faults))
    }

    fn resolve(&mut self, base: &Path) {
        let paths = [
            &mut self.http.certificate,
            &mut self.http.private_key,
            &mut self.http.client_ca,
            &mut self.issuance.profiles,
        ];
        let secrets = self.hsm.iter_mut().map(|h| &mut h.pin_file);
        let secrets = secrets.chain(self.database.password_file.as_mut());
        let secrets = secrets.chain(self.database.owner_password_file.as_mut());
        let archive = self.database.archive.as_mut();
        let secrets = secrets.chain(archive.and_then(|it| it.password_file.as_mut()));
        let credentials = credential::directory();
        for path in secrets {
            *path = credential::resolve(path, base, credentials.as_deref());
        }
        let paths = paths.into_iter();
        let paths = paths.chain(self.ticket_key.iter_mut().map(|k| &mut k.public_key));
        let paths = paths.chain(self.site.report_key.as_mut().map(|k| &mut k.public_key));
        let paths = paths.chain(self.batches.as_mut().map(|b| &mut b.directory));
        let paths = paths.chain(self.audit.as_mut().into_iter().flat_map(|audit| {
            let journal = audit.journal.as_mut().map(|it| &mut it.directory);
            let witnesses = audit.witness.iter_mut();
            let witnesses =
                witnesses.flat_map(|it| std::iter::once(&mut it.public_key).chain(it.ca.as_mut()));
            std::iter::once(&mut audit.log_key.public_key)
                .chain(audit.checkpoint_file.as_mut())
                .chain(journal)
                .chain(witnesses)
        }));
        let issuers = self.issuer.iter_mut().flat_map(|issuer| {
            let ocsp = issuer.ocsp.as_mut().map(|ocsp| &mut ocsp.certificate);
            std::iter::once(&mut issuer.certificate).chain(ocsp)
        });
        for path in paths.chain(issuers) {
            *path = base.join(&*path);
        }
    }

    /// The variables that all modules read, for the process's environment.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.hsm
            .iter()
            .flat_map(|h| h.environment.clone())
            .collect()
    }
}

impl Config {
    /// Reads the file and everything it names.
    pub fn load(path: &Path) -> Result<Self, ConfigFaults> {
        let (raw, mut faults) = RawConfig::parse(path)?;
        let issuers = files::issuers(&raw, &mut faults);
        let responders = files::responders(&raw, &issuers, &mut faults);
        let profiles = files::profiles(&raw, &mut faults);
        let ticket_keys = files::ticket_keys(&raw, &mut faults);
        let report_key = files::report_key(&raw, &mut faults);
        let log_key = audit::log_key(&raw, &mut faults);
        let witnesses = audit::witnesses(&raw, &mut faults);
        let pins = raw
            .hsm
            .iter()
            .filter_map(|hsm| collect(secret(&hsm.pin_file), &mut faults))
            .collect();
        let database_password = raw
            .database
            .password_file
            .as_deref()
            .and_then(|path| collect(secret(path), &mut faults));
        let archive_password = raw
            .database
            .archive
            .as_ref()
            .and_then(|archive| archive.password_file.as_deref())
            .and_then(|path| collect(secret(path), &mut faults));
        let instance = raw.issuance.instance.and_then(InstanceByte::new);
        if raw.issuance.instance.is_some() && instance.is_none() {
            faults.push("issuance.instance: must be 1 to 127".into());
        }
        check::sections(&raw, &mut faults);
        check::stations(&raw, &issuers, &profiles, &mut faults);
        if !faults.is_empty() {
            return Err(ConfigFaults(faults));
        }
        let deadline = Duration::from_millis(raw.issuance.deadline_ms);
        let apart = Duration::from_millis(raw.issuance.clock_difference_max_ms);
        Ok(Self {
            raw,
            issuers,
            responders,
            profiles,
            ticket_keys,
            report_key,
            log_key,
            witnesses,
            pins,
            archive_password: archive_password.or_else(|| database_password.clone()),
            database_password,
            instance,
            deadline,
            clock_difference_max: TimeDelta::from_std(apart).unwrap_or_default(),
        })
    }
}

/// Where the file is wrong and what belongs there. Never the line itself: it may hold a PIN that
/// somebody put in the wrong place.
fn without_value(error: &toml::de::Error, text: &str) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    let what = match error.message().split_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None => error.message().to_owned(),
    };
    format!("line {line}: {what}")
}

fn holds_password(url: &str) -> bool {
    let user = url
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .map(|(user, _)| user);
    user.is_some_and(|user| user.contains(':')) || url.contains("password=")
}

/// Octets written as hexadecimal digits.
#[must_use]
pub fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn collect(
    secret: Result<SecretString, ConfigFaults>,
    faults: &mut Vec<String>,
) -> Option<SecretString> {
    secret.map_err(|fault| faults.extend(fault.0)).ok()
}

/// A secret: the first line of its file, which must not be empty.
pub fn secret(path: &Path) -> Result<SecretString, ConfigFaults> {
    let fault = |what: String| ConfigFaults(vec![format!("{}: {what}", path.display())]);
    let text = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
    let text = zeroize::Zeroizing::new(text);
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(SecretString::from(line)),
        _ => Err(fault("is empty".into())),
    }
}
