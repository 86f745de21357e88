//! A witness: it co-signs a log's checkpoint when it is consistent with the last one it saw, and
//! never otherwise (C2SP tlog-witness). It runs outside the building, with a key of its own, and
//! keeps one checkpoint a log.
//!
//! What it has co-signed is on disk before it says so: nobody who restarts it can make it co-sign
//! another history.

pub mod server;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::pki::hex;
use crate::pki::merkle::Hash;
use crate::pki::merkle::empty_root;
use crate::pki::merkle::verify_consistency;
use crate::pki::note::Checkpoint;
use crate::pki::note::Cosigner;
use crate::pki::note::Note;
use crate::pki::note::NoteFault;
use crate::pki::note::VerifierKey;

/// Most hashes in a proof (C2SP tlog-witness, add-checkpoint).
const PROOF_LENGTH_MAX: usize = 63;

/// A witness and what it has seen.
pub struct Witness {
    cosigner: Cosigner,
    /// Keys by the log's name.
    logs: BTreeMap<String, VerifierKey>,
    /// Where the last checkpoint of each log is.
    directory: PathBuf,
    /// One request at a time: what is compared and what is stored belong together.
    one_at_a_time: Mutex<()>,
}

/// Why a checkpoint is not co-signed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// 400: it is no request.
    #[error("{0}")]
    Malformed(String),
    /// 403: no key that is known signed it.
    #[error("the checkpoint is not signed by the log's key: {0}")]
    Unsigned(NoteFault),
    /// 404: nobody here knows this log.
    #[error("no log of this name is witnessed here")]
    UnknownLog,
    /// 409: the last checkpoint co-signed here had so many entries.
    #[error("the last checkpoint co-signed here has {0} entries")]
    Conflict(u64),
    /// 409: it has as many entries as the last one, and another root.
    #[error("another tree of {0} entries was co-signed here")]
    AnotherRoot(u64),
    /// 422: it does not begin with the tree that was co-signed.
    #[error("the tree does not begin with the one of {0} entries that was co-signed here")]
    Inconsistent(u64),
    /// 500: ours.
    #[error("the witness cannot keep what it has seen: {0}")]
    Storage(String),
}

impl Witness {
    /// A witness that keeps its state in `directory`, which must exist.
    #[must_use]
    pub fn new(cosigner: Cosigner, logs: Vec<VerifierKey>, directory: PathBuf) -> Self {
        let logs = logs
            .into_iter()
            .map(|key| (key.name().to_owned(), key))
            .collect();
        Self {
            cosigner,
            logs,
            directory,
            one_at_a_time: Mutex::default(),
        }
    }

    /// The body of an `add-checkpoint` request, received at `seconds` after 1970: the signature
    /// line, with its newline, or why there is none.
    pub fn add_checkpoint(&self, body: &str, seconds: u64) -> Result<String, Refusal> {
        let Request { old, proof, note } = Request::parse(body)?;
        let malformed = |fault: NoteFault| Refusal::Malformed(fault.to_string());
        let note = Note::parse(note).map_err(malformed)?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(malformed)?;
        let key = self
            .logs
            .get(&checkpoint.origin)
            .ok_or(Refusal::UnknownLog)?;
        key.verify(&note).map_err(Refusal::Unsigned)?;
        if old > checkpoint.size {
            return Err(Refusal::Malformed(
                "the old size is above that of the checkpoint".to_owned(),
            ));
        }
        let _alone = self
            .one_at_a_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last = self.last(key)?;
        let (size, root) = last.map_or((0, empty_root()), |last| (last.size, last.root));
        if old != size {
            return Err(Refusal::Conflict(size));
        }
        if size == checkpoint.size && size > 0 && root != checkpoint.root {
            return Err(Refusal::AnotherRoot(size));
        }
        if !verify_consistency(size, checkpoint.size, &proof, &root, &checkpoint.root) {
            return Err(Refusal::Inconsistent(size));
        }
        let line = self
            .cosigner
            .cosign(&note.text, seconds)
            .map_err(|error| Refusal::Storage(error.to_string()))?;
        self.keep(key, &note.to_string())
            .map_err(|error| Refusal::Storage(error.to_string()))?;
        Ok(format!("{line}\n"))
    }

    /// The last checkpoint of a log that was co-signed.
    fn last(&self, key: &VerifierKey) -> Result<Option<Checkpoint>, Refusal> {
        let storage = |what: String| Refusal::Storage(what);
        let path = self.path(key.name());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage(error.to_string())),
        };
        let note = Note::parse(&text).map_err(|e| storage(e.to_string()))?;
        key.verify(&note).map_err(|e| storage(e.to_string()))?;
        let checkpoint = Checkpoint::parse(&note.text).map_err(|e| storage(e.to_string()))?;
        Ok(Some(checkpoint))
    }

    /// Durable when it returns.
    fn keep(&self, key: &VerifierKey, note: &str) -> std::io::Result<()> {
        let path = self.path(key.name());
        let beside = path.with_extension("new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(note.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        std::fs::File::open(&self.directory)?.sync_all()
    }

    fn path(&self, origin: &str) -> PathBuf {
        let name = hex(&openssl::sha::sha256(origin.as_bytes()));
        self.directory.join(format!("{name}.checkpoint"))
    }

    /// Its public key, as a vkey.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.cosigner.verifier_key().vkey()
    }

    /// Where it keeps what it has seen.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// `old SIZE`, hashes, an empty line, a checkpoint.
struct Request<'a> {
    old: u64,
    proof: Vec<Hash>,
    note: &'a str,
}

impl<'a> Request<'a> {
    fn parse(body: &'a str) -> Result<Self, Refusal> {
        let malformed = |what: &str| Refusal::Malformed(what.to_owned());
        let (head, note) = body
            .split_once("\n\n")
            .ok_or_else(|| malformed("an empty line must end the proof"))?;
        let mut lines = head.split('\n');
        let old = lines
            .next()
            .and_then(|line| line.strip_prefix("old "))
            .filter(|digits| *digits == "0" || !digits.starts_with(['0', '+']))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| malformed("the first line must be `old` and a size"))?;
        let hash = |line: &str| {
            let octets = STANDARD.decode(line).ok()?;
            Hash::try_from(octets).ok()
        };
        let proof: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = proof.ok_or_else(|| malformed("a line of the proof is no hash in base64"))?;
        if proof.len() > PROOF_LENGTH_MAX {
            return Err(malformed("the proof has more than 63 lines"));
        }
        Ok(Self { old, proof, note })
    }
}

#[cfg(test)]
mod tests;
