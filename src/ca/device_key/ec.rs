//! EC keys. The private key is encoded here, since OpenSSL's encoder copies it into buffers that
//! it does not clear.

use std::sync::LazyLock;

use openssl::bn::BigNum;
use openssl::bn::BigNumContext;
use openssl::bn::BigNumContextRef;
use openssl::ec::EcGroup;
use openssl::ec::EcGroupRef;
use openssl::ec::EcKey;
use openssl::ec::EcPoint;
use openssl::ec::PointConversionForm;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use zeroize::Zeroizing;

use crate::ca::device_key::KeyMakingFault;
use crate::ca::device_key::KeyPair;
use crate::ca::device_key::secret_of;
use crate::pki::key_policy::SubjectPublicKeyInfo;

/// A curve and the octets around the keys on it.
pub(super) struct Curve {
    /// Made once: making one costs more than a key does.
    group: LazyLock<Result<EcGroup, ErrorStack>>,
    /// Octets of a private key.
    scalar_length: usize,
    /// PKCS#8 up to the privateKey octets of the `ECPrivateKey` inside.
    before_scalar: &'static [u8],
    /// Between them and the point: `[1] { BIT STRING` without unused bits (RFC 5915 3).
    before_point: &'static [u8],
    /// `SubjectPublicKeyInfo` up to the point (RFC 5480 2).
    public_key: &'static [u8],
}

pub(super) static P256: Curve = Curve {
    group: LazyLock::new(|| EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)),
    scalar_length: 32,
    before_scalar: &[
        0x30, 0x81, 0x87, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 4, 0x6d, 0x30, 0x6b, 2, 1, 1, 4, 0x20,
    ],
    before_point: &[0xa1, 0x44, 3, 0x42, 0],
    public_key: &[
        0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 3, 1, 7, 3, 0x42, 0,
    ],
};

pub(super) static P384: Curve = Curve {
    group: LazyLock::new(|| EcGroup::from_curve_name(Nid::SECP384R1)),
    scalar_length: 48,
    before_scalar: &[
        0x30, 0x81, 0xb6, 2, 1, 0, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5,
        0x2b, 0x81, 4, 0, 0x22, 4, 0x81, 0x9e, 0x30, 0x81, 0x9b, 2, 1, 1, 4, 0x30,
    ],
    before_point: &[0xa1, 0x64, 3, 0x62, 0],
    public_key: &[
        0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0,
        0x22, 3, 0x62, 0,
    ],
};

/// So many keys.
pub(super) fn make(curve: &Curve, count: usize) -> Result<Vec<KeyPair>, KeyMakingFault> {
    let group = curve.group.as_ref().map_err(ErrorStack::clone)?;
    // OpenSSL clears what it computed in a context when that is freed.
    let mut context = BigNumContext::new()?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push(make_one(curve, group, &mut context)?);
    }
    Ok(pairs)
}

fn make_one(
    curve: &Curve,
    group: &EcGroupRef,
    context: &mut BigNumContextRef,
) -> Result<KeyPair, KeyMakingFault> {
    // OpenSSL clears the private key when this is dropped.
    let key = EcKey::generate(group)?;
    let scalar_length = i32::try_from(curve.scalar_length).map_err(|_| KeyMakingFault::Length)?;
    let scalar = Zeroizing::new(key.private_key().to_vec_padded(scalar_length)?);
    let form = PointConversionForm::UNCOMPRESSED;
    let point = key.public_key().to_bytes(group, form, context)?;
    if point.len() != 1 + 2 * curve.scalar_length {
        return Err(KeyMakingFault::Length);
    }
    let private_key = secret_of(&[curve.before_scalar, &scalar, curve.before_point, &point]);
    let public_key = [curve.public_key, &point].concat();
    let pair = KeyPair {
        private_key,
        public_key: SubjectPublicKeyInfo::from_der(&public_key)?,
    };
    check(curve, group, &pair, context)?;
    Ok(pair)
}

/// The encoded private key, read again, leads to both encodings of the public key: what leaves is
/// checked, not what was meant to leave.
fn check(
    curve: &Curve,
    group: &EcGroupRef,
    pair: &KeyPair,
    context: &mut BigNumContextRef,
) -> Result<(), KeyMakingFault> {
    let (_, encoded) = pair.private_key.split_at(curve.before_scalar.len());
    let (scalar, encoded) = encoded.split_at(curve.scalar_length);
    let (_, encoded_point) = encoded.split_at(curve.before_point.len());
    let spki_point = pair.public_key.as_der().get(curve.public_key.len()..);
    if spki_point != Some(encoded_point) {
        return Err(KeyMakingFault::Pairwise);
    }
    let scalar = SecretNumber(BigNum::from_slice(scalar)?);
    let mut point = EcPoint::new(group)?;
    point.mul_generator2(group, &scalar.0, context)?;
    // Points are compared, not octets: encoding one costs a division.
    let decoded = EcPoint::from_bytes(group, encoded_point, context)?;
    if point.eq(group, &decoded, context)? {
        Ok(())
    } else {
        Err(KeyMakingFault::Pairwise)
    }
}

/// Cleared when it is dropped, which a `BigNum` of its own is not.
struct SecretNumber(BigNum);

impl Drop for SecretNumber {
    fn drop(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_two_keys_are_told_apart() {
        for curve in [&P256, &P384] {
            let group = curve.group.as_ref().unwrap();
            let mut context = BigNumContext::new().unwrap();
            let [mut one, mut two]: [KeyPair; 2] =
                make(curve, 2).ok().unwrap().try_into().ok().unwrap();
            std::mem::swap(&mut one.public_key, &mut two.public_key);
            let fault = check(curve, group, &one, &mut context);
            assert!(matches!(fault, Err(KeyMakingFault::Pairwise)));
            std::mem::swap(&mut one.public_key, &mut two.public_key);
            assert!(check(curve, group, &one, &mut context).is_ok());
            // One bit of the private key, of the public key beside it.
            let last = one.private_key.len() - 1;
            for place in [curve.before_scalar.len() + 5, last] {
                one.private_key[place] ^= 1;
                let fault = check(curve, group, &one, &mut context);
                assert!(matches!(fault, Err(KeyMakingFault::Pairwise)));
                one.private_key[place] ^= 1;
            }
        }
    }
}
