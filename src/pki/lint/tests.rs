//! Every rule, broken once.

use super::*;
use crate::pki::key_policy::SignatureAlgorithm;
use crate::pki::name::AttributeType;
use crate::pki::tbs::TbsCertificate as OurTbsCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::tbs::fixture;
use std::sync::Arc;

fn device_certificate(
    der: &[u8],
    issuer: &Issuer,
    key: Option<&SubjectPublicKeyInfo>,
) -> Result<(), LintFault> {
    leaf_certificate(LeafKind::Device, der, issuer, key)
}

fn good() -> (Vec<u8>, Arc<Issuer>) {
    let issuer = Arc::new(fixture::issuer(
        &fixture::ec_key(),
        Some("http://pki.example/crl"),
    ));
    let subject = fixture::subject(&[
        (AttributeType::Country, "DE"),
        (AttributeType::CommonName, "lamp-1"),
    ]);
    let key = fixture::public(&fixture::ec_key());
    let tbs = OurTbsCertificate::build(
        &issuer,
        fixture::serial(),
        fixture::eternity(),
        &subject,
        &key,
        4096,
    );
    (tbs.unwrap().to_be_signed().to_vec(), issuer)
}

/// Replaces the last occurrence, keeping the length, so that the bytes stay DER.
fn replaced(der: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let start = der
        .windows(from.len())
        .rposition(|window| window == from)
        .unwrap();
    [&der[..start], to, &der[start + from.len()..]].concat()
}

#[test]
fn each_broken_rule_is_named_by_its_clause() {
    let (der, issuer) = good();
    device_certificate(&der, &issuer, None).unwrap();
    let ecdsa = SignatureAlgorithm::EcdsaWithSha256.as_der();
    let ecdsa_sha384 = replaced(ecdsa, &[3, 2], &[3, 3]);
    let negative_serial = [&[2, 16, 0x81][..], &[0xab; 15]].concat();
    let cases: [(&[u8], &[u8], &str); 13] = [
        (&[0xa0, 3, 2, 1, 2], &[0xa0, 3, 2, 1, 1], "4.1.2.1 version"),
        (
            &[&[2, 16, 1][..], &[0xab; 15]].concat(),
            &negative_serial,
            "4.1.2.2 serial",
        ),
        (ecdsa, &ecdsa_sha384, "4.1.2.3 signature"),
        (b"Line CA 1", b"Line CA 2", "4.1.2.4 issuer"),
        (b"200101000000Z", b"190101000000Z", "within the issuer's"),
        (b"lamp-1", b"lamp\n1", "4.1.2.6 subject"),
        (b"\x13\x02DE", b"\x0c\x02DE", "4.1.2.6 subject"),
        (
            &[0x55, 0x1d, 0x13, 1, 1, 0xff],
            &[0x55, 0x1d, 0x0f, 1, 1, 0xff],
            "basicConstraints",
        ),
        (&[3, 2, 7, 0x80], &[3, 2, 3, 0x88], "keyUsage"),
        (&[5, 5, 7, 3, 2], &[5, 5, 7, 3, 1], "extKeyUsage"),
        (
            &[0x55, 0x1d, 0x0e, 4],
            &[0x55, 0x1d, 0x0d, 4],
            "subjectKeyIdentifier",
        ),
        (
            &[0x55, 0x1d, 0x23, 4],
            &[0x55, 0x1d, 0x0d, 4],
            "authorityKeyIdentifier",
        ),
        (b"http://pki", b"file://pki", "cRLDistributionPoints"),
    ];
    for (from, to, rule) in cases {
        let fault = device_certificate(&replaced(&der, from, to), &issuer, None);
        let fault = fault.expect_err(rule).to_string();
        assert!(fault.contains(rule), "{rule}: {fault}");
    }
}

#[test]
fn a_generalized_time_before_2050_is_no_der_of_ours() {
    // Both times as GeneralizedTime; the outer lengths grow by two octets.
    let (der, issuer) = good();
    let long = [&[0x18, 15][..], b"20200101000000Z"].concat();
    let short = [&[0x17, 13][..], b"200101000000Z"].concat();
    let start = der
        .windows(short.len())
        .position(|window| window == short)
        .unwrap();
    let mut wrong = [&der[..start], &long, &der[start + short.len()..]].concat();
    wrong[start - 1] += 2;
    // The outer length is two octets, 0x82 hi lo.
    assert_eq!(wrong[1], 0x82);
    let length = u16::from_be_bytes([wrong[2], wrong[3]]) + 2;
    wrong[2..4].copy_from_slice(&length.to_be_bytes());
    assert!(device_certificate(&wrong, &issuer, None).is_err());
}

#[test]
fn the_key_inside_must_be_the_key_asked_for() {
    let (der, issuer) = good();
    let other = fixture::public(&fixture::ec_key());
    let fault = device_certificate(&der, &issuer, Some(&other))
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("4.1.2.7") && fault.contains("4.2.1.2"),
        "{fault}"
    );
}

#[test]
fn all_broken_rules_come_at_once() {
    let (der, issuer) = good();
    let der = replaced(&der, b"Line CA 1", b"Line CA 2");
    let der = replaced(&der, &[3, 2, 7, 0x80], &[3, 2, 3, 0x88]);
    let LintFault(rules) = device_certificate(&der, &issuer, None).unwrap_err();
    assert_eq!(rules.len(), 2, "{rules:?}");
}
