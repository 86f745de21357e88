//! A package as a file that is read at many places at once, and the envelopes in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use openssl::cms::CmsContentInfo;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::sha::sha256;
use openssl::sign::Signer;
use openssl::sign::Verifier;
use zeroize::Zeroizing;

use crate::cli::Failure;
use crate::jobs::package::place::Form;
use crate::jobs::package::place::Place;
use crate::pki::hex;
use crate::pki::pem;

/// Octets that are read at once.
const BUFFER_LENGTH: usize = 256 * 1024;

/// Longest line of a manifest, octets. A device's has a hundredth.
const LINE_LENGTH_MAX: u64 = 1 << 20;

/// Longest envelope that is opened, octets: a chunk of RSA keys has a twentieth.
pub(super) const ENVELOPE_LENGTH_MAX: u64 = 80 << 20;

/// An open package.
pub(super) struct PackageFile(File);

/// Where something is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Its first octet.
    pub(super) offset: u64,
    /// Its octets.
    pub(super) length: u64,
}

/// A span as a file of its own.
pub(super) struct Window<'a> {
    file: &'a File,
    span: Span,
    position: u64,
}

impl PackageFile {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::NotFound => Failure::NOT_FOUND,
                _ => 1,
            };
            let named = anyhow::Error::from(error).context(path.display().to_string());
            Failure::new(code, named)
        })?;
        Ok(Self(file))
    }

    /// All of it.
    pub(super) fn whole(&self) -> io::Result<Span> {
        Ok(Span {
            offset: 0,
            length: self.0.metadata()?.len(),
        })
    }

    pub(super) fn window(&self, span: Span) -> Window<'_> {
        Window {
            file: &self.0,
            span,
            position: 0,
        }
    }

    pub(super) fn reader(&self, span: Span) -> BufReader<Window<'_>> {
        BufReader::with_capacity(BUFFER_LENGTH, self.window(span))
    }

    /// The members that are wanted. Headers alone are read; where the tar is damaged, it ends.
    pub(super) fn find(
        &self,
        wanted: impl Fn(&Place) -> bool,
    ) -> anyhow::Result<BTreeMap<Place, Span>> {
        let mut archive = tar::Archive::new(self.window(self.whole()?));
        let mut found = BTreeMap::new();
        for entry in archive.entries_with_seek()?.raw(true) {
            let Ok(entry) = entry else { break };
            let place = std::str::from_utf8(&entry.path_bytes())
                .ok()
                .and_then(Place::parse);
            if let Some(place) = place.filter(&wanted) {
                let span = Span {
                    offset: entry.raw_file_position(),
                    length: entry.size(),
                };
                found.entry(place).or_insert(span);
            }
        }
        Ok(found)
    }

    /// A member of bounded length.
    pub(super) fn read(&self, span: Span, length_max: u64) -> anyhow::Result<Vec<u8>> {
        if span.length > length_max {
            bail!(
                "it has {} octets; at most {length_max} are read",
                span.length
            );
        }
        let mut octets = Vec::new();
        self.window(span).read_to_end(&mut octets)?;
        if octets.len() as u64 != span.length {
            bail!("the package ends within it");
        }
        Ok(octets)
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.span.length.saturating_sub(self.position);
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let offset = self.span.offset + self.position;
        let read = self.file.read_at(&mut buffer[..wanted], offset)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.span.length.checked_add_signed(by),
        };
        self.position = position
            .filter(|position| *position <= self.span.length)
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end"))?;
        Ok(self.position)
    }
}

/// Reads a line with its end into `line`; false: there is none.
pub(super) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> anyhow::Result<bool> {
    line.clear();
    let read = reader.take(LINE_LENGTH_MAX).read_until(b'\n', line)?;
    if read > 0 && !line.ends_with(b"\n") {
        bail!("a line is not ended within {LINE_LENGTH_MAX} octets");
    }
    Ok(read > 0)
}

