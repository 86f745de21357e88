//! The seal, the manifest's hash and head, and what must be known before the files are gone through.

use std::collections::BTreeMap;
use std::collections::HashSet;

use openssl::sha::Sha256;

use crate::cli::batch::package::PackageFile;
use crate::cli::batch::package::Span;
use crate::cli::batch::package::heading_of;
use crate::cli::batch::package::next_line;
use crate::cli::batch::verify::Trust;
use crate::cli::batch::verify::faults::Faults;
use crate::cli::batch::verify::seen::short_hash;
use crate::jobs::package::PackageFailure;
use crate::jobs::package::manifest::HeadLine;
use crate::jobs::package::place::Place;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::jws;
use crate::pki::report::MANIFEST_SEAL_TYP;
use crate::pki::report::ManifestSeal;

/// Longest signature file, octets.
const SEAL_LENGTH_MAX: u64 = 64 << 10;

/// Longest chain, octets.
const CHAIN_LENGTH_MAX: u64 = 1 << 20;

/// A manifest that is the sealed one, and what stands beside it.
pub(super) struct Sealed {
    pub(super) seal: ManifestSeal,
    pub(super) head: HeadLine<'static>,
    /// The lines of devices, and those of other files.
    pub(super) devices: Span,
    pub(super) files: Span,
    pub(super) issuers: BTreeMap<String, Issuer>,
    pub(super) failures: Failures,
}

/// Rows without a certificate.
#[derive(Default)]
pub(super) struct Failures {
    pub(super) rows: HashSet<u32>,
    /// As envelopes name them.
    devices: HashSet<[u8; 16]>,
}

impl Failures {
    /// Whether the device that an envelope names so is among them.
    pub(super) fn hold(&self, heading: &str) -> bool {
        self.devices.contains(&short_hash(heading))
    }
}

/// `None`: there is nothing that the site has sealed; the reason is among the faults.
pub(super) fn check(
    package: &PackageFile,
    trust: &Trust,
    faults: &mut Faults<'_>,
) -> anyhow::Result<Option<Sealed>> {
    let found = package.find(|place| {
        let early = [Place::Manifest, Place::Seal, Place::Failures];
        early.contains(place) || matches!(place, Place::Chain(_))
    })?;
    let (Some(manifest), Some(seal)) = (found.get(&Place::Manifest), found.get(&Place::Seal))
    else {
        for place in [Place::Manifest, Place::Seal] {
            if !found.contains_key(&place) {
                faults.add(
                    &place,
                    "is missing, so nothing says what the package should be",
                );
            }
        }
        return Ok(None);
    };
    let seal = match read_seal(package, *seal, trust) {
        Ok(seal) => seal,
        Err(fault) => {
            faults.add(Place::Seal, fault);
            return Ok(None);
        }
    };
    let manifest = match read_manifest(package, *manifest, &seal) {
        Ok(manifest) => manifest,
        Err(fault) => {
            faults.add(Place::Manifest, fault);
            return Ok(None);
        }
    };
    let mut issuers = BTreeMap::new();
    let mut failures = Failures::default();
    for (place, span) in found {
        let read = match &place {
            Place::Chain(name) => read_chain(package, span, name, trust).map(|issuer| {
                issuers.insert(name.clone(), issuer);
            }),
            Place::Failures => read_failures(package, span, &mut failures),
            _ => Ok(()),
        };
        if let Err(fault) = read {
            faults.add(&place, fault);
        }
    }
    let (head, devices, files) = manifest;
    Ok(Some(Sealed {
        seal,
        head,
        devices,
        files,
        issuers,
        failures,
    }))
}

fn read_seal(package: &PackageFile, span: Span, trust: &Trust) -> anyhow::Result<ManifestSeal> {
    let octets = package.read(span, SEAL_LENGTH_MAX)?;
    let keys = std::slice::from_ref(&trust.report_key);
    let verified = jws::verify(std::str::from_utf8(&octets)?, MANIFEST_SEAL_TYP, keys)?;
    Ok(serde_json::from_slice(&verified.payload)?)
}

/// The head, and where the lines of devices and those of files are.
fn read_manifest(
    package: &PackageFile,
    span: Span,
    seal: &ManifestSeal,
) -> anyhow::Result<(HeadLine<'static>, Span, Span)> {
    let mut reader = package.reader(span);
    let mut sha256 = Sha256::new();
    let mut first = Vec::new();
    let mut line = Vec::new();
    let (mut position, mut devices, mut files, mut strays) = (0, None, None, 0);
    while next_line(&mut reader, &mut line)? {
        sha256.update(&line);
        if line.starts_with(b"{\"row\":") {
            devices.get_or_insert(position);
        } else if line.starts_with(b"{\"file\":") {
            files.get_or_insert(position);
        } else if position == 0 {
            first.clone_from(&line);
        } else {
            strays += 1;
        }
        position += line.len() as u64;
    }
    if hex(&sha256.finish()) != seal.manifest_sha256 {
        anyhow::bail!("it is not the manifest that was sealed: its SHA-256 is another");
    }
    if strays > 0 {
        anyhow::bail!("{strays} of its lines are neither a device's nor a file's");
    }
    let head: HeadLine<'static> = serde_json::from_slice(&first)?;
    if head.batch != seal.batch || head.site != seal.site || head.created_at != seal.created_at {
        anyhow::bail!("it is of another batch than its seal");
    }
    let files = files.unwrap_or(position);
    let devices = devices.unwrap_or(files);
    let part = |from: u64, to: u64| Span {
        offset: span.offset + from,
        length: to.saturating_sub(from),
    };
    Ok((head, part(devices, files), part(files, position)))
}

fn read_chain(
    package: &PackageFile,
    span: Span,
    name: &str,
    trust: &Trust,
) -> anyhow::Result<Issuer> {
    let text = String::from_utf8(package.read(span, CHAIN_LENGTH_MAX)?)?;
    let issuer = Issuer::parse(name, &text, None)?;
    if !trust.issuers.is_empty() && !trust.issuers.contains(&issuer.certificate) {
        anyhow::bail!("{} is none of the issuers that are trusted", issuer.subject);
    }
    Ok(issuer)
}

fn read_failures(package: &PackageFile, span: Span, failures: &mut Failures) -> anyhow::Result<()> {
    let mut reader = package.reader(span);
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line)? {
        let failure: PackageFailure = serde_json::from_slice(&line)?;
        if !failures.rows.insert(failure.row) {
            anyhow::bail!("row {} stands twice", failure.row);
        }
        let heading = heading_of(&failure.device);
        failures.devices.insert(short_hash(&heading));
    }
    Ok(())
}
