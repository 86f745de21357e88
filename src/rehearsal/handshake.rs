//! TLS as AWS IoT Core asks for it: SNI, a client certificate under a registered CA, ALPN
//! `x-amzn-mqtt-ca` or none. A device that fails is sent an alert, and the transcript says why.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use chrono::DateTime;
use chrono::Utc;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::nid::Nid;
use openssl::pkey::Id;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::ssl::AlpnError;
use openssl::ssl::NameType;
use openssl::ssl::SniError;
use openssl::ssl::Ssl;
use openssl::ssl::SslAcceptor;
use openssl::ssl::SslAlert;
use openssl::ssl::SslContext;
use openssl::ssl::SslMethod;
use openssl::ssl::SslOptions;
use openssl::ssl::SslRef;
use openssl::ssl::SslSessionCacheMode;
use openssl::ssl::SslVerifyMode;
use openssl::x509::X509;
use openssl::x509::X509Ref;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::House;
use super::registry::Registry;

/// The only protocol besides none ("Protocols, port mappings, and authentication").
const ALPN: &[u8] = b"\x0ex-amzn-mqtt-ca";
/// What AWS IoT registers: RSA from 2,048 bits.
const RSA_BITS_MIN: u32 = 2_048;

/// Where the callbacks of one handshake leave what they found.
type Greeting = OnceLock<String>;

/// A device at the end of a handshake.
pub(super) struct Guest {
    pub(super) stream: SslStream<TcpStream>,
    /// Its certificate, DER.
    pub(super) certificate: Vec<u8>,
    /// Name of the registered CA that signed it.
    pub(super) issuer: String,
}

/// Why there is none, and what is known of it.
pub(super) struct Refusal {
    pub(super) detail: String,
    pub(super) sni: Option<String>,
    pub(super) certificate: Option<X509>,
}

/// The endpoint's context; the callbacks that need the registry are set for each connection.
pub(super) fn context(
    certificate: &X509,
    chain: &[X509],
    key: &PKey<Private>,
    endpoint: &str,
) -> anyhow::Result<SslContext> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_certificate(certificate)?;
    for above in chain {
        builder.add_extra_chain_cert(above.clone())?;
    }
    builder.set_private_key(key)?;
    builder.check_private_key()?;
    // Each connection shows its certificate: no resumption.
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_num_tickets(0)?;
    let index = greeting_index()?;
    let endpoint = endpoint.to_owned();
    builder.set_servername_callback(move |ssl, alert| {
        let Some(why) = sni_refusal(&endpoint, ssl.servername(NameType::HOST_NAME)) else {
            return Ok(());
        };
        note(ssl, index, why);
        *alert = SslAlert::UNRECOGNIZED_NAME;
        Err(SniError::ALERT_FATAL)
    });
    builder.set_alpn_select_callback(move |ssl, offered| {
        openssl::ssl::select_next_proto(ALPN, offered).ok_or_else(|| {
            let names = protocols(offered).join(", ");
            note(
                ssl,
                index,
                format!("ALPN offers {names}; AWS IoT takes x-amzn-mqtt-ca or none"),
            );
            AlpnError::ALERT_FATAL
        })
    });
    Ok(builder.build().into_context())
}

fn greeting_index() -> Result<Index<Ssl, Arc<Greeting>>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Arc<Greeting>>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    let index = Ssl::new_ex_index()?;
    Ok(*INDEX.get_or_init(|| index))
}

fn note(ssl: &SslRef, index: Index<Ssl, Arc<Greeting>>, why: String) {
    if let Some(greeting) = ssl.ex_data(index) {
        // The first reason is the one that ended it.
        greeting.set(why).ok();
    }
}

