//! The package that a batch is delivered in: one tar file, certificates as files, keys in
//! envelopes, tables for the flasher and for AWS IoT, and a manifest that the site signs.
//!
//! The same chunks make the same octets, so whichever replica writes it, it has one SHA-256. It is
//! written beside its name and gets it when it is whole and on the disk; whatever fails on the way
//! leaves nothing there. Plain blocking I/O, for a thread of its own; memory holds one chunk.

#[cfg(test)]
pub(crate) mod fixture;
pub mod manifest;
mod output;
pub mod place;
mod readme;
mod writer;

pub use manifest::EnvelopeFormWord;
pub use manifest::Forms;
pub use manifest::PackageFailure;
pub use writer::PackageWriter;

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

/// What the whole package says of its batch.
#[derive(Clone, Debug)]
pub struct PackageHead {
    /// The batch, a UUID.
    pub batch: String,
    /// When the batch was created.
    pub created_at: DateTime<Utc>,
    /// The site's name.
    pub site: String,
    /// Profile's name.
    pub profile: String,
    /// Work order.
    pub order: Option<String>,
    /// Rows that the package accounts for, certified or not.
    pub count: u32,
    /// Kind of the devices' keys.
    pub key_type: String,
    /// What one envelope holds; `None`: the keys were not made by the service.
    pub envelope_form: Option<EnvelopeFormWord>,
    /// SHA-256 over the recipient's certificate, hexadecimal.
    pub recipient_sha256: Option<String>,
    /// Certificate files.
    pub forms: Forms,
    /// Columns of the flasher's table, by name; empty: the usual ones.
    pub columns: Vec<String>,
    /// Certificates of each issuer that a device has, by its name, DER, the one that signs the leaves first.
    pub chains: BTreeMap<String, Vec<Vec<u8>>>,
}

/// The part of the package that one chunk makes.
#[derive(Clone, Debug)]
pub struct PackageChunk {
    /// From 1, ascending.
    pub number: u32,
    /// Its first row.
    pub first_row: u32,
    /// Rows with a certificate, ascending.
    pub devices: Vec<PackageDevice>,
    /// Rows without one, ascending.
    pub failures: Vec<PackageFailure>,
    /// DER of CMS: one for all rows; or one a row from `first_row` on, certified or not, of which
    /// those of certified rows are delivered.
    pub envelopes: Vec<Vec<u8>>,
}

/// A device and its certificate.
#[derive(Clone, Debug)]
pub struct PackageDevice {
    /// Counted from 1 through the batch.
    pub row: u32,
    /// Device identity.
    pub device: String,
    /// Subject attributes by short name.
    pub subject: BTreeMap<String, String>,
    /// Serial number, hexadecimal.
    pub serial_number: String,
    /// SHA-256 over the certificate.
    pub fingerprint_sha256: [u8; 32],
    /// SHA-256 over the public key.
    pub spki_sha256: [u8; 32],
    /// The thing AWS IoT will make.
    pub thing_name: Option<String>,
    /// Issuer's name, one of the head's chains.
    pub issuer: String,
    /// Last valid second.
    pub not_after: DateTime<Utc>,
    /// The certificate.
    pub der: Vec<u8>,
}

/// A package that is whole and on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Where it is.
    pub path: PathBuf,
    /// Octets.
    pub length: u64,
    /// SHA-256 over all of it.
    pub sha256: [u8; 32],
}
