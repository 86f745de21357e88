//! Head office: makes tickets, good ones and others.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openssl::ecdsa::EcdsaSig;
use openssl::pkey::{Id, PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer;
use serde_json::{Value, json};

pub fn b64(octets: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}

/// The development world's key.
pub fn head_office(dir: &Path) -> PKey<Private> {
    let pem = std::fs::read(dir.join("head-office/ticket.key")).unwrap();
    PKey::private_key_from_pem(&pem).unwrap()
}

pub fn header(alg: &str, kid: &str) -> String {
    json!({ "alg": alg, "kid": kid, "typ": "certfactory-order+jws" }).to_string()
}

/// Claims that are good at `dev` for an hour from now.
pub fn claims(jti: &str, order: Value) -> Value {
    let now = chrono::Utc::now().timestamp();
    json!({ "iss": "head office", "aud": "dev", "jti": jti, "iat": now, "exp": now + 3600, "order": order })
}

/// A JWS of exactly these octets, signed as the kind of key signs.
pub fn sign(header: &str, payload: &str, key: &PKey<Private>) -> String {
    let text = format!("{}.{}", b64(header), b64(payload));
    let signature = if key.id() == Id::ED25519 {
        let mut signer = Signer::new_without_digest(key).unwrap();
        signer.sign_oneshot_to_vec(text.as_bytes()).unwrap()
    } else {
        let signature = EcdsaSig::sign(&sha256(text.as_bytes()), &key.ec_key().unwrap()).unwrap();
        [signature.r(), signature.s()]
            .map(|part| part.to_vec_padded(32).unwrap())
            .concat()
    };
    format!("{text}.{}", b64(signature))
}

/// A good ticket of head office's key.
pub fn ticket(dir: &Path, claims: &Value) -> String {
    sign(
        &header("EdDSA", "head-office"),
        &claims.to_string(),
        &head_office(dir),
    )
}
