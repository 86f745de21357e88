//! The API's TLS: the service's certificate and the clients' trust anchors, which change while
//! connections live.
//!
//! The listener keeps one acceptor for its life. At each `ClientHello` the connection gets the context
//! that is current then; connections that are open keep theirs. Files that do not fit together, or
//! are not valid now, are refused, and what was in use stays in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use chrono::DateTime;
use chrono::Utc;
use openssl::asn1::Asn1Time;
use openssl::asn1::Asn1TimeRef;
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::AlpnError;
use openssl::ssl::ClientHelloResponse;
use openssl::ssl::SslAcceptor;
use openssl::ssl::SslAcceptorBuilder;
use openssl::ssl::SslContext;
use openssl::ssl::SslMethod;
use openssl::ssl::SslVerifyMode;
use openssl::stack::Stack;
use openssl::x509::X509;
use openssl::x509::X509NameRef;
use openssl::x509::store::X509StoreBuilder;
use zeroize::Zeroizing;

use crate::metrics::TlsMetrics;

/// Where the service's identity and its clients' trust anchors are, PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// Trust anchors of client certificates.
    pub client_ca: PathBuf,
}

/// Why these files are not taken into use; never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// Cannot be read.
    #[error("{path}: {1}", path = .0.display())]
    Unreadable(PathBuf, std::io::Error),
    /// Not what it should be.
    #[error("{path}: {1}", path = .0.display())]
    Content(PathBuf, ErrorStack),
    /// Holds no certificate.
    #[error("{}: there is no certificate in it", .0.display())]
    Empty(PathBuf),
    /// Two files that do not belong together.
    #[error("http.private_key does not belong to http.certificate")]
    Pair,
    /// No client or no server would be believed.
    #[error("{}: no certificate in it is valid now", .0.display())]
    NotValidNow(PathBuf),
    /// OpenSSL refuses.
    #[error("TLS: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// What new connections get.
pub struct Tls {
    files: TlsFiles,
    current: Arc<ArcSwap<SslContext>>,
    looks: Mutex<Looks>,
    metrics: TlsMetrics,
}

/// Digests of what the files held.
struct Looks {
    /// When they were taken into use.
    in_use: [u8; 32],
    /// When they were last refused; zero when they could not be read.
    refused: Option<[u8; 32]>,
}

impl Tls {
    /// Takes the files into use for the first time.
    pub fn load(
        files: TlsFiles,
        now: DateTime<Utc>,
        metrics: TlsMetrics,
    ) -> Result<Self, TlsFault> {
        let contents = Contents::read(&files)?;
        let loaded = contents.load(&files, now)?;
        loaded.show(&metrics);
        Ok(Self {
            files,
            current: Arc::new(ArcSwap::from_pointee(loaded.context)),
            looks: Mutex::new(Looks {
                in_use: contents.digest(),
                refused: None,
            }),
            metrics,
        })
    }

    /// What a listener needs for its life.
    pub fn acceptor(&self) -> Result<SslAcceptor, ErrorStack> {
        let mut acceptor = policy()?;
        acceptor.set_session_id_context(b"certfactory")?;
        let current = self.current.clone();
        acceptor.set_client_hello_callback(move |connection, _| {
            connection.set_ssl_context(&current.load())?;
            Ok(ClientHelloResponse::SUCCESS)
        });
        Ok(acceptor.build())
    }

    /// Looks at the files; when they changed, new connections get what they hold now. What is
    /// refused is said on the metric, in the log once, and tried again at the next look.
    pub fn reload(&self, now: DateTime<Utc>) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = Contents::read(&self.files);
        let digest = contents.as_ref().map_or([0; 32], Contents::digest);
        if digest == looks.in_use {
            looks.refused = None;
            self.metrics.files_refused.set(0);
            return;
        }
        match contents.and_then(|contents| contents.load(&self.files, now)) {
            Ok(loaded) => {
                loaded.show(&self.metrics);
                self.current.store(Arc::new(loaded.context));
                looks.in_use = digest;
                looks.refused = None;
                tracing::info!("new TLS files are in use");
            }
            Err(fault) => {
                self.metrics.files_refused.set(1);
                if looks.refused.replace(digest) != Some(digest) {
                    tracing::error!(cause = %fault, "the TLS files are refused; the earlier ones stay in use");
                }
            }
        }
    }
}

