//! Writes a package, chunk after chunk.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use openssl::sha::sha256;
use serde::Serialize;
use uuid::Uuid;

use crate::jobs::package::EnvelopeFormWord;
use crate::jobs::package::Package;
use crate::jobs::package::PackageChunk;
use crate::jobs::package::PackageDevice;
use crate::jobs::package::PackageHead;
use crate::jobs::package::manifest::CertificateFiles;
use crate::jobs::package::manifest::DeviceLine;
use crate::jobs::package::manifest::FileLine;
use crate::jobs::package::manifest::HeadLine;
use crate::jobs::package::manifest::KeyFile;
use crate::jobs::package::manifest::NamedFile;
use crate::jobs::package::output;
use crate::jobs::package::output::SideFile;
use crate::jobs::package::output::Tarball;
use crate::jobs::package::place::Form;
use crate::jobs::package::place::Part;
use crate::jobs::package::place::Place;
use crate::jobs::package::readme;
use crate::pki::hex;
use crate::pki::pem;
use crate::pki::report::ManifestSeal;
use crate::pki::roads::Road;
use crate::pki::roads::RoadDevice;
use crate::pki::roads::table;
use crate::pki::roads::table::Column;
use crate::pki::roads::table::TableRow;

/// Longest issuer name, octets: it becomes a file's name, and a tar has 100 for that.
const ISSUER_NAME_LENGTH_MAX: usize = 80;

/// Octets of a block that `stat` counts.
const STAT_BLOCK: u64 = 512;

/// Writes one package. Dropped before its end, or after an error, it leaves nothing behind.
pub struct PackageWriter {
    head: PackageHead,
    columns: Vec<Column>,
    /// PEM of the certificate that signs the leaves, by issuer.
    issuers: BTreeMap<String, String>,
    directory: PathBuf,
    /// Where it grows.
    part: PathBuf,
    stage: Stage,
    last_chunk: u32,
    last_row: u32,
    devices: u32,
    failures: u32,
    files: u64,
    left_out: u32,
}

enum Stage {
    Open(Box<Work>),
    Sealed(Tarball),
    /// It is finished, or something failed: a buffer may hold half a member.
    Over,
}

/// All that grows.
struct Work {
    tar: Tarball,
    table: SideFile,
    bulk: SideFile,
    allow_list: SideFile,
    failures: SideFile,
    manifest: SideFile,
    /// The manifest's lines of other files, which stand behind those of the devices.
    files: SideFile,
    /// Used again for each line.
    line: Vec<u8>,
}

