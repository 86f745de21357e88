//! Requests as they come, and answers with and without a nonce.

use super::*;
use crate::pki::name::AttributeType;
use crate::pki::pem;
use crate::pki::serial::InstanceByte;
use crate::pki::tbs::TbsResponderCertificate;
use crate::pki::tbs::fixture;
use openssl::pkey::PKey;
use openssl::pkey::Private;

fn responder(issuer: &Issuer, ca: &PKey<Private>, key: &PKey<Private>) -> Arc<Responder> {
    let subject = fixture::subject(&[(AttributeType::CommonName, "Line CA 1 OCSP")]);
    let tbs = TbsResponderCertificate::build(
        issuer,
        &subject,
        &fixture::public(key),
        fixture::serial(),
        fixture::eternity(),
    )
    .unwrap();
    let signature = fixture::sign(ca, tbs.to_be_signed());
    let pem = pem::certificate(&tbs.assemble(&signature).unwrap());
    Arc::new(Responder::parse(issuer, &pem).unwrap())
}

fn cert_id(issuer: &Issuer, sha256: bool, serial: &[u8]) -> Vec<u8> {
    let (oid, name, key) = if sha256 {
        (
            ID_SHA_256,
            sha::sha256(&issuer.subject_der).to_vec(),
            sha::sha256(issuer.public_key.key_bits()).to_vec(),
        )
    } else {
        (
            ID_SHA_1,
            sha::sha1(&issuer.subject_der).to_vec(),
            sha::sha1(issuer.public_key.key_bits()).to_vec(),
        )
    };
    let oid = tlv::element(tlv::OBJECT_IDENTIFIER, oid.as_bytes());
    let algorithm = tlv::element(tlv::SEQUENCE, &[&oid[..], &[5, 0]].concat());
    let name = tlv::element(tlv::OCTET_STRING, &name);
    let key = tlv::element(tlv::OCTET_STRING, &key);
    let serial = tlv::element(tlv::INTEGER, serial);
    tlv::element(tlv::SEQUENCE, &[algorithm, name, key, serial].concat())
}

fn request(ids: &[Vec<u8>], nonce: Option<usize>) -> Vec<u8> {
    let list: Vec<u8> = ids
        .iter()
        .flat_map(|id| tlv::element(tlv::SEQUENCE, id))
        .collect();
    let mut tbs = tlv::element(tlv::SEQUENCE, &list);
    if let Some(length) = nonce {
        let value = tlv::element(tlv::OCTET_STRING, &vec![7; length]);
        let nonce = extension::raw(ID_PKIX_OCSP_NONCE, false, value).unwrap();
        tbs.extend(tlv::element(0xa2, &vec![nonce].to_der().unwrap()));
    }
    tlv::element(tlv::SEQUENCE, &tlv::element(tlv::SEQUENCE, &tbs))
}

#[test]
fn an_answer_verifies_and_echoes_the_nonce() {
    let (ca, key) = (fixture::ec_key(), fixture::rsa_key());
    let issuer = fixture::issuer(&ca, None);
    let responder = responder(&issuer, &ca, &key);
    let serial = SerialNumber::new(InstanceByte::new(9).unwrap(), [3; 15]);
    for (sha256, nonce) in [(false, None), (true, Some(32)), (false, Some(1))] {
        let id = cert_id(&issuer, sha256, serial.as_bytes());
        let asked = OcspRequest::parse(&request(&[id.clone(), id], nonce)).unwrap();
        assert_eq!(asked.has_nonce(), nonce.is_some());
        assert!(asked.asked[0].is_of(&issuer));
        assert!(!asked.asked[0].is_of(&fixture::ec_issuer()));
        assert_eq!(asked.asked[0].serial_number(), Some(serial));
        let at = "2026-11-27T08:00:00.9Z".parse().unwrap();
        let window = Window {
            this_update: "2026-11-27T09:00:00.1Z".parse().unwrap(),
            next_update: "2026-11-27T21:00:00Z".parse().unwrap(),
        };
        let reason = RevocationReason::KeyCompromise;
        let statuses = [CertStatus::Good, CertStatus::Revoked { at, reason }];
        let tbs = TbsResponseData::build(&responder, &asked, &statuses, window).unwrap();
        let signature = fixture::sign(&key, tbs.to_be_signed());
        let der = tbs.assemble(&signature).unwrap();
        assert_eq!(der[0], tlv::SEQUENCE);
        let tbs = TbsResponseData::build(&responder, &asked, &statuses, window).unwrap();
        assert!(tbs.assemble(&fixture::sign(&ca, b"x")).is_err());
        let few = TbsResponseData::build(&responder, &asked, &statuses[..1], window);
        assert!(few.err().unwrap().to_string().contains("one response"));
    }
}

#[test]
fn what_is_no_request_is_told_from_one() {
    let issuer = fixture::ec_issuer();
    let id = cert_id(&issuer, false, &[1; 16]);
    assert!(OcspRequest::parse(&request(std::slice::from_ref(&id), Some(128))).is_ok());
    let mut trailing = request(std::slice::from_ref(&id), None);
    trailing.push(0);
    for wrong in [
        Vec::new(),
        b"GET".to_vec(),
        trailing,
        request(&[], None),
        request(&vec![id.clone(); 17], None),
        request(std::slice::from_ref(&id), Some(0)),
        request(std::slice::from_ref(&id), Some(129)),
        vec![0x30; 5000],
    ] {
        assert!(OcspRequest::parse(&wrong).is_err(), "{wrong:x?}");
    }
    assert_eq!(Refusal::TryLater.to_der(), [0x30, 3, 0x0a, 1, 3]);
}

#[test]
fn only_a_certificate_of_the_issuers_with_ocsp_signing_makes_a_responder() {
    let (ca, key) = (fixture::ec_key(), fixture::ec_key());
    let issuer = fixture::issuer(&ca, None);
    let good = responder(&issuer, &ca, &key);
    assert_eq!(good.key_name(), "line/ocsp");
    let pem = pem::certificate(&good.certificate);
    assert!(Responder::parse(&fixture::ec_issuer(), &pem).is_err());
    assert!(Responder::parse(&issuer, &pem::certificate(&issuer.certificate)).is_err());
    assert!(Responder::parse(&issuer, "").is_err());
}
