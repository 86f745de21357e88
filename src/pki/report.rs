//! What a site says and signs: the closing report of a work order, and the seal of a batch's package.
//!
//! A key of its own signs these and nothing else, and neither can pass for anything else: its bytes
//! begin with a JWS header of its own `typ`, which no certificate's do.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use openssl::ecdsa::EcdsaSig;
use serde::{Deserialize, Serialize};

use super::certificate::Signature;
use super::hex;
use super::key_policy::KeyAlgorithm;
use super::key_policy::SignatureAlgorithm;
use super::key_policy::SubjectPublicKeyInfo;
use super::pem;

/// Header parameter `typ` of a report.
pub const TYP: &str = "certfactory-report+jws";

/// Header parameter `typ` of the seal of a package's manifest.
pub const MANIFEST_SEAL_TYP: &str = "certfactory-batch+jws";

/// The same of a ticket, by which head office orders.
pub const TICKET_TYP: &str = "certfactory-order+jws";

/// What the report key is called where issuers have their names.
pub const KEY_NAME: &str = "report";

/// What a report says. Digests are hexadecimal, times RFC 3339 of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClosingReport {
    /// The site's name.
    pub site: String,
    /// When the counts were taken.
    pub created_at: DateTime<Utc>,
    /// What was ordered.
    pub order: ReportedOrder,
    /// The ticket that ordered it; null: an operator of the site.
    pub ticket: Option<ReportedTicket>,
    /// How many there are.
    pub counts: ReportedCounts,
    /// Where its certificates are in the log.
    pub log: ReportedLog,
}

/// What was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields of the order, under their names")]
pub struct ReportedOrder {
    pub name: String,
    pub profile: String,
    pub quantity: i64,
    pub scrap_allowance: i64,
    pub reworks_max: Option<i64>,
    pub device_first: Option<String>,
    pub device_last: Option<String>,
    pub device_pattern: Option<String>,
    pub device_count: Option<i64>,
    pub stations: Vec<String>,
    pub opens_at: Option<DateTime<Utc>>,
    pub closes_at: Option<DateTime<Utc>>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub closed_by: String,
    pub closed_at: DateTime<Utc>,
}

/// The ticket that ordered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedTicket {
    /// Its own number.
    pub jti: String,
    /// Name of the key that verified it.
    pub kid: String,
    /// SHA-256 over the whole ticket.
    pub sha256: String,
}

/// How many there are, at the time of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedCounts {
    /// Devices certified: first certificates.
    pub issued: i64,
    /// Certificates of reworks.
    pub reworked: i64,
    /// Intents that ended without a certificate.
    pub abandoned: i64,
    /// Certificates of this status.
    pub confirmed: i64,
    /// Certificates of this status.
    pub superseded: i64,
    /// Certificates of this status.
    pub revoked: i64,
    /// Devices that were scrapped.
    pub scrapped: i64,
    /// Certificates that have not ended.
    pub live: i64,
}

/// Where its certificates are in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportedLog {
    /// Certificates in the whole log.
    pub size: i64,
    /// Certificates of the order: issued and reworked.
    pub certificates: i64,
    /// Log index of its first and of its last one; null: it has none.
    pub first_index: Option<i64>,
    /// See `first_index`.
    pub last_index: Option<i64>,
    /// SHA-256 over the fingerprints (SHA-256 of the DER, 32 octets each) of its certificates, in
    /// the order of the log.
    pub fingerprints_sha256: String,
}

/// What a batch's package holds, in one hash: its manifest names every file of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestSeal {
    /// The batch, a UUID.
    pub batch: String,
    /// The site's name.
    pub site: String,
    /// SHA-256 over `manifest.ndjson`, hexadecimal.
    pub manifest_sha256: String,
    /// Devices with a certificate in it.
    pub devices: u32,
    /// Files that the manifest names.
    pub files: u64,
    /// When the batch was created.
    pub created_at: DateTime<Utc>,
}

/// A report, a seal or a ticket that is about to be signed. Only [`Self::build`],
/// [`Self::build_manifest_seal`] and [`Self::build_ticket`] make one.
pub struct ReportToBeSigned(String);

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

impl ReportToBeSigned {
    /// The signing input of a JWS (RFC 7515, 5.1) that holds a closing report.
    pub fn build(report: &ClosingReport, kid: &str) -> Result<Self, serde_json::Error> {
        Self::of(TYP, report, kid)
    }

    /// The same for the seal of a package's manifest.
    pub fn build_manifest_seal(seal: &ManifestSeal, kid: &str) -> Result<Self, serde_json::Error> {
        Self::of(MANIFEST_SEAL_TYP, seal, kid)
    }

    /// The same for a ticket of head office: its claims, and the name that plants know the key by.
    pub fn build_ticket(claims: &impl Serialize, kid: &str) -> Result<Self, serde_json::Error> {
        Self::of(TICKET_TYP, claims, kid)
    }

    fn of(
        typ: &'static str,
        payload: &impl Serialize,
        kid: &str,
    ) -> Result<Self, serde_json::Error> {
        let header = Header {
            alg: "ES256",
            kid,
            typ,
        };
        let encode = |octets: Vec<u8>| URL_SAFE_NO_PAD.encode(octets);
        let header = encode(serde_json::to_vec(&header)?);
        let payload = encode(serde_json::to_vec(payload)?);
        Ok(Self(format!("{header}.{payload}")))
    }

    /// The exact bytes to sign.
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The whole JWS; `None` when the signature does not verify.
    #[must_use]
    pub fn seal(self, signature: &Signature, key: &ReportKey) -> Option<String> {
        let algorithm = SignatureAlgorithm::EcdsaWithSha256;
        let message = self.to_be_signed();
        if !key.public_key.verifies(algorithm, message, &signature.0) {
            return None;
        }
        // RFC 7518, 3.4: r and s, 32 octets each.
        let pair = EcdsaSig::from_der(&signature.0).ok()?;
        let (r, s) = (
            pair.r().to_vec_padded(32).ok()?,
            pair.s().to_vec_padded(32).ok()?,
        );
        let signature = URL_SAFE_NO_PAD.encode([r, s].concat());
        Some(format!("{}.{signature}", self.0))
    }
}

/// The public half of the key that signs reports: P-256.
#[derive(Clone)]
pub struct ReportKey {
    /// SHA-256 over its `SubjectPublicKeyInfo`, hexadecimal: its name in reports.
    pub kid: String,
    /// Itself.
    pub public_key: SubjectPublicKeyInfo,
}

impl ReportKey {
    /// From its PEM.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let blocks = pem::blocks(text).map_err(|e| e.to_string())?;
        let [block] = &blocks[..] else {
            return Err("must be one public key in PEM".to_owned());
        };
        let public_key = SubjectPublicKeyInfo::from_der(&block.der).map_err(|e| e.to_string())?;
        if public_key.algorithm() != KeyAlgorithm::P256 {
            return Err("must be a P-256 key".to_owned());
        }
        Ok(Self {
            kid: hex(&public_key.sha256()),
            public_key,
        })
    }
}
