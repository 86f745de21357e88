//! The extensions of a leaf and of a CA certificate, in their fixed order, and what a request may
//! ask for.

use super::Violation;
use super::key_policy::SubjectPublicKeyInfo;
use super::tbs::LeafKind;
use const_oid::AssociatedOid;
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280::ID_CE_ISSUING_DISTRIBUTION_POINT;
use const_oid::db::rfc5280::ID_KP_CLIENT_AUTH;
use der::Decode;
use der::Encode;
use der::asn1::Ia5String;
use der::asn1::OctetString;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::ext::pkix::CrlDistributionPoints;
use x509_cert::ext::pkix::CrlNumber;
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::ext::pkix::IssuingDistributionPoint;
use x509_cert::ext::pkix::KeyUsage;
use x509_cert::ext::pkix::KeyUsages;
use x509_cert::ext::pkix::SubjectKeyIdentifier;
use x509_cert::ext::pkix::crl::dp::DistributionPoint;
use x509_cert::ext::pkix::name::DistributionPointName;
use x509_cert::ext::pkix::name::GeneralName;

/// basicConstraints, keyUsage, for a TLS client extKeyUsage, SKI, AKI, and CDP where the issuer has one.
pub(super) fn of_leaf(
    kind: LeafKind,
    key: &SubjectPublicKeyInfo,
    authority_key_identifier: &[u8],
    crl_url: Option<&str>,
) -> der::Result<Vec<Extension>> {
    let mut extensions = vec![
        // An empty SEQUENCE: cA is FALSE by default, and DER encodes no default (X.690 11.5).
        extension(
            true,
            &BasicConstraints {
                ca: false,
                path_len_constraint: None,
            },
        )?,
        // Never keyEncipherment or keyAgreement: a TLS 1.3 client only signs (RFC 8813 3).
        extension(true, &KeyUsage(KeyUsages::DigitalSignature.into()))?,
    ];
    match kind {
        LeafKind::Device | LeafKind::Station => {
            extensions.push(extension(
                false,
                &ExtendedKeyUsage(vec![ID_KP_CLIENT_AUTH]),
            )?);
        }
        LeafKind::Verification => {}
    }
    extensions.push(subject_key_identifier(key)?);
    extensions.push(key_identifier_of_authority(authority_key_identifier)?);
    if let Some(url) = crl_url {
        extensions.push(crl_distribution_point(url)?);
    }
    Ok(extensions)
}

/// basicConstraints, keyUsage, SKI and AKI, which is equal to it when the CA signs itself.
pub(super) fn of_ca(
    key: &SubjectPublicKeyInfo,
    authority_key_identifier: &[u8],
    path_length: u8,
) -> der::Result<Vec<Extension>> {
    let mut extensions = of_ca_request(path_length)?;
    extensions.push(subject_key_identifier(key)?);
    extensions.push(key_identifier_of_authority(authority_key_identifier)?);
    Ok(extensions)
}

/// basicConstraints CA:TRUE with a path length and keyUsage keyCertSign + cRLSign: what a CA asks of
/// the root above it, 0 where only leaves are to be below.
pub(super) fn of_ca_request(path_length: u8) -> der::Result<Vec<Extension>> {
    Ok(vec![
        extension(
            true,
            &BasicConstraints {
                ca: true,
                path_len_constraint: Some(path_length),
            },
        )?,
        extension(true, &KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign))?,
    ])
}

/// id-kp-OCSPSigning (RFC 6960 4.2.2.2).
pub(super) const ID_KP_OCSP_SIGNING: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
/// id-pkix-ocsp-nocheck (RFC 6960 4.2.2.2.1).
pub(super) const ID_PKIX_OCSP_NOCHECK: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.5");

/// basicConstraints, keyUsage, id-kp-OCSPSigning, nocheck, SKI, AKI: what an OCSP responder has.
pub(super) fn of_responder(
    key: &SubjectPublicKeyInfo,
    authority_key_identifier: &[u8],
) -> der::Result<Vec<Extension>> {
    Ok(vec![
        extension(
            true,
            &BasicConstraints {
                ca: false,
                path_len_constraint: None,
            },
        )?,
        extension(true, &KeyUsage(KeyUsages::DigitalSignature.into()))?,
        extension(false, &ExtendedKeyUsage(vec![ID_KP_OCSP_SIGNING]))?,
        // Its value is NULL.
        raw(ID_PKIX_OCSP_NOCHECK, false, vec![5, 0])?,
        subject_key_identifier(key)?,
        key_identifier_of_authority(authority_key_identifier)?,
    ])
}