/// The three files, as they were at one moment.
struct Contents {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
    client_ca: Vec<u8>,
}

/// A context that is sound, and when its certificates end.
struct Loaded {
    context: SslContext,
    certificate_ends: i64,
    client_ca_ends: i64,
}

impl Loaded {
    fn show(&self, metrics: &TlsMetrics) {
        let ends = |file: &str, at: i64| metrics.not_after.with_label_values(&[file]).set(at);
        ends("certificate", self.certificate_ends);
        ends("client_ca", self.client_ca_ends);
        metrics.files_refused.set(0);
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsFault> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|e| TlsFault::Unreadable(path.clone(), e));
        Ok(Self {
            certificate: read(&files.certificate)?,
            private_key: Zeroizing::new(read(&files.private_key)?),
            client_ca: read(&files.client_ca)?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let parts = [&self.certificate, &*self.private_key, &self.client_ca];
        let digests: Vec<u8> = parts
            .into_iter()
            .flat_map(|p| openssl::sha::sha256(p))
            .collect();
        openssl::sha::sha256(&digests)
    }

    /// Checks that the parts fit together and are valid now.
    fn load(&self, files: &TlsFiles, now: DateTime<Utc>) -> Result<Loaded, TlsFault> {
        let mut context = policy()?;
        let chain = certificates(&self.certificate, &files.certificate)?;
        let (leaf, above) = chain
            .split_first()
            .ok_or_else(|| TlsFault::Empty(files.certificate.clone()))?;
        if !valid_at(leaf, now)? {
            return Err(TlsFault::NotValidNow(files.certificate.clone()));
        }
        context.set_certificate(leaf)?;
        for certificate in above {
            context.add_extra_chain_cert(certificate.clone())?;
        }
        let key = PKey::private_key_from_pem(&self.private_key)
            .map_err(|e| TlsFault::Content(files.private_key.clone(), e))?;
        if !leaf.public_key()?.public_eq(&key) {
            return Err(TlsFault::Pair);
        }
        context.set_private_key(&key)?;

        let anchors = certificates(&self.client_ca, &files.client_ca)?;
        let mut store = X509StoreBuilder::new()?;
        let mut names = Stack::new()?;
        let mut ends = Vec::new();
        for anchor in anchors {
            if valid_at(&anchor, now)? {
                ends.push(unix_time(anchor.not_after())?);
            }
            names.push(X509NameRef::to_owned(anchor.subject_name())?)?;
            store.add_cert(anchor)?;
        }
        let client_ca_ends = ends
            .into_iter()
            .min()
            .ok_or_else(|| TlsFault::NotValidNow(files.client_ca.clone()))?;
        context.set_cert_store(store.build());
        context.set_client_ca_list(names);
        // A session is resumed only under the trust anchors that its client was verified with.
        context.set_session_id_context(&openssl::sha::sha256(&self.client_ca))?;
        Ok(Loaded {
            certificate_ends: unix_time(leaf.not_after())?,
            client_ca_ends,
            context: context.build().into_context(),
        })
    }
}

/// TLS 1.2 and 1.3; a client certificate is asked for, and one that does not verify ends the
/// handshake; HTTP/2 where the client speaks it.
fn policy() -> Result<SslAcceptorBuilder, ErrorStack> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor.set_verify(SslVerifyMode::PEER);
    acceptor.set_alpn_select_callback(|_, offered| {
        openssl::ssl::select_next_proto(b"\x02h2\x08http/1.1", offered).ok_or(AlpnError::NOACK)
    });
    Ok(acceptor)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<X509>, TlsFault> {
    let found = X509::stack_from_pem(pem).map_err(|e| TlsFault::Content(path.to_path_buf(), e))?;
    if found.is_empty() {
        return Err(TlsFault::Empty(path.to_path_buf()));
    }
    Ok(found)
}

fn valid_at(certificate: &X509, now: DateTime<Utc>) -> Result<bool, ErrorStack> {
    let now = Asn1Time::from_unix(now.timestamp())?;
    Ok(certificate.not_before() <= &*now && &*now <= certificate.not_after())
}

/// A certificate's time, in seconds since 1970.
pub(super) fn unix_time(time: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    Ok(i64::from(since.days) * 86_400 + i64::from(since.secs))
}
