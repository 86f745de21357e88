//! RSA keys, on every core there is: one takes as long as thousands of EC keys.

use std::num::NonZero;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use zeroize::Zeroizing;

use crate::ca::device_key::KeyMakingFault;
use crate::ca::device_key::KeyPair;
use crate::ca::device_key::secret_of;
use crate::pki::key_policy::SignatureAlgorithm;
use crate::pki::key_policy::SubjectPublicKeyInfo;

/// `INTEGER 0` and the `AlgorithmIdentifier` rsaEncryption, NULL (RFC 5208 5, RFC 8017 A.1).
const VERSION_AND_ALGORITHM: [u8; 18] = [
    2, 1, 0, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
];
/// Octets before the `RSAPrivateKey` in a `PrivateKeyInfo`.
const BEFORE_KEY: usize = 4 + VERSION_AND_ALGORITHM.len() + 4;

/// So many keys, in no order.
pub(super) fn make(bits: u32, count: usize) -> Result<Vec<KeyPair>, KeyMakingFault> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let make_some = || -> Result<Vec<KeyPair>, KeyMakingFault> {
        let mut pairs = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            pairs.push(make_one(bits)?);
        }
        Ok(pairs)
    };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..cores.min(count) {
            let thread = thread::Builder::new().spawn_scoped(scope, make_some);
            threads.push(thread.map_err(KeyMakingFault::Thread)?);
        }
        let mut pairs = Vec::with_capacity(count);
        for thread in threads {
            pairs.extend(thread.join().map_err(|_| KeyMakingFault::Panic)??);
        }
        Ok(pairs)
    })
}

fn make_one(bits: u32) -> Result<KeyPair, KeyMakingFault> {
    // OpenSSL clears the private numbers when this is dropped, and writes them straight into the
    // buffer; its PKCS#8 encoder would not.
    let key = Rsa::generate(bits)?;
    let encoded = Zeroizing::new(key.private_key_to_der()?);
    let private_key = secret_of(&[
        &head(0x30, VERSION_AND_ALGORITHM.len() + 4 + encoded.len())?,
        &VERSION_AND_ALGORITHM,
        &head(0x04, encoded.len())?,
        &encoded,
    ]);
    let pair = KeyPair {
        private_key,
        public_key: SubjectPublicKeyInfo::from_der(&key.public_key_to_der()?)?,
    };
    check(&pair)?;
    Ok(pair)
}

/// Tag and length of a value of 256 to 65535 octets (X.690 8.1.3.5).
fn head(tag: u8, length: usize) -> Result<[u8; 4], KeyMakingFault> {
    let length = u16::try_from(length).map_err(|_| KeyMakingFault::Length)?;
    let [high, low] = length.to_be_bytes();
    if high == 0 {
        return Err(KeyMakingFault::Length);
    }
    Ok([tag, 0x82, high, low])
}

/// The encoded private key, read again, signs what the encoded public key verifies.
fn check(pair: &KeyPair) -> Result<(), KeyMakingFault> {
    let message = b"halves of one key";
    let (_, encoded) = pair.private_key.split_at(BEFORE_KEY);
    let key = PKey::from_rsa(Rsa::private_key_from_der(encoded)?)?;
    let signature = Signer::new(MessageDigest::sha256(), &key)?.sign_oneshot_to_vec(message)?;
    let algorithm = SignatureAlgorithm::Sha256WithRsa;
    if pair.public_key.verifies(algorithm, message, &signature) {
        Ok(())
    } else {
        Err(KeyMakingFault::Pairwise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_two_keys_are_told_apart() {
        let [mut one, two]: [KeyPair; 2] = make(2048, 2).ok().unwrap().try_into().ok().unwrap();
        assert!(check(&one).is_ok());
        one.public_key = two.public_key;
        assert!(matches!(check(&one), Err(KeyMakingFault::Pairwise)));
    }
}
