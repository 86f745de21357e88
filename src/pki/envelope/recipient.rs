//! Which certificates an envelope may be sealed to.

use crate::pki::envelope::Curve;
use crate::pki::envelope::EC_PUBLIC_KEY;
use crate::pki::envelope::Recipient;
use crate::pki::extension;
use crate::pki::pem;
use crate::pki::tlv;
use crate::pki::validity::Validity;
use chrono::DateTime;
use chrono::Utc;
use const_oid::AssociatedOid;
use const_oid::ObjectIdentifier;
use der::Decode;
use der::Encode;
use der::Tag;
use der::Tagged;
use der::asn1::AnyRef;
use openssl::bn::BigNumContext;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::ec::EcPoint;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::pkey::Public;
use openssl::sha;
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::Certificate;
use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::KeyUsage;

/// Longest input that is looked at, in octets.
const LENGTH_MAX: usize = 64 << 10;

/// Why nothing can be sealed to a certificate: everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", sentence(.0))]
pub struct RecipientFault(pub Vec<RecipientReason>);

/// One thing that is wrong with a recipient's certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecipientReason {
    /// Not one certificate in PEM or DER.
    #[error("this is not one certificate in PEM or DER: {0}")]
    Certificate(String),
    /// A private key in PEM or DER; nothing of it is kept.
    #[error("this holds a private key: send the certificate alone, and use another key")]
    PrivateKey,
    /// Its validity has not begun.
    #[error("the certificate is not valid before {0}")]
    NotYetValid(DateTime<Utc>),
    /// Its validity is over.
    #[error("the certificate expired at {0}")]
    Expired(DateTime<Utc>),
    /// Not EC on one of the curves.
    #[error("the certificate's key must be EC on P-256, P-384 or P-521, by the curve's name: {0}")]
    Key(String),
    /// A keyUsage without keyAgreement.
    #[error("the certificate's keyUsage lacks keyAgreement (RFC 5480 3)")]
    KeyUsage,
}

fn sentence(reasons: &[RecipientReason]) -> String {
    let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    reasons.join("; ")
}

impl Recipient {
    /// From a certificate, PEM (this one block and nothing else) or DER. Who signed it is not
    /// asked: whoever names a recipient answers for it.
    pub fn parse(octets: &[u8], now: DateTime<Utc>) -> Result<Self, RecipientFault> {
        let (der, certificate) =
            certificate(octets).map_err(|fault| RecipientFault(vec![fault]))?;
        let tbs = certificate.tbs_certificate();
        let mut reasons: Vec<_> = validity_fault(tbs, now)
            .into_iter()
            .chain(key_usage_fault(tbs))
            .collect();
        let key = public_key(tbs.subject_public_key_info())
            .map_err(|detail| reasons.push(RecipientReason::Key(detail)));
        let identifier = issuer_and_serial_number(tbs)
            .map_err(|fault| reasons.push(RecipientReason::Certificate(fault.to_string())));
        match (key, identifier) {
            (Ok((curve, group, key)), Ok(issuer_and_serial_number)) if reasons.is_empty() => {
                Ok(Self {
                    sha256: sha::sha256(&der),
                    der,
                    subject: tbs.subject().to_string(),
                    curve,
                    group,
                    key,
                    issuer_and_serial_number,
                })
            }
            _ => Err(RecipientFault(reasons)),
        }
    }
}

fn certificate(octets: &[u8]) -> Result<(Vec<u8>, Certificate), RecipientReason> {
    let malformed = |detail: &str| RecipientReason::Certificate(detail.to_owned());
    if octets.len() > LENGTH_MAX {
        return Err(malformed("it is longer than 64 KiB"));
    }
    // Before anything is decoded into buffers that nobody clears.
    if holds_private_key(octets) {
        return Err(RecipientReason::PrivateKey);
    }
    let der = match std::str::from_utf8(octets) {
        Ok(text) if text.trim_ascii_start().starts_with("-----BEGIN") => {
            let blocks = pem::blocks(text).map_err(|fault| malformed(&fault.to_string()))?;
            match <[_; 1]>::try_from(blocks) {
                Ok([block]) if block.label == "CERTIFICATE" => block.der,
                Ok([block]) => {
                    let detail = format!("its block is labelled {}", block.label);
                    return Err(malformed(&detail));
                }
                Err(blocks) => {
                    return Err(malformed(&format!("it has {} blocks", blocks.len())));
                }
            }
        }
        _ => octets.to_vec(),
    };
    let certificate = Certificate::from_der(&der).map_err(|fault| malformed(&fault.to_string()))?;
    // What is encoded again below, issuer and serial number, is thereby what the owner's software
    // compares with.
    if certificate.to_der().ok().as_deref() != Some(&der) {
        return Err(malformed("its own DER encoding differs"));
    }
    Ok((der, certificate))
}