impl PackageWriter {
    /// Begins the package of a batch in `directory/<batch>.<maker>.part`. What others began of it is removed:
    /// a crash left it, or who still writes there has lost the lease, and finds nothing to give its name to.
    pub fn begin(directory: &Path, maker: Uuid, head: PackageHead) -> io::Result<Self> {
        let columns = columns(&head.columns)?;
        let issuers = issuers(&head.chains)?;
        if !head.forms.pem && !head.forms.der {
            return Err(refused("certificates have no form"));
        }
        let begun = format!("{}.", head.batch);
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with(&begun) || !name.ends_with(".part") {
                continue;
            }
            match fs::remove_dir_all(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let part = directory.join(format!("{begun}{maker}.part"));
        DirBuilder::new().mode(0o700).create(&part)?;
        let mut writer = Self {
            head,
            columns,
            issuers,
            directory: directory.to_owned(),
            part,
            stage: Stage::Over,
            last_chunk: 0,
            last_row: 0,
            devices: 0,
            failures: 0,
            files: 0,
            left_out: 0,
        };
        let mut work = writer.create_files()?;
        writer.write_opening(&mut work)?;
        writer.stage = Stage::Open(Box::new(work));
        Ok(writer)
    }

    /// Adds a chunk. Chunks come in the order of their numbers. After an error nothing more is taken.
    pub fn chunk(&mut self, chunk: &PackageChunk) -> io::Result<()> {
        let mut work = self.open_work()?;
        if chunk.number <= self.last_chunk {
            return Err(refused("a chunk is out of its order"));
        }
        self.last_chunk = chunk.number;
        self.check_envelopes(chunk)?;
        for device in &chunk.devices {
            self.write_device(&mut work, chunk.number, device)?;
        }
        self.write_envelopes(&mut work, chunk)?;
        for failure in &chunk.failures {
            work.line.clear();
            append_json(&mut work.line, failure)?;
            work.failures.append(&work.line)?;
            self.failures += 1;
        }
        self.stage = Stage::Open(work);
        Ok(())
    }

    /// Adds the tables and the manifest, and says what is to be signed. After it comes
    /// [`Self::finish`].
    pub fn seal_payload(&mut self) -> io::Result<ManifestSeal> {
        let Work {
            mut tar,
            table,
            bulk,
            allow_list,
            failures,
            mut manifest,
            mut files,
            mut line,
        } = *self.open_work()?;
        if self.devices + self.failures != self.head.count {
            let (devices, failures, count) = (self.devices, self.failures, self.head.count);
            return Err(refused(&format!(
                "{devices} devices and {failures} failures are not {count} rows"
            )));
        }
        let left_out = Some(self.left_out).filter(|devices| *devices > 0);
        let mut tables = vec![
            (Place::Table, table, None),
            (Place::Bulk, bulk, left_out),
            (Place::AllowList, allow_list, left_out),
        ];
        if self.failures > 0 {
            tables.push((Place::Failures, failures, None));
        }
        for (place, side, left_out) in tables {
            let closed = side.close()?;
            tar.append_from(&place, closed.length, closed.open()?)?;
            line.clear();
            let named = file_line(&place, &closed.sha256, closed.length, left_out);
            append_json(&mut line, &named)?;
            files.append(&line)?;
            self.files += 1;
        }
        manifest.append_file(&files.close()?)?;
        let manifest = manifest.close()?;
        tar.append_from(&Place::Manifest, manifest.length, manifest.open()?)?;
        self.stage = Stage::Sealed(tar);
        Ok(ManifestSeal {
            batch: self.head.batch.clone(),
            site: self.head.site.clone(),
            manifest_sha256: hex(&manifest.sha256),
            devices: self.devices,
            files: self.files,
            created_at: self.head.created_at,
        })
    }

    /// Adds the signature, and gives the package its name once all of it is on the disk. A package
    /// of that name is replaced. After it nothing more is taken.
    pub fn finish(&mut self, jws: &str) -> io::Result<Package> {
        let Stage::Sealed(mut tar) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Err(refused("the package is not ready for its seal"));
        };
        tar.append(&Place::Seal, jws.as_bytes())?;
        let (length, sha256) = tar.finish()?;
        let path = self.directory.join(format!("{}.tar", self.head.batch));
        fs::rename(self.part.join("package.tar"), &path)?;
        // The name, too, outlives a power cut.
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(Package {
            path,
            length,
            sha256,
        })
    }

    /// Octets of the disk that it takes at present.
    pub fn disk_use(&self) -> u64 {
        let files = fs::read_dir(&self.part).into_iter().flatten().flatten();
        let blocks = files.filter_map(|file| file.metadata().ok().map(|it| it.blocks()));
        blocks.sum::<u64>() * STAT_BLOCK
    }

