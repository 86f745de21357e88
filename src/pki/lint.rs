//! Rules over the finished bytes, each named after its clause.
//!
//! The bytes are parsed anew, by another type than the one that wrote them, so that a slip in the
//! building is found before the HSM signs it. Every rule is looked at; all that break are named.

mod crl;

pub(super) use crl::cert_list;

use super::extension;
use super::issuer;
use super::issuer::Issuer;
use super::key_policy::KeyAlgorithm;
use super::key_policy::SubjectPublicKeyInfo;
use super::name;
use super::name::AttributeType;
use super::name::Subject;
use super::tbs::LeafKind;
use super::validity::Validity;
use super::verification;
use super::verification::RegistrationCode;
use const_oid::AssociatedOid;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::ID_KP_CLIENT_AUTH;
use der::Decode;
use der::Encode;
use x509_cert::TbsCertificate;
use x509_cert::certificate::Version;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::ext::pkix::CrlDistributionPoints;
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::ext::pkix::KeyUsages;
use x509_cert::ext::pkix::SubjectKeyIdentifier;
use x509_cert::ext::pkix::name::DistributionPointName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::request::CertReqInfo;
use x509_cert::time::Time;

/// Bytes that break a rule: our bug, never the station's.
#[derive(Debug, thiserror::Error)]
#[error("what was to be signed breaks {}", .0.join(", "))]
pub struct LintFault(pub Vec<String>);

impl LintFault {
    pub(super) fn encoding(error: &der::Error) -> Self {
        Self(vec![format!("X.690 encoding ({error})")])
    }
}

/// A leaf of this issuer. `key`: the key it is for, already within policy; without it, the key
/// inside the bytes is judged.
pub(super) fn leaf_certificate(
    kind: LeafKind,
    der: &[u8],
    issuer: &Issuer,
    key: Option<&SubjectPublicKeyInfo>,
) -> Result<(), LintFault> {
    let tbs = parse(der)?;
    let spki = tbs.subject_public_key_info().to_der().unwrap_or_default();
    let inside;
    let key = if let Some(key) = key {
        key
    } else {
        inside = SubjectPublicKeyInfo::from_der(&spki)
            .map_err(|fault| LintFault(vec![format!("RFC 5280 4.1.2.7 public key ({fault})")]))?;
        &inside
    };
    let mut rules = Rules::default();
    rules.common(&tbs, &spki, key, &issuer.public_key);
    rules.hold(
        "RFC 5280 4.1.2.4 issuer",
        encodes_to(tbs.issuer(), &issuer.subject_der),
    );
    let validity = Validity::from_x509(tbs.validity());
    rules.hold(
        "RFC 5280 4.1.2.5 validity within the issuer's",
        validity.is_some_and(|validity| {
            issuer.validity.not_before <= validity.not_before
                && validity.not_after <= issuer.validity.not_after
        }),
    );
    let all = tbs.extensions().map(Vec::as_slice).unwrap_or_default();
    let mut extensions = all.iter();
    rules.hold(
        "RFC 5280 4.2.1.9 basicConstraints: critical and an empty SEQUENCE",
        extensions.next().is_some_and(|found| {
            is(found, BasicConstraints::OID, true) && found.extn_value.as_bytes() == [0x30, 0]
        }),
    );
    rules.hold(
        "RFC 5280 4.2.1.3 keyUsage: critical, digitalSignature alone",
        extensions.next().is_some_and(|found| {
            is(found, KeyUsage::OID, true) && found.extn_value.as_bytes() == [3, 2, 7, 0x80]
        }),
    );
    match kind {
        LeafKind::Device | LeafKind::Station => rules.hold(
            "RFC 5280 4.2.1.12 extKeyUsage: clientAuth alone",
            extensions.next().is_some_and(|found| {
                is(found, ExtendedKeyUsage::OID, false)
                    && extension::strict::<ExtendedKeyUsage>(found)
                        .is_ok_and(|purposes| purposes.0 == [ID_KP_CLIENT_AUTH])
            }),
        ),
        LeafKind::Verification => rules.verification(&tbs, validity, all),
    }
    rules.key_identifiers(
        &mut extensions,
        &key.key_identifier(),
        &issuer.key_identifier,
    );
    rules.hold(
        "RFC 5280 4.2.1.13 cRLDistributionPoints: one URL, nothing after it",
        extensions.next().is_none_or(is_crl_distribution_point) && extensions.next().is_none(),
    );
    rules.finish()
}

