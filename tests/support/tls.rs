//! A client below HTTP: certificates of any kind, handshakes of any kind, octets of any kind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Name, X509NameBuilder};

use super::world::World;

/// A certificate and its key.
#[derive(Clone)]
pub struct Identity {
    pub certificate: X509,
    pub key: PKey<Private>,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Use {
    Authority,
    Client,
    Server,
}

impl Identity {
    /// A certificate of this name by that issuer, or by itself; valid from and until so many days
    /// from now.
    pub fn make(name: &str, for_use: Use, issuer: Option<&Self>, days: (i64, i64)) -> Self {
        let seconds = |days: i64| days * 86_400 - 60;
        Self::make_for(name, for_use, issuer, (seconds(days.0), seconds(days.1)))
    }

    /// The same, in seconds from now.
    pub fn make_for(name: &str, for_use: Use, issuer: Option<&Self>, seconds: (i64, i64)) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let subject = common_name(name);
        let now = chrono::Utc::now().timestamp();
        let at = |seconds: i64| Asn1Time::from_unix(now + seconds).unwrap();
        let mut random = [0; 8];
        openssl::rand::rand_bytes(&mut random).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_slice(&random).unwrap();
        builder
            .set_serial_number(&serial.to_asn1_integer().unwrap())
            .unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder
            .set_issuer_name(issuer.map_or(&subject, |i| i.certificate.subject_name()))
            .unwrap();
        builder.set_not_before(&at(seconds.0)).unwrap();
        builder.set_not_after(&at(seconds.1)).unwrap();
        builder.set_pubkey(&key).unwrap();
        let mut constraints = BasicConstraints::new();
        constraints.critical();
        let mut usage = ExtendedKeyUsage::new();
        match for_use {
            Use::Authority => {
                constraints.ca();
            }
            Use::Client => {
                usage.client_auth();
            }
            Use::Server => {
                usage.server_auth();
                let context = builder.x509v3_context(None, None);
                let names = SubjectAlternativeName::new()
                    .ip("127.0.0.1")
                    .dns("localhost")
                    .build(&context)
                    .unwrap();
                builder.append_extension(names).unwrap();
            }
        }
        if for_use != Use::Authority {
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        builder
            .append_extension(constraints.build().unwrap())
            .unwrap();
        let signer = issuer.map_or(&key, |i| &i.key);
        builder.sign(signer, MessageDigest::sha256()).unwrap();
        Self {
            certificate: builder.build(),
            key,
        }
    }

    /// One of a world's clients.
    pub fn of(world: &World, name: &str) -> Self {
        let read = |extension: &str| {
            std::fs::read(world.dir.join(format!("clients/{name}.{extension}"))).unwrap()
        };
        Self {
            certificate: X509::from_pem(&read("pem")).unwrap(),
            key: PKey::private_key_from_pem(&read("key")).unwrap(),
        }
    }

    pub fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    pub fn key_pem(&self) -> Vec<u8> {
        self.key.private_key_to_pem_pkcs8().unwrap()
    }

    /// The key's hash, as the table of principals has it.
    pub fn spki_sha256(&self) -> String {
        openssl::sha::sha256(&self.key.public_key_to_der().unwrap())
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }

    /// Writes certificate and key where they are asked for.
    pub fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(certificate, self.pem()).unwrap();
        std::fs::write(key, self.key_pem()).unwrap();
    }
}

fn common_name(name: &str) -> X509Name {
    let mut builder = X509NameBuilder::new().unwrap();
    builder.append_entry_by_text("CN", name).unwrap();
    builder.build()
}

/// Where a world's API listens.
pub fn address(world: &World) -> SocketAddr {
    world.url.strip_prefix("https://").unwrap().parse().unwrap()
}

/// A TCP connection whose own end has this address: to the service, another machine's.
pub fn tcp_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// A connector that trusts whatever answers, as this client; the test may change it further.
pub fn connector(identity: Option<&Identity>) -> SslConnectorBuilder {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    if let Some(identity) = identity {
        builder.set_certificate(&identity.certificate).unwrap();
        builder.set_private_key(&identity.key).unwrap();
    }
    builder
}

/// A connection after its handshake, or why there is none.
pub fn handshake(
    builder: SslConnectorBuilder,
    stream: TcpStream,
) -> Result<SslStream<TcpStream>, String> {
    let mut configuration = builder.build().configure().unwrap();
    configuration.set_verify_hostname(false);
    configuration
        .connect("localhost", stream)
        .map_err(|error| error.to_string())
}

/// Connects as this client. In TLS 1.3 the server's opinion of the client's certificate comes with
/// the first read.
pub fn connect(world: &World, identity: Option<&Identity>) -> Result<SslStream<TcpStream>, String> {
    handshake(
        connector(identity),
        tcp_from([127, 0, 0, 1], address(world)),
    )
}

/// Connects as this client, who is to be refused, and gives the service's reason: the alert. It
/// sends nothing of its own: the reset that follows an alert would answer that in its place.
pub fn refusal(world: &World, identity: &Identity) -> String {
    let read = connect(world, Some(identity)).and_then(|mut stream| {
        let read = stream.read(&mut [0; 1]);
        read.map_err(|error| error.to_string())
    });
    read.expect_err("a refusal")
}

/// Sends octets as they are and reads until the other side closes or `at_most` passes.
pub fn exchange(
    mut stream: impl Read + Write,
    octets: &[u8],
    at_most: Duration,
) -> Result<String, String> {
    // The service may answer and close before it has read all.
    let sent = stream.write_all(octets);
    let start = Instant::now();
    let mut answer = Vec::new();
    let mut part = [0; 16 * 1024];
    let mut failure = sent.err().map(|error| error.to_string());
    while start.elapsed() < at_most {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) => {
                failure = Some(error.to_string());
                break;
            }
        }
    }
    if answer.is_empty() {
        return Err(failure.unwrap_or_else(|| "closed".into()));
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