    fn open_work(&mut self) -> io::Result<Box<Work>> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Open(work) => Ok(work),
            _ => Err(refused("the package takes nothing more")),
        }
    }

    fn create_files(&self) -> io::Result<Work> {
        let modified_at = u64::try_from(self.head.created_at.timestamp())
            .map_err(|_| refused("the batch was created before 1970"))?;
        let side = |name: &str| SideFile::create(self.part.join(name));
        let tar = output::create(&self.part.join("package.tar"))?;
        Ok(Work {
            tar: Tarball::new(tar, modified_at),
            table: side("devices.csv")?,
            bulk: side("aws-bulk-registration.ndjson")?,
            allow_list: side("aws-allow-list.csv")?,
            failures: side("failures.ndjson")?,
            manifest: side("manifest.ndjson")?,
            files: side("files.ndjson")?,
            line: Vec::new(),
        })
    }

    /// What is known before the first chunk: the first members, and the first line of each table.
    fn write_opening(&mut self, work: &mut Work) -> io::Result<()> {
        let head = &self.head;
        append_json(
            &mut work.line,
            &HeadLine {
                batch: Cow::Borrowed(&head.batch),
                created_at: head.created_at,
                site: Cow::Borrowed(&head.site),
                profile: Cow::Borrowed(&head.profile),
                order: head.order.as_deref().map(Cow::Borrowed),
                count: head.count,
                key_type: Cow::Borrowed(&head.key_type),
                envelope_form: head.envelope_form,
                recipient_sha256: head.recipient_sha256.as_deref().map(Cow::Borrowed),
                forms: head.forms,
            },
        )?;
        work.manifest.append(&work.line)?;
        work.line.clear();
        table::append_head(&self.columns, &mut work.line);
        work.table.append(&work.line)?;
        work.allow_list
            .append(Road::AllowListTable.head().as_bytes())?;
        work.bulk.append(Road::Bulk.head().as_bytes())?;
        let readme = readme::text(head);
        let chains: Vec<_> = head
            .chains
            .iter()
            .map(|(issuer, chain)| {
                let text: String = chain.iter().map(|der| pem::certificate(der)).collect();
                (Place::Chain(issuer.clone()), text)
            })
            .collect();
        self.write_file(work, &Place::Readme, readme.as_bytes())?;
        for (place, text) in chains {
            self.write_file(work, &place, text.as_bytes())?;
        }
        Ok(())
    }

    /// A member that has a line of its own in the manifest.
    fn write_file(&mut self, work: &mut Work, place: &Place, content: &[u8]) -> io::Result<()> {
        work.tar.append(place, content)?;
        work.line.clear();
        let named = file_line(place, &sha256(content), content.len() as u64, None);
        append_json(&mut work.line, &named)?;
        work.files.append(&work.line)?;
        self.files += 1;
        Ok(())
    }

    fn check_envelopes(&self, chunk: &PackageChunk) -> io::Result<()> {
        let count = chunk.envelopes.len();
        let rows = chunk.devices.last().map_or(0, |device| {
            // A row before the chunk's first has no envelope; it is refused as one too many.
            let index = device.row.checked_sub(chunk.first_row);
            index.map_or(usize::MAX, |index| index as usize + 1)
        });
        let fits = match self.head.envelope_form {
            None => count == 0,
            Some(EnvelopeFormWord::Chunk) => count == 1 || rows == 0,
            Some(EnvelopeFormWord::Device) => count >= rows,
        };
        if fits {
            Ok(())
        } else {
            Err(refused(&format!(
                "chunk {} has {count} envelopes, which its rows do not fit",
                chunk.number
            )))
        }
    }

    fn write_device(
        &mut self,
        work: &mut Work,
        chunk: u32,
        device: &PackageDevice,
    ) -> io::Result<()> {
        let row = device.row;
        if row <= self.last_row {
            return Err(refused(&format!("row {row} is out of its order")));
        }
        self.last_row = row;
        let issuer = self
            .issuers
            .get(&device.issuer)
            .ok_or_else(|| refused(&format!("issuer {} has no chain", device.issuer)))?;
        let certificate = pem::certificate(&device.der);
        let mut add = |form: Form, content: &[u8]| -> io::Result<(String, String)> {
            let place = Place::Chunk(chunk, Part::Certificate(row, form));
            work.tar.append(&place, content)?;
            self.files += 1;
            Ok((place.to_string(), hex(&sha256(content))))
        };
        let forms = self.head.forms;
        let pem_file = forms
            .pem
            .then(|| add(Form::Pem, certificate.as_bytes()))
            .transpose()?;
        let der_file = forms.der.then(|| add(Form::Der, &device.der)).transpose()?;
        let key_file = self.head.envelope_form.map(|form| {
            let part = match form {
                EnvelopeFormWord::Chunk => Part::Keys,
                EnvelopeFormWord::Device => Part::Key(row),
            };
            Place::Chunk(chunk, part).to_string()
        });
        let fingerprint_sha256 = hex(&device.fingerprint_sha256);
        let certificate_file = pem_file.as_ref().or(der_file.as_ref());

        work.line.clear();
        append_json(
            &mut work.line,
            &DeviceLine {
                row,
                device: Cow::Borrowed(&device.device),
                subject: Cow::Borrowed(&device.subject),
                serial_number: Cow::Borrowed(&device.serial_number),
                fingerprint_sha256: Cow::Borrowed(&fingerprint_sha256),
                spki_sha256: Cow::Owned(hex(&device.spki_sha256)),
                thing_name: device.thing_name.as_deref().map(Cow::Borrowed),
                issuer: Cow::Borrowed(&device.issuer),
                certificate: CertificateFiles {
                    pem: pem_file.as_ref().map(named_file),
                    der: der_file.as_ref().map(named_file),
                },
                key: key_file.as_deref().map(|file| KeyFile {
                    file: Cow::Borrowed(file),
                }),
            },
        )?;
        work.manifest.append(&work.line)?;

        work.line.clear();
        table::append_row(
            &self.columns,
            &TableRow {
                row,
                device: &device.device,
                serial_number: &device.serial_number,
                fingerprint_sha256: &fingerprint_sha256,
                thing_name: device.thing_name.as_deref(),
                certificate_file: certificate_file.map_or("", |(file, _)| file),
                key_file: key_file.as_deref(),
                not_after: device.not_after,
                subject: &device.subject,
            },
            &mut work.line,
        );
        work.table.append(&work.line)?;

        let item = RoadDevice {
            serial_number: &device.serial_number,
            certificate: &certificate,
            issuer: Some(issuer),
            fingerprint_sha256: &fingerprint_sha256,
            device: &device.device,
            order: self.head.order.as_deref(),
            thing_name: device.thing_name.as_deref(),
            status: "issued",
        };
        let mut taken = true;
        for (road, side) in [
            (Road::Bulk, &mut work.bulk),
            (Road::AllowListTable, &mut work.allow_list),
        ] {
            work.line.clear();
            taken &= road.append(&item, &mut work.line).is_ok();
            side.append(&work.line)?;
        }
        self.left_out += u32::from(!taken);
        self.devices += 1;
        Ok(())
    }

    fn write_envelopes(&mut self, work: &mut Work, chunk: &PackageChunk) -> io::Result<()> {
        match self.head.envelope_form {
            None => Ok(()),
            // The keys of rows that all failed open nothing.
            Some(EnvelopeFormWord::Chunk) if chunk.devices.is_empty() => Ok(()),
            Some(EnvelopeFormWord::Chunk) => chunk.envelopes.iter().try_for_each(|envelope| {
                let place = Place::Chunk(chunk.number, Part::Keys);
                self.write_file(work, &place, envelope)
            }),
            Some(EnvelopeFormWord::Device) => chunk.devices.iter().try_for_each(|device| {
                let place = Place::Chunk(chunk.number, Part::Key(device.row));
                let index = (device.row.checked_sub(chunk.first_row)).map(|index| index as usize);
                let envelope = index.and_then(|index| chunk.envelopes.get(index));
                let envelope =
                    envelope.ok_or_else(|| refused(&format!("row {} has no key", device.row)))?;
                self.write_file(work, &place, envelope)
            }),
        }
    }
}

