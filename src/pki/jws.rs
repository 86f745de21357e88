//! JSON Web Signature (RFC 7515), compact serialization, as strict as it can be read.
//!
//! The key decides the algorithm, never the header: a header that names another one is refused
//! before any arithmetic (RFC 8725, 3.1). There is no symmetric algorithm and no `none`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::pkey::PKey;
use openssl::pkey::Public;
use openssl::sha::sha256;
use openssl::sign::Verifier;
use serde::Deserialize;

/// Octets of a signature, in both algorithms (RFC 8037, 3.1; RFC 7518, 3.4).
const SIGNATURE_LENGTH: usize = 64;

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwsAlgorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA with P-256 and SHA-256 (RFC 7518, 3.4).
    Es256,
}

impl JwsAlgorithm {
    /// The header's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }
}

/// A public key that is trusted, and the one algorithm it is trusted for.
#[derive(Clone)]
pub struct JwsKey {
    /// Its name in headers.
    pub kid: String,
    algorithm: JwsAlgorithm,
    key: PKey<Public>,
}

/// Why a JWS is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsFault {
    /// It is none, or not one of this kind.
    #[error("{0}")]
    Malformed(String),
    /// Nobody trusted signed it.
    #[error("{0}")]
    Signature(&'static str),
}

/// A JWS whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Name of the key that verified it.
    pub kid: String,
    /// What was signed.
    pub payload: Vec<u8>,
}

/// All a header may hold. What it does not name is not understood, `crit` among it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

impl JwsKey {
    /// A public key from its PEM (`SubjectPublicKeyInfo`): Ed25519 or P-256.
    pub fn from_pem(kid: &str, pem: &[u8]) -> Result<Self, String> {
        let key =
            PKey::public_key_from_pem(pem).map_err(|_| "is no public key in PEM".to_owned())?;
        let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
        let algorithm = match (key.id(), curve) {
            (Id::ED25519, _) => JwsAlgorithm::EdDsa,
            (Id::EC, Some(Nid::X9_62_PRIME256V1)) => JwsAlgorithm::Es256,
            _ => return Err("must be an Ed25519 or a P-256 key".to_owned()),
        };
        Ok(Self {
            kid: kid.to_owned(),
            algorithm,
            key,
        })
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        match self.algorithm {
            JwsAlgorithm::EdDsa => {
                Verifier::new_without_digest(&self.key)?.verify_oneshot(signature, message)
            }
            JwsAlgorithm::Es256 => {
                let (r, s) = signature.split_at(SIGNATURE_LENGTH / 2);
                let (r, s) = (BigNum::from_slice(r)?, BigNum::from_slice(s)?);
                EcdsaSig::from_private_components(r, s)?
                    .verify(&sha256(message), self.key.ec_key()?.as_ref())
            }
        }
    }
}

/// Verifies a JWS of the kind `typ` with the one key its header names.
pub fn verify(compact: &str, typ: &str, keys: &[JwsKey]) -> Result<Verified, JwsFault> {
    let malformed = |what: &str| JwsFault::Malformed(what.to_owned());
    let mut parts = compact.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed(
            "three parts of base64url, a dot between two, nothing else",
        ));
    };
    // Neither padding nor loose final bits, so that there is one spelling only.
    let decode = |part: &str| {
        URL_SAFE_NO_PAD
            .decode(part)
            .map_err(|_| malformed("a part is not base64url without padding"))
    };
    let header: Header = object(&decode(header)?)
        .map_err(|fault| JwsFault::Malformed(format!("header: {fault}")))?;
    if header.typ != typ {
        return Err(JwsFault::Malformed(format!("header: typ must be `{typ}`")));
    }
    let key = keys
        .iter()
        .find(|key| key.kid == header.kid)
        .ok_or(JwsFault::Signature("the key it names is not trusted here"))?;
    if header.alg != key.algorithm.as_str() {
        return Err(JwsFault::Signature(
            "its algorithm is not the one of the key it names",
        ));
    }
    let (octets, decoded) = (decode(payload)?, decode(signature)?);
    let signed = &compact[..compact.len() - signature.len() - 1];
    let good = decoded.len() == SIGNATURE_LENGTH
        && key.verifies(signed.as_bytes(), &decoded).unwrap_or(false);
    if good {
        Ok(Verified {
            kid: header.kid,
            payload: octets,
        })
    } else {
        Err(JwsFault::Signature("its signature does not verify"))
    }
}

