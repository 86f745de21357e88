//! RSA keys: size, exponent, and the weaknesses that the modulus alone betrays.

use super::KeyAlgorithm;
use super::KeyFault;
use super::malformed;
use der::Decode;
use der::Encode;
use der::Sequence;
use der::asn1::IntRef;
use openssl::bn::BigNum;
use openssl::bn::BigNumContext;
use openssl::bn::BigNumRef;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::pkey::Public;
use openssl::rsa::Rsa;
use std::cmp::Ordering;

/// RFC 8017 A.1.1. Signed integers, so that a negative modulus is seen for what it is.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: IntRef<'a>,
    public_exponent: IntRef<'a>,
}

/// The only exponent: 65537, as the octets of a DER INTEGER.
const EXPONENT: [u8; 3] = [1, 0, 1];

/// Trial division goes to the bound of the CA/Browser Forum's baseline requirements, 6.1.6.
const SMALL_FACTOR_BOUND: u32 = 752;

/// The largest prime in the ROCA fingerprint.
const ROCA_PRIME_MAX: u32 = 167;

/// Rounds of Fermat's method (baseline requirements 6.1.1.3).
const FERMAT_ROUNDS: u32 = 100;

/// Parses an `RSAPublicKey` and applies the policy to it.
pub(super) fn check(bits: &[u8]) -> Result<(KeyAlgorithm, PKey<Public>), KeyFault> {
    let key = RsaPublicKey::from_der(bits)
        .ok()
        .filter(|key| key.to_der().is_ok_and(|again| again == bits))
        .ok_or_else(|| malformed("the RSA key is not a DER RSAPublicKey"))?;
    let modulus = key.modulus.as_bytes();
    if modulus == [0] || modulus.first().is_some_and(|first| *first >= 0x80) {
        return Err(weak("is not positive"));
    }
    // Any error of OpenSSL's big numbers below is a lack of memory.
    let unusable = |_: ErrorStack| malformed("the RSA key cannot be processed");
    let n = BigNum::from_slice(modulus).map_err(unusable)?;
    let algorithm = match n.num_bits() {
        2048 => KeyAlgorithm::Rsa2048,
        3072 => KeyAlgorithm::Rsa3072,
        4096 => KeyAlgorithm::Rsa4096,
        bits => {
            let detail = format!("the RSA modulus has {bits} bits; use 2048, 3072 or 4096");
            return Err(KeyFault::Size(detail));
        }
    };
    if key.public_exponent.as_bytes() != EXPONENT {
        return Err(KeyFault::Exponent(
            "the RSA public exponent is not 65537".to_owned(),
        ));
    }
    if let Some(weakness) = weakness(&n).map_err(unusable)? {
        return Err(weak(weakness));
    }
    let key = BigNum::from_slice(&EXPONENT)
        .and_then(|exponent| Rsa::from_public_components(n, exponent))
        .and_then(PKey::from_rsa)
        .map_err(unusable)?;
    Ok((algorithm, key))
}

fn weak(weakness: &str) -> KeyFault {
    KeyFault::Weak(format!("the RSA modulus {weakness}; make a new key"))
}

fn weakness(n: &BigNumRef) -> Result<Option<&'static str>, ErrorStack> {
    if n.is_even() {
        return Ok(Some("is even"));
    }
    let mut is_roca = true;
    for prime in (3..SMALL_FACTOR_BOUND)
        .step_by(2)
        .filter(|candidate| is_prime(*candidate))
    {
        let residue = n.mod_word(prime)?;
        if residue == 0 {
            return Ok(Some("has a small factor"));
        }
        is_roca &= prime > ROCA_PRIME_MAX || is_power_of_65537(residue, u64::from(prime));
    }
    if is_roca {
        return Ok(Some(
            "was made by a faulty Infineon library (ROCA, CVE-2017-15361)",
        ));
    }
    if factors_by_fermat(n)? {
        return Ok(Some("is the product of primes close to each other"));
    }
    Ok(None)
}

/// By trial division; for candidates below [`SMALL_FACTOR_BOUND`].
fn is_prime(odd: u32) -> bool {
    (3..)
        .step_by(2)
        .take_while(|divisor| divisor * divisor <= odd)
        .all(|divisor| !odd.is_multiple_of(divisor))
}