/// A PEM label that ends in `PRIVATE KEY`, or DER that begins as PKCS#8, PKCS#1, SEC 1 and PKCS#12
/// do: with a version, a small INTEGER. A certificate begins with a SEQUENCE.
fn holds_private_key(octets: &[u8]) -> bool {
    const LABEL: &[u8] = b"PRIVATE KEY-----";
    let in_text = octets.windows(LABEL.len()).any(|window| window == LABEL);
    in_text
        || AnyRef::from_der(octets).is_ok_and(|any| {
            any.tag() == Tag::Sequence && any.value().starts_with(&[tlv::INTEGER, 1])
        })
}

fn validity_fault(tbs: &TbsCertificate, now: DateTime<Utc>) -> Option<RecipientReason> {
    let Some(validity) = Validity::from_x509(tbs.validity()) else {
        let detail = "its validity cannot be read".to_owned();
        return Some(RecipientReason::Certificate(detail));
    };
    if now < validity.not_before {
        Some(RecipientReason::NotYetValid(validity.not_before))
    } else if !validity.contains(now) {
        Some(RecipientReason::Expired(validity.not_after))
    } else {
        None
    }
}

/// Where the extension is absent, the key may be used for anything (RFC 5280 4.2.1.3).
fn key_usage_fault(tbs: &TbsCertificate) -> Option<RecipientReason> {
    let mut extensions = tbs.extensions()?.iter();
    let found = extensions.find(|extension| extension.extn_id == KeyUsage::OID)?;
    match extension::strict::<KeyUsage>(found) {
        Ok(usage) if usage.key_agreement() => None,
        Ok(_) => Some(RecipientReason::KeyUsage),
        Err(detail) => Some(RecipientReason::Certificate(detail)),
    }
}

fn public_key(info: &SubjectPublicKeyInfoOwned) -> Result<(Curve, EcGroup, PKey<Public>), String> {
    if info.algorithm.oid != EC_PUBLIC_KEY {
        return Err(format!("its algorithm is {}", info.algorithm.oid));
    }
    let name = info.algorithm.parameters.as_ref();
    let name = name
        .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok())
        .ok_or("its parameters are not the name of a curve")?;
    let curve = Curve::ALL
        .into_iter()
        .find(|curve| curve.oid() == name)
        .ok_or_else(|| format!("its curve is {name}"))?;
    let point = info.subject_public_key.as_bytes().unwrap_or_default();
    // SEC 1 2.3.3: 4 says that both coordinates follow.
    if point.first() != Some(&4) || point.len() != 1 + 2 * curve.coordinate_length() {
        return Err("it is not an uncompressed point".to_owned());
    }
    let (group, key) =
        on_curve(curve, point).map_err(|_| "it is not a point on its curve".to_owned())?;
    Ok((curve, group, key))
}

/// An error when the point is off the curve; the curves have cofactor 1, so every other has the
/// right order.
fn on_curve(curve: Curve, point: &[u8]) -> Result<(EcGroup, PKey<Public>), ErrorStack> {
    let group = EcGroup::from_curve_name(curve.nid())?;
    let point = EcPoint::from_bytes(&group, point, &mut *BigNumContext::new()?)?;
    let key = PKey::from_ec_key(EcKey::from_public_key(&group, &point)?)?;
    Ok((group, key))
}

