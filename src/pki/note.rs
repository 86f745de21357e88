//! Signed notes, checkpoints of a log, and cosignatures (C2SP signed-note, tlog-checkpoint,
//! tlog-cosignature), as strict as they can be read: there is one spelling of each.
//!
//! A verifier looks for the line of one key it knows, by name and key id; the key decides the
//! algorithm. Lines of other keys are left alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

use super::merkle::Hash;

mod key;

pub use key::Cosigner;
pub use key::Verified;
pub use key::VerifierKey;

/// The longest note that is read, in octets; signed-note, "Format", asks for a limit.
const NOTE_MAX: usize = 1_000_000;

/// The most signatures that are read; signed-note, "Format", asks for 16 or more.
const SIGNATURES_MAX: usize = 64;

/// What begins the line of a signature (signed-note, "Format").
const DASH: &str = "\u{2014} ";

/// Why a note is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteFault {
    /// It is no note, or no checkpoint.
    #[error("{0}")]
    Malformed(&'static str),
    /// The key that was asked for did not sign it.
    #[error("it has no signature by this key")]
    NotSigned,
    /// It has a signature by that key, and this is not one of its text.
    #[error("its signature does not verify")]
    BadSignature,
}

/// What a log says: it has these leaves (tlog-checkpoint, "Note text").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: a line that is not empty.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The root of the tree of these leaves.
    pub root: Hash,
    /// More lines, none of them empty. Logs should have none.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// The text of its note, with the final newline.
    #[must_use]
    pub fn text(&self) -> String {
        let root = STANDARD.encode(self.root);
        let mut text = format!("{}\n{}\n{root}\n", self.origin, self.size);
        for extension in &self.extensions {
            text.push_str(extension);
            text.push('\n');
        }
        text
    }

    /// The checkpoint whose [`text`](Self::text) this is.
    pub fn parse(text: &str) -> Result<Self, NoteFault> {
        check_characters(text)?;
        let lines = text
            .strip_suffix('\n')
            .ok_or(NoteFault::Malformed("a checkpoint ends with a newline"))?;
        let mut lines = lines.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteFault::Malformed(
                "a checkpoint has an origin, a size and a root, a line each",
            ));
        };
        let extensions: Vec<_> = lines.map(str::to_owned).collect();
        if origin.is_empty() || extensions.iter().any(String::is_empty) {
            return Err(NoteFault::Malformed("no line of a checkpoint may be empty"));
        }
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: decimal(size).ok_or(NoteFault::Malformed(
                "the size of a checkpoint is decimal, without leading zeroes",
            ))?,
            root: from_base64(root)
                .and_then(|octets| octets.try_into().ok())
                .ok_or(NoteFault::Malformed(
                    "the root of a checkpoint is 32 octets in base64 with padding",
                ))?,
            extensions,
        };
        Ok(checkpoint)
    }
}

/// A checkpoint that is about to be signed by its log. Only [`Self::build`] makes one.
pub struct CheckpointToBeSigned(String);

impl CheckpointToBeSigned {
    /// The text of a checkpoint (tlog-checkpoint, "Note text").
    #[must_use]
    pub fn build(checkpoint: &Checkpoint) -> Self {
        Self(checkpoint.text())
    }

    /// The exact bytes to sign.
    #[must_use]
    pub fn to_be_signed(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The whole note; `None` when the signature does not verify, or the text is none that
    /// [`Checkpoint::parse`] would take.
    #[must_use]
    pub fn seal(self, signature: Vec<u8>, key: &VerifierKey) -> Option<Note> {
        Checkpoint::parse(&self.0).ok()?;
        let note = Note {
            text: self.0,
            signatures: vec![SignatureLine {
                name: key.name().to_owned(),
                key_id: key.key_id(),
                signature,
            }],
        };
        key.verify(&note).ok()?;
        Some(note)
    }
}

/// A text and who signed it (signed-note, "Format"). None of it is to be believed before
/// [`VerifierKey::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The text, with its final newline.
    pub text: String,
    /// The lines below it, as they stand.
    pub signatures: Vec<SignatureLine>,
}

impl Note {
    /// A note as it is sent: at most a million octets, and 1 to 64 signatures.
    pub fn parse(note: &str) -> Result<Self, NoteFault> {
        check_characters(note)?;
        let (text, lines) = note.rsplit_once("\n\n").ok_or(NoteFault::Malformed(
            "an empty line separates a note's text and signatures",
        ))?;
        let lines = lines
            .strip_suffix('\n')
            .ok_or(NoteFault::Malformed("a note ends with a newline"))?;
        if lines.split('\n').count() > SIGNATURES_MAX {
            return Err(NoteFault::Malformed("a note has 64 signatures at most"));
        }
        let signatures = lines.split('\n').map(SignatureLine::parse);
        Ok(Self {
            text: format!("{text}\n"),
            signatures: signatures.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for Note {
    /// The note as it is sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for line in &self.signatures {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// One signature of a note (signed-note, "Signatures").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLine {
    /// The key's name.
    pub name: String,
    /// What tells keys of one name apart.
    pub key_id: [u8; 4],
    /// The signature, in the way of the key's type.
    pub signature: Vec<u8>,
}

impl SignatureLine {
    /// A line without its newline.
    pub fn parse(line: &str) -> Result<Self, NoteFault> {
        const FAULT: NoteFault = NoteFault::Malformed(
            "a signature is a line of an em dash, a key's name, and base64 with padding",
        );
        check_characters(line)?;
        let rest = line.strip_prefix(DASH).ok_or(FAULT)?;
        let (name, encoded) = rest.split_once(' ').ok_or(FAULT)?;
        let octets = from_base64(encoded).ok_or(FAULT)?;
        let (key_id, signature) = octets.split_first_chunk().ok_or(FAULT)?;
        if signature.is_empty() || !is_key_name(name) {
            return Err(FAULT);
        }
        Ok(Self {
            name: name.to_owned(),
            key_id: *key_id,
            signature: signature.to_vec(),
        })
    }
}

impl fmt::Display for SignatureLine {
    /// The line without its newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets = [&self.key_id[..], &self.signature].concat();
        write!(f, "{DASH}{} {}", self.name, STANDARD.encode(octets))
    }
}

/// Whether a key may have this name (signed-note, "Format"): not empty, no Unicode space, no plus,
/// and none of the control characters that no note may hold.
#[must_use]
pub fn is_key_name(name: &str) -> bool {
    let refused = |c: char| c.is_whitespace() || c == '+' || c < ' ';
    !name.is_empty() && !name.contains(refused)
}

/// No control characters but newline (signed-note, "Format"), and not too much.
fn check_characters(text: &str) -> Result<(), NoteFault> {
    if text.len() > NOTE_MAX {
        return Err(NoteFault::Malformed("a note has a million octets at most"));
    }
    if text.contains(|c: char| c < ' ' && c != '\n') {
        return Err(NoteFault::Malformed(
            "a note has no control characters but newlines",
        ));
    }
    Ok(())
}

/// A number in its one decimal spelling.
fn decimal(digits: &str) -> Option<u64> {
    let number: u64 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

/// Base64 (RFC 4648, 4) with padding and no loose final bits, so that there is one spelling only.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests;
