//! The corpus of bad requests, each with the one fault that it has, and what the corpus lacks.

use super::*;
use crate::pki::tbs::fixture;
use der::asn1::Any;
use der::asn1::BitString;
use der::asn1::OctetString;
use der::asn1::SetOfVec;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::sign::Signer;
use openssl::symm::Cipher;
use proptest::prelude::*;
use x509_cert::attr::Attribute;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::request::CertReqInfo;

const GOOD: &[u8] = include_bytes!("../../../tests/data/csr/good.der");

fn slug(input: &[u8]) -> &'static str {
    match CertificationRequest::parse(input) {
        Ok(request) if request.excess_extensions.is_empty() => "good",
        // The profile refuses it under this name.
        Ok(_) => "extension-not-allowed",
        Err(fault) => fault.slug(),
    }
}

/// File name without `.der`, and the fault.
const CORPUS: [(&str, &str); 35] = [
    ("a_certificate", "malformed-csr"),
    ("attr_empty_set", "malformed-csr"),
    ("attrs_not_der_sorted", "malformed-csr"),
    ("bad_signature", "csr-signature-invalid"),
    ("ber_indefinite_outer", "malformed-csr"),
    ("c_3_chars", "subject-invalid"),
    ("c_utf8", "subject-invalid"),
    ("challenge_password", "csr-attribute-not-allowed"),
    // Longer than any request may be.
    ("cn_1MB", "malformed-csr"),
    ("cn_65_chars", "subject-invalid"),
    ("cn_bad_utf8", "subject-invalid"),
    ("cn_bmpstring_odd", "subject-invalid"),
    ("cn_embedded_nul", "subject-invalid"),
    // Three thousand SEQUENCEs, in an attribute 1.2.3.4.
    ("deep_nesting", "csr-attribute-not-allowed"),
    ("dup_cn", "subject-invalid"),
    ("ec_compressed_point", "key-parameters"),
    ("ec_explicit_params", "key-parameters"),
    ("ec_infinity", "key-parameters"),
    ("ec_off_curve", "key-parameters"),
    ("empty", "malformed-csr"),
    ("empty_rdn_set", "subject-invalid"),
    // Nothing is wrong with it: the subject may come from elsewhere.
    ("empty_subject", "good"),
    ("ext_bool_0x01", "malformed-csr"),
    ("ext_ca_true", "extension-not-allowed"),
    ("good", "good"),
    ("len_claims_4GB", "malformed-csr"),
    ("rsa1024", "key-size"),
    ("rsa2048_e3", "key-exponent"),
    ("rsa_even_modulus", "weak-key"),
    ("sig_unused_bits", "csr-signature-invalid"),
    // Names SHA-384, signed over SHA-256.
    ("sigalg_mismatch_sha384_oid", "csr-signature-algorithm"),
    ("trailing_garbage", "malformed-csr"),
    ("truncated", "malformed-csr"),
    ("version_1", "malformed-csr"),
    ("version_neg", "malformed-csr"),
];

#[test]
fn every_request_of_the_corpus_is_refused_for_its_own_fault_in_der_and_in_pem() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/csr");
    let files = std::fs::read_dir(directory).unwrap().count();
    assert_eq!(
        files,
        CORPUS.len(),
        "a file of the corpus is not in the table"
    );
    for (name, expected) in CORPUS {
        let der = std::fs::read(format!("{directory}/{name}.der")).unwrap();
        assert_eq!(slug(&der), expected, "{name} as DER");
        let pem = pem::certification_request(&der);
        assert_eq!(slug(pem.as_bytes()), expected, "{name} as PEM");
    }
}

#[test]
fn the_good_request_says_what_it_says() {
    let request = CertificationRequest::parse(GOOD).unwrap();
    assert_eq!(
        request.subject,
        BTreeMap::from([(AttributeType::CommonName, "dev-1".to_owned())])
    );
    assert_eq!(request.public_key.as_der(), &GOOD[26..117]);
}

