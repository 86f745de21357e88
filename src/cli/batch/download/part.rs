//! What has arrived of a file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use hyper::HeaderMap;
use hyper::header;
use openssl::sha::Sha256;

use crate::pki::hex;

/// The first octets of a download, in a file that no other process writes.
pub(super) struct Part {
    file: File,
    length: u64,
    /// The entity tag of what it is a part of, once known.
    tag: Option<String>,
}

impl Part {
    /// Takes up what is there.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(named)?;
        file.try_lock()
            .map_err(|_| anyhow!("another download writes it"))
            .with_context(named)?;
        let length = file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            length,
            tag: None,
        })
    }

    /// Octets.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Its entity tag, fit for `If-Range`.
    pub(super) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.length = 0;
        self.tag = None;
        Ok(())
    }

    /// The next octets.
    pub(super) fn append(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.file.write_all(octets)?;
        self.length += octets.len() as u64;
        Ok(())
    }

    /// Whether a partial answer starts where this ends, and is of the same whole.
    pub(super) fn continues(&self, headers: &HeaderMap) -> bool {
        let start = headers
            .get(header::CONTENT_RANGE)
            .and_then(|range| range.to_str().ok()?.strip_prefix("bytes "))
            .and_then(|range| range.split_once('-')?.0.parse().ok());
        let same = self.tag.is_none() || self.tag == strong_tag(headers);
        start == Some(self.length) && same
    }

    /// Keeps the entity tag of an answer.
    pub(super) fn remember(&mut self, headers: &HeaderMap) {
        self.tag = strong_tag(headers);
    }

    /// Brings it to the disk.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_all()
    }

    /// Over what is in the file, not over what was meant to be. Hexadecimal.
    pub(super) fn sha256(&mut self) -> std::io::Result<String> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        self.file.rewind()?;
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(hex(&hash.finish())),
                length => hash.update(&buffer[..length]),
            }
        }
    }
}

/// A weak tag is of no use for ranges (RFC 9110 clause 13.1.5).
fn strong_tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?;
    (!tag.starts_with("W/")).then(|| tag.to_owned())
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;
    use hyper::header;

    use super::Part;

    fn headers(range: &str, tag: &str) -> HeaderMap {
        HeaderMap::from_iter([
            (header::CONTENT_RANGE, range.parse().unwrap()),
            (header::ETAG, tag.parse().unwrap()),
        ])
    }

    #[test]
    fn a_part_is_taken_up_where_it_ended_and_written_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("package.tar.part");
        let mut part = Part::open(&path).unwrap();
        part.append(b"abc").unwrap();
        assert!(Part::open(&path).is_err());
        drop(part);
        let mut part = Part::open(&path).unwrap();
        assert_eq!(part.length(), 3);
        part.append(b"d").unwrap();
        // `printf abcd | sha256sum`
        assert_eq!(
            part.sha256().unwrap(),
            "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"
        );
        part.restart().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn only_the_rest_of_the_same_whole_continues_a_part() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = Part::open(&folder.path().join("part")).unwrap();
        part.append(b"abc").unwrap();
        assert!(part.continues(&headers("bytes 3-9/10", "\"any\"")));
        part.remember(&headers("bytes 3-9/10", "\"one\""));
        for (range, tag, continues) in [
            ("bytes 3-9/10", "\"one\"", true),
            ("bytes 3-9/10", "\"other\"", false),
            ("bytes 3-9/10", "W/\"one\"", false),
            ("bytes 2-9/10", "\"one\"", false),
            ("bytes */10", "\"one\"", false),
        ] {
            assert_eq!(part.continues(&headers(range, tag)), continues, "{range}");
        }
        part.remember(&headers("bytes 3-9/10", "W/\"one\""));
        assert_eq!(part.tag(), None);
    }
}
