//! Between what PKCS#11 speaks and what X.509 wants. Pure functions.

use openssl::{
    bn::{BigNum, BigNumContext},
    ec::{EcGroup, EcKey, EcPoint, PointConversionForm},
    error::ErrorStack,
    nid::Nid,
    pkey::{PKey, Public},
    rsa::Rsa,
};

/// What precedes a SHA-256 digest in an RSASSA-PKCS1-v1_5 block: `DigestInfo` with NULL
/// parameters (RFC 8017, 9.2, note 1).
const SHA256_DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];

/// The input of `CKM_RSA_PKCS` for a SHA-256 digest.
pub(crate) fn digest_info(sha256: &[u8; 32]) -> Vec<u8> {
    [&SHA256_DIGEST_INFO[..], sha256].concat()
}

/// PKCS#11's r‖s (v3.0, 2.3.1) as a DER `ECDSA-Sig-Value` (RFC 3279, 2.2.3).
/// `None` when it is empty, odd or longer than any curve in use makes it.
pub(crate) fn ecdsa_sig_value(r_and_s: &[u8]) -> Option<Vec<u8>> {
    let half = r_and_s.len() / 2;
    // 66: P-521. It also keeps every length below in the range of the arithmetic.
    if half == 0 || half > 66 || !r_and_s.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = r_and_s.split_at(half);
    let content = [integer(r), integer(s)].concat();
    let length = u8::try_from(content.len()).ok()?;
    let mut der = vec![0x30];
    if length >= 0x80 {
        der.push(0x81);
    }
    der.push(length);
    der.extend(content);
    Some(der)
}

/// A DER INTEGER that is never negative and never longer than it must be (X.690, 8.3.2).
fn integer(big_endian: &[u8]) -> Vec<u8> {
    let start = big_endian
        .iter()
        .position(|octet| *octet != 0)
        .unwrap_or(big_endian.len());
    let magnitude = big_endian.get(start..).unwrap_or_default();
    let needs_zero = magnitude.first().is_none_or(|first| *first >= 0x80);
    let length = magnitude.len() + usize::from(needs_zero);
    let mut der = vec![0x02, u8::try_from(length).unwrap_or(u8::MAX)];
    if needs_zero {
        der.push(0);
    }
    der.extend_from_slice(magnitude);
    der
}

/// The point inside `CKA_EC_POINT`, which the standard wraps in an OCTET STRING and some makers do not.
pub(crate) fn ec_point(attribute: &[u8]) -> &[u8] {
    // An uncompressed point starts with 04, which is also the tag of OCTET STRING: the length decides.
    match attribute {
        [0x04, 0x81, length, point @ ..] | [0x04, length, point @ ..]
            if usize::from(*length) == point.len() =>
        {
            point
        }
        bare => bare,
    }
}

/// DER `SubjectPublicKeyInfo` of an EC key on a named curve, from its `CKA_EC_POINT`.
pub(crate) fn ec_spki(curve: Nid, ec_point_attribute: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let mut context = BigNumContext::new()?;
    let group = EcGroup::from_curve_name(curve)?;
    let point = EcPoint::from_bytes(&group, ec_point(ec_point_attribute), &mut context)?;
    let key = EcKey::from_public_key(&group, &point)?;
    key.check_key()?;
    PKey::from_ec_key(key)?.public_key_to_der()
}

/// DER `SubjectPublicKeyInfo` of an RSA key, from `CKA_MODULUS` and `CKA_PUBLIC_EXPONENT`.
pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let key =
        Rsa::from_public_components(BigNum::from_slice(modulus)?, BigNum::from_slice(exponent)?)?;
    PKey::from_rsa(key)?.public_key_to_der()
}

/// True when `CKA_EC_POINT` or `CKA_MODULUS`, as read from a token, is that of the key.
pub(crate) fn is_public_part_of(key: &PKey<Public>, attribute: &[u8]) -> bool {
    if let Ok(rsa) = key.rsa() {
        let start = attribute
            .iter()
            .position(|octet| *octet != 0)
            .unwrap_or(attribute.len());
        return attribute.get(start..) == Some(rsa.n().to_vec().as_slice());
    }
    let uncompressed = || {
        let ec = key.ec_key()?;
        ec.public_key().to_bytes(
            ec.group(),
            PointConversionForm::UNCOMPRESSED,
            &mut *BigNumContext::new()?,
        )
    };
    uncompressed().is_ok_and(|point| point == ec_point(attribute))
}