/// The certificate of this issuer's OCSP responder, for `key`.
pub(super) fn responder_certificate(
    der: &[u8],
    issuer: &Issuer,
    key: &SubjectPublicKeyInfo,
) -> Result<(), LintFault> {
    let tbs = parse(der)?;
    let spki = tbs.subject_public_key_info().to_der().unwrap_or_default();
    let mut rules = Rules::default();
    rules.common(&tbs, &spki, key, &issuer.public_key);
    rules.hold(
        "RFC 5280 4.1.2.4 issuer",
        encodes_to(tbs.issuer(), &issuer.subject_der),
    );
    rules.hold(
        "RFC 5280 4.1.2.5 validity within the issuer's",
        Validity::from_x509(tbs.validity())
            .is_some_and(|validity| validity.not_after <= issuer.validity.not_after),
    );
    let extensions = tbs.extensions().map(Vec::as_slice).unwrap_or_default();
    rules.hold(
        "RFC 6960 4.2.2.2 basicConstraints, keyUsage, OCSPSigning, nocheck, SKI, AKI and nothing else",
        extension::of_responder(key, &issuer.key_identifier)
            .is_ok_and(|expected| extensions == expected),
    );
    rules.finish()
}

/// A CA certificate for `key`, signed by `above`; `None`: by itself.
pub(super) fn ca(
    der: &[u8],
    key: &SubjectPublicKeyInfo,
    above: Option<&Issuer>,
    path_length: u8,
) -> Result<(), LintFault> {
    let tbs = parse(der)?;
    let spki = tbs.subject_public_key_info().to_der().unwrap_or_default();
    let mut rules = Rules::default();
    rules.common(
        &tbs,
        &spki,
        key,
        above.map_or(key, |above| &above.public_key),
    );
    match above {
        None => rules.hold("RFC 5280 3.2 self-issued", tbs.issuer() == tbs.subject()),
        Some(above) => {
            rules.hold(
                "RFC 5280 4.1.2.4 issuer",
                encodes_to(tbs.issuer(), &above.subject_der) && tbs.issuer() != tbs.subject(),
            );
            rules.hold(
                "RFC 5280 4.2.1.9 within the issuer's path length",
                above.path_length.is_none_or(|most| path_length < most),
            );
            rules.hold(
                "RFC 5280 6.1.3 within the issuer's validity",
                Validity::from_x509(tbs.validity()).is_some_and(|own| {
                    own.not_before >= above.validity.not_before
                        && own.not_after <= above.validity.not_after
                }),
            );
        }
    }
    let mut extensions = tbs
        .extensions()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter();
    rules.ca_extensions(&mut extensions, path_length);
    let own = key.key_identifier();
    rules.key_identifiers(
        &mut extensions,
        &own,
        above.map_or(&own, |above| &above.key_identifier),
    );
    rules.hold(
        "RFC 5280 4.2 no other extension",
        extensions.next().is_none(),
    );
    rules.finish()
}

/// A request for a CA certificate for `key` and `subject`.
pub(super) fn ca_request(
    der: &[u8],
    subject: &Subject,
    key: &SubjectPublicKeyInfo,
) -> Result<(), LintFault> {
    let info = CertReqInfo::from_der(der).map_err(|error| LintFault::encoding(&error))?;
    let mut rules = Rules::default();
    rules.hold("X.690 DER", encodes_to(&info, der));
    rules.hold(
        "RFC 2986 4.1 subject",
        !info.subject.is_empty() && encodes_to(&info.subject, &subject.to_der()),
    );
    rules.hold(
        "RFC 2986 4.1 public key",
        encodes_to(&info.public_key, key.as_der()),
    );
    let attribute = info.attributes.iter().next();
    let requested = attribute
        .filter(|attribute| attribute.oid == const_oid::db::rfc5912::ID_EXTENSION_REQ)
        .and_then(|attribute| attribute.values.iter().next())
        .and_then(|value| value.decode_as::<Vec<Extension>>().ok())
        .unwrap_or_default();
    rules.ca_extensions(&mut requested.iter(), 0);
    rules.finish()
}