fn issuer_and_serial_number(tbs: &TbsCertificate) -> der::Result<Vec<u8>> {
    let parts = [tbs.issuer().to_der()?, tbs.serial_number().to_der()?];
    Ok(tlv::element(tlv::SEQUENCE, &parts.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::envelope::fixture;
    use crate::pki::envelope::fixture::Owner;
    use openssl::ec::Asn1Flag;
    use openssl::nid::Nid;
    use openssl::rsa::Rsa;
    use openssl::x509::extension::KeyUsage as KeyUsageBuilder;

    fn reasons(octets: &[u8]) -> Vec<RecipientReason> {
        let parsed = Recipient::parse(octets, fixture::now());
        parsed.err().map(|fault| fault.0).unwrap_or_default()
    }

    #[test]
    fn a_certificate_is_read_from_pem_and_from_der() {
        let owner = Owner::on(Nid::X9_62_PRIME256V1);
        let der = owner.certificate.to_der().unwrap();
        for octets in [&owner.pem(), &der] {
            let recipient = Recipient::parse(octets, fixture::now()).ok().unwrap();
            assert_eq!(recipient.as_der(), der);
            assert_eq!(recipient.sha256(), &sha::sha256(&der));
            assert_eq!(recipient.subject(), "CN=Recipient");
        }
        let mut usage = KeyUsageBuilder::new();
        usage.digital_signature().key_agreement();
        let both = Owner::with(Owner::key_on(Nid::SECP384R1), Some(&usage));
        assert_eq!(reasons(&both.pem()), []);
    }

    #[test]
    fn private_keys_are_told_from_certificates() {
        let owner = Owner::on(Nid::X9_62_PRIME256V1);
        let ec_key = owner.key.ec_key().unwrap();
        let rsa = Rsa::generate(2048).unwrap();
        let pem = owner.key.private_key_to_pem_pkcs8().unwrap();
        for octets in [
            [owner.pem(), pem.clone()].concat(),
            pem,
            ec_key.private_key_to_pem().unwrap(),
            ec_key.private_key_to_der().unwrap(),
            owner.key.private_key_to_pkcs8().unwrap(),
            rsa.private_key_to_der().unwrap(),
        ] {
            assert_eq!(reasons(&octets), [RecipientReason::PrivateKey]);
        }
    }

    #[test]
    fn anything_but_one_certificate_is_refused() {
        let owner = Owner::on(Nid::X9_62_PRIME256V1);
        let mut trailing = owner.certificate.to_der().unwrap();
        trailing.push(0);
        for octets in [
            Vec::new(),
            b"certificate".to_vec(),
            vec![0; LENGTH_MAX + 1],
            trailing,
            [owner.pem(), owner.pem()].concat(),
            [owner.pem(), b"and text".to_vec()].concat(),
            owner.key.public_key_to_pem().unwrap(),
        ] {
            let found = reasons(&octets);
            assert!(
                matches!(found[..], [RecipientReason::Certificate(_)]),
                "{found:?}"
            );
        }
    }

    #[test]
    fn only_named_curves_of_the_three_are_taken() {
        let rsa = PKey::from_rsa(Rsa::generate(3072).unwrap()).unwrap();
        let mut group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        group.set_asn1_flag(Asn1Flag::EXPLICIT_CURVE);
        let explicit = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        for (key, detail) in [
            (rsa, "1.2.840.113549.1.1.1"),
            (PKey::generate_ed25519().unwrap(), "1.3.101.112"),
            (Owner::key_on(Nid::SECP256K1), "1.3.132.0.10"),
            (explicit, "not the name of a curve"),
        ] {
            let found = reasons(&Owner::with(key, None).pem());
            let [RecipientReason::Key(told)] = &found[..] else {
                panic!("{detail}: {found:?}");
            };
            assert!(told.contains(detail), "{told}");
        }
    }

    #[test]
    fn every_reason_is_told() {
        let mut usage = KeyUsageBuilder::new();
        usage.critical().digital_signature();
        let owner = Owner::with(Owner::key_on(Nid::SECP256K1), Some(&usage));
        let later = fixture::NOT_AFTER;
        for (now, expected) in [
            (later + fixture::DAY, RecipientReason::Expired(later)),
            (
                fixture::NOT_BEFORE - fixture::DAY,
                RecipientReason::NotYetValid(fixture::NOT_BEFORE),
            ),
        ] {
            let fault = Recipient::parse(&owner.pem(), now).err().unwrap();
            let [first, RecipientReason::KeyUsage, RecipientReason::Key(_)] = &fault.0[..] else {
                panic!("{fault}");
            };
            assert_eq!(*first, expected);
            assert_eq!(fault.to_string().matches("; ").count(), 2);
        }
    }
}
