//! Whole certificates, made with software keys and shown to OpenSSL's own command.

use super::*;
use crate::pki::certificate::Signature;
use crate::pki::certificate::SignedCertificate;
use crate::pki::name::AttributeType;
use crate::pki::pem;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use std::path::Path;
use std::process::Command;

fn device_subject() -> Subject {
    fixture::subject(&[
        (AttributeType::CommonName, "lamp-000001"),
        (AttributeType::SerialNumber, "SN000001"),
        (AttributeType::Country, "DE"),
        (AttributeType::Organization, "Example"),
    ])
}

fn build(issuer: &Arc<Issuer>, key: &PKey<Private>) -> TbsCertificate {
    let (serial, validity) = (fixture::serial(), fixture::eternity());
    let key = fixture::public(key);
    TbsCertificate::build(issuer, serial, validity, &device_subject(), &key, 4096).unwrap()
}

fn openssl(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn certificates_of_both_kinds_of_issuer_verify_strictly_and_read_as_promised() {
    for (ca_key, signature_name) in [
        (fixture::ec_key(), "ecdsa-with-SHA256"),
        (fixture::rsa_key(), "sha256WithRSAEncryption"),
    ] {
        let issuer = Arc::new(fixture::issuer(
            &ca_key,
            Some("http://pki.example/line.crl"),
        ));
        for device_key in [fixture::ec_key(), fixture::rsa_key()] {
            let tbs = build(&issuer, &device_key);
            let signature = fixture::sign(&ca_key, tbs.to_be_signed());
            let certificate = SignedCertificate::assemble(tbs, &signature).unwrap();
            assert_eq!(
                *certificate.sha256(),
                openssl::sha::sha256(certificate.as_der())
            );

            let directory = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| {
                std::fs::write(directory.path().join(name), text).unwrap();
            };
            write("ca.pem", &issuer.pem.concat());
            write("device.pem", &pem::certificate(certificate.as_der()));
            openssl(
                directory.path(),
                &[
                    "verify",
                    "-x509_strict",
                    "-purpose",
                    "sslclient",
                    "-check_ss_sig",
                    "-attime",
                    "1800000000",
                    "-CAfile",
                    "ca.pem",
                    "device.pem",
                ],
            );
            let text = openssl(
                directory.path(),
                &[
                    "x509",
                    "-in",
                    "device.pem",
                    "-noout",
                    "-text",
                    "-certopt",
                    "no_pubkey,no_sigdump",
                    "-nameopt",
                    "oneline",
                ],
            );
            let mut rest = text.as_str();
            for expected in [
                "Version: 3 (0x2)",
                "01:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab:ab",
                signature_name,
                "Issuer: C = DE, O = Example, CN = Line CA 1",
                "Not Before: Jan  1 00:00:00 2020 GMT",
                "Not After : Dec 31 23:59:59 9999 GMT",
                "Subject: C = DE, O = Example, serialNumber = SN000001, CN = lamp-000001",
                "X509v3 Basic Constraints: critical",
                "CA:FALSE",
                "X509v3 Key Usage: critical",
                "Digital Signature\n",
                "X509v3 Extended Key Usage: \n",
                "TLS Web Client Authentication\n",
                "X509v3 Subject Key Identifier: \n",
                "X509v3 Authority Key Identifier: \n",
                "X509v3 CRL Distribution Points: \n",
                "URI:http://pki.example/line.crl",
            ] {
                let (_, after) = rest
                    .split_once(expected)
                    .unwrap_or_else(|| panic!("{expected:?} is not, or not in order, in\n{text}"));
                rest = after;
            }
        }
    }
}

#[test]
fn a_signature_by_another_key_makes_no_certificate() {
    let (ca_key, device_key) = (fixture::ec_key(), fixture::ec_key());
    let issuer = Arc::new(fixture::issuer(&ca_key, None));
    let tbs = build(&issuer, &device_key);
    let wrong = fixture::sign(&device_key, tbs.to_be_signed());
    assert!(SignedCertificate::assemble(tbs, &wrong).is_err());
    let tbs = build(&issuer, &device_key);
    assert!(SignedCertificate::assemble(tbs, &Signature(Vec::new())).is_err());
    let ca = TbsCaCertificate::build(
        &fixture::ca_subject(),
        &fixture::public(&ca_key),
        fixture::serial(),
        fixture::eternity(),
    )
    .unwrap();
    let wrong = fixture::sign(&device_key, ca.to_be_signed());
    assert!(ca.assemble(&wrong).is_err());
}

#[test]
fn an_intent_reopens_to_the_same_bytes_and_no_others() {
    let ca_key = fixture::ec_key();
    let issuer = Arc::new(fixture::issuer(&ca_key, Some("http://pki.example/old.crl")));
    let der = build(&issuer, &fixture::ec_key()).to_be_signed().to_vec();
    // The CRL's address may have changed since the intent was written.
    let now = Arc::new(fixture::issuer(&ca_key, None));
    let reopened = TbsCertificate::reopen(der.clone(), &now).unwrap();
    assert_eq!(reopened.to_be_signed(), der);
    let other = Arc::new(fixture::ec_issuer());
    assert!(TbsCertificate::reopen(der, &other).is_err());
}

#[test]
fn a_certificate_too_long_for_its_device_is_not_built() {
    let issuer = Arc::new(fixture::ec_issuer());
    let build = |length_max| {
        TbsCertificate::build(
            &issuer,
            fixture::serial(),
            fixture::eternity(),
            &device_subject(),
            &fixture::public(&fixture::ec_key()),
            length_max,
        )
    };
    let fault = build(400).err().unwrap();
    assert!(
        matches!(
            fault,
            TbsFault::TooLong {
                length: 401..,
                certificate_length_max: 400
            }
        ),
        "{fault}"
    );
    assert!(build(600).is_ok());
}

#[test]
fn openssl_accepts_a_ca_and_its_request() {
    for key in [fixture::ec_key(), fixture::rsa_key()] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(
            path("ca.pem"),
            pem::certificate(&fixture::ca_certificate(&key)),
        )
        .unwrap();
        let request = pem::certification_request(&fixture::ca_request(&key));
        std::fs::write(path("ca.csr"), request).unwrap();
        openssl(
            directory.path(),
            &["verify", "-x509_strict", "-CAfile", "ca.pem", "ca.pem"],
        );
        openssl(
            directory.path(),
            &["req", "-in", "ca.csr", "-noout", "-verify"],
        );
        for text in [
            openssl(
                directory.path(),
                &["x509", "-in", "ca.pem", "-noout", "-text"],
            ),
            openssl(
                directory.path(),
                &["req", "-in", "ca.csr", "-noout", "-text"],
            ),
        ] {
            assert!(text.contains("CA:TRUE, pathlen:0"), "{text}");
            assert!(text.contains("Certificate Sign, CRL Sign\n"), "{text}");
        }
    }
}