/// Whether `residue` lies in the subgroup that 65537 generates modulo `prime`.
///
/// The faulty library's primes are k·M + (65537^a mod M), M a product of the first primes, so its
/// moduli are powers of 65537 modulo each of them. An honest modulus passes for all primes to 167
/// about once in 2^28 (Nemec et al., "The Return of Coppersmith's Attack", 2017, section 2.2).
fn is_power_of_65537(residue: u64, prime: u64) -> bool {
    let generator = 65_537 % prime;
    std::iter::successors(Some(1), |power| {
        Some(power * generator % prime).filter(|next| *next != 1)
    })
    .any(|power| power == residue)
}

/// Fermat's method: n = a² − b² with a little above √n. Finds perfect squares too (b = 0).
fn factors_by_fermat(n: &BigNumRef) -> Result<bool, ErrorStack> {
    let mut context = BigNumContext::new()?;
    let mut a = square_root(n, &mut context)?;
    let mut square = BigNum::new()?;
    square.sqr(&a, &mut context)?;
    if square.ucmp(n) == Ordering::Less {
        a.add_word(1)?;
        square.sqr(&a, &mut context)?;
    }
    let mut b_squared = BigNum::new()?;
    b_squared.checked_sub(&square, n)?;
    for _ in 0..FERMAT_ROUNDS {
        if is_square(&b_squared, &mut context)? {
            return Ok(true);
        }
        // (a + 1)² − n = (a² − n) + 2a + 1
        let mut step = BigNum::new()?;
        step.lshift1(&a)?;
        step.add_word(1)?;
        let mut next = BigNum::new()?;
        next.checked_add(&b_squared, &step)?;
        b_squared = next;
        a.add_word(1)?;
    }
    Ok(false)
}

fn is_square(value: &BigNumRef, context: &mut BigNumContext) -> Result<bool, ErrorStack> {
    // 99 of 100 non-squares are no square modulo one of these; only the rest need a square root.
    const MODULI: u32 = 64 * 63 * 65 * 11;
    const SQUARES_64: [bool; 64] = squares();
    const SQUARES_63: [bool; 63] = squares();
    const SQUARES_65: [bool; 65] = squares();
    const SQUARES_11: [bool; 11] = squares();
    let residue = value.mod_word(MODULI)?;
    let has_root = |table: &[bool]| {
        table
            .iter()
            .zip(0u64..)
            .any(|(is_square, index)| *is_square && residue % (table.len() as u64) == index)
    };
    if ![&SQUARES_64[..], &SQUARES_63, &SQUARES_65, &SQUARES_11]
        .into_iter()
        .all(has_root)
    {
        return Ok(false);
    }
    let root = square_root(value, context)?;
    let mut square = BigNum::new()?;
    square.sqr(&root, context)?;
    Ok(square.ucmp(value) == Ordering::Equal)
}

/// Which residues modulo `M` are squares. Evaluated by the compiler, which would refuse an index
/// out of bounds.
const fn squares<const M: usize>() -> [bool; M] {
    let mut table = [false; M];
    let mut root = 0;
    while root < M {
        table[root * root % M] = true;
        root += 1;
    }
    table
}

