//! Configuration: `RawConfig` is the file as written, [`Config`] is checked and complete.
//!
//! Relative paths are relative to the configuration file. Secrets are never in it: PIN and
//! password come from files of their own, also from systemd's `${CREDENTIALS_DIRECTORY}`. All faults
//! are reported at once.

mod audit;
mod credential;
pub mod headquarters;

pub use audit::AuditSection;
pub use audit::JournalSection;
pub use audit::LogKeySection;
pub use audit::WitnessSection;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use openssl::x509::X509;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::pki::crl::shard_number;
use crate::pki::entry::LOG_KEY_NAME;
use crate::pki::issuer::Issuer;
use crate::pki::jws::JwsKey;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::note::VerifierKey;
use crate::pki::ocsp::Responder;
use crate::pki::profile::Profile;
use crate::pki::report;
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

/// `[http]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct HttpSection {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The service's own TLS certificate and chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// Trust anchors of client certificates, PEM. Never an issuer of devices.
    pub client_ca: PathBuf,
    /// Connections at a time, of each worker; more wait in the kernel's queue.
    #[serde(default = "default_connections_max")]
    pub connections_max: usize,
    /// Connections at a time from one address; one more is closed at once.
    #[serde(default = "default_connections_per_address_max")]
    pub connections_per_address_max: usize,
    /// TLS handshakes a second, in all; more wait their turn.
    #[serde(default = "default_handshakes_per_second_max")]
    pub handshakes_per_second_max: u32,
    /// Worker threads; 0 is one a core.
    #[serde(default)]
    pub workers: usize,
    /// Seconds, at SIGTERM, for which `/readyz` already says no while requests are still served, 0 to 600:
    /// as long as the load balancer in front takes to see it and to send stations elsewhere.
    #[serde(default)]
    pub drain_seconds: u16,
}

fn default_connections_max() -> usize {
    4096
}

fn default_connections_per_address_max() -> usize {
    256
}

fn default_handshakes_per_second_max() -> u32 {
    200
}

/// `[operations]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct OperationsSection {
    /// Address and port of `/metrics`, `/livez`, `/readyz`, `/version`.
    pub listen: SocketAddr,
}

impl Default for OperationsSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
        }
    }
}

/// `[repository]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct RepositorySection {
    /// Address and port of `/pki/…`, plain HTTP: what is there is public and signed.
    pub listen: SocketAddr,
}

/// `[database]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct DatabaseSection {
    /// `postgres://…` of the service's role, without a password.
    pub url: String,
    /// `postgres://…` of the role that owns the schema, for `migrate` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_url: Option<String>,
    /// File that holds the password of the role that owns the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_password_file: Option<PathBuf>,
    /// File that holds the password of the service's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Whether a commit must wait for a standby: nothing is issued while `synchronous_standby_names` is empty.
    #[serde(default)]
    pub require_synchronous: bool,
    /// Connections for reading; writing has its own.
    #[serde(default = "default_archive_connections")]
    pub archive_connections: u32,
    /// A streaming standby for searches, exports and pages; absent: they are read on the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveSection>,
}

/// `[database.archive]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ArchiveSection {
    /// `postgres://…` of the service's role at the standby, without a password.
    pub url: String,
    /// File that holds the password of the service's role; absent: the one of `[database]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How old its answers may be, 1 to 3600; beyond it the primary is read.
    #[serde(default = "default_lag_max_seconds")]
    pub lag_max_seconds: u32,
}

fn default_lag_max_seconds() -> u32 {
    10
}

fn default_archive_connections() -> u32 {
    4
}

/// `[[hsm]]`: one token.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct HsmSection {
    /// Name used by `[[issuer]]`.
    pub name: String,
    /// The maker's PKCS#11 module.
    pub module: PathBuf,
    /// The token's label.
    pub token_label: String,
    /// The token's serial number, where labels are not unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_serial: Option<String>,
    /// File that holds the user PIN.
    pub pin_file: PathBuf,
    /// Sessions that sign.
    #[serde(default = "default_sessions")]
    pub sessions: usize,
    /// Signatures that may wait, and as many of batches beside them.
    #[serde(default = "default_queue_depth_max")]
    pub queue_depth_max: usize,
    /// A call that has not returned after so long takes the token out of service until it does.
    #[serde(default = "default_hung_after_ms")]
    pub hung_after_ms: u64,
    /// Whether recovery may finalise and re-initialise the module.
    #[serde(default = "yes")]
    pub recover_module: bool,
    /// Environment variables the module reads; set before it is loaded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

