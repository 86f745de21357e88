//! A ceremony as it is written down: tokens, keys, certificates; and the steps that this means.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use serde::Deserialize;

use crate::cli::issuer::GENERATION_EXAMPLE;
use crate::cli::issuer::issuer_subject;
use crate::pki::hex;
use crate::pki::key_policy::KeyAlgorithm;

/// Years that a certificate may be asked for; without a number it never ends.
const YEARS_MAX: u32 = 100;

/// A ceremony's file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// What it is for, in words.
    pub(super) name: String,
    /// For the PKCS#11 modules, before they are loaded.
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    /// By name.
    pub(super) token: BTreeMap<String, Token>,
    /// CAs of earlier ceremonies.
    #[serde(default)]
    pub(super) authority: Vec<Authority>,
    #[serde(default)]
    pub(super) key: Vec<Key>,
    #[serde(default)]
    pub(super) certificate: Vec<Certificate>,
    #[serde(default)]
    pub(super) public_key: Vec<PublicKey>,
}

/// A token, of any module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub(super) module: PathBuf,
    pub(super) label: String,
    pub(super) pin_file: PathBuf,
    /// Given: the token is initialised, with this security officer's PIN.
    pub(super) so_pin_file: Option<PathBuf>,
}

/// A CA that is there already, and signs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authority {
    pub(super) name: String,
    pub(super) token: String,
    /// `CKA_LABEL`
    pub(super) label: String,
    /// PEM: its certificate, and those above it.
    pub(super) certificate: PathBuf,
}

/// A key pair that is made inside its token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) token: String,
    /// `CKA_LABEL`, and its octets are `CKA_ID`.
    pub(super) label: String,
    pub(super) algorithm: String,
}

/// A CA certificate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub(super) name: String,
    pub(super) key: String,
    /// An authority, or another certificate of the plan before this one; absent: self-signed.
    pub(super) signed_by: Option<String>,
    pub(super) subject: BTreeMap<String, String>,
    /// Absent: 99991231235959Z (IEEE 802.1AR).
    pub(super) years: Option<u32>,
    pub(super) path_length: u8,
    /// PEM: the certificate, and those above it.
    pub(super) file: PathBuf,
}

/// A public key that is written to a file, for what signs no certificates.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublicKey {
    pub(super) key: String,
    pub(super) file: PathBuf,
}

impl Plan {
    /// The plan, with paths made absolute, and the SHA-256 of its file; or what is wrong with it.
    pub(super) fn read(path: &Path) -> anyhow::Result<(Self, String)> {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        let mut plan: Self = toml::from_str(&text).with_context(named)?;
        let beside = std::path::absolute(path)?;
        let beside = beside.parent().unwrap_or(Path::new("/"));
        for token in plan.token.values_mut() {
            token.pin_file = beside.join(&token.pin_file);
            token.so_pin_file = token.so_pin_file.take().map(|it| beside.join(it));
        }
        for authority in &mut plan.authority {
            authority.certificate = beside.join(&authority.certificate);
        }
        for certificate in &mut plan.certificate {
            certificate.file = beside.join(&certificate.file);
        }
        for key in &mut plan.public_key {
            key.file = beside.join(&key.file);
        }
        let faults = plan.faults();
        if faults.is_empty() {
            return Ok((plan, hex(&openssl::sha::sha256(text.as_bytes()))));
        }
        Err(anyhow!("{}: {}", named(), faults.join("; ")))
    }

    /// The key of this name; [`Self::read`] has seen that it is there.
    pub(super) fn key(&self, name: &str) -> anyhow::Result<&Key> {
        let mut keys = self.key.iter();
        let found = keys.find(|key| key.name == name);
        found.with_context(|| format!("no key is named `{name}`"))
    }

    fn has_token(&self, name: &str) -> anyhow::Result<&Token> {
        let found = self.token.get(name);
        found.with_context(|| format!("no token is named `{name}`"))
    }

