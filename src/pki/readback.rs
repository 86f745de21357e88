//! What was read back from a device at the end of the line: its certificate, and the chain it keeps.

use super::key_policy::SubjectPublicKeyInfo;
use super::pem;
use super::serial::SerialNumber;
use der::Decode;
use der::Encode;
use x509_cert::Certificate;

/// Most certificates that one device keeps.
const CERTIFICATES_MAX: usize = 8;

/// A device's certificate and those it keeps above it. What is in them is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readback {
    /// DER of the device's own.
    pub leaf: Vec<u8>,
    /// DER of the others, in the order in which they were read.
    pub chain: Vec<Vec<u8>>,
}

/// Why it is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReadbackFault(pub String);

impl Readback {
    /// `octets`: PEM of one certificate or of a chain, the device's own first; or DER of one.
    pub fn parse(octets: &[u8]) -> Result<Self, ReadbackFault> {
        let fault = |what: &str| ReadbackFault(what.to_owned());
        let mut certificates = match std::str::from_utf8(octets) {
            Ok(text) if text.trim_ascii_start().starts_with("-----BEGIN") => {
                let blocks = pem::blocks(text).map_err(|error| fault(&error.to_string()))?;
                if blocks.iter().any(|block| block.label != "CERTIFICATE") {
                    return Err(fault("a PEM block other than CERTIFICATE"));
                }
                blocks.into_iter().map(|block| block.der).collect()
            }
            _ => vec![octets.to_vec()],
        };
        if certificates.len() > CERTIFICATES_MAX {
            return Err(fault("more than 8 certificates"));
        }
        for der in &certificates {
            Certificate::from_der(der).map_err(|_| fault("not the DER of a certificate"))?;
        }
        let chain = certificates.split_off(1.min(certificates.len()));
        let leaf = certificates.pop().ok_or_else(|| fault("no certificate"))?;
        Ok(Self { leaf, chain })
    }

    /// Serial number and SHA-256 of the public key of the device's own, where they have our form.
    #[must_use]
    pub fn names(&self) -> Option<(SerialNumber, [u8; 32])> {
        let certificate = Certificate::from_der(&self.leaf).ok()?;
        let tbs = certificate.tbs_certificate();
        let serial = SerialNumber::from_bytes(tbs.serial_number().as_bytes().try_into().ok()?)?;
        let spki = tbs.subject_public_key_info().to_der().ok()?;
        Some((serial, openssl::sha::sha256(&spki)))
    }
}

/// Whether `signature` over `nonce` was made with the private key of the certificate, in DER: ECDSA
/// (DER `ECDSA-Sig-Value`) or RSA PKCS#1 v1.5, both with SHA-256.
#[must_use]
pub fn proves_possession(certificate: &[u8], nonce: &[u8], signature: &[u8]) -> bool {
    let key = Certificate::from_der(certificate)
        .ok()
        .and_then(|parsed| {
            let spki = parsed.tbs_certificate().subject_public_key_info().to_der();
            spki.ok()
        })
        .and_then(|spki| SubjectPublicKeyInfo::from_der(&spki).ok());
    key.is_some_and(|key| key.verifies(key.algorithm().signature_algorithm(), nonce, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        for octets in [
            &b""[..],
            b"-----BEGIN",
            b"hello",
            b"\x30\x03\x02\x01\x01",
            b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(Readback::parse(octets).is_err(), "{octets:?}");
        }
    }
}
