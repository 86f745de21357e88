//! The client half: HTTP/1.1 over mTLS with keep-alive, for `cert …` and `benchmark line`.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// Time to connect, handshake included, and for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Octets of a file that are sent at a time.
const PIECE_LENGTH: usize = 64 * 1024;

/// Which service, and as whom. In a development world `.dev/env` answers all of it.
#[derive(Args, Clone)]
pub struct Connect {
    /// Address of the service.
    #[arg(
        long,
        env = "CERTFACTORY_URL",
        default_value = "https://127.0.0.1:8443",
        value_parser = https
    )]
    pub url: Uri,
    /// Client certificate, PEM. Without it: `clients/station-01.pem` beside the configuration, or
    /// `clients/operator.pem`, `clients/administrator.pem` and `clients/auditor.pem` for what is theirs.
    #[arg(long, env = "CERTFACTORY_CLIENT_CERTIFICATE")]
    pub client_certificate: Option<PathBuf>,
    /// Client key, PEM. Without it: the certificate's name with `.key`.
    #[arg(long, env = "CERTFACTORY_CLIENT_KEY")]
    pub client_key: Option<PathBuf>,
    /// Whether to connect without a client certificate.
    #[arg(skip)]
    pub anonymous: bool,
    /// Trust anchor of the service, PEM. Without it: `tls/ca.pem` beside the configuration.
    #[arg(long, env = "CERTFACTORY_CA")]
    pub ca: Option<PathBuf>,
}

fn https(text: &str) -> Result<Uri, String> {
    text.parse::<Uri>()
        .ok()
        .filter(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
        .ok_or_else(|| "the address must be https://host[:port]".to_owned())
}

/// An answer.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// What a request carries: octets at hand, which cost nothing more, or a file, read as it is sent.
pub struct RequestBody(Sent);

type Sent = Either<Full<Bytes>, UnsyncBoxBody<Bytes, std::io::Error>>;

impl RequestBody {
    /// A file from where it stands to its end. Say its `content-length` beside it.
    pub fn file(file: File) -> Self {
        let pieces = futures_util::stream::try_unfold(file, |mut file| async {
            let mut piece = Vec::with_capacity(PIECE_LENGTH);
            let length = file.read_buf(&mut piece).await?;
            Ok((length > 0).then(|| (Frame::data(Bytes::from(piece)), file)))
        });
        Self(Either::Right(StreamBody::new(pieces).boxed_unsync()))
    }
}

impl From<Bytes> for RequestBody {
    fn from(octets: Bytes) -> Self {
        Self(Either::Left(Full::new(octets)))
    }
}

/// An answer whose body is still coming.
pub struct Stream {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
}

impl Stream {
    /// The next octets; `None` at the body's proper end. A body that breaks off is an error.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(TIMEOUT, self.body.frame())
                .await
                .context("the service stopped answering")?;
            match frame {
                None => return Ok(None),
                Some(frame) => match frame.context("the answer broke off")?.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
            }
        }
    }
}

/// Makes connections to one service.
#[derive(Clone)]
pub struct Client {
    connector: SslConnector,
    authority: String,
    host: String,
    port: u16,
}

/// One connection, one request at a time.
pub struct Connection {
    sender: http1::SendRequest<Sent>,
    authority: String,
}

impl Client {
    /// Reads the key material; does not connect yet.
    pub fn new(connect: &Connect, config: &Path) -> anyhow::Result<Self> {
        let beside = config.parent().unwrap_or(Path::new("."));
        let certificate = connect
            .client_certificate
            .clone()
            .unwrap_or_else(|| beside.join("clients/station-01.pem"));
        let key = connect
            .client_key
            .clone()
            .unwrap_or_else(|| certificate.with_extension("key"));
        let ca = connect
            .ca
            .clone()
            .unwrap_or_else(|| beside.join("tls/ca.pem"));
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        connector
            .set_ca_file(&ca)
            .with_context(|| format!("trust anchor {}", ca.display()))?;
        if !connect.anonymous {
            connector
                .set_certificate_chain_file(&certificate)
                .with_context(|| format!("client certificate {}", certificate.display()))?;
            connector
                .set_private_key_file(&key, SslFiletype::PEM)
                .with_context(|| format!("client key {}", key.display()))?;
        }
        let host = connect.url.host().context("the address has no host")?;
        let port = connect.url.port_u16().unwrap_or(443);
        Ok(Self {
            connector: connector.build(),
            authority: format!("{host}:{port}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }

    /// Opens one connection.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        tokio::time::timeout(TIMEOUT, self.handshake())
            .await
            .context("the service did not answer in time")?
    }

    async fn handshake(&self) -> anyhow::Result<Connection> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .with_context(|| format!("connecting to {}", self.authority))?;
        tcp.set_nodelay(true)?;
        let ssl = self.connector.configure()?.into_ssl(&self.host)?;
        let mut tls = SslStream::new(ssl, tcp)?;
        Pin::new(&mut tls)
            .connect()
            .await
            .context("TLS handshake")?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Connection {
            sender,
            authority: self.authority.clone(),
        })
    }

    /// One request on a connection of its own.
    pub async fn once(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.connect()
            .await?
            .send(method, path, headers, body)
            .await
    }
}

impl Connection {
    /// One request, one answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.send_within(TIMEOUT, method, path, headers, body.into())
            .await
    }

    /// The same, where the body is long or the service has much to do before it answers.
    pub async fn send_within(
        &mut self,
        limit: Duration,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: RequestBody,
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, path, headers, body)?;
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(limit, exchange)
            .await
            .context("the service did not answer in time")?
    }

    /// Asks for something long: the answer's body is taken piece by piece.
    pub async fn stream(&mut self, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Stream> {
        let request = self.request(Method::GET, path, headers, Bytes::new().into())?;
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            anyhow::Ok(Stream {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .context("the service did not answer in time")?
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: RequestBody,
    ) -> anyhow::Result<Request<Sent>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.body(body.0)?)
    }
}
