//! `batch open`: one device's key and certificate, taken out of a package on its recipient's machine. No
//! password and no key ever reaches the service.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkcs12::Pkcs12;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::x509::X509;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::batch::package;
use crate::cli::batch::package::PackageFile;
use crate::cli::batch::package::Span;
use crate::jobs::package::manifest::DeviceLine;
use crate::jobs::package::place::Form;
use crate::jobs::package::place::Place;
use crate::pki::hex;
use crate::pki::pem;

/// Rounds of PBKDF2: what OWASP asks of HMAC-SHA-256.
const ITERATIONS: u32 = 600_000;

/// Longest certificate file, octets.
const CERTIFICATE_LENGTH_MAX: u64 = 64 << 10;

/// `batch open`
#[derive(Args)]
pub struct OpenArguments {
    /// The package, a tar file. Verify it before: this command does not.
    package: PathBuf,
    /// Private key of the recipient, PEM.
    #[arg(long, value_name = "FILE")]
    recipient_key: PathBuf,
    /// Device identity.
    #[arg(long, value_name = "NAME")]
    device: String,
    /// PEM: PKCS#8 and the certificate, not encrypted. PKCS#12: PBES2 with AES-256-CBC and PBKDF2 with HMAC-SHA-256, 600,000 rounds, and a MAC with the same hash and rounds.
    #[arg(long, value_enum, default_value = "pem")]
    format: Format,
    /// Password of the PKCS#12: the file's first line.
    #[arg(long, value_name = "FILE", required_if_eq("format", "p12"))]
    password_file: Option<PathBuf>,
    /// File to be made, for its owner only; never one that is there. Without it: standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// RFC 7468.
    Pem,
    /// RFC 7292.
    P12,
}

/// A device's own.
struct Identity {
    key: PKey<Private>,
    certificate: Vec<u8>,
}

/// Runs it.
pub fn run(global: &Global, arguments: &OpenArguments) -> Outcome {
    if arguments.out.is_none() && global.json {
        let error = anyhow!("--json needs --out: a private key is not part of a JSON answer");
        return Err(Failure::new(2, error));
    }
    let package = PackageFile::open(&arguments.package)?;
    let recipient_key = package::recipient_key(&arguments.recipient_key)?;
    let device = &arguments.device;
    let line = find(&package, device)?.ok_or_else(|| {
        let error = anyhow!("no device {device} with a certificate is in this package");
        Failure::new(Failure::NOT_FOUND, error)
    })?;
    let identity = take(&package, &line, &recipient_key)?;
    let octets = match arguments.format {
        Format::Pem => identity.to_pem()?,
        Format::P12 => identity.to_pkcs12(device, arguments.password_file.as_deref())?,
    };
    match &arguments.out {
        None => std::io::stdout().write_all(&octets)?,
        Some(path) => write(path, &octets)?,
    }
    if global.json {
        return crate::cli::print_json(&json!({
            "device": device,
            "serial_number": line.serial_number,
            "fingerprint_sha256": line.fingerprint_sha256,
            "out": arguments.out,
        }));
    }
    Ok(())
}

/// The manifest's line of the device.
fn find(package: &PackageFile, device: &str) -> anyhow::Result<Option<DeviceLine<'static>>> {
    let found = package.find(|place| *place == Place::Manifest)?;
    let manifest = *found
        .get(&Place::Manifest)
        .context("manifest.ndjson is missing: this is no package")?;
    // A line without the name is not parsed: it is one of a million.
    let name = serde_json::to_string(&json!(device))?;
    let mut reader = package.reader(manifest);
    let mut line = Vec::new();
    while package::next_line(&mut reader, &mut line)? {
        let text = std::str::from_utf8(&line)?;
        if !text.starts_with("{\"row\":") || !text.contains(&name) {
            continue;
        }
        let parsed: DeviceLine<'static> = serde_json::from_str(text)?;
        if parsed.device == device {
            return Ok(Some(parsed));
        }
    }
    Ok(None)
}

/// Key and certificate, which fit each other and the manifest's line.
fn take(
    package: &PackageFile,
    line: &DeviceLine<'_>,
    recipient_key: &PKey<Private>,
) -> anyhow::Result<Identity> {
    let files = &line.certificate;
    let (form, file) = match (&files.der, &files.pem) {
        (Some(file), _) => (Form::Der, &file.file),
        (None, Some(file)) => (Form::Pem, &file.file),
        (None, None) => bail!("the manifest names no certificate of it"),
    };
    let key = line.key.as_ref();
    let key_file = &key
        .context("its key was not made by the service, so it is not in the package")?
        .file;
    let names = [file, key_file].map(|name| Place::parse(name));
    let found = package.find(|place| names.iter().flatten().any(|name| name == place))?;
    let read = |name: &str, length_max| -> anyhow::Result<Vec<u8>> {
        let span: Option<&Span> = Place::parse(name).and_then(|place| found.get(&place));
        let span = span.with_context(|| format!("{name} is missing"))?;
        package.read(*span, length_max).context(name.to_owned())
    };

    let octets = read(file, CERTIFICATE_LENGTH_MAX)?;
    let certificate = package::certificate_der(form, &octets)?.into_owned();
    if hex(&openssl::sha::sha256(&certificate)) != line.fingerprint_sha256 {
        bail!("{file} is not the certificate that the manifest names");
    }
    let public_key = X509::from_der(&certificate)?.public_key()?;
    if hex(&openssl::sha::sha256(&public_key.public_key_to_der()?)) != line.spki_sha256 {
        bail!("{file} has another public key than the manifest names");
    }
    let envelope = read(key_file, package::ENVELOPE_LENGTH_MAX)?;
    let content = package::open_envelope(&envelope, recipient_key).context(key_file.to_string())?;
    let heading = package::heading_of(&line.device);
    let block = package::key_blocks(&content)?
        .into_iter()
        .find(|block| block.device == heading)
        .with_context(|| format!("{key_file} holds no key of it"))?;
    if !package::fits(&block, &line.spki_sha256)? {
        bail!("the key in {key_file} is not that of its certificate");
    }
    Ok(Identity {
        key: package::private_key(&block)?,
        certificate,
    })
}

