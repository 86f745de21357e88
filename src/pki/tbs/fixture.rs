//! Issuers and device keys in software, for the tests of this room.

use super::CertificationRequestInfo;
use super::TbsCaCertificate;
use super::ToBeSigned;
use crate::pki::certificate::Signature;
use crate::pki::issuer::Issuer;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::name::AttributeType;
use crate::pki::name::Subject;
use crate::pki::pem;
use crate::pki::serial::InstanceByte;
use crate::pki::serial::SerialNumber;
use crate::pki::validity::Validity;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::rsa::Rsa;
use openssl::sign::Signer;

pub(in crate::pki) fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub(in crate::pki) fn rsa_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

pub(in crate::pki) fn public(key: &PKey<Private>) -> SubjectPublicKeyInfo {
    SubjectPublicKeyInfo::from_der(&key.public_key_to_der().unwrap()).unwrap()
}

pub(in crate::pki) fn sign(key: &PKey<Private>, message: &[u8]) -> Signature {
    let mut signer = Signer::new(MessageDigest::sha256(), key).unwrap();
    Signature(signer.sign_oneshot_to_vec(message).unwrap())
}

pub(in crate::pki) fn subject(values: &[(AttributeType, &str)]) -> Subject {
    Subject::new(
        values
            .iter()
            .map(|(kind, value)| (*kind, (*value).to_owned()))
            .collect(),
    )
    .unwrap()
}

pub(in crate::pki) fn serial() -> SerialNumber {
    SerialNumber::new(InstanceByte::new(1).unwrap(), [0xab; 15])
}

pub(in crate::pki) fn eternity() -> Validity {
    Validity {
        not_before: "2020-01-01T00:00:00Z".parse().unwrap(),
        not_after: "9999-12-31T23:59:59Z".parse().unwrap(),
    }
}

pub(in crate::pki) fn ca_subject() -> Subject {
    subject(&[
        (AttributeType::Country, "DE"),
        (AttributeType::Organization, "Example"),
        (AttributeType::CommonName, "Line CA 1"),
    ])
}

/// A self-signed CA certificate, DER.
pub(in crate::pki) fn ca_certificate(key: &PKey<Private>) -> Vec<u8> {
    let tbs = TbsCaCertificate::build(&ca_subject(), &public(key), serial(), eternity()).unwrap();
    let signature = sign(key, tbs.to_be_signed());
    tbs.assemble(&signature).unwrap()
}

/// A request for a CA certificate, DER.
pub(in crate::pki) fn ca_request(key: &PKey<Private>) -> Vec<u8> {
    let request = CertificationRequestInfo::build(&ca_subject(), &public(key)).unwrap();
    let signature = sign(key, request.to_be_signed());
    request.assemble(&signature).unwrap()
}

pub(in crate::pki) fn issuer(key: &PKey<Private>, crl_url: Option<&str>) -> Issuer {
    let pem = pem::certificate(&ca_certificate(key));
    Issuer::parse("line", &pem, crl_url.map(str::to_owned)).unwrap()
}

pub(in crate::pki) fn ec_issuer() -> Issuer {
    issuer(&ec_key(), None)
}