/// ⌊√value⌋ by Newton's method from above.
fn square_root(value: &BigNumRef, context: &mut BigNumContext) -> Result<BigNum, ErrorStack> {
    let mut root = BigNum::new()?;
    if value.num_bits() == 0 {
        return Ok(root);
    }
    root.set_bit(value.num_bits().div_euclid(2) + 1)?;
    loop {
        let mut quotient = BigNum::new()?;
        quotient.checked_div(value, &root, context)?;
        let mut sum = BigNum::new()?;
        sum.checked_add(&root, &quotient)?;
        let mut next = BigNum::new()?;
        next.rshift1(&sum)?;
        if next.ucmp(&root) != Ordering::Less {
            return Ok(root);
        }
        root = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::key_policy::SubjectPublicKeyInfo;
    use proptest::prelude::*;

    fn bits(n: &BigNumRef, e: u32) -> Vec<u8> {
        let with_sign = |value: &BigNumRef| {
            let octets = value.to_vec();
            if octets.first().is_none_or(|first| *first >= 0x80) {
                [&[0][..], &octets].concat()
            } else {
                octets
            }
        };
        let (n, e) = (with_sign(n), with_sign(&BigNum::from_u32(e).unwrap()));
        let modulus = IntRef::new(&n).unwrap();
        let public_exponent = IntRef::new(&e).unwrap();
        RsaPublicKey {
            modulus,
            public_exponent,
        }
        .to_der()
        .unwrap()
    }

    fn slug(n: &BigNumRef, e: u32) -> &'static str {
        check(&bits(n, e)).map_or_else(|fault| fault.slug(), |_| "good")
    }

    fn prime(length: i32) -> BigNum {
        let mut prime = BigNum::new().unwrap();
        prime.generate_prime(length, false, None, None).unwrap();
        prime
    }

    fn product(a: &BigNumRef, b: &BigNumRef) -> BigNum {
        let mut n = BigNum::new().unwrap();
        n.checked_mul(a, b, &mut BigNumContext::new().unwrap())
            .unwrap();
        n
    }

    #[test]
    fn honest_keys_pass() {
        for length in [2048, 3072] {
            let key = Rsa::generate(length).unwrap();
            assert_eq!(slug(key.n(), 65_537), "good", "{length}");
        }
    }

    #[test]
    fn size_and_exponent_are_exact() {
        let key = Rsa::generate(2048).unwrap();
        for exponent in [1, 2, 3, 17, 65_536, 65_539] {
            assert_eq!(slug(key.n(), exponent), "key-exponent", "{exponent}");
        }
        for length in [1024, 2047, 2049, 16_384] {
            let mut n = BigNum::new().unwrap();
            n.set_bit(length - 1).unwrap();
            n.add_word(1).unwrap();
            assert_eq!(slug(&n, 65_537), "key-size", "{length}");
        }
    }

    #[test]
    fn zero_and_negative_moduli_are_weak() {
        for modulus in [&[0][..], &[0x80; 256], &[0xff]] {
            let key = RsaPublicKey {
                modulus: IntRef::new(modulus).unwrap(),
                public_exponent: IntRef::new(&EXPONENT).unwrap(),
            };
            assert_eq!(
                check(&key.to_der().unwrap()).unwrap_err().slug(),
                "weak-key"
            );
        }
    }

    #[test]
    fn published_weak_keys_are_weak_for_their_own_reason() {
        let fault = |spki: &[u8]| {
            SubjectPublicKeyInfo::from_der(spki)
                .err()
                .unwrap()
                .to_string()
        };
        assert!(fault(include_bytes!("../../../tests/data/keys/rsa-roca.der")).contains("ROCA"));
        assert!(fault(include_bytes!("../../../tests/data/keys/rsa-fermat.der")).contains("close"));
    }

    #[test]
    fn squares_and_small_factors_are_weak() {
        let mut p = prime(1024);
        // The two highest bits of a prime from OpenSSL are set, so the square has 2048 bits.
        let mut n = product(&p, &p);
        assert_eq!(
            weakness(&n).unwrap(),
            Some("is the product of primes close to each other")
        );
        assert_eq!(slug(&n, 65_537), "weak-key");
        n.add_word(1).unwrap();
        assert_eq!(weakness(&n).unwrap(), Some("is even"));
        p = prime(2039);
        n = product(&p, &BigNum::from_u32(751).unwrap());
        assert_eq!(weakness(&n).unwrap(), Some("has a small factor"));
    }

    proptest! {
        #[test]
        fn square_roots_are_exact(value: u128) {
            let mut context = BigNumContext::new().unwrap();
            let number = BigNum::from_slice(&value.to_be_bytes()).unwrap();
            let root = square_root(&number, &mut context).unwrap();
            prop_assert_eq!(root, BigNum::from_slice(&value.isqrt().to_be_bytes()).unwrap());
            let half = u128::from(u64::MAX) & value;
            let square = BigNum::from_slice(&(half * half).to_be_bytes()).unwrap();
            prop_assert!(is_square(&square, &mut context).unwrap());
            let root = value.isqrt();
            prop_assert_eq!(is_square(&number, &mut context).unwrap(), root * root == value);
        }
    }
}
