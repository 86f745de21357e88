//! Devices: a key, a certification request, the body of an issue request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::{X509NameBuilder, X509ReqBuilder};
use serde_json::{Value, json};

/// One device.
pub struct Device {
    pub name: String,
    pub key: PKey<Private>,
}

impl Device {
    /// A fresh device with a P-256 key and a name of its own.
    pub fn p256() -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self {
            name: fresh_name(),
            key: PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap(),
        }
    }

    /// A fresh device with an RSA-2048 key.
    pub fn rsa2048() -> Self {
        Self {
            name: fresh_name(),
            key: PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        }
    }

    /// The same unit with another key.
    pub fn rekeyed(&self) -> Self {
        Self {
            name: self.name.clone(),
            ..Self::p256()
        }
    }

    /// Its request with an empty subject, PEM.
    pub fn csr(&self) -> String {
        self.csr_with(&[])
    }

    /// Its request with a subject, PEM.
    pub fn csr_with(&self, subject: &[(&str, &str)]) -> String {
        let mut name = X509NameBuilder::new().unwrap();
        for (kind, value) in subject {
            name.append_entry_by_text(kind, value).unwrap();
        }
        let mut request = X509ReqBuilder::new().unwrap();
        request.set_subject_name(&name.build()).unwrap();
        request.set_pubkey(&self.key).unwrap();
        request.sign(&self.key, MessageDigest::sha256()).unwrap();
        String::from_utf8(request.build().to_pem().unwrap()).unwrap()
    }

    /// Its subject, complete for both profiles of the development world.
    pub fn subject(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("CN", self.name.clone()),
            ("serialNumber", self.name.replace('-', "")),
            ("C", "DE".into()),
        ])
    }

    /// The body of its issue request.
    pub fn request(&self, profile: &str) -> Value {
        json!({ "profile": profile, "csr": self.csr(), "subject": self.subject() })
    }
}

fn fresh_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!(
        "unit-{}-{:06}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}