fn default_hung_after_ms() -> u64 {
    2_000
}
fn default_sessions() -> usize {
    2
}
fn default_queue_depth_max() -> usize {
    256
}
fn yes() -> bool {
    true
}

/// `[[issuer]]`: one issuing CA.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct IssuerSection {
    /// Name in profiles, URLs and labels.
    pub name: String,
    /// The `[[hsm]]` that holds its key.
    pub hsm: String,
    /// `CKA_LABEL` of its private key.
    pub key_label: String,
    /// `CKA_ID`, hexadecimal, where the label is not unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The CA certificate, then its chain, PEM.
    pub certificate: PathBuf,
    /// CRL distribution point of its leaves; with `{shard}` in it where there are shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_url: Option<String>,
    /// Over how many CRLs its leaves are spread, 1 to 256. May be changed, but never taken away:
    /// a leaf keeps its shard for life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_shards: Option<u16>,
    /// Its OCSP responder; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<OcspSection>,
}

/// `[issuer.ocsp]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct OcspSection {
    /// `CKA_LABEL` of the responder's private key, in the issuer's token.
    pub key_label: String,
    /// The responder's certificate, signed by the issuer, PEM.
    pub certificate: PathBuf,
}

impl IssuerSection {
    /// Reads the issuer's certificate and chain.
    pub fn load(&self) -> Result<Issuer, String> {
        let pem = std::fs::read_to_string(&self.certificate).map_err(|e| e.to_string())?;
        Issuer::parse(&self.name, &pem, self.crl_url.clone())
            .and_then(|issuer| issuer.with_crl_shards(self.crl_shards))
            .map_err(|e| e.to_string())
    }
}

/// `[crl]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct CrlSection {
    /// How often revocations are looked for, 1 to 3600: a revoked certificate is on the CRL after
    /// so long and the time to build it.
    pub every_seconds: u32,
    /// From `thisUpdate` to `nextUpdate`, 1 to 8760. A CRL is renewed at half of it, so the HSM may
    /// be away for the other half.
    pub next_update_hours: u32,
}

impl Default for CrlSection {
    fn default() -> Self {
        Self {
            every_seconds: 15,
            next_update_hours: 48,
        }
    }
}

/// `[site]`
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct SiteSection {
    /// Its name: what a ticket names as its audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether work orders come by ticket only.
    pub tickets_required: bool,
    /// Whether head office may subscribe to what is final here.
    pub published: bool,
    /// The key that signs closing reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_key: Option<ReportKeySection>,
}

/// `[site.report_key]`: a P-256 key that signs closing reports and nothing else.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ReportKeySection {
    /// The `[[hsm]]` that holds it.
    pub hsm: String,
    /// `CKA_LABEL` of its private key.
    pub key_label: String,
    /// Its public half, PEM.
    pub public_key: PathBuf,
}

/// `[[ticket_key]]`: one key that head office signs tickets with.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct TicketKeySection {
    /// Its name in tickets.
    pub kid: String,
    /// Its public half, PEM: Ed25519 or P-256.
    pub public_key: PathBuf,
}

/// `[issuance]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct IssuanceSection {
    /// Directory of profiles, one `NAME.toml` each.
    pub profiles: PathBuf,
    /// First octet of every serial number made here, 1 to 127: this one and no other, and the service does
    /// not start while another replica holds it. Absent: the lowest that no replica holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<u8>,
    /// When a request is answered, whatever the neighbours do.
    pub deadline_ms: u64,
    /// How far the clocks of this machine, of the database and of the last record may be apart;
    /// beyond it nothing is issued.
    pub clock_difference_max_ms: u64,
}

impl Default for IssuanceSection {
    fn default() -> Self {
        Self {
            profiles: PathBuf::from("profiles"),
            instance: None,
            deadline_ms: 5_000,
            clock_difference_max_ms: 5_000,
        }
    }
}

/// `[stations]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct StationsSection {
    /// The `[[issuer]]` of client certificates, which issues nothing else. Its certificate must be
    /// in `http.client_ca`.
    pub issuer: String,
    /// Days a client certificate is valid.
    #[serde(default = "default_station_days")]
    pub days: u32,
    /// Whether what widens somebody's rights needs two administrators.
    #[serde(default)]
    pub four_eyes: bool,
}