/// Shakes hands within `at_most`.
pub(super) async fn accept(
    house: &Arc<House>,
    stream: TcpStream,
    at_most: Duration,
) -> Result<Guest, Refusal> {
    let greeting = Arc::new(Greeting::new());
    let mut stream = match prepare(house, stream, &greeting) {
        Ok(stream) => stream,
        Err(error) => return Err(Refusal::because(format!("TLS cannot start: {error}"))),
    };
    let accepted = tokio::time::timeout(at_most, std::pin::Pin::new(&mut stream).accept()).await;
    let ssl = stream.ssl();
    let sni = ssl.servername(NameType::HOST_NAME).map(str::to_owned);
    let certificate = ssl.peer_certificate();
    let refusal = |detail: String| Refusal {
        detail,
        sni: sni.clone(),
        certificate: certificate.clone(),
    };
    match accepted {
        Err(_) => return Err(refusal(format!("no TLS handshake within {at_most:?}"))),
        Ok(Err(error)) => {
            let alert = || match error.ssl_error().map(ErrorStack::errors) {
                // The first error is the one that the others follow from.
                Some([first, ..]) => first.reason().unwrap_or("TLS failed").to_owned(),
                _ => "the client went away during the handshake".to_owned(),
            };
            return Err(refusal(greeting.get().cloned().unwrap_or_else(alert)));
        }
        Ok(Ok(())) => {}
    }
    if let Some(why) = sni_refusal(&house.endpoint, sni.as_deref()) {
        return Err(refusal(why));
    }
    let Some(certificate) = &certificate else {
        return Err(refusal("the client showed no certificate".to_owned()));
    };
    // The callback judged it already; this does not depend on how OpenSSL calls it.
    let issuer = judge(certificate, &house.registry, (house.now)()).map_err(&refusal)?;
    let der = certificate
        .to_der()
        .map_err(|error| refusal(error.to_string()))?;
    Ok(Guest {
        certificate: der,
        issuer,
        stream,
    })
}

fn prepare(
    house: &Arc<House>,
    stream: TcpStream,
    greeting: &Arc<Greeting>,
) -> Result<SslStream<TcpStream>, ErrorStack> {
    let index = greeting_index()?;
    let mut ssl = Ssl::new(&house.tls)?;
    ssl.set_ex_data(index, Arc::clone(greeting));
    let (house, greeting) = (Arc::clone(house), Arc::clone(greeting));
    ssl.set_verify_callback(
        SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
        move |_, chain| {
            // Nothing but the certificate itself counts: AWS IoT finds its CA by name.
            let Some(certificate) = chain.current_cert().filter(|_| chain.error_depth() == 0)
            else {
                return true;
            };
            match judge(certificate, &house.registry, (house.now)()) {
                Ok(_) => true,
                Err(why) => {
                    greeting.set(why).ok();
                    false
                }
            }
        },
    );
    SslStream::new(ssl, stream)
}

fn sni_refusal(endpoint: &str, sni: Option<&str>) -> Option<String> {
    match sni {
        None => Some(
            "no SNI: AWS IoT refuses a handshake that does not name the endpoint (server_name)"
                .to_owned(),
        ),
        Some(name) if !name.eq_ignore_ascii_case(endpoint) => {
            Some(format!("the SNI is `{name}`; the endpoint is `{endpoint}`"))
        }
        Some(_) => None,
    }
}

/// Whether AWS IoT would take the certificate; the name of the CA, or why not.
fn judge(certificate: &X509Ref, registry: &Registry, now: DateTime<Utc>) -> Result<String, String> {
    let ca = registry.issuer_of(certificate)?;
    let algorithm = certificate.signature_algorithm().object().nid();
    if ![
        Nid::SHA256WITHRSAENCRYPTION,
        Nid::SHA384WITHRSAENCRYPTION,
        Nid::SHA512WITHRSAENCRYPTION,
        Nid::ECDSA_WITH_SHA256,
        Nid::ECDSA_WITH_SHA384,
        Nid::ECDSA_WITH_SHA512,
    ]
    .contains(&algorithm)
    {
        let name = algorithm.long_name().unwrap_or("unknown");
        return Err(format!(
            "AWS IoT does not list the signature algorithm {name}"
        ));
    }
    key_is_taken(certificate)?;
    valid_now(certificate, now).map_err(|why| format!("the certificate {why}"))?;
    valid_now(&ca.certificate, now).map_err(|why| format!("the CA `{}` {why}", ca.name))?;
    Ok(ca.name.clone())
}