/// AKI and cRLNumber; for a shard, which part of the leaves it lists (RFC 5280 5.2).
pub(super) fn of_crl(
    authority_key_identifier: &[u8],
    crl_number: u64,
    shard_url: Option<&str>,
) -> der::Result<Vec<Extension>> {
    let mut extensions = vec![
        key_identifier_of_authority(authority_key_identifier)?,
        extension(false, &CrlNumber::try_from(crl_number)?)?,
    ];
    if let Some(url) = shard_url {
        let point = IssuingDistributionPoint {
            distribution_point: Some(full_name(url)?),
            only_contains_user_certs: true,
            only_contains_ca_certs: false,
            only_some_reasons: None,
            indirect_crl: false,
            only_contains_attribute_certs: false,
        };
        // Not by the type's own OID, which in x509-cert 0.3 is subjectInfoAccess.
        extensions.push(raw(
            ID_CE_ISSUING_DISTRIBUTION_POINT,
            true,
            point.to_der()?,
        )?);
    }
    Ok(extensions)
}

/// The requested extensions that no device profile gives; an error when a value is not DER.
///
/// What any profile gives anyway (keyUsage within digitalSignature, extKeyUsage within clientAuth,
/// basicConstraints without cA) asks for nothing more and is dropped.
pub(super) fn excess(requested: &[Extension]) -> Result<Vec<Violation>, String> {
    let mut violations = Vec::new();
    for extension in requested {
        let oid = extension.extn_id;
        let reason = match oid {
            BasicConstraints::OID => {
                let asked: BasicConstraints = strict(extension)?;
                (asked.ca || asked.path_len_constraint.is_some())
                    .then_some("basicConstraints asks for more than an end entity")
            }
            KeyUsage::OID => {
                let asked: KeyUsage = strict(extension)?;
                (!(asked.0 - KeyUsages::DigitalSignature).is_empty())
                    .then_some("keyUsage asks for more than digitalSignature")
            }
            ExtendedKeyUsage::OID => {
                let asked: ExtendedKeyUsage = strict(extension)?;
                asked
                    .0
                    .iter()
                    .any(|purpose| *purpose != ID_KP_CLIENT_AUTH)
                    .then_some("extKeyUsage asks for more than clientAuth")
            }
            _ => Some("a device certificate has no such extension on request"),
        };
        violations.extend(reason.map(|reason| Violation {
            rule: "extension-not-granted",
            attribute: Some(oid.to_string()),
            detail: reason.to_owned(),
        }));
    }
    Ok(violations)
}

/// An extension's value, if it is the DER of one.
pub(super) fn strict<T>(extension: &Extension) -> Result<T, String>
where
    T: for<'a> Decode<'a> + Encode,
{
    let octets = extension.extn_value.as_bytes();
    T::from_der(octets)
        .ok()
        .filter(|value| value.to_der().is_ok_and(|again| again == octets))
        .ok_or_else(|| format!("the value of extension {} is not DER", extension.extn_id))
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> der::Result<Extension> {
    raw(T::OID, critical, value.to_der()?)
}

pub(super) fn raw(
    extn_id: ObjectIdentifier,
    critical: bool,
    value: Vec<u8>,
) -> der::Result<Extension> {
    Ok(Extension {
        extn_id,
        critical,
        extn_value: OctetString::new(value)?,
    })
}

fn subject_key_identifier(key: &SubjectPublicKeyInfo) -> der::Result<Extension> {
    extension(
        false,
        &SubjectKeyIdentifier(OctetString::new(key.key_identifier())?),
    )
}

/// keyIdentifier alone: issuer and serial would tie the leaf to one certificate of its CA.
fn key_identifier_of_authority(key_identifier: &[u8]) -> der::Result<Extension> {
    let key_identifier = Some(OctetString::new(key_identifier)?);
    extension(
        false,
        &AuthorityKeyIdentifier {
            key_identifier,
            ..Default::default()
        },
    )
}

fn crl_distribution_point(url: &str) -> der::Result<Extension> {
    let point = DistributionPoint {
        distribution_point: Some(full_name(url)?),
        reasons: None,
        crl_issuer: None,
    };
    extension(false, &CrlDistributionPoints(vec![point]))
}

fn full_name(url: &str) -> der::Result<DistributionPointName> {
    let name = GeneralName::UniformResourceIdentifier(Ia5String::new(url)?);
    Ok(DistributionPointName::FullName(vec![name]))
}
