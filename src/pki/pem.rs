//! Textual encoding (RFC 7468): written in the strict form, read without guessing.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::Simd;
use base64::engine::general_purpose::PAD;
use base64::engine::general_purpose::STANDARD;

/// The same as [`STANDARD`], by many octets at a time: certificates are written by the million. For 64-bit x86 and ARM.
static WRITING: LazyLock<Simd> = LazyLock::new(|| Simd::standard(PAD));

/// One decoded block.
#[derive(Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// What the boundaries name, such as `CERTIFICATE`.
    pub label: &'a str,
    /// The octets inside.
    pub der: Vec<u8>,
}

/// Why a text is not PEM; the message says where it goes wrong and repeats nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PemFault(&'static str);

/// A certificate as PEM, lines of 64, ending in a newline.
#[must_use]
pub fn certificate(der: &[u8]) -> String {
    encode("CERTIFICATE", der)
}

/// The same as a JSON string: base64 has nothing but its line breaks to escape.
#[must_use]
pub fn certificate_json(der: &[u8]) -> String {
    quoted("\"", "CERTIFICATE", der, "\\n")
}

/// A certification request as PEM, lines of 64, ending in a newline.
#[must_use]
pub fn certification_request(der: &[u8]) -> String {
    encode("CERTIFICATE REQUEST", der)
}

/// A `SubjectPublicKeyInfo` as PEM, lines of 64, ending in a newline.
#[must_use]
pub fn public_key(spki: &[u8]) -> String {
    encode("PUBLIC KEY", spki)
}

/// A certificate revocation list as PEM, lines of 64, ending in a newline.
#[must_use]
pub fn crl(der: &[u8]) -> String {
    encode("X509 CRL", der)
}

fn encode(label: &str, der: &[u8]) -> String {
    quoted("", label, der, "\n")
}

/// In one piece, of its final length: part of every answer.
fn quoted(quote: &str, label: &str, der: &[u8], end: &str) -> String {
    const LINE: usize = 64;
    let base64 = WRITING.encode(der);
    let lines = 2 + base64.len().div_ceil(LINE);
    let boundaries = "-----BEGIN ----------END -----".len() + 2 * label.len();
    let length = 2 * quote.len() + boundaries + base64.len() + lines * end.len();
    let mut text = String::with_capacity(length);
    text.push_str(quote);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----");
    text.push_str(end);
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
        text.push_str(line);
        text.push_str(end);
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----");
    text.push_str(end);
    text.push_str(quote);
    text
}

/// Every block of a text that holds blocks and white space and nothing else.
///
/// Lines end in LF or CRLF and may have any length; headers, blank lines inside a block and
/// base64 with loose final bits are refused.
pub fn blocks(text: &str) -> Result<Vec<Block<'_>>, PemFault> {
    let mut blocks = Vec::new();
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        let (block, tail) = block(rest)?;
        blocks.push(block);
        rest = tail.trim_ascii_start();
    }
    Ok(blocks)
}

fn block(text: &str) -> Result<(Block<'_>, &str), PemFault> {
    let text = text.strip_prefix("-----BEGIN ").ok_or(PemFault(
        "the text does not begin with \"-----BEGIN …-----\"",
    ))?;
    let (label, text) = text
        .split_once("-----")
        .filter(|(label, _)| label.bytes().all(|octet| (0x20..0x7f).contains(&octet)))
        .ok_or(PemFault("the opening boundary is not closed on its line"))?;
    let (body, text) = text
        .split_once("-----END ")
        .ok_or(PemFault("the closing boundary is missing"))?;
    let tail = text
        .strip_prefix(label)
        .and_then(|text| text.strip_prefix("-----"))
        .ok_or(PemFault("the closing boundary names another label"))?;
    if !tail.is_empty() && !tail.starts_with(['\n', '\r', ' ', '\t']) {
        return Err(PemFault("text follows the closing boundary"));
    }
    Ok((
        Block {
            label,
            der: decode(body)?,
        },
        tail,
    ))
}

/// `body` reaches from the end of the opening boundary to the start of the closing one.
fn decode(body: &str) -> Result<Vec<u8>, PemFault> {
    let body = body
        .strip_prefix("\r\n")
        .or_else(|| body.strip_prefix('\n'))
        .ok_or(PemFault("text follows the opening boundary on its line"))?;
    let body = body
        .strip_suffix('\n')
        .map(|body| body.strip_suffix('\r').unwrap_or(body))
        .ok_or(PemFault(
            "the block is empty, or its last line is not ended",
        ))?;
    let mut base64 = String::with_capacity(body.len());
    for line in body.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return Err(PemFault("a blank line stands inside the block"));
        }
        base64.push_str(line);
    }
    STANDARD
        .decode(base64)
        .map_err(|_| PemFault("the block is not base64 without blanks or headers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(der in proptest::collection::vec(any::<u8>(), 1..300)) {
            let text = certificate(&der);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            prop_assert_eq!(certificate_json(&der), serde_json::to_string(&text).unwrap());
            for text in [text.clone(), text.replace('\n', "\r\n"), format!("\n {text} \n")] {
                let read = blocks(&text).unwrap();
                prop_assert_eq!(&read, &[Block { label: "CERTIFICATE", der: der.clone() }]);
            }
        }

        #[test]
        fn no_text_is_a_panic(text in "(-----(BEGIN|END) ?[A-Z]{0,3}(-----)?|[A-Za-z=\r\n ]{0,5}){0,12}") {
            let _ = blocks(&text);
        }
    }

    #[test]
    fn anything_around_or_inside_is_refused() {
        for wrong in [
            "text\n-----BEGIN A-----\nAAAA\n-----END A-----\n",
            "-----BEGIN A-----\nAAAA\n-----END A-----\ntext",
            "-----BEGIN A-----\nAAAA\n-----END A-----text",
            "-----BEGIN A-----\nAAAA\n-----END B-----\n",
            "-----BEGIN A-----\nAA AA\n-----END A-----\n",
            "-----BEGIN A-----\nAAAA\n\nAAAA\n-----END A-----\n",
            "-----BEGIN A-----\nAAA\n-----END A-----\n",
            "-----BEGIN A-----\nAAF=\n-----END A-----\n",
            "-----BEGIN A-----\n-----END A-----\n",
            "-----BEGIN A-----AAAA-----END A-----\n",
            "-----BEGIN A\nX-----\nAAAA\n-----END A\nX-----\n",
            "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END A-----\n",
        ] {
            assert!(blocks(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(blocks(" \r\n").unwrap(), []);
        let two =
            "-----BEGIN A-----\nAAAA\n-----END A-----\n-----BEGIN B-----\nAAAA\n-----END B-----";
        assert_eq!(blocks(two).unwrap().len(), 2);
    }
}
