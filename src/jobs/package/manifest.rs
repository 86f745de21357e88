//! The lines of `manifest.ndjson`: a head, one a device, one for each other file. Written by the
//! service, read by whoever verifies the package.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What one envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvelopeFormWord {
    /// The keys of a chunk.
    Chunk,
    /// One key.
    Device,
}

/// The forms that each certificate is there in, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forms {
    /// `.pem`
    pub pem: bool,
    /// `.der`
    pub der: bool,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in the head of the package")]
pub struct HeadLine<'a> {
    pub batch: Cow<'a, str>,
    pub created_at: DateTime<Utc>,
    pub site: Cow<'a, str>,
    pub profile: Cow<'a, str>,
    pub order: Option<Cow<'a, str>>,
    pub count: u32,
    pub key_type: Cow<'a, str>,
    pub envelope_form: Option<EnvelopeFormWord>,
    pub recipient_sha256: Option<Cow<'a, str>>,
    pub forms: Forms,
}

/// A device. Digests are hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLine<'a> {
    /// Counted from 1 through the batch.
    pub row: u32,
    /// Device identity.
    pub device: Cow<'a, str>,
    /// Subject attributes by short name.
    pub subject: Cow<'a, BTreeMap<String, String>>,
    /// Serial number of its certificate, hexadecimal.
    pub serial_number: Cow<'a, str>,
    /// SHA-256 over its certificate.
    pub fingerprint_sha256: Cow<'a, str>,
    /// SHA-256 over its public key.
    pub spki_sha256: Cow<'a, str>,
    /// The thing AWS IoT will make.
    pub thing_name: Option<Cow<'a, str>>,
    /// Who signed it: the name of a file in `chain/`.
    pub issuer: Cow<'a, str>,
    /// Its certificate's files.
    pub certificate: CertificateFiles<'a>,
    /// Its key's envelope; null: the key was not made by the service.
    pub key: Option<KeyFile<'a>>,
}

/// A certificate's files, one a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the forms, under their names")]
pub struct CertificateFiles<'a> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<NamedFile<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub der: Option<NamedFile<'a>>,
}

/// A file and its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "name and hash")]
pub struct NamedFile<'a> {
    pub file: Cow<'a, str>,
    pub sha256: Cow<'a, str>,
}

/// A file whose hash has a line of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the name")]
pub struct KeyFile<'a> {
    pub file: Cow<'a, str>,
}

/// A file that is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine<'a> {
    /// Its name.
    pub file: Cow<'a, str>,
    /// SHA-256 over it.
    pub sha256: Cow<'a, str>,
    /// Its octets.
    pub length: u64,
    /// Devices that have no line in it, because AWS IoT would refuse their thing's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u32>,
}

/// A row that got no certificate, in `failures.ndjson`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFailure {
    /// Counted from 1 through the batch.
    pub row: u32,
    /// Device identity.
    pub device: String,
    /// The problem's slug.
    pub problem: String,
    /// What is wrong.
    pub detail: String,
    /// The certificate that stands in the way.
    pub serial_number: Option<String>,
}
