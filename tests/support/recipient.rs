//! Somebody who may read the keys of a batch, and what they read.

use std::path::{Path, PathBuf};
use std::process::Command;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509NameBuilder};
use tempfile::TempDir;

/// A recipient's key and certificate, made by OpenSSL's command.
pub struct Recipient {
    pub directory: TempDir,
}

impl Recipient {
    pub fn new() -> Self {
        Self::of(&[
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-days",
            "30",
        ])
    }

    /// `arguments` of `openssl req -x509`.
    pub fn of(arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-subj",
                "/CN=flasher",
                "-keyout",
                "r.key",
                "-out",
                "r.pem",
            ])
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self { directory }
    }

    /// One whose certificate was good until yesterday.
    pub fn expired() -> Self {
        let it = Self::new();
        let key = PKey::private_key_from_pem(&std::fs::read(it.path("r.key")).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "flasher").unwrap();
        let name = name.build();
        let mut certificate = X509::builder().unwrap();
        certificate.set_version(2).unwrap();
        certificate.set_subject_name(&name).unwrap();
        certificate.set_issuer_name(&name).unwrap();
        certificate.set_pubkey(&key).unwrap();
        let days = |days: i64| {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap();
            Asn1Time::from_unix(i64::try_from(now.as_secs()).unwrap() + days * 86_400).unwrap()
        };
        certificate.set_not_before(&days(-30)).unwrap();
        certificate.set_not_after(&days(-1)).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        std::fs::write(it.path("r.pem"), certificate.build().to_pem().unwrap()).unwrap();
        it
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn pem(&self) -> String {
        std::fs::read_to_string(self.path("r.pem")).unwrap()
    }

    /// What `openssl cms -decrypt` makes of an envelope: device and key, by row.
    pub fn open(&self, envelope: &Path) -> Vec<(String, PKey<Private>)> {
        let opened = Command::new("openssl")
            .args(["cms", "-decrypt", "-inform", "DER", "-in"])
            .arg(envelope)
            .args(["-inkey", "r.key", "-recip", "r.pem"])
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        assert!(
            opened.status.success(),
            "{}",
            String::from_utf8_lossy(&opened.stderr)
        );
        let text = String::from_utf8(opened.stdout).unwrap();
        let keys = text.split("# ").skip(1).map(|part| {
            let (line, pem) = part.split_once('\n').unwrap();
            let (_, device) = line.split_once(' ').unwrap();
            let key = PKey::private_key_from_pem(pem.as_bytes()).unwrap();
            (device.trim_end().to_owned(), key)
        });
        keys.collect()
    }
}