#[test]
fn pem_is_taken_in_its_usual_forms_and_no_other() {
    let pem = pem::certification_request(GOOD);
    let body = pem.lines().nth(1).unwrap();
    for good in [
        pem.clone(),
        pem.replace('\n', "\r\n"),
        format!("\n \t{pem}\n\n"),
        pem.trim_end().to_owned(),
        pem.replace(" CERT", " NEW CERT"),
    ] {
        assert_eq!(slug(good.as_bytes()), "good", "{good:?}");
    }
    for wrong in [
        String::new(),
        " \n".to_owned(),
        body.to_owned(),
        pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        pem.replace("CERTIFICATE REQUEST", "PKCS7"),
        format!("{pem}{pem}"),
        format!("Subject: CN=dev-1\n{pem}"),
        format!("{pem}# end\n"),
        pem.replace("==\n", "\n"),
        pem.replace(body, &format!("{body} ")),
        pem.replace(body, &format!("\u{feff}{body}")),
    ] {
        assert_eq!(slug(wrong.as_bytes()), "malformed-csr", "{wrong:?}");
    }
}

#[test]
fn a_private_key_is_seen_in_every_form() {
    let ec = fixture::ec_key();
    let rsa = fixture::rsa_key();
    let encrypted = |key: &PKey<Private>| {
        key.private_key_to_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret")
            .unwrap()
    };
    let der = [
        ec.private_key_to_pkcs8().unwrap(),
        ec.ec_key().unwrap().private_key_to_der().unwrap(),
        encrypted(&ec),
        rsa.private_key_to_pkcs8().unwrap(),
        rsa.rsa().unwrap().private_key_to_der().unwrap(),
        encrypted(&rsa),
    ];
    for key in &der {
        assert_eq!(slug(key), "private-key-submitted");
        // Under a wrong label it is still a key.
        let mislabelled = pem::certification_request(key);
        assert_eq!(slug(mislabelled.as_bytes()), "private-key-submitted");
    }
    let request = pem::certification_request(GOOD);
    for key in [
        ec.private_key_to_pem_pkcs8().unwrap(),
        ec.ec_key().unwrap().private_key_to_pem().unwrap(),
        rsa.rsa().unwrap().private_key_to_pem().unwrap(),
        rsa.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret")
            .unwrap(),
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl".to_vec(),
        b"-----begin rsa private key-----".to_vec(),
    ] {
        let key = String::from_utf8(key).unwrap();
        for body in [
            key.clone(),
            format!("{request}{key}"),
            format!("{key}{request}"),
            format!("text {key}"),
            format!("{key}{}", " ".repeat(CertificationRequest::LENGTH_MAX)),
        ] {
            assert_eq!(slug(body.as_bytes()), "private-key-submitted", "{body}");
        }
        let after_der = [GOOD, key.as_bytes()].concat();
        assert_eq!(slug(&after_der), "private-key-submitted");
    }
    assert_eq!(slug(&ec.public_key_to_der().unwrap()), "malformed-csr");
}

/// A request as `change` wants it, signed by `key` over `digest`.
fn request(
    key: &PKey<Private>,
    digest: MessageDigest,
    algorithm: &[u8],
    change: impl FnOnce(&mut CertReqInfo),
) -> Vec<u8> {
    let mut request = CertReq::from_der(GOOD).unwrap();
    request.info.public_key = Decode::from_der(&key.public_key_to_der().unwrap()).unwrap();
    change(&mut request.info);
    let mut signer = Signer::new(digest, key).unwrap();
    let signature = signer
        .sign_oneshot_to_vec(&request.info.to_der().unwrap())
        .unwrap();
    request.signature = BitString::from_bytes(&signature).unwrap();
    request.algorithm = Decode::from_der(algorithm).unwrap();
    request.to_der().unwrap()
}