fn default_station_days() -> u32 {
    365
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct LimitsSection {
    /// Requests a second of a station whose rights name no rate; 0 is no limit.
    pub station_requests_per_second: u32,
    /// Requests of one station that are worked on at once; 0 is no limit.
    pub station_requests_at_once: usize,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            station_requests_per_second: 20,
            station_requests_at_once: 8,
        }
    }
}

/// `[batches]`
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct BatchesSection {
    /// Where packages are made: room for about two kilobytes a device.
    pub directory: PathBuf,
    /// Days after its end for which a batch's keys are kept for their recipient, 1 to 3650.
    #[serde(default = "default_retention_days")]
    pub retention_days: u16,
}

fn default_retention_days() -> u16 {
    30
}

/// `[log]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct LogSection {
    /// A filter as `tracing` reads it: `info`, `certfactory=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// JSON unless standard output is a terminal.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Auto,
        }
    }
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
        let issuers = issuers(&raw, &mut faults);
        let responders = responders(&raw, &issuers, &mut faults);
        let profiles = profiles(&raw, &mut faults);
        let ticket_keys = ticket_keys(&raw, &mut faults);
        let report_key = report_key(&raw, &mut faults);
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
        check(&raw, &mut faults);
        check_stations(&raw, &issuers, &profiles, &mut faults);
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

fn check(raw: &RawConfig, faults: &mut Vec<String>) {
    if let Err(fault) = crate::telemetry::check(&raw.log.level) {
        faults.push(format!("log.level: {fault}"));
    }
    for path in [
        &raw.http.certificate,
        &raw.http.private_key,
        &raw.http.client_ca,
    ] {
        if let Err(e) = std::fs::File::open(path) {
            faults.push(format!("http: {}: {e}", path.display()));
        }
    }
    if !(100..=60_000).contains(&raw.issuance.deadline_ms) {
        faults.push("issuance.deadline_ms: must be 100 to 60000".into());
    }
    if !(100..=60_000).contains(&raw.issuance.clock_difference_max_ms) {
        faults.push("issuance.clock_difference_max_ms: must be 100 to 60000".into());
    }
    if raw.http.connections_per_address_max == 0 || raw.http.handshakes_per_second_max == 0 {
        faults.push(
            "http: connections_per_address_max and handshakes_per_second_max must be 1 or more"
                .into(),
        );
    }
    if raw.http.drain_seconds > 600 {
        faults.push("http.drain_seconds: must be 0 to 600".into());
    }
    if !(1..=3600).contains(&raw.crl.every_seconds) {
        faults.push("crl.every_seconds: must be 1 to 3600".into());
    }
    if !(1..=8760).contains(&raw.crl.next_update_hours) {
        faults.push("crl.next_update_hours: must be 1 to 8760".into());
    }
    if let Some(batches) = &raw.batches {
        if !(1..=3650).contains(&batches.retention_days) {
            faults.push("batches.retention_days: must be 1 to 3650".into());
        }
        if raw.site.report_key.is_none() {
            faults.push(
                "batches: a package's manifest is signed by [site.report_key]; name one".into(),
            );
        }
    }
    unique("hsm", raw.hsm.iter().map(|h| &h.name), faults);
    unique("issuer", raw.issuer.iter().map(|i| &i.name), faults);
    for name in [report::KEY_NAME, LOG_KEY_NAME] {
        if raw.issuer.iter().any(|issuer| issuer.name == name) {
            faults.push(format!("issuer `{name}`: this name is the {name} key's"));
        }
    }
    for hsm in &raw.hsm {
        if hsm
            .environment
            .keys()
            .any(|name| name.is_empty() || name.contains(['=', '\0']))
        {
            faults.push(format!("hsm `{}`: a variable's name is not one", hsm.name));
        }
        if !(1..=64).contains(&hsm.sessions) || !(1..=65_536).contains(&hsm.queue_depth_max) {
            faults.push(format!(
                "hsm `{}`: sessions must be 1 to 64, queue_depth_max 1 to 65536",
                hsm.name
            ));
        }
    }
    for issuer in &raw.issuer {
        if issuer
            .key_id
            .as_deref()
            .is_some_and(|id| decode_hex(id).is_none())
        {
            faults.push(format!(
                "issuer `{}`: key_id is not hexadecimal",
                issuer.name
            ));
        }
        if !raw.hsm.iter().any(|h| h.name == issuer.hsm) {
            faults.push(format!(
                "issuer `{}`: no [[hsm]] is named `{}`",
                issuer.name, issuer.hsm
            ));
        }
    }
}

