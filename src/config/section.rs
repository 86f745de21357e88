//! The sections of the file as written, with what they are where it says nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::pki::issuer::Issuer;

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