fn attributes(info: &mut CertReqInfo, list: Vec<(der::asn1::ObjectIdentifier, Vec<Any>)>) {
    let list = list
        .into_iter()
        .map(|(oid, values)| Attribute {
            oid,
            values: SetOfVec::try_from(values).unwrap(),
        })
        .collect::<Vec<_>>();
    info.attributes = SetOfVec::try_from(list).unwrap();
}

fn extensions_slug(extensions: Vec<Extension>) -> &'static str {
    let ecdsa = SignatureAlgorithm::EcdsaWithSha256.as_der();
    slug(&request(
        &fixture::ec_key(),
        MessageDigest::sha256(),
        ecdsa,
        |info| {
            let value = Any::encode_from(&ExtensionReq(extensions)).unwrap();
            attributes(info, vec![(ID_EXTENSION_REQ, vec![value])]);
        },
    ))
}

fn extension(oid: &str, critical: bool, value: &[u8]) -> Extension {
    Extension {
        extn_id: oid.parse().unwrap(),
        critical,
        extn_value: OctetString::new(value).unwrap(),
    }
}

#[test]
fn all_three_hashes_are_taken_from_both_kinds_of_key() {
    let hashes = [
        (Hash::Sha256, MessageDigest::sha256()),
        (Hash::Sha384, MessageDigest::sha384()),
        (Hash::Sha512, MessageDigest::sha512()),
    ];
    let schemes = [
        (fixture::ec_key(), SignatureAlgorithm::EcdsaWithSha256),
        (fixture::rsa_key(), SignatureAlgorithm::Sha256WithRsa),
    ];
    for (key, scheme) in &schemes {
        for (named, _) in hashes {
            for (actual, digest) in hashes {
                let algorithm = algorithm_identifier(*scheme, named);
                let der = request(key, digest, &algorithm, |_| ());
                let expected = if named == actual {
                    "good"
                } else {
                    "csr-signature-algorithm"
                };
                assert_eq!(slug(&der), expected, "{scheme:?} {named:?} {actual:?}");
            }
        }
    }
}