fn key_is_taken(certificate: &X509Ref) -> Result<(), String> {
    let refused = |what: String| Err(format!("The key in the certificate is not valid: {what}"));
    let Ok(key) = certificate.public_key() else {
        return refused("it cannot be read".to_owned());
    };
    match key.id() {
        Id::RSA if key.bits() >= RSA_BITS_MIN => Ok(()),
        Id::RSA => refused(format!(
            "RSA of {} bits; {RSA_BITS_MIN} are needed",
            key.bits()
        )),
        Id::EC => {
            let curve = key.ec_key().ok().and_then(|key| key.group().curve_name());
            match curve {
                Some(Nid::X9_62_PRIME256V1 | Nid::SECP384R1 | Nid::SECP521R1) => Ok(()),
                _ => refused("its curve is none of P-256, P-384, P-521".to_owned()),
            }
        }
        _ => refused("neither RSA nor EC".to_owned()),
    }
}

fn valid_now(certificate: &X509Ref, now: DateTime<Utc>) -> Result<(), String> {
    let now = Asn1Time::from_unix(now.timestamp()).map_err(|error| error.to_string())?;
    if certificate.not_before() > now {
        return Err(format!("is not valid before {}", certificate.not_before()));
    }
    if certificate.not_after() < now {
        return Err(format!("has expired: {}", certificate.not_after()));
    }
    Ok(())
}

/// The names in a list as ALPN sends it (RFC 7301 3.1), for a person.
fn protocols(mut list: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let Some((length, rest)) = list.split_first() {
        let (name, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        names.push(String::from_utf8_lossy(name).into_owned());
        list = rest;
    }
    names
}

impl Refusal {
    fn because(detail: String) -> Self {
        Self {
            detail,
            sni: None,
            certificate: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::ec::EcGroup;
    use openssl::ec::EcKey;
    use openssl::hash::MessageDigest;
    use openssl::rsa::Rsa;

    fn certificate(key: &PKey<Private>) -> X509 {
        let mut builder = X509::builder().unwrap();
        builder.set_pubkey(key).unwrap();
        builder
            .set_not_before(&Asn1Time::from_unix(1_000).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::from_unix(2_000).unwrap())
            .unwrap();
        builder.sign(key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    fn ec(curve: Nid) -> PKey<Private> {
        let group = EcGroup::from_curve_name(curve).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    fn rsa(bits: u32) -> PKey<Private> {
        PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
    }

    #[test]
    fn keys_are_those_that_aws_iot_registers() {
        for key in [
            rsa(2_048),
            ec(Nid::X9_62_PRIME256V1),
            ec(Nid::SECP384R1),
            ec(Nid::SECP521R1),
        ] {
            assert_eq!(key_is_taken(&certificate(&key)), Ok(()));
        }
        for (key, why) in [(rsa(1_024), "1024 bits"), (ec(Nid::SECP256K1), "curve")] {
            let refused = key_is_taken(&certificate(&key)).unwrap_err();
            assert!(refused.starts_with("The key in the certificate is not valid: "));
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn both_ends_of_a_validity_belong_to_it() {
        let certificate = certificate(&ec(Nid::X9_62_PRIME256V1));
        for (second, expected) in [(999, false), (1_000, true), (2_000, true), (2_001, false)] {
            let now = DateTime::from_timestamp(second, 0).unwrap();
            assert_eq!(valid_now(&certificate, now).is_ok(), expected, "{second}");
        }
    }
}
