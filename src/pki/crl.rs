//! `TbsCertList`: a certificate revocation list, built and linted (RFC 5280 5).
//!
//! An issuer's complete CRL lists all its revoked certificates. Where the issuer has shards, each
//! shard lists those whose CRL distribution point names it: a device's verifier then fetches a
//! small list. Which shard that is, a certificate says itself; see [`shard_of`].

use super::certificate::Signature;
use super::certificate::WrongSignature;
use super::certificate::assemble;
use super::extension;
use super::issuer::Issuer;
use super::issuer::SHARD;
use super::key_policy::SignatureAlgorithm;
use super::lint;
use super::lint::LintFault;
use super::revocation::RevocationReason;
use super::serial::SerialNumber;
use super::tbs::Document;
use super::tbs::ToBeSigned;
use super::tbs::sealed::Sealed;
use super::tlv;
use super::validity;
use chrono::{DateTime, Utc};
use const_oid::AssociatedOid;
use der::Decode;
use der::Encode;
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::ext::pkix::CrlDistributionPoints;
use x509_cert::ext::pkix::name::DistributionPointName;
use x509_cert::ext::pkix::name::GeneralName;

/// `Version` v2 as an INTEGER, whole.
const VERSION_2: [u8; 3] = [0x02, 0x01, 0x01];
/// `crlEntryExtensions` with a `reasonCode` (RFC 5280 5.3.1), all but its last octet, the code.
const REASON: [u8; 13] = [
    0x30, 0x0c, 0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x15, 0x04, 0x03, 0x0a, 0x01,
];

/// One line of a CRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Which certificate.
    pub serial_number: SerialNumber,
    /// Since when; whole seconds count.
    pub revoked_at: DateTime<Utc>,
    /// Why.
    pub reason: RevocationReason,
}

/// A CRL, complete but for the signature.
pub struct TbsCertList {
    der: Vec<u8>,
    issuer: Arc<Issuer>,
}

/// What a CRL says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edition {
    /// 1 or more; higher than that of every earlier CRL of the same scope.
    pub crl_number: u64,
    /// When it was made; whole seconds count.
    pub this_update: DateTime<Utc>,
    /// By when there will be another.
    pub next_update: DateTime<Utc>,
}

impl TbsCertList {
    /// Builds and lints. `shard`: the part of the issuer's certificates that it lists; `None`: all
    /// of them. `revoked` may come in any order, each certificate once.
    ///
    /// Takes some microseconds an entry: keep long lists off threads that others wait for.
    pub fn build(
        issuer: &Arc<Issuer>,
        shard: Option<u16>,
        edition: Edition,
        mut revoked: Vec<RevokedCertificate>,
    ) -> Result<Self, LintFault> {
        let url = match shard {
            None => None,
            Some(shard) => Some(issuer.crl_url_of_shard(shard).ok_or_else(|| {
                LintFault(vec![format!(
                    "RFC 5280 5.2.5 shard {shard}: crl_url has no {SHARD}"
                )])
            })?),
        };
        revoked.sort_unstable_by_key(|entry| *entry.serial_number.as_bytes());
        let der = encode(issuer, url.as_deref(), edition, &revoked)
            .map_err(|error| LintFault::encoding(&error))?;
        lint::cert_list(&der, issuer, url.as_deref(), revoked.len())?;
        Ok(Self {
            der,
            issuer: Arc::clone(issuer),
        })
    }

    /// DER of the `CertificateList`, if the signature verifies under the issuer's key.
    pub fn assemble(self, signature: &Signature) -> Result<Vec<u8>, WrongSignature> {
        assemble(&self.der, &self.issuer.public_key, signature)
    }
}

impl Sealed for TbsCertList {}

impl ToBeSigned for TbsCertList {
    fn to_be_signed(&self) -> &[u8] {
        &self.der
    }

    fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.issuer.signature_algorithm
    }

    fn document(&self) -> Document {
        Document::Crl
    }
}

fn encode(
    issuer: &Issuer,
    shard_url: Option<&str>,
    edition: Edition,
    revoked: &[RevokedCertificate],
) -> der::Result<Vec<u8>> {
    let extensions =
        extension::of_crl(&issuer.key_identifier, edition.crl_number, shard_url)?.to_der()?;
    let mut fields = [
        &VERSION_2[..],
        issuer.signature_algorithm.as_der(),
        &issuer.subject_der,
        &validity::to_time(edition.this_update)?.to_der()?,
        &validity::to_time(edition.next_update)?.to_der()?,
    ]
    .concat();
    // Absent when nothing is revoked (RFC 5280 5.1.2.6).
    if !revoked.is_empty() {
        fields.extend(entries(revoked)?);
    }
    fields.extend(tlv::element(tlv::CONTEXT_0, &extensions));
    Ok(tlv::element(tlv::SEQUENCE, &fields))
}

fn entries(revoked: &[RevokedCertificate]) -> der::Result<Vec<u8>> {
    let mut list = Vec::with_capacity(revoked.len() * 52);
    let mut fields = Vec::with_capacity(52);
    for entry in revoked {
        fields.clear();
        // Positive and without a leading zero: the octets are the INTEGER's.
        fields.extend([tlv::INTEGER, 16]);
        fields.extend(entry.serial_number.as_bytes());
        validity::to_time(entry.revoked_at)?.encode_to_vec(&mut fields)?;
        // Left out rather than said to be unspecified (RFC 5280 5.3.1).
        if entry.reason != RevocationReason::Unspecified {
            fields.extend(REASON);
            fields.push(entry.reason.code());
        }
        list.extend(tlv::element(tlv::SEQUENCE, &fields));
    }
    Ok(tlv::element(tlv::SEQUENCE, &list))
}

/// The shard of a certificate of this issuer: the number where its CRL distribution point has one.
/// `None` where it has none, or where it is no certificate; the complete CRL lists it anyway.
#[must_use]
pub fn shard_of(certificate: &[u8], issuer: &Issuer) -> Option<u16> {
    let (before, after) = issuer.crl_url.as_deref()?.split_once(SHARD)?;
    let certificate = Certificate::from_der(certificate).ok()?;
    let mut extensions = certificate.tbs_certificate().extensions()?.iter();
    let points = extensions.find(|found| found.extn_id == CrlDistributionPoints::OID)?;
    let CrlDistributionPoints(points) = extension::strict(points).ok()?;
    let DistributionPointName::FullName(names) = points.first()?.distribution_point.as_ref()?
    else {
        return None;
    };
    let Some(GeneralName::UniformResourceIdentifier(url)) = names.first() else {
        return None;
    };
    let number = url.as_str().strip_prefix(before)?.strip_suffix(after)?;
    shard_number(number)
}

/// A shard's number in its one way of writing.
#[must_use]
pub fn shard_number(text: &str) -> Option<u16> {
    let number: u16 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests;
