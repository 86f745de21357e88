//! What was done, when and with which result; signed by those who were there.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use chrono::DateTime;
use chrono::Utc;
use openssl::hash::MessageDigest;
use openssl::pkey::Id;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::sign;
use serde_json::Value;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::ceremony::write;
use crate::pki::hex;

/// How many people sign at least.
const SIGNERS_MIN: usize = 2;

/// Somebody who is there.
pub(super) struct Signer {
    name: String,
    key: PKey<Private>,
}

/// Those who are named, with different keys.
pub(super) fn signers(named: &[String]) -> anyhow::Result<Vec<Signer>> {
    let mut found: Vec<Signer> = Vec::new();
    for pair in named {
        let (name, path) = pair
            .split_once('=')
            .with_context(|| format!("--signer {pair}: NAME=FILE"))?;
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(anyhow!("--signer {pair}: a name is of A-Z a-z 0-9 - _ ."));
        }
        let pem = Zeroizing::new(std::fs::read(path).with_context(|| path.to_owned())?);
        let key = PKey::private_key_from_pem(&pem)
            .map_err(|_| anyhow!("{path}: no private key in PEM, or the passphrase is wrong"))?;
        if !matches!(key.id(), Id::EC | Id::RSA) {
            return Err(anyhow!("{path}: neither an EC nor an RSA key"));
        }
        if found
            .iter()
            .any(|it| it.name == name || it.key.public_eq(&key))
        {
            return Err(anyhow!(
                "--signer {pair}: another one has this name or this key"
            ));
        }
        found.push(Signer {
            name: name.to_owned(),
            key,
        });
    }
    if found.len() < SIGNERS_MIN {
        return Err(anyhow!("a ceremony needs two people: --signer twice"));
    }
    Ok(found)
}

/// Where the transcript and its signatures go: made while nothing else is made yet, and never over what is
/// there.
pub(super) fn reserve(path: &Path, signers: &[Signer]) -> anyhow::Result<()> {
    write(path, "")?;
    for signer in signers {
        write(&signature_file(path, signer), "")?;
    }
    Ok(())
}

fn signature_file(path: &Path, signer: &Signer) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.sig", signer.name));
    PathBuf::from(beside)
}

/// Into a file that was reserved.
fn fill(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let filled = || -> std::io::Result<()> {
        let mut file = File::options().write(true).truncate(true).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    filled().with_context(|| path.display().to_string())
}

/// A ceremony, as it goes on.
pub(super) struct Transcript {
    head: Value,
    steps: Vec<Value>,
}

impl Transcript {
    /// Begins with the plan and those who are there.
    pub(super) fn begin(
        name: &str,
        plan_sha256: &str,
        signers: &[Signer],
        now: DateTime<Utc>,
    ) -> Self {
        let people = signers.iter().map(|signer| {
            let spki = signer.key.public_key_to_der().unwrap_or_default();
            json!({ "name": signer.name, "spki_sha256": hex(&openssl::sha::sha256(&spki)) })
        });
        Self {
            head: json!({
                "ceremony": name, "plan_sha256": plan_sha256, "version": env!("CARGO_PKG_VERSION"),
                "began_at": now.to_rfc3339(), "signers": people.collect::<Vec<_>>(),
            }),
            steps: Vec::new(),
        }
    }

    /// A step that was done.
    pub(super) fn step(&mut self, now: DateTime<Utc>, mut what: Value) {
        what["step"] = json!(self.steps.len() + 1);
        what["at"] = json!(now.to_rfc3339());
        self.steps.push(what);
    }

    /// Ends it. `failed`: why it stopped before its end.
    pub(super) fn end(self, now: DateTime<Utc>, failed: Option<&str>) -> Ended {
        let mut whole = self.head;
        whole["steps"] = Value::Array(self.steps);
        whole["ended_at"] = json!(now.to_rfc3339());
        whole["failed"] = json!(failed);
        Ended(whole)
    }
}

/// A transcript that is complete.
pub(super) struct Ended(Value);

impl Ended {
    /// Writes it, and beside it each signature over its octets (SHA-256; ECDSA in DER, or RSA
    /// PKCS#1 v1.5), as `openssl dgst -sha256 -verify` takes it.
    pub(super) fn write(&self, path: &Path, signers: &[Signer]) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        fill(path, text.as_bytes())?;
        for signer in signers {
            let mut signing = sign::Signer::new(MessageDigest::sha256(), &signer.key)?;
            let signature = signing.sign_oneshot_to_vec(text.as_bytes())?;
            fill(&signature_file(path, signer), &signature)?;
        }
        Ok(())
    }
}