/// A JSON object as a struct that denies unknown fields: each field once, and never an array in
/// its place, which the decoder would take, too.
pub fn object<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    let first = json.iter().find(|octet| !octet.is_ascii_whitespace());
    if first == Some(&b'[') {
        return Err(serde::de::Error::custom("an object is needed"));
    }
    serde_json::from_slice(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::ec::EcGroup;
    use openssl::ec::EcKey;
    use openssl::pkey::Private;
    use openssl::sign::Signer;
    use proptest::prelude::*;

    const TYP: &str = "test+jws";

    fn ed25519() -> PKey<Private> {
        PKey::generate_ed25519().unwrap()
    }

    fn p256() -> PKey<Private> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    fn trusted(kid: &str, key: &PKey<Private>) -> JwsKey {
        JwsKey::from_pem(kid, &key.public_key_to_pem().unwrap()).unwrap()
    }

    fn sign(header: &str, payload: &str, key: &PKey<Private>) -> String {
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = if key.id() == Id::ED25519 {
            Signer::new_without_digest(key)
                .unwrap()
                .sign_oneshot_to_vec(text.as_bytes())
                .unwrap()
        } else {
            let signature =
                EcdsaSig::sign(&sha256(text.as_bytes()), &key.ec_key().unwrap()).unwrap();
            [signature.r(), signature.s()]
                .map(|part| part.to_vec_padded(32).unwrap())
                .concat()
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn header(alg: &str, kid: &str) -> String {
        format!(r#"{{"alg":"{alg}","kid":"{kid}","typ":"{TYP}"}}"#)
    }

    #[test]
    fn both_algorithms_verify_with_their_own_key_and_with_no_other() {
        let (ed, ec, other) = (ed25519(), p256(), p256());
        let keys = [trusted("ed", &ed), trusted("ec", &ec)];
        for (alg, kid, key) in [("EdDSA", "ed", &ed), ("ES256", "ec", &ec)] {
            let verified = verify(&sign(&header(alg, kid), "{}", key), TYP, &keys).unwrap();
            assert_eq!(
                (verified.kid.as_str(), &verified.payload[..]),
                (kid, &b"{}"[..])
            );
        }
        for (alg, kid, key) in [
            ("ES256", "ec", &other),
            ("ES256", "ec", &ed),
            ("EdDSA", "ed", &ec),
            ("ES256", "ed", &ec),
            ("EdDSA", "ec", &ed),
            ("none", "ed", &ed),
            ("HS256", "ed", &ed),
            ("eddsa", "ed", &ed),
            ("EdDSA", "none", &ed),
        ] {
            let refused = verify(&sign(&header(alg, kid), "{}", key), TYP, &keys).unwrap_err();
            assert!(
                matches!(refused, JwsFault::Signature(_)),
                "{alg} {kid}: {refused}"
            );
        }
    }

    #[test]
    fn what_is_not_exactly_such_a_jws_is_malformed() {
        let ed = ed25519();
        let keys = [trusted("ed", &ed)];
        let good = sign(&header("EdDSA", "ed"), "{}", &ed);
        assert!(verify(&good, TYP, &keys).is_ok());
        for bad in [
            String::new(),
            "a.b".to_owned(),
            format!("{good}."),
            format!("{good}="),
            format!("{good}\n"),
            format!(" {good}"),
            sign(r#"{"alg":"EdDSA","kid":"ed"}"#, "{}", &ed),
            sign(r#"{"alg":"EdDSA","kid":"ed","typ":"JWT"}"#, "{}", &ed),
            sign(
                &format!(r#"{{"alg":"EdDSA","kid":"ed","typ":"{TYP}","crit":["x"]}}"#),
                "{}",
                &ed,
            ),
            sign(
                &format!(r#"{{"alg":"EdDSA","alg":"EdDSA","kid":"ed","typ":"{TYP}"}}"#),
                "{}",
                &ed,
            ),
            sign(&format!(r#"["EdDSA","ed","{TYP}"]"#), "{}", &ed),
        ] {
            let refused = verify(&bad, TYP, &keys).unwrap_err();
            assert!(
                matches!(refused, JwsFault::Malformed(_)),
                "{bad}: {refused}"
            );
        }
    }

    #[test]
    fn only_the_two_kinds_of_keys_are_trusted() {
        let rsa = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        let group = EcGroup::from_curve_name(Nid::SECP384R1).unwrap();
        let p384 = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        for key in [rsa, p384] {
            assert!(JwsKey::from_pem("k", &key.public_key_to_pem().unwrap()).is_err());
        }
        assert!(JwsKey::from_pem("k", b"secret").is_err());
    }

    proptest! {
        /// One changed octet anywhere, or one cut off, is never accepted.
        #[test]
        fn nothing_can_be_changed(at in any::<prop::sample::Index>(), octet in 0x20u8..0x7f, cut: bool) {
            let ed = ed25519();
            let keys = [trusted("ed", &ed)];
            let good = sign(&header("EdDSA", "ed"), r#"{"quantity":1}"#, &ed);
            let at = at.index(good.len());
            let mut changed = good.clone().into_bytes();
            if cut { changed.remove(at); } else { changed[at] = octet; }
            let changed = String::from_utf8(changed).unwrap();
            prop_assume!(changed != good);
            prop_assert!(verify(&changed, TYP, &keys).is_err());
        }
    }
}