/// A client certificate is no device's, and a device's is no client's: their issuers are different
/// ones, and only the clients' is a trust anchor of clients.
fn check_stations(
    raw: &RawConfig,
    issuers: &[Arc<Issuer>],
    profiles: &[Arc<Profile>],
    faults: &mut Vec<String>,
) {
    let station_issuer = raw.stations.as_ref().map(|it| it.issuer.as_str());
    let anchors = std::fs::read(&raw.http.client_ca).unwrap_or_default();
    let anchors = X509::stack_from_pem(&anchors).unwrap_or_default();
    let trusted = |issuer: &Issuer| {
        let same = |anchor: &X509| {
            let key = anchor.public_key().and_then(|key| key.public_key_to_der());
            key.is_ok_and(|key| key == issuer.public_key.as_der())
        };
        anchors.iter().any(same)
    };
    for issuer in issuers {
        match (
            Some(issuer.name.as_str()) == station_issuer,
            trusted(issuer),
        ) {
            (true, false) => faults.push(format!(
                "stations.issuer: the certificate of `{}` is not in http.client_ca",
                issuer.name
            )),
            (false, true) => faults.push(format!(
                "http.client_ca: holds issuer `{}`, so its devices could connect as clients",
                issuer.name
            )),
            (true, true) | (false, false) => {}
        }
    }
    let Some(stations) = &raw.stations else {
        return;
    };
    if !raw.issuer.iter().any(|it| it.name == stations.issuer) {
        faults.push(format!(
            "stations.issuer: no [[issuer]] is named `{}`",
            stations.issuer
        ));
    }
    if !(1..=3_650).contains(&stations.days) {
        faults.push("stations.days: must be 1 to 3650".into());
    }
    for profile in profiles {
        if profile.issuers().any(|issuer| issuer == stations.issuer) {
            faults.push(format!(
                "profile `{}`: its issuer `{}` is the stations', which issues to no device",
                profile.name, stations.issuer
            ));
        }
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a String>, faults: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    let mut none = true;
    for name in names {
        none = false;
        if !seen.insert(name) {
            faults.push(format!("{what} `{name}` is there twice"));
        }
    }
    if none {
        faults.push(format!("no [[{what}]] is configured"));
    }
}

fn issuers(raw: &RawConfig, faults: &mut Vec<String>) -> Vec<Arc<Issuer>> {
    let mut issuers: Vec<Arc<Issuer>> = Vec::new();
    for section in &raw.issuer {
        match section.load() {
            // AWS IoT and every verifier find the issuer by name: two keys behind one name break devices.
            Ok(issuer)
                if issuers.iter().any(|other| {
                    other.subject_der == issuer.subject_der
                        && other.public_key.as_der() != issuer.public_key.as_der()
                }) =>
            {
                faults.push(format!(
                    "issuer `{}`: another issuer has the same subject and another key",
                    section.name
                ));
            }
            Ok(issuer) if issuer.crl_url.is_some() && !issuer.signs_crls => {
                faults.push(format!(
                    "issuer `{}`: crl_url is set, but the CA's keyUsage lacks cRLSign",
                    section.name
                ));
            }
            Ok(issuer) => issuers.push(Arc::new(issuer)),
            Err(e) => faults.push(format!(
                "issuer `{}`: {}: {e}",
                section.name,
                section.certificate.display()
            )),
        }
    }
    for issuer in issuers.iter().filter(|issuer| issuer.crl_shards.is_some()) {
        let shard = |name: &str| {
            let number = name.strip_prefix(&issuer.name)?.strip_prefix('-')?;
            shard_number(number)
        };
        for other in &raw.issuer {
            if shard(&other.name).is_some() {
                faults.push(format!(
                    "issuer `{}`: its CRL would have the name of a shard of issuer `{}`",
                    other.name, issuer.name
                ));
            }
        }
    }
    issuers
}

fn ticket_keys(raw: &RawConfig, faults: &mut Vec<String>) -> Vec<JwsKey> {
    if raw.site.id.as_ref().is_some_and(|id| !is_word(id)) {
        faults.push("site.id: 1 to 64 printable ASCII characters without space".into());
    }
    let none = raw.ticket_key.is_empty();
    if raw.site.published && raw.site.id.is_none() {
        faults.push("site.published: site.id must be there: every row bears it".into());
    }
    if let (true, Some(id), Some(audit)) = (raw.site.published, &raw.site.id, &raw.audit)
        && !audit.origin.contains(id.as_str())
    {
        faults.push("audit.origin: must hold site.id where the site is published: head office has many logs".into());
    }
    if raw.site.tickets_required && none {
        faults.push("site.tickets_required: no [[ticket_key]] is configured".into());
    }
    if raw.site.id.is_none() && !none {
        faults.push("site.id: must be there with a [[ticket_key]]: tickets name it".into());
    }
    let mut keys: Vec<JwsKey> = Vec::new();
    for section in &raw.ticket_key {
        let TicketKeySection { kid, public_key } = section;
        if !is_word(kid) || keys.iter().any(|key| key.kid == *kid) {
            faults.push(format!(
                "ticket_key `{kid}`: a kid is 1 to 64 printable ASCII characters without space, each once"
            ));
        }
        let key = std::fs::read(public_key)
            .map_err(|e| e.to_string())
            .and_then(|pem| JwsKey::from_pem(kid, &pem));
        match key {
            Ok(key) => keys.push(key),
            Err(e) => faults.push(format!("ticket_key `{kid}`: {}: {e}", public_key.display())),
        }
    }
    keys
}

fn report_key(raw: &RawConfig, faults: &mut Vec<String>) -> Option<ReportKey> {
    let section = raw.site.report_key.as_ref()?;
    let mut wrong = |what: String| faults.push(format!("site.report_key: {what}"));
    if raw.site.id.is_none() {
        wrong("site.id must be there: reports name it".into());
    }
    if !raw.hsm.iter().any(|hsm| hsm.name == section.hsm) {
        wrong(format!("no [[hsm]] is named `{}`", section.hsm));
    }
    let issuers = &raw.issuer;
    if issuers
        .iter()
        .any(|i| i.hsm == section.hsm && i.key_label == section.key_label)
    {
        wrong("an issuer's key signs no reports".into());
    }
    let key = std::fs::read_to_string(&section.public_key)
        .map_err(|e| e.to_string())
        .and_then(|text| ReportKey::from_pem(&text));
    key.map_err(|e| wrong(format!("{}: {e}", section.public_key.display())))
        .ok()
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn responders(
    raw: &RawConfig,
    issuers: &[Arc<Issuer>],
    faults: &mut Vec<String>,
) -> Vec<Arc<Responder>> {
    let mut responders = Vec::new();
    for issuer in issuers {
        let section = raw.issuer.iter().find(|i| i.name == issuer.name);
        let Some(ocsp) = section.and_then(|section| section.ocsp.as_ref()) else {
            continue;
        };
        let parsed = std::fs::read_to_string(&ocsp.certificate)
            .map_err(|e| e.to_string())
            .and_then(|pem| Responder::parse(issuer, &pem).map_err(|e| e.to_string()));
        match parsed {
            Ok(responder) => responders.push(Arc::new(responder)),
            Err(e) => faults.push(format!(
                "issuer `{}`: ocsp: {}: {e}",
                issuer.name,
                ocsp.certificate.display()
            )),
        }
    }
    if !responders.is_empty() && raw.repository.is_none() {
        faults.push("repository: an issuer has an ocsp section, but nobody listens".into());
    }
    responders
}

fn profiles(raw: &RawConfig, faults: &mut Vec<String>) -> Vec<Arc<Profile>> {
    let directory = &raw.issuance.profiles;
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|x| x == "toml"))
            .collect(),
        Err(e) => {
            faults.push(format!("issuance.profiles: {}: {e}", directory.display()));
            return Vec::new();
        }
    };
    paths.sort();
    if paths.is_empty() {
        faults.push(format!(
            "issuance.profiles: {}: holds no profile",
            directory.display()
        ));
    }
    let mut profiles = Vec::new();
    for path in paths {
        match profile(directory, &path) {
            Ok(profile) => {
                for issuer in profile.issuers() {
                    if !raw.issuer.iter().any(|i| i.name == issuer) {
                        faults.push(format!(
                            "{}: no [[issuer]] is named `{issuer}`",
                            path.display()
                        ));
                    }
                }
                profiles.push(Arc::new(profile));
            }
            Err(lines) => faults.extend(
                lines
                    .into_iter()
                    .map(|line| format!("{}: {line}", path.display())),
            ),
        }
    }
    profiles
}

fn profile(directory: &Path, path: &Path) -> Result<Profile, Vec<String>> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| vec![format!("{}: {e}", path.display())])
    };
    let name = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    let text = read(path)?;
    let template = Profile::template_path(&text)
        .map(|file| read(&directory.join(file)))
        .transpose()?;
    Profile::parse(name, &text, template.as_deref())
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
