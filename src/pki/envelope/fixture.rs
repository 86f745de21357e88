//! For tests: the owner of a recipient's key, who opens envelopes with OpenSSL.

use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::cms::CmsContentInfo;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::x509::X509;
use openssl::x509::X509Name;
use openssl::x509::extension::KeyUsage;
use std::fs;
use std::process::Command;

pub(crate) const NOT_BEFORE: DateTime<Utc> = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
pub(crate) const NOT_AFTER: DateTime<Utc> = DateTime::from_timestamp(2_000_000_000, 0).unwrap();
pub(crate) const DAY: TimeDelta = TimeDelta::days(1);

/// A time at which an owner's certificate is valid.
pub(crate) fn now() -> DateTime<Utc> {
    NOT_BEFORE + DAY
}

/// A private key and a self-signed certificate for it.
pub(crate) struct Owner {
    pub(crate) key: PKey<Private>,
    pub(crate) certificate: X509,
}

impl Owner {
    pub(crate) fn on(curve: Nid) -> Self {
        Self::with(Self::key_on(curve), None)
    }

    pub(crate) fn key_on(curve: Nid) -> PKey<Private> {
        let group = EcGroup::from_curve_name(curve).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    pub(crate) fn with(key: PKey<Private>, usage: Option<&KeyUsage>) -> Self {
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_text("CN", "Recipient").unwrap();
        let name = name.build();
        let time = |time: DateTime<Utc>| Asn1Time::from_unix(time.timestamp()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(0xcafe).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_not_before(&time(NOT_BEFORE)).unwrap();
        builder.set_not_after(&time(NOT_AFTER)).unwrap();
        builder.set_pubkey(&key).unwrap();
        if let Some(usage) = usage {
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        let digest = match key.id() {
            Id::ED25519 => MessageDigest::null(),
            _ => MessageDigest::sha256(),
        };
        builder.sign(&key, digest).unwrap();
        Self {
            key,
            certificate: builder.build(),
        }
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// What the OpenSSL of the machine reads in an envelope; `None` when it refuses. The OpenSSL
    /// that is built in must say the same.
    pub(crate) fn open(&self, envelope: &[u8]) -> Option<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("e.p7m"), envelope).unwrap();
        fs::write(path("r.key"), self.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        fs::write(path("r.pem"), self.pem()).unwrap();
        let output = Command::new("openssl")
            .args(["cms", "-decrypt", "-inform", "DER", "-in", "e.p7m"])
            .args(["-inkey", "r.key", "-recip", "r.pem", "-out", "content"])
            .current_dir(directory.path())
            .output()
            .unwrap();
        let opened = output
            .status
            .success()
            .then(|| fs::read(path("content")).unwrap());
        let parsed = CmsContentInfo::from_der(envelope).unwrap();
        let built_in = parsed.decrypt(&self.key, &self.certificate).ok();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(opened == built_in, "the two differ: {stderr}");
        opened
    }
}
