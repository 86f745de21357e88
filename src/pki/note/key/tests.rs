//! Notes of public logs, keys of all three types, and signatures that are none.

use super::*;
use crate::pki::note::CheckpointToBeSigned;
use openssl::bn::BigNumContext;
use openssl::ec::Asn1Flag;
use openssl::ec::EcGroup;
use openssl::ec::EcKey;
use openssl::ec::PointConversionForm;
use openssl::symm::Cipher;
use proptest::prelude::*;

/// Type 0x01: the note and key that the tests of Go's `sumdb/note` and its successors share.
const NEUMANN: (&str, &str) = (
    "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    "If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
",
);

/// Type 0x02: a checkpoint of the public log of Sigstore.
const REKOR: (&str, &str) = (
    "rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=",
    "rekor.sigstore.dev - 1193050959916656506
266676745
3ZhLKI3mKUlpedQ9hiIMbJIjKr3vTc+ueViyxWqwQGA=

— rekor.sigstore.dev wNI9ajBEAiAE7ER4yd8Waq4ZzLQt9BIUyfAvbizhv5PCcxk5Glf28AIgWT6LH4VlkrI8VhZnqCPigxEVzdlwVQpuRo0OsISdPGs=
",
);

/// Type 0x04: a checkpoint of a public log that a public witness cosigned.
const WITNESSED: (&str, &str) = (
    "witness.navigli.sunlight.geomys.org+a3e00fe2+BNy/co4C1Hn1p+INwJrfUlgz7W55dSZReusH/GhUhJ/G",
    "coachandhorses2026h1.staging.certificate.transparency.goog
185550722
YXAM0VmnrfvLaBCOOYSJhCaE5F10oGBOo+hkbDa1kng=

— coachandhorses2026h1.staging.certificate.transparency.goog MpXgsHy8ZwxXnO+WjtVrPxAzL49Rs1gWTkNVNeEa//5peAzaocRCB3qt3EaibjzY5GILLtGgBP7dBhgcSHy+JQh0OAc=
— witness.navigli.sunlight.geomys.org o+AP4gAAAABqb7DzNrGFRJnQ9vrJ8xpnwZytnr/ZYczDIsvwvouiSjwOjn7a72ccxBk+lKnZ7dKqkYKER1s/KxLTaVwQD7lJZTC/CQ==
— witness.navigli.sunlight.geomys.org a8RCSQAAAABqb7DzKgaC
",
);

fn ed25519() -> PKey<Private> {
    PKey::generate_ed25519().unwrap()
}

fn p256() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn pem(key: &PKey<Private>) -> Vec<u8> {
    key.public_key_to_pem().unwrap()
}

fn public_pem(key: &PKey<Public>) -> Vec<u8> {
    key.public_key_to_pem().unwrap()
}

/// A P-256 key whose point is compressed (RFC 5480, 2.2).
fn compressed() -> PKey<Public> {
    let key = p256().ec_key().unwrap();
    let mut context = BigNumContext::new().unwrap();
    let point = key
        .public_key()
        .to_bytes(key.group(), PointConversionForm::COMPRESSED, &mut context)
        .unwrap();
    let named = b"\x30\x39\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x22\x00";
    PKey::public_key_from_der(&[&named[..], &point].concat()).unwrap()
}

/// A P-256 key that tells its curve in numbers, not by name, which RFC 5480, 2.1.1 forbids.
fn explicit() -> PKey<Public> {
    let key = p256().ec_key().unwrap();
    let mut group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    group.set_asn1_flag(Asn1Flag::EXPLICIT_CURVE);
    let key = EcKey::from_public_key(&group, key.public_key()).unwrap();
    PKey::from_ec_key(key).unwrap()
}

fn cosigner(name: &str) -> Cosigner {
    let pem = ed25519().private_key_to_pem_pkcs8().unwrap();
    Cosigner::from_pem(name, &pem).unwrap()
}

fn sign(key: &PKey<Private>, message: &[u8]) -> Vec<u8> {
    let mut signer = match key.id() {
        Id::EC => Signer::new(MessageDigest::sha256(), key).unwrap(),
        _ => Signer::new_without_digest(key).unwrap(),
    };
    signer.sign_oneshot_to_vec(message).unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        origin: "factory.example/log".to_owned(),
        size: 70_000,
        root: [7; 32],
        extensions: Vec::new(),
    }
}