impl Drop for PackageWriter {
    /// A full disk gets its room back at once.
    fn drop(&mut self) {
        self.stage = Stage::Over;
        fs::remove_dir_all(&self.part).ok();
    }
}

fn columns(names: &[String]) -> io::Result<Vec<Column>> {
    if names.is_empty() {
        return Ok(Column::USUAL.to_vec());
    }
    names
        .iter()
        .map(|name| {
            Column::from_name(name).ok_or_else(|| refused(&format!("there is no column {name}")))
        })
        .collect()
}

fn issuers(chains: &BTreeMap<String, Vec<Vec<u8>>>) -> io::Result<BTreeMap<String, String>> {
    chains
        .iter()
        .map(|(name, chain)| {
            let is_file_name = (1..=ISSUER_NAME_LENGTH_MAX).contains(&name.len())
                && !name.starts_with('.')
                && name.chars().all(|c| matches!(c, ' '..='~') && c != '/');
            match chain.first() {
                Some(der) if is_file_name => Ok((name.clone(), pem::certificate(der))),
                _ => Err(refused(&format!("the chain of issuer {name} has no file"))),
            }
        })
        .collect()
}

fn named_file((file, sha256): &(String, String)) -> NamedFile<'_> {
    NamedFile {
        file: Cow::Borrowed(file),
        sha256: Cow::Borrowed(sha256),
    }
}

fn file_line(
    place: &Place,
    sha256: &[u8; 32],
    length: u64,
    left_out: Option<u32>,
) -> FileLine<'static> {
    FileLine {
        file: Cow::Owned(place.to_string()),
        sha256: Cow::Owned(hex(sha256)),
        length,
        left_out,
    }
}

fn append_json(line: &mut Vec<u8>, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *line, value)?;
    line.push(b'\n');
    Ok(())
}

/// What the caller gave cannot be a package.
fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