/// Verifies a signature in X.509 form over a SHA-256 digest.
pub(crate) fn verifies(key: &PKey<Public>, sha256: &[u8; 32], signature: &[u8]) -> bool {
    let verify = || {
        let mut context = openssl::pkey_ctx::PkeyCtx::new(key)?;
        context.verify_init()?;
        context.set_signature_md(openssl::md::Md::sha256())?;
        context.verify(sha256, signature)
    };
    verify().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use openssl::{
        ecdsa::EcdsaSig,
        hash::MessageDigest,
        sha::sha256,
        sign::{Signer, Verifier},
    };

    use super::*;

    #[test]
    fn leading_zeros_go_and_a_high_bit_gets_one() {
        assert_eq!(
            ecdsa_sig_value(&[0, 0, 1, 0x80, 0, 0]),
            Some(vec![0x30, 9, 2, 1, 1, 2, 4, 0, 0x80, 0, 0])
        );
        assert_eq!(
            ecdsa_sig_value(&[0x7f, 0]),
            Some(vec![0x30, 6, 2, 1, 0x7f, 2, 1, 0])
        );
    }

    #[test]
    fn what_is_no_signature_stays_none() {
        assert_eq!(ecdsa_sig_value(&[]), None);
        assert_eq!(ecdsa_sig_value(&[1, 2, 3]), None);
        assert_eq!(ecdsa_sig_value(&[1; 134]), None);
    }

    #[test]
    fn openssl_reads_back_every_r_and_s() {
        for length in [32, 48, 66] {
            for first in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut r = vec![first; length];
                let mut s = vec![0x5a; length];
                r[length - 1] = 1;
                s[0] = first;
                let der = ecdsa_sig_value(&[r.clone(), s.clone()].concat()).unwrap();
                let read = EcdsaSig::from_der(&der).unwrap();
                assert_eq!(
                    read.to_der().unwrap(),
                    der,
                    "length {length}, first {first}"
                );
                assert_eq!(
                    read.r()
                        .to_vec_padded(i32::try_from(length).unwrap())
                        .unwrap(),
                    r
                );
                assert_eq!(
                    read.s()
                        .to_vec_padded(i32::try_from(length).unwrap())
                        .unwrap(),
                    s
                );
            }
        }
    }

    #[test]
    fn a_digest_info_signed_bare_is_an_rsa_signature() {
        let rsa = Rsa::generate(2048).unwrap();
        let mut signature = vec![0; 256];
        rsa.private_encrypt(
            &digest_info(&sha256(b"message")),
            &mut signature,
            openssl::rsa::Padding::PKCS1,
        )
        .unwrap();
        let key = PKey::from_rsa(rsa).unwrap();
        let mut verifier = Verifier::new(MessageDigest::sha256(), &key).unwrap();
        assert!(verifier.verify_oneshot(&signature, b"message").unwrap());
    }

    #[test]
    fn both_forms_of_an_ec_point_are_the_same_key() {
        for curve in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1] {
            let group = EcGroup::from_curve_name(curve).unwrap();
            let key = EcKey::generate(&group).unwrap();
            let mut context = BigNumContext::new().unwrap();
            let bare = key
                .public_key()
                .to_bytes(&group, PointConversionForm::UNCOMPRESSED, &mut context)
                .unwrap();
            let mut wrapped = vec![0x04];
            if bare.len() > 0x7f {
                wrapped.push(0x81);
            }
            wrapped.push(u8::try_from(bare.len()).unwrap());
            wrapped.extend_from_slice(&bare);
            assert_eq!(ec_point(&bare), bare);
            assert_eq!(ec_point(&wrapped), bare);

            let spki = ec_spki(curve, &wrapped).unwrap();
            let public = PKey::public_key_from_der(&spki).unwrap();
            assert!(is_public_part_of(&public, &bare) && is_public_part_of(&public, &wrapped));
            let other = EcKey::generate(&group).unwrap();
            let other = other
                .public_key()
                .to_bytes(&group, PointConversionForm::UNCOMPRESSED, &mut context)
                .unwrap();
            assert!(!is_public_part_of(&public, &other));
        }
    }

    #[test]
    fn an_rsa_modulus_matches_with_and_without_leading_zeros() {
        let rsa = Rsa::generate(2048).unwrap();
        let spki = rsa_spki(&rsa.n().to_vec(), &rsa.e().to_vec()).unwrap();
        let public = PKey::public_key_from_der(&spki).unwrap();
        assert!(is_public_part_of(&public, &rsa.n().to_vec()));
        assert!(is_public_part_of(
            &public,
            &[&[0][..], &rsa.n().to_vec()].concat()
        ));
        assert!(!is_public_part_of(&public, &rsa.e().to_vec()));
    }

    #[test]
    fn verification_takes_the_right_signature_and_no_other() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let public = PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        let signature = signer.sign_oneshot_to_vec(b"message").unwrap();
        assert!(verifies(&public, &sha256(b"message"), &signature));
        assert!(!verifies(&public, &sha256(b"massage"), &signature));
        assert!(!verifies(&public, &sha256(b"message"), b"no signature"));
    }
}
