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
    let reopened = TbsCertificate::reopen(LeafKind::Device, der.clone(), &now).unwrap();
    assert_eq!(reopened.to_be_signed(), der);
    let other = Arc::new(fixture::ec_issuer());
    assert!(TbsCertificate::reopen(LeafKind::Device, der, &other).is_err());
}

fn code() -> RegistrationCode {
    RegistrationCode::parse(&"0123456789abcDEF".repeat(4)).unwrap()
}

fn a_day() -> Validity {
    Validity {
        not_before: "2026-11-21T06:00:00Z".parse().unwrap(),
        not_after: "2026-11-22T05:59:59Z".parse().unwrap(),
    }
}

#[test]
fn a_verification_certificate_verifies_strictly_and_reads_as_promised() {
    for (ca_key, crl_url) in [
        (fixture::ec_key(), Some("http://pki.example/line.crl")),
        (fixture::rsa_key(), None),
    ] {
        let issuer = Arc::new(fixture::issuer(&ca_key, crl_url));
        let (serial, key) = (fixture::serial(), fixture::public(&fixture::ec_key()));
        let tbs = TbsCertificate::verification(&issuer, serial, a_day(), &code(), &key).unwrap();
        let reopened =
            TbsCertificate::reopen(LeafKind::Verification, tbs.to_be_signed().to_vec(), &issuer);
        assert_eq!(reopened.unwrap().to_be_signed(), tbs.to_be_signed());
        let signature = fixture::sign(&ca_key, tbs.to_be_signed());
        let certificate = SignedCertificate::assemble(tbs, &signature).unwrap();

        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("ca.pem", &issuer.pem.concat());
        write("v.pem", &pem::certificate(certificate.as_der()));
        openssl(
            directory.path(),
            &[
                "verify",
                "-x509_strict",
                "-attime",
                "1795240800",
                "-CAfile",
                "ca.pem",
                "v.pem",
            ],
        );
        let text = openssl(
            directory.path(),
            &[
                "x509", "-in", "v.pem", "-noout", "-text", "-nameopt", "oneline",
            ],
        );
        for expected in [
            format!("Subject: CN = {}\n", code().as_str()),
            "Not Before: Nov 21 06:00:00 2026 GMT".to_owned(),
            "Not After : Nov 22 05:59:59 2026 GMT".to_owned(),
            "X509v3 Basic Constraints: critical\n                CA:FALSE\n".to_owned(),
            "X509v3 Key Usage: critical\n                Digital Signature\n".to_owned(),
            "X509v3 Subject Key Identifier: \n".to_owned(),
            "X509v3 Authority Key Identifier: \n".to_owned(),
        ] {
            assert!(text.contains(&expected), "{expected:?} is not in\n{text}");
        }
        assert!(!text.contains("Extended Key Usage"), "{text}");
        assert_eq!(text.contains("line.crl"), crl_url.is_some());
    }
}

#[test]
fn neither_kind_passes_for_the_other() {
    let issuer = Arc::new(fixture::ec_issuer());
    let key = fixture::public(&fixture::ec_key());
    let serial = fixture::serial();
    // The same subject, validity and key: what differs is the extKeyUsage.
    let device =
        TbsCertificate::build(&issuer, serial, a_day(), code().subject(), &key, 4096).unwrap();
    let verification =
        TbsCertificate::verification(&issuer, serial, a_day(), &code(), &key).unwrap();
    for (tbs, taken_for) in [
        (device, LeafKind::Verification),
        (verification, LeafKind::Device),
    ] {
        let fault = TbsCertificate::reopen(taken_for, tbs.to_be_signed().to_vec(), &issuer);
        let fault = fault.err().unwrap().to_string();
        assert!(fault.contains("extKeyUsage"), "{taken_for:?}: {fault}");
    }
}

#[test]
fn a_verification_certificate_lives_a_day_and_names_a_code_alone() {
    let issuer = Arc::new(fixture::ec_issuer());
    let key = fixture::public(&fixture::ec_key());
    let day = a_day();
    let longer = Validity {
        not_after: day.not_after + chrono::TimeDelta::seconds(1),
        ..day
    };
    let cn = |value| (AttributeType::CommonName, value);
    let short = &code().as_str()[1..].to_owned();
    for (validity, subject, rule) in [
        (longer, code().subject().clone(), "a day at most"),
        (
            fixture::eternity(),
            code().subject().clone(),
            "a day at most",
        ),
        (
            day,
            fixture::subject(&[cn("lamp-000001")]),
            "64 hexadecimal",
        ),
        (day, fixture::subject(&[cn(short)]), "64 hexadecimal"),
        (
            day,
            fixture::subject(&[cn(code().as_str()), (AttributeType::Country, "DE")]),
            "CN alone",
        ),
    ] {
        let kind = LeafKind::Verification;
        let built =
            TbsCertificate::leaf(kind, &issuer, fixture::serial(), validity, &subject, &key);
        let LintFault(rules) = built.err().unwrap();
        assert_eq!(rules.len(), 1, "{rules:?}");
        assert!(rules[0].contains(rule), "{rule}: {rules:?}");
    }
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
