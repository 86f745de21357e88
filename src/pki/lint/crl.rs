//! Rules over a finished `TBSCertList` (RFC 5280 5.1, 5.2, 5.3).

use super::LintFault;
use super::Rules;
use super::encodes_to;
use super::is;
use super::is_of_its_time;
use crate::pki::extension;
use crate::pki::issuer::Issuer;
use crate::pki::validity;
use const_oid::AssociatedOid;
use const_oid::db::rfc5280::ID_CE_ISSUING_DISTRIBUTION_POINT;
use der::Decode;
use x509_cert::certificate::Version;
use x509_cert::crl::RevokedCert;
use x509_cert::crl::TbsCertList;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;
use x509_cert::ext::pkix::CrlNumber;
use x509_cert::ext::pkix::CrlReason;
use x509_cert::ext::pkix::IssuingDistributionPoint;
use x509_cert::ext::pkix::name::DistributionPointName;
use x509_cert::ext::pkix::name::GeneralName;

/// A CRL of this issuer with so many entries; of the shard at `shard_url`, or of all its leaves.
pub(in crate::pki) fn cert_list(
    der: &[u8],
    issuer: &Issuer,
    shard_url: Option<&str>,
    entries: usize,
) -> Result<(), LintFault> {
    let list = TbsCertList::from_der(der).map_err(|error| LintFault::encoding(&error))?;
    let mut rules = Rules::default();
    rules.hold("X.690 DER", encodes_to(&list, der));
    rules.hold(
        "RFC 5280 4.2.1.3 the CA's keyUsage has cRLSign",
        issuer.signs_crls,
    );
    rules.hold("RFC 5280 5.1.2.1 version", list.version == Version::V2);
    rules.hold(
        "RFC 5280 5.1.2.2 signature (RFC 5758, RFC 4055)",
        encodes_to(&list.signature, issuer.signature_algorithm.as_der()),
    );
    rules.hold(
        "RFC 5280 5.1.2.3 issuer",
        encodes_to(&list.issuer, &issuer.subject_der),
    );
    let this_update = validity::from_time(&list.this_update);
    rules.hold(
        "RFC 5280 5.1.2.5 nextUpdate: there, after thisUpdate",
        list.next_update.as_ref().is_some_and(|next| {
            this_update < validity::from_time(next)
                && is_of_its_time(next)
                && is_of_its_time(&list.this_update)
        }),
    );
    let revoked = list.revoked_certificates.as_deref();
    rules.hold(
        "RFC 5280 5.1.2.6 revokedCertificates: all of them, absent when there is none",
        revoked.map_or(0, <[_]>::len) == entries && revoked.is_none_or(|all| !all.is_empty()),
    );
    let revoked = revoked.unwrap_or_default();
    rules.hold(
        "C2-19 each serial number once, in ascending order",
        revoked.is_sorted_by(|a, b| a.serial_number.as_bytes() < b.serial_number.as_bytes()),
    );
    rules.hold(
        "RFC 5280 5.1.2.6 no revocationDate after thisUpdate",
        revoked.iter().all(|entry| {
            is_of_its_time(&entry.revocation_date)
                && validity::from_time(&entry.revocation_date) <= this_update
        }),
    );
    rules.hold(
        "RFC 5280 5.3.1 reasonCode: alone, not critical, not unspecified",
        revoked.iter().all(has_a_reason_or_none),
    );
    let extensions = list.crl_extensions.as_deref().unwrap_or_default();
    rules.crl_extensions(extensions, issuer, shard_url);
    rules.finish()
}

impl Rules {
    fn crl_extensions(
        &mut self,
        extensions: &[Extension],
        issuer: &Issuer,
        shard_url: Option<&str>,
    ) {
        let mut extensions = extensions.iter();
        self.hold(
            "RFC 5280 5.2.1 authorityKeyIdentifier: the issuer's, alone",
            extensions.next().is_some_and(|found| {
                is(found, AuthorityKeyIdentifier::OID, false)
                    && extension::strict::<AuthorityKeyIdentifier>(found).is_ok_and(|value| {
                        value
                            .key_identifier
                            .is_some_and(|found| found.as_bytes() == issuer.key_identifier)
                            && value.authority_cert_issuer.is_none()
                            && value.authority_cert_serial_number.is_none()
                    })
            }),
        );
        self.hold(
            "RFC 5280 5.2.3 cRLNumber: 1 or more, 20 octets at most",
            extensions.next().is_some_and(|found| {
                is(found, CrlNumber::OID, false)
                    && extension::strict::<CrlNumber>(found).is_ok_and(|CrlNumber(number)| {
                        (1..=20).contains(&number.as_bytes().len()) && number.as_bytes() != [0]
                    })
            }),
        );
        let point = extensions.next();
        self.hold(
            "RFC 5280 5.2.5 issuingDistributionPoint: critical, the shard's URL, user certificates alone; absent in a complete CRL",
            match (shard_url, point) {
                (None, None) => true,
                (Some(url), Some(found)) => is_of_shard(found, url),
                _ => false,
            },
        );
        self.hold(
            "RFC 5280 5.2 no other extension",
            extensions.next().is_none(),
        );
    }
}

fn has_a_reason_or_none(entry: &RevokedCert) -> bool {
    match entry.crl_entry_extensions.as_deref() {
        None => true,
        Some([reason]) => {
            is(reason, CrlReason::OID, false)
                && extension::strict::<CrlReason>(reason)
                    .is_ok_and(|reason| reason != CrlReason::Unspecified)
        }
        Some(_) => false,
    }
}

fn is_of_shard(found: &Extension, url: &str) -> bool {
    let Ok(point) = extension::strict::<IssuingDistributionPoint>(found) else {
        return false;
    };
    is(found, ID_CE_ISSUING_DISTRIBUTION_POINT, true)
        && point.only_contains_user_certs
        && !point.only_contains_ca_certs
        && !point.only_contains_attribute_certs
        && !point.indirect_crl
        && point.only_some_reasons.is_none()
        && matches!(
            &point.distribution_point,
            Some(DistributionPointName::FullName(names)) if matches!(
                names.as_slice(),
                [GeneralName::UniformResourceIdentifier(found)] if found.as_str() == url
            )
        )
}