/// A private key of who the envelopes are for. Asks for its pass phrase where it has one.
pub(super) fn recipient_key(path: &Path) -> anyhow::Result<PKey<Private>> {
    let named = || path.display().to_string();
    let pem = Zeroizing::new(std::fs::read(path).with_context(named)?);
    PKey::private_key_from_pem(&pem)
        .map_err(|_| anyhow!("it is no private key in PEM, or the pass phrase is wrong"))
        .with_context(named)
}

/// What an envelope holds.
pub(super) fn open_envelope(
    envelope: &[u8],
    key: &PKey<Private>,
) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let content = CmsContentInfo::from_der(envelope).map_err(|_| anyhow!("it is no CMS"))?;
    content
        .decrypt_without_cert_check(key)
        .map(Zeroizing::new)
        .map_err(|_| anyhow!("the recipient's key does not open it"))
}

/// A private key in an envelope's content.
pub(super) struct KeyBlock<'a> {
    /// Its place in the envelope, from 1.
    pub(super) number: u32,
    /// The device, each character that is not printable ASCII as `?`.
    pub(super) device: &'a str,
    /// The PEM block.
    pub(super) pem: &'a str,
}

/// Keys of a content, which holds `# <n> <device>` and a PEM block for each device and nothing else.
pub(super) fn key_blocks(content: &[u8]) -> anyhow::Result<Vec<KeyBlock<'_>>> {
    let mut rest = std::str::from_utf8(content).map_err(|_| anyhow!("what it holds is no text"))?;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let (block, tail) = key_block(rest).ok_or_else(|| {
            anyhow!("what it holds is not keys, each under a line with its device")
        })?;
        blocks.push(block);
        rest = tail;
    }
    Ok(blocks)
}

fn key_block(text: &str) -> Option<(KeyBlock<'_>, &str)> {
    const END: &str = "-----END PRIVATE KEY-----\n";
    let (heading, text) = text.strip_prefix("# ")?.split_once('\n')?;
    let (number, device) = heading.split_once(' ')?;
    let (pem, tail) = text.split_at_checked(text.find(END)? + END.len())?;
    let block = KeyBlock {
        number: number.parse().ok()?,
        device,
        pem: pem
            .starts_with("-----BEGIN PRIVATE KEY-----\n")
            .then_some(pem)?,
    };
    Some((block, tail))
}

/// Whether it is the private half of the public key with this SHA-256, hexadecimal. Its own public half
/// is not believed: it must verify what the private one signs.
pub(super) fn fits(block: &KeyBlock<'_>, spki_sha256: &str) -> anyhow::Result<bool> {
    let key = private_key(block)?;
    if hex(&sha256(&key.public_key_to_der()?)) != spki_sha256 {
        return Ok(false);
    }
    let message = spki_sha256.as_bytes();
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    let signature = signer.sign_oneshot_to_vec(message)?;
    let mut verifier = Verifier::new(MessageDigest::sha256(), &key)?;
    Ok(verifier.verify_oneshot(&signature, message)?)
}

/// The key itself.
pub(super) fn private_key(block: &KeyBlock<'_>) -> anyhow::Result<PKey<Private>> {
    let decoded = pem::blocks(block.pem)?.into_iter().next();
    let der = Zeroizing::new(decoded.map(|block| block.der).unwrap_or_default());
    PKey::private_key_from_pkcs8(&der).map_err(|_| anyhow!("it is no PKCS#8"))
}

/// The DER inside a certificate's file.
pub(super) fn certificate_der(form: Form, octets: &[u8]) -> anyhow::Result<Cow<'_, [u8]>> {
    if form == Form::Der {
        return Ok(Cow::Borrowed(octets));
    }
    let mut blocks = pem::blocks(std::str::from_utf8(octets)?)?.into_iter();
    match (blocks.next(), blocks.next()) {
        (Some(block), None) if block.label == "CERTIFICATE" => Ok(Cow::Owned(block.der)),
        _ => bail!("it is not one certificate in PEM"),
    }
}

/// A device as an envelope's content names it.
pub(super) fn heading_of(device: &str) -> String {
    device.replace(|c| !matches!(c, ' '..='~'), "?")
}