/// Why a certificate is not built.
#[derive(Debug, thiserror::Error)]
pub enum TbsFault {
    /// Our bug.
    #[error(transparent)]
    Lint(#[from] LintFault),
    /// The subject is too long for the device's memory, which the profile bounds.
    #[error(
        "the certificate would have {length} octets; the profile allows {certificate_length_max}"
    )]
    TooLong {
        /// Octets it could have.
        length: usize,
        /// Octets it may have.
        certificate_length_max: usize,
    },
}

/// The finished certificate stays within a device's memory whatever the signature's length.
pub(super) fn length(
    to_be_signed: usize,
    issuer_key: KeyAlgorithm,
    certificate_length_max: usize,
) -> Result<(), TbsFault> {
    // Outer header and BIT STRING header with their unused-bits octet, each at its longest.
    const HEADERS: usize = 4 + 5;
    let algorithm = issuer_key.signature_algorithm().as_der().len();
    let length = HEADERS + to_be_signed + algorithm + issuer_key.signature_length_max();
    if length <= certificate_length_max {
        return Ok(());
    }
    Err(TbsFault::TooLong {
        length,
        certificate_length_max,
    })
}

/// Collects the names of the rules that do not hold.
#[derive(Default)]
struct Rules(Vec<String>);

impl Rules {
    fn hold(&mut self, rule: &str, holds: bool) {
        if !holds {
            self.0.push(rule.to_owned());
        }
    }

    fn finish(self) -> Result<(), LintFault> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(LintFault(self.0))
        }
    }

    /// What every certificate of ours has; `signer` is the key it will be signed with.
    fn common(
        &mut self,
        tbs: &TbsCertificate,
        spki: &[u8],
        key: &SubjectPublicKeyInfo,
        signer: &SubjectPublicKeyInfo,
    ) {
        self.hold("RFC 5280 4.1.2.1 version", tbs.version() == Version::V3);
        self.hold(
            "RFC 5280 4.1.2.8 unique identifiers",
            tbs.issuer_unique_id().is_none() && tbs.subject_unique_id().is_none(),
        );
        let serial = tbs.serial_number().as_bytes();
        self.hold(
            "RFC 5280 4.1.2.2 serial",
            serial.len() == 16
                && serial
                    .first()
                    .is_some_and(|first| (1..=0x7f).contains(first)),
        );
        let algorithm = signer.algorithm().signature_algorithm();
        self.hold(
            "RFC 5280 4.1.2.3 signature (RFC 5758, RFC 4055)",
            encodes_to(tbs.signature(), algorithm.as_der()),
        );
        self.hold("RFC 5280 4.1.2.7 public key", spki == key.as_der());
        self.hold("RFC 5280 4.1.2.6 subject", is_subject_of_ours(tbs));
        let Some(validity) = Validity::from_x509(tbs.validity()) else {
            return self.hold("RFC 5280 4.1.2.5 validity", false);
        };
        self.hold(
            "RFC 5280 4.1.2.5 validity",
            validity.not_before <= validity.not_after,
        );
        self.hold(
            "RFC 5280 4.1.2.5 UTCTime through 2049",
            [tbs.validity().not_before, tbs.validity().not_after]
                .iter()
                .all(is_of_its_time),
        );
    }

    /// What a verification certificate has and has not (AWS IoT developer guide, "Register your CA
    /// certificate").
    fn verification(
        &mut self,
        tbs: &TbsCertificate,
        validity: Option<Validity>,
        extensions: &[Extension],
    ) {
        self.hold(
            "verification certificate: no extKeyUsage",
            extensions
                .iter()
                .all(|found| found.extn_id != ExtendedKeyUsage::OID),
        );
        self.hold(
            "verification certificate: CN alone, 64 hexadecimal digits",
            name::attributes_of(tbs.subject()).is_ok_and(|values| {
                values.len() == 1
                    && values
                        .get(&AttributeType::CommonName)
                        .is_some_and(|code| RegistrationCode::parse(code).is_some())
            }),
        );
        // Both ends belong to the period (RFC 5280 4.1.2.5), hence `<`.
        self.hold(
            "verification certificate: valid for a day at most",
            validity.is_some_and(
                |Validity {
                     not_before,
                     not_after,
                 }| {
                    (not_after - not_before).num_seconds() < verification::SECONDS_MAX
                },
            ),
        );
    }

    /// SKI of the key, AKI of the authority: next in order, neither critical.
    fn key_identifiers<'a>(
        &mut self,
        extensions: &mut impl Iterator<Item = &'a Extension>,
        subject: &[u8],
        authority: &[u8],
    ) {
        self.hold(
            "RFC 5280 4.2.1.2 subjectKeyIdentifier",
            extensions.next().is_some_and(|found| {
                is(found, SubjectKeyIdentifier::OID, false)
                    && extension::strict::<SubjectKeyIdentifier>(found)
                        .is_ok_and(|identifier| identifier.0.as_bytes() == subject)
            }),
        );
        self.hold(
            "RFC 5280 4.2.1.1 authorityKeyIdentifier: the issuer's, alone",
            extensions.next().is_some_and(|found| {
                is(found, AuthorityKeyIdentifier::OID, false)
                    && extension::strict::<AuthorityKeyIdentifier>(found).is_ok_and(|value| {
                        value
                            .key_identifier
                            .is_some_and(|found| found.as_bytes() == authority)
                            && value.authority_cert_issuer.is_none()
                            && value.authority_cert_serial_number.is_none()
                    })
            }),
        );
    }

    fn ca_extensions<'a>(
        &mut self,
        extensions: &mut impl Iterator<Item = &'a Extension>,
        path_length: u8,
    ) {
        self.hold(
            "RFC 5280 4.2.1.9 basicConstraints: critical, CA:TRUE, pathLen",
            extensions.next().is_some_and(|found| {
                is(found, BasicConstraints::OID, true)
                    && extension::strict::<BasicConstraints>(found).is_ok_and(|value| {
                        value.ca && value.path_len_constraint == Some(path_length)
                    })
            }),
        );
        self.hold(
            "RFC 5280 4.2.1.3 keyUsage: critical, keyCertSign and cRLSign",
            extensions.next().is_some_and(|found| {
                is(found, KeyUsage::OID, true)
                    && extension::strict::<KeyUsage>(found)
                        .is_ok_and(|value| value.0 == KeyUsages::KeyCertSign | KeyUsages::CRLSign)
            }),
        );
    }
}