/// A checkpoint signed by its log, with keys of both types in turn.
fn logged(key: &PKey<Private>) -> (Note, VerifierKey) {
    let verifier = VerifierKey::from_pem("factory.example/log", &pem(key)).unwrap();
    let tbs = CheckpointToBeSigned::build(&checkpoint());
    let signature = sign(key, tbs.to_be_signed());
    (tbs.seal(signature, &verifier).unwrap(), verifier)
}

#[test]
fn notes_of_others_verify_with_their_keys() {
    for ((vkey, note), timestamp) in [
        (NEUMANN, None),
        (REKOR, None),
        (WITNESSED, Some(0x6a6f_b0f3)),
    ] {
        let (key, note) = (
            VerifierKey::from_vkey(vkey).unwrap(),
            Note::parse(note).unwrap(),
        );
        assert_eq!(key.vkey(), vkey);
        assert_eq!(key.verify(&note), Ok(Verified { timestamp }), "{vkey}");
        let changed = Note {
            text: note.text.replacen('2', "3", 1).replacen("you", "we", 1),
            ..note
        };
        assert_eq!(key.verify(&changed), Err(NoteFault::BadSignature), "{vkey}");
    }
    let key = VerifierKey::from_vkey(NEUMANN.0).unwrap();
    let note = Note::parse(REKOR.1).unwrap();
    assert_eq!(key.verify(&note), Err(NoteFault::NotSigned));
}

#[test]
fn key_ids_are_what_others_compute() {
    for vkey in [
        NEUMANN.0,
        REKOR.0,
        WITNESSED.0,
        "geomys.org/witness/test-log+c0787ff4+AeMb5VOzy60PTGdGmLPxOKGAa0jNyDGsgv2rnprGju1t",
        "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
        "rgdd.se/poc-witness+db03732e+BCjJKlo6BU0xfIb8LutqerIFTWIXEA0L5n3tW3QyPFgG",
    ] {
        let key = VerifierKey::from_vkey(vkey).unwrap();
        assert_eq!(key.vkey(), vkey);
        let (name, rest) = vkey.split_once('+').unwrap();
        let key_id = u32::from_str_radix(&rest[..8], 16).unwrap();
        assert_eq!((key.name(), key.key_id()), (name, key_id.to_be_bytes()));
    }
}