    /// Files that the ceremony writes.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let certificates = self.certificate.iter().map(|it| &it.file);
        certificates.chain(self.public_key.iter().map(|it| &it.file))
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut names = Vec::new();
        for key in &self.key {
            if names.contains(&&key.name) {
                faults.push(format!("two keys are named `{}`", key.name));
            }
            if key.name.contains('/') {
                faults.push(format!("key `{}`: a name has no slash", key.name));
            }
            let twins = self
                .key
                .iter()
                .filter(|it| (&it.token, &it.label) == (&key.token, &key.label));
            if twins.count() > 1 {
                faults.push(format!(
                    "key `{}`: another one has its label in its token",
                    key.name
                ));
            }
            names.push(&key.name);
            faults.extend(self.has_token(&key.token).err().map(|it| it.to_string()));
            if KeyAlgorithm::from_name(&key.algorithm).is_none() {
                faults.push(format!(
                    "key `{}`: `{}` is no key algorithm",
                    key.name, key.algorithm
                ));
            }
        }
        for authority in &self.authority {
            let fault = self.has_token(&authority.token).err();
            faults.extend(fault.map(|it| it.to_string()));
        }
        let mut before: Vec<&Certificate> = Vec::new();
        for certificate in &self.certificate {
            let mut fault =
                |what: &str| faults.push(format!("certificate `{}`: {what}", certificate.name));
            if self.key(&certificate.key).is_err() {
                fault("its key is not in the plan");
            }
            if before.iter().any(|it| it.name == certificate.name)
                || self.authority.iter().any(|it| it.name == certificate.name)
            {
                fault("there is another one of this name");
            }
            if certificate
                .years
                .is_some_and(|years| !(1..=YEARS_MAX).contains(&years))
            {
                fault("years: 1 to 100");
            }
            if let Some(above) = &certificate.signed_by {
                let known = self.authority.iter().any(|it| it.name == *above);
                match before.iter().find(|it| it.name == *above) {
                    None if known => {}
                    None => fault("what signs it is not in the plan before it"),
                    Some(above) if above.path_length <= certificate.path_length => {
                        fault("path_length: less than that of what signs it");
                    }
                    Some(above)
                        if above.years.unwrap_or(u32::MAX)
                            < certificate.years.unwrap_or(u32::MAX) =>
                    {
                        fault("years: not more than those of what signs it");
                    }
                    Some(_) => {}
                }
            }
            if certificate.subject.contains_key("serialNumber") {
                fault("serialNumber comes from the key");
            }
            let subject = certificate.subject.iter();
            let subject: Vec<(&str, &str)> =
                subject.map(|(a, b)| (a.as_str(), b.as_str())).collect();
            if let Err(wrong) = issuer_subject(&subject, GENERATION_EXAMPLE) {
                fault(&wrong.to_string());
            }
            before.push(certificate);
        }
        let mut files: Vec<&PathBuf> = self.files().collect();
        let all = files.len();
        files.sort_unstable();
        files.dedup();
        if files.len() < all {
            faults.push("two files have one name".to_owned());
        }
        for public_key in &self.public_key {
            faults.extend(self.key(&public_key.key).err().map(|it| it.to_string()));
        }
        faults
    }

    /// Every object that is made and every call that makes it, in their order, a line each.
    pub(super) fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        for (name, token) in &self.token {
            let (label, module) = (&token.label, token.module.display());
            if token.so_pin_file.is_some() {
                steps.push(format!(
                    "token `{name}`: C_InitToken label `{label}`, C_InitPIN; module {module}"
                ));
            } else {
                steps.push(format!(
                    "token `{name}`: label `{label}`, as it is; module {module}"
                ));
            }
        }
        for it in &self.authority {
            steps.push(format!(
                "authority `{}`: key `{}` in token `{}`, as it is; certificate {}",
                it.name,
                it.label,
                it.token,
                it.certificate.display()
            ));
        }
        for Key {
            name,
            token,
            label,
            algorithm,
        } in &self.key
        {
            steps.push(format!(
                "key `{name}`: C_GenerateKeyPair {algorithm} in token `{token}`, CKA_LABEL `{label}`; CKA_SENSITIVE true, CKA_EXTRACTABLE false, CKA_SIGN only"
            ));
        }
        for it in &self.certificate {
            let subject: Vec<String> = it.subject.iter().map(|(a, b)| format!("{a}={b}")).collect();
            let ends = it
                .years
                .map_or("without end".to_owned(), |years| format!("{years} years"));
            let signer = it
                .signed_by
                .as_ref()
                .map_or(format!("self-signed by key `{}`", it.key), |above| {
                    format!("C_Sign by the key of certificate `{above}`")
                });
            steps.push(format!(
                "certificate `{}`: {}, serialNumber from its key; key `{}`; {signer}; CA:TRUE, pathLen {}, {ends}; file {}",
                it.name, subject.join(", "), it.key, it.path_length, it.file.display()
            ));
        }
        for it in &self.public_key {
            steps.push(format!(
                "public key of `{}`: file {}",
                it.key,
                it.file.display()
            ));
        }
        steps
    }
}