fn parse(der: &[u8]) -> Result<TbsCertificate, LintFault> {
    let tbs = TbsCertificate::from_der(der).map_err(|error| LintFault::encoding(&error))?;
    if encodes_to(&tbs, der) {
        Ok(tbs)
    } else {
        Err(LintFault(vec!["X.690 DER".to_owned()]))
    }
}

fn encodes_to<T: Encode>(value: &T, der: &[u8]) -> bool {
    value.to_der().is_ok_and(|again| again == der)
}

fn is(extension: &Extension, oid: ObjectIdentifier, critical: bool) -> bool {
    extension.extn_id == oid && extension.critical == critical
}

/// Not empty, every value well-formed, in our order and string types.
fn is_subject_of_ours(tbs: &TbsCertificate) -> bool {
    name::attributes_of(tbs.subject())
        .ok()
        .filter(|values| !values.is_empty())
        .and_then(|values| Subject::new(values).ok())
        .is_some_and(|subject| encodes_to(tbs.subject(), &subject.to_der()))
}

fn is_of_its_time(time: &Time) -> bool {
    matches!(time, Time::UtcTime(_)) == (time.to_date_time().year() <= 2049)
}

fn is_crl_distribution_point(found: &Extension) -> bool {
    let Ok(CrlDistributionPoints(points)) = extension::strict(found) else {
        return false;
    };
    let [point] = points.as_slice() else {
        return false;
    };
    let Some(DistributionPointName::FullName(names)) = &point.distribution_point else {
        return false;
    };
    is(found, CrlDistributionPoints::OID, false)
        && point.reasons.is_none()
        && point.crl_issuer.is_none()
        && matches!(
            names.as_slice(),
            [GeneralName::UniformResourceIdentifier(url)] if issuer::is_http_url(url.as_str())
        )
}

#[cfg(test)]
mod tests;