#[test]
fn signature_algorithms_have_one_encoding_each() {
    let (ec, rsa) = (fixture::ec_key(), fixture::rsa_key());
    let ecdsa_null = [0x30, 12, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2, 5, 0];
    let ecdsa_sha1 = [0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
    let rsa_absent = [0x30, 11, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    let rsa_md5 = [
        0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4, 5, 0,
    ];
    let (sha256, sha1) = (MessageDigest::sha256(), MessageDigest::sha1());
    for (key, digest, algorithm) in [
        (&ec, sha256, &ecdsa_null[..]),
        (&ec, sha1, &ecdsa_sha1),
        (&rsa, sha256, &rsa_absent),
        (&rsa, MessageDigest::md5(), &rsa_md5),
        (&ec, sha256, SignatureAlgorithm::Sha256WithRsa.as_der()),
        (&rsa, sha256, SignatureAlgorithm::EcdsaWithSha256.as_der()),
    ] {
        let der = request(key, digest, algorithm, |_| ());
        assert_eq!(slug(&der), "csr-signature-algorithm", "{algorithm:02x?}");
    }
}

#[test]
fn attributes_are_one_extension_request_or_nothing() {
    let ecdsa = SignatureAlgorithm::EcdsaWithSha256.as_der();
    let key = fixture::ec_key();
    let end_entity = BasicConstraints {
        ca: false,
        path_len_constraint: None,
    }
    .to_der()
    .unwrap();
    let asked = ExtensionReq(vec![extension("2.5.29.19", true, &end_entity)]);
    let asked = Any::encode_from(&asked).unwrap();
    let other = Any::encode_from(&ExtensionReq(vec![extension(
        "2.5.29.15",
        true,
        &[3, 2, 7, 0x80],
    )]));
    let two = vec![(ID_EXTENSION_REQ, vec![asked.clone(), other.unwrap()])];
    let unstructured_name = "1.2.840.113549.1.9.2".parse().unwrap();
    let foreign = vec![
        (ID_EXTENSION_REQ, vec![asked.clone()]),
        (unstructured_name, vec![asked.clone()]),
    ];
    let cases = [
        (vec![(ID_EXTENSION_REQ, vec![asked])], "good"),
        (two, "malformed-csr"),
        (foreign, "csr-attribute-not-allowed"),
        (vec![(ID_EXTENSION_REQ, vec![Any::null()])], "malformed-csr"),
    ];
    for (list, expected) in cases {
        let der = request(&key, MessageDigest::sha256(), ecdsa, |info| {
            attributes(info, list);
        });
        assert_eq!(slug(&der), expected);
    }
    assert_eq!(extensions_slug(Vec::new()), "malformed-csr");
}

#[test]
fn extensions_may_ask_for_what_any_device_gets_and_nothing_more() {
    let client_auth = [0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
    let server_auth = [0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
    let (constraints, usage, purposes) = ("2.5.29.19", "2.5.29.15", "2.5.29.37");
    let granted = vec![
        extension(constraints, true, &[0x30, 0]),
        extension(usage, true, &[3, 2, 7, 0x80]),
        extension(purposes, false, &client_auth),
    ];
    assert_eq!(extensions_slug(granted), "good");
    for (oid, value, expected) in [
        (
            constraints,
            &[0x30, 3, 2, 1, 0][..],
            "extension-not-allowed",
        ),
        (usage, &[3, 2, 5, 0xa0], "extension-not-allowed"),
        (usage, &[3, 2, 2, 4], "extension-not-allowed"),
        (purposes, &server_auth, "extension-not-allowed"),
        (
            "2.5.29.17",
            &[0x30, 3, 0x82, 1, b'a'],
            "extension-not-allowed",
        ),
        ("1.2.3.4", &[5, 0], "extension-not-allowed"),
        // FALSE is the default and not encoded; trailing zero bits are not either.
        (constraints, &[0x30, 3, 1, 1, 0], "malformed-csr"),
        (usage, &[3, 2, 0, 0x80], "malformed-csr"),
        (purposes, &[0x30, 1], "malformed-csr"),
    ] {
        assert_eq!(
            extensions_slug(vec![extension(oid, true, value)]),
            expected,
            "{oid} {value:?}"
        );
    }
    let twice = extension(usage, true, &[3, 2, 7, 0x80]);
    assert_eq!(extensions_slug(vec![twice.clone(), twice]), "malformed-csr");
}

#[test]
fn an_excess_extension_is_named_by_its_oid() {
    let der = include_bytes!("../../../tests/data/csr/ext_ca_true.der");
    let request = CertificationRequest::parse(der).unwrap();
    let [violation] = request.excess_extensions.as_slice() else {
        panic!()
    };
    assert_eq!(violation.rule, "extension-not-granted");
    assert_eq!(violation.attribute.as_deref(), Some("2.5.29.19"));
}

#[test]
fn a_request_cut_anywhere_is_malformed() {
    for length in 0..GOOD.len() {
        assert_eq!(slug(&GOOD[..length]), "malformed-csr", "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No flipped, added or lost octets panic, and none of them pass for the good request.
    #[test]
    fn mutations_are_refused_without_a_panic(
        edits in proptest::collection::vec((0..GOOD.len(), any::<u8>(), 0u8..3), 1..4),
    ) {
        let mut der = GOOD.to_vec();
        for (place, octet, kind) in edits {
            match kind {
                0 => if let Some(old) = der.get_mut(place) { *old = octet },
                1 => der.insert(place.min(der.len()), octet),
                _ => if place < der.len() { der.remove(place); },
            }
        }
        let first = slug(&der);
        prop_assert_eq!(first, slug(&der), "the same input, the same fault");
        prop_assert!(der == GOOD || first != "good");
        prop_assert_eq!(first, slug(pem::certification_request(&der).as_bytes()));
    }

    #[test]
    fn arbitrary_octets_are_refused_without_a_panic(
        octets in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert_ne!(slug(&octets), "good");
    }
}
