//! A key as a list writes it: PEM, or base64 of DER in one piece.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::RowFault;
use super::RowKey;
use crate::pki::csr;
use crate::pki::pem;

/// What kind of key a list brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyKind {
    Csr,
    PublicKey,
}

impl KeyKind {
    /// The column or field it stands in.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Csr => "csr",
            Self::PublicKey => "public_key",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Csr, Self::PublicKey]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// The DER in a cell. What it says is judged where the certificate is issued.
    pub(super) fn read(self, row: u32, cell: &[u8]) -> Result<RowKey, RowFault> {
        let fault = |rule, detail: String| RowFault::new(row, rule, detail).of(self.name());
        let malformed = |detail: &str| fault(self.malformed(), format!("{} {detail}", self.name()));
        // Before any other judgement: a private key outside its device is an incident.
        if names_private_key(cell) {
            return Err(private_key_submitted(row).of(self.name()));
        }
        let text = std::str::from_utf8(cell.trim_ascii()).map_err(|_| malformed("is not UTF-8"))?;
        if text.is_empty() {
            return Err(fault("key-missing", format!("{} is empty", self.name())));
        }
        let mut blocks = if text.starts_with("-----") {
            pem::blocks(text).map_err(|fault| malformed(&format!("is no PEM: {fault}")))?
        } else {
            let der = STANDARD
                .decode(text)
                .map_err(|_| malformed("is neither PEM nor base64 in one piece"))?;
            let label = self.label();
            vec![pem::Block { label, der }]
        };
        // Whatever they are called.
        if blocks
            .iter()
            .any(|block| csr::holds_private_key(&block.der))
        {
            return Err(private_key_submitted(row).of(self.name()));
        }
        match (self, blocks.pop(), blocks.pop()) {
            // The second label is what Netscape's tools and Java's keytool write (RFC 7468 7).
            (Self::Csr, Some(block), None)
                if block.label == self.label() || block.label == "NEW CERTIFICATE REQUEST" =>
            {
                Ok(RowKey::Csr(block.der))
            }
            (Self::PublicKey, Some(block), None) if block.label == self.label() => {
                Ok(RowKey::PublicKey(block.der))
            }
            _ => {
                let label = self.label();
                Err(malformed(&format!("is not one PEM block labelled {label}")))
            }
        }
    }

    /// What its PEM is labelled (RFC 7468 7 and 13).
    fn label(self) -> &'static str {
        match self {
            Self::Csr => "CERTIFICATE REQUEST",
            Self::PublicKey => "PUBLIC KEY",
        }
    }

    fn malformed(self) -> &'static str {
        match self {
            Self::Csr => "malformed-csr",
            Self::PublicKey => "malformed-public-key",
        }
    }
}

/// Whether the octets hold the words of a private key's PEM boundary, in any case.
pub(super) fn names_private_key(octets: &[u8]) -> bool {
    const WORDS: &[u8] = b"PRIVATE KEY";
    octets
        .windows(WORDS.len())
        .any(|window| window.eq_ignore_ascii_case(WORDS))
}

pub(super) fn private_key_submitted(row: u32) -> RowFault {
    let detail = "the list holds a private key; treat that key as compromised";
    RowFault::fatal(row, "private-key-submitted", detail)
}
