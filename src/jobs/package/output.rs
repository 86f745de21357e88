//! What a package is written with: files that are hashed as they grow, and the tar around them.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use openssl::sha::Sha256;
use tar::{Builder, EntryType, Header};

use crate::jobs::package::place::Place;

/// Octets that are kept back before they are written.
const BUFFER_LENGTH: usize = 256 * 1024;

/// A file, its length and its hash so far.
pub(super) struct Hashed {
    file: BufWriter<File>,
    sha256: Sha256,
    length: u64,
}

impl Hashed {
    pub(super) fn new(file: File) -> Self {
        Self {
            file: BufWriter::with_capacity(BUFFER_LENGTH, file),
            sha256: Sha256::new(),
            length: 0,
        }
    }

    /// All of it is with the operating system: the file, its length and its SHA-256.
    fn close(self) -> io::Result<(File, u64, [u8; 32])> {
        let file = self.file.into_inner().map_err(io::Error::from)?;
        Ok((file, self.length, self.sha256.finish()))
    }
}

impl Write for Hashed {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        self.sha256.update(&octets[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// For the owner only: certificates tell who makes how many of what.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// A member that grows while others are written, and becomes part of the tar at the end.
pub(super) struct SideFile {
    path: PathBuf,
    out: Hashed,
}

/// A side file that grows no more.
pub(super) struct ClosedFile {
    path: PathBuf,
    pub(super) length: u64,
    pub(super) sha256: [u8; 32],
}

impl SideFile {
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let out = Hashed::new(create(&path)?);
        Ok(Self { path, out })
    }

    pub(super) fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.write_all(text)
    }

    /// Appends another file to this one.
    pub(super) fn append_file(&mut self, other: &ClosedFile) -> io::Result<()> {
        io::copy(&mut other.open()?, &mut self.out).map(|_| ())
    }

    pub(super) fn close(self) -> io::Result<ClosedFile> {
        let (_, length, sha256) = self.out.close()?;
        Ok(ClosedFile {
            path: self.path,
            length,
            sha256,
        })
    }
}

impl ClosedFile {
    pub(super) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

/// The tar. Its octets follow from what is appended and from nothing else.
pub(super) struct Tarball {
    builder: Builder<Hashed>,
    modified_at: u64,
}

impl Tarball {
    /// Every member was modified at the same second, counted from 1970.
    pub(super) fn new(file: File, modified_at: u64) -> Self {
        Self {
            builder: Builder::new(Hashed::new(file)),
            modified_at,
        }
    }

    pub(super) fn append(&mut self, place: &Place, content: &[u8]) -> io::Result<()> {
        self.append_from(place, content.len() as u64, content)
    }

    pub(super) fn append_from(
        &mut self,
        place: &Place,
        length: u64,
        content: impl Read,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(place.to_string())?;
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.modified_at);
        header.set_size(length);
        header.set_cksum();
        self.builder.append(&header, content)
    }

    /// Writes the end and waits until all of it is on the disk: its length and its SHA-256.
    pub(super) fn finish(self) -> io::Result<(u64, [u8; 32])> {
        let (file, length, sha256) = self.builder.into_inner()?.close()?;
        file.sync_all()?;
        Ok((length, sha256))
    }
}