#[test]
fn a_verifier_key_has_one_spelling() {
    let (name, id, key) = (
        "PeterNeumann",
        "c74f20a3",
        "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    );
    assert!(VerifierKey::from_vkey(&format!("{name}+{id}+{key}")).is_ok());
    for bad in [
        String::new(),
        "++".to_owned(),
        format!("{name}+{id}"),
        format!("{name}+{id}+"),
        format!("+{id}+{key}"),
        format!("{name}+C74F20A3+{key}"),
        format!("{name}+0c74f20a3+{key}"),
        format!("{name}+c74f20a4+{key}"),
        format!("{name}++{key}"),
        format!("peterNeumann+{id}+{key}"),
        format!("{name}+{id}+{key}="),
        format!("{name}+{id}+{key}\n"),
        format!(" {name}+{id}+{key}"),
        format!("{name}+{id}+{key}+"),
        // Another length, and a type that nobody knows, with the key id that would fit.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==".to_owned(),
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".to_owned(),
        // Of the right key, but of another type.
        WITNESSED.0.replace("+BNy", "+ANy"),
        WITNESSED.0.replace("+BNy", "+Any"),
    ] {
        assert!(VerifierKey::from_vkey(&bad).is_err(), "{bad}");
    }
}

#[test]
fn only_keys_that_a_signature_type_allows_are_taken() {
    let rsa = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    let group = EcGroup::from_curve_name(Nid::SECP384R1).unwrap();
    let p384 = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    for bad in [
        pem(&rsa),
        pem(&p384),
        public_pem(&compressed()),
        public_pem(&explicit()),
        b"secret".to_vec(),
    ] {
        assert!(VerifierKey::from_pem("k", &bad).is_err());
        assert!(VerifierKey::cosigner_from_pem("k", &bad).is_err());
    }
    let ed = ed25519();
    assert!(VerifierKey::from_pem("k", &pem(&p256())).is_ok());
    assert!(VerifierKey::cosigner_from_pem("k", &pem(&p256())).is_err());
    let (log, cosigner) = (
        VerifierKey::from_pem("k", &pem(&ed)).unwrap(),
        VerifierKey::cosigner_from_pem("k", &pem(&ed)).unwrap(),
    );
    assert_ne!(log.key_id(), cosigner.key_id());

    let private = |key: &PKey<Private>| key.private_key_to_pem_pkcs8().unwrap();
    assert!(Cosigner::from_pem("k", &private(&ed)).is_ok());
    assert!(Cosigner::from_pem("k", &private(&p256())).is_err());
    let encrypted = ed.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret");
    assert!(Cosigner::from_pem("k", &encrypted.unwrap()).is_err());
    assert!(Cosigner::from_pem("k", &pem(&ed)).is_err());
}

#[test]
fn a_key_name_has_neither_spaces_nor_a_plus() {
    let pem = pem(&ed25519());
    for good in ["a", "example.com/log", "Werk-Süd", "—"] {
        assert!(VerifierKey::from_pem(good, &pem).is_ok(), "{good}");
    }
    for bad in [
        "",
        " ",
        "a b",
        "a+b",
        "a\n",
        "a\u{a0}",
        "\u{2003}a",
        "a\u{85}",
        "a\u{1}",
    ] {
        assert!(VerifierKey::from_pem(bad, &pem).is_err(), "{bad:?}");
        assert!(
            VerifierKey::cosigner_from_pem(bad, &pem).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn a_log_signs_with_keys_of_both_types_and_only_its_own_signature_seals() {
    for (key, other) in [
        (ed25519(), ed25519()),
        (p256(), p256()),
        (p256(), ed25519()),
    ] {
        let (note, verifier) = logged(&key);
        let sent = note.to_string();
        assert_eq!(Note::parse(&sent).as_ref(), Ok(&note));
        assert_eq!(Checkpoint::parse(&note.text), Ok(checkpoint()));
        assert_eq!(verifier.verify(&note), Ok(Verified { timestamp: None }));
        let again = VerifierKey::from_vkey(&verifier.vkey()).unwrap();
        assert!(again.verify(&note).is_ok());

        let tbs = || CheckpointToBeSigned::build(&checkpoint());
        let good = sign(&key, tbs().to_be_signed());
        let longer = [&good[..], &[0]].concat();
        for bad in [
            sign(&other, tbs().to_be_signed()),
            sign(&key, b"something else"),
            longer,
            Vec::new(),
        ] {
            assert_eq!(tbs().seal(bad, &verifier), None);
        }
    }
}

#[test]
fn an_origin_that_is_no_line_is_never_sealed() {
    let key = p256();
    let (_, verifier) = logged(&key);
    for (origin, extension) in [("", "x"), ("a\n\nb", "x"), ("a\tb", "x"), ("log", "")] {
        let tbs = CheckpointToBeSigned::build(&Checkpoint {
            origin: origin.to_owned(),
            extensions: vec![extension.to_owned()],
            ..checkpoint()
        });
        let signature = sign(&key, tbs.to_be_signed());
        assert_eq!(tbs.seal(signature, &verifier), None, "{origin:?}");
    }
}

#[test]
fn a_cosignature_binds_the_checkpoint_and_the_time() {
    let (mut note, log) = logged(&p256());
    let cosigner = cosigner("witness.example/w1");
    let witness = cosigner.verifier_key();
    assert_eq!(witness.verify(&note), Err(NoteFault::NotSigned));
    let line = cosigner.cosign(&note.text, 1_679_315_147).unwrap();
    note.signatures.push(line.clone());
    let note = Note::parse(&note.to_string()).unwrap();
    let timestamp = Some(1_679_315_147);
    assert_eq!(witness.verify(&note), Ok(Verified { timestamp }));
    assert_eq!(log.verify(&note), Ok(Verified { timestamp: None }));
    assert_eq!(SignatureLine::parse(&line.to_string()), Ok(line.clone()));

    // Each octet counts: of the time, and of the signature.
    for at in 0..line.signature.len() {
        let mut changed = note.clone();
        changed.signatures[1].signature[at] ^= 1;
        assert_eq!(witness.verify(&changed), Err(NoteFault::BadSignature));
    }
    for length in 0..line.signature.len() {
        let mut shorter = note.clone();
        shorter.signatures[1].signature.truncate(length);
        assert_eq!(witness.verify(&shorter), Err(NoteFault::BadSignature));
    }
    let mut later = note.clone();
    later.text = later.text.replace("70000", "70001");
    assert_eq!(witness.verify(&later), Err(NoteFault::BadSignature));
}

#[test]
fn a_cosignature_out_of_time_or_of_no_checkpoint_is_refused() {
    let cosigner = cosigner("w");
    let verified = |text: &str, seconds| {
        let note = Note {
            text: text.to_owned(),
            signatures: vec![cosigner.cosign(text, seconds).unwrap()],
        };
        cosigner.verifier_key().verify(&note)
    };
    let (text, last) = (checkpoint().text(), u64::MAX / 2);
    for seconds in [0, last] {
        let timestamp = Some(seconds);
        assert_eq!(verified(&text, seconds), Ok(Verified { timestamp }));
    }
    assert_eq!(verified(&text, last + 1), Err(NoteFault::BadSignature));
    assert!(matches!(
        verified("no checkpoint\n", 1),
        Err(NoteFault::Malformed(_))
    ));
}

#[test]
fn of_several_signatures_by_one_key_each_must_verify() {
    let (mut note, _) = logged(&p256());
    let cosigner = cosigner("w");
    for seconds in [5, 9, 7] {
        note.signatures
            .push(cosigner.cosign(&note.text, seconds).unwrap());
    }
    let timestamp = Some(9);
    let verify = |note: &Note| cosigner.verifier_key().verify(note);
    assert_eq!(verify(&note), Ok(Verified { timestamp }));
    // A stranger's line under the same name, and one under the same id, are none of its lines.
    let mine = note.signatures[1].clone();
    let stranger = SignatureLine {
        key_id: [0; 4],
        ..mine.clone()
    };
    let renamed = SignatureLine {
        name: "v".to_owned(),
        signature: vec![1],
        ..mine.clone()
    };
    note.signatures.extend([stranger, renamed]);
    assert_eq!(verify(&note), Ok(Verified { timestamp }));
    note.signatures.push(SignatureLine {
        signature: vec![1; 72],
        ..mine
    });
    assert_eq!(verify(&note), Err(NoteFault::BadSignature));
}

#[test]
fn the_message_of_a_cosignature_is_the_specifications() {
    let text = "example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
";
    assert_eq!(
        cosigned_message(text, 1_679_315_147),
        "cosignature/v1
time 1679315147
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
"
    );
}

proptest! {
    #[test]
    fn an_independent_implementation_verifies_what_we_sign(name in "[a-z./]{1,20}") {
        let key = ed25519();
        let verifier = VerifierKey::from_pem(&name, &pem(&key)).unwrap();
        let tbs = CheckpointToBeSigned::build(&checkpoint());
        let signature = sign(&key, tbs.to_be_signed());
        let note = tbs.seal(signature, &verifier).unwrap();

        let theirs = signed_note::StandardVerifier::new(&verifier.vkey()).unwrap();
        let known = signed_note::VerifierList::new(vec![Box::new(theirs)]);
        let parsed = signed_note::Note::from_bytes(note.to_string().as_bytes()).unwrap();
        let (verified, rest) = parsed.verify(&known).unwrap();
        prop_assert_eq!((verified.len(), rest.len()), (1, 0));
        prop_assert_eq!(verified[0].id().to_be_bytes(), verifier.key_id());
    }

    /// One changed octet anywhere in a signed checkpoint, or one cut off, is never accepted.
    #[test]
    fn nothing_can_be_changed(at in any::<prop::sample::Index>(), octet in 0x20u8..0x7f, cut: bool, ec: bool) {
        let (note, verifier) = logged(&if ec { p256() } else { ed25519() });
        let good = note.to_string();
        let at = at.index(good.len());
        let mut changed = good.clone().into_bytes();
        if cut { changed.remove(at); } else { changed[at] = octet; }
        prop_assume!(changed != good.as_bytes());
        let accepted = String::from_utf8(changed)
            .ok()
            .and_then(|text| Note::parse(&text).ok())
            .is_some_and(|note| verifier.verify(&note).is_ok());
        prop_assert!(!accepted);
    }
}