impl Identity {
    fn to_pem(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let key = Zeroizing::new(self.key.private_key_to_pem_pkcs8()?);
        // Of the right length: a buffer that grows leaves what it held behind.
        let certificate = pem::certificate(&self.certificate);
        let mut both = Zeroizing::new(Vec::with_capacity(key.len() + certificate.len()));
        both.extend_from_slice(&key);
        both.extend_from_slice(certificate.as_bytes());
        Ok(both)
    }

    fn to_pkcs12(
        &self,
        device: &str,
        password: Option<&Path>,
    ) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let path = password.context("PKCS#12 needs --password-file")?;
        let named = || path.display().to_string();
        let text = Zeroizing::new(std::fs::read_to_string(path).with_context(named)?);
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() || password.contains('\0') {
            return Err(anyhow!("its first line is no password")).with_context(named);
        }
        let der = Pkcs12::builder()
            .name(device)
            .pkey(&self.key)
            .cert(&*X509::from_der(&self.certificate)?)
            .key_algorithm(Nid::AES_256_CBC)
            .cert_algorithm(Nid::AES_256_CBC)
            .key_iter(ITERATIONS)
            .mac_iter(ITERATIONS)
            .mac_md(MessageDigest::sha256())
            .build2(password)?
            .to_der()?;
        Ok(Zeroizing::new(der))
    }
}

fn write(path: &Path, octets: &[u8]) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(named)?;
    file.write_all(octets)
        .and_then(|()| file.sync_all())
        .with_context(named)
        .inspect_err(|_| drop(std::fs::remove_file(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::package::EnvelopeFormWord;
    use crate::jobs::package::fixture::Factory;
    use std::os::unix::fs::PermissionsExt;

    fn arguments(package: &Path, device: &str, format: Format, out: &str) -> OpenArguments {
        let beside = |name: &str| package.with_file_name(name);
        OpenArguments {
            package: package.to_owned(),
            recipient_key: beside("recipient.key"),
            device: device.to_owned(),
            format,
            password_file: (format == Format::P12).then(|| beside("password")),
            out: Some(beside(out)),
        }
    }

    #[test]
    fn the_recipient_gets_one_device_in_either_form() {
        let factory = Factory::new();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let key = factory.recipient_key.private_key_to_pem_pkcs8().unwrap();
        std::fs::write(at("recipient.key"), key).unwrap();
        std::fs::write(at("password"), "correct horse\n").unwrap();
        let global = Global {
            config: PathBuf::new(),
            json: false,
        };
        for form in [EnvelopeFormWord::Chunk, EnvelopeFormWord::Device] {
            let chunk = factory.chunk(1, 1..=3, &[3], Some(form));
            let certificate = chunk.devices[1].der.clone();
            let head = factory.head(3, Some(form));
            let package = factory.package(directory.path(), head, &[chunk]).path;

            let (pem, p12) = (format!("{form:?}.pem"), format!("{form:?}.p12"));
            let wanted = arguments(&package, "lamp-000002", Format::Pem, &pem);
            run(&global, &wanted).unwrap();
            let text = std::fs::read(at(&pem)).unwrap();
            let read = X509::from_pem(&text).unwrap();
            assert_eq!(read.to_der().unwrap(), certificate);
            let key = PKey::private_key_from_pem(&text).unwrap();
            assert!(read.public_key().unwrap().public_eq(&key));
            let mode = std::fs::metadata(at(&pem)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(run(&global, &wanted).is_err(), "never over a file");

            let wanted = arguments(&package, "lamp-000002", Format::P12, &p12);
            run(&global, &wanted).unwrap();
            let octets = std::fs::read(at(&p12)).unwrap();
            let read = Pkcs12::from_der(&octets).unwrap();
            assert!(read.parse2("wrong horse").is_err());
            let read = read.parse2("correct horse").unwrap();
            assert_eq!(read.cert.unwrap().to_der().unwrap(), certificate);
            assert!(read.pkey.unwrap().public_eq(&key));
            // id-PBES2, id-hmacWithSHA256 and aes256-CBC (RFC 8018), and 600000 as INTEGER.
            let holds = |part: &[u8]| octets.windows(part.len()).any(|window| window == part);
            assert!(holds(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13]));
            assert!(holds(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 9]));
            assert!(holds(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 0x2a]));
            assert!(holds(&[2, 3, 0x09, 0x27, 0xc0]));

            for stranger in ["lamp-000003", "lamp-00000"] {
                let wanted = arguments(&package, stranger, Format::Pem, "none.pem");
                assert_eq!(run(&global, &wanted).unwrap_err().code, Failure::NOT_FOUND);
                assert!(!at("none.pem").exists());
            }
        }
    }
}
