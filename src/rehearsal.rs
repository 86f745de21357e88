//! The rehearsal: a local MQTT endpoint that treats a device as AWS IoT Core does at its first
//! connections, so that the last station of a line can check a finished device without internet.
//!
//! It keeps its own registry: nothing here asks the ledger or the HSM, and nothing leaves the
//! machine. What it cannot show is on the manual's page `rehearsal`.

pub mod registry;
pub mod transcript;

mod broker;
mod connection;
mod door;
mod handshake;
mod session;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use chrono::Utc;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::ssl::SslContext;
use openssl::x509::X509;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;

use broker::Broker;
use door::Door;
use registry::Registry;
use transcript::Outcome;
use transcript::Step;
use transcript::Transcript;

/// Connections at once; one more is closed at once.
const CONNECTIONS_MAX: usize = 256;
/// For the TLS handshake, then again for the CONNECT packet.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For one packet to leave.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the connections to end when the endpoint does.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The time, as an argument.
pub type Now = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// What an endpoint shows and asks.
pub struct Settings {
    /// The host name devices connect to; their SNI must be this.
    pub endpoint: String,
    /// The endpoint's certificate, and those above it that it sends along.
    pub certificate: X509,
    /// Those above it.
    pub chain: Vec<X509>,
    /// The certificate's key.
    pub key: PKey<Private>,
    /// Issuers, template, policies, and who was here.
    pub registry: Registry,
    /// Where each step is told.
    pub transcript: Transcript,
    /// The clock.
    pub now: Now,
}

/// An endpoint that listens.
pub struct Rehearsal {
    listener: TcpListener,
    house: Arc<House>,
}

/// What all connections share.
struct House {
    endpoint: String,
    tls: SslContext,
    registry: Registry,
    broker: Broker,
    transcript: Transcript,
    now: Now,
}

impl Rehearsal {
    /// Binds; port 0 takes any.
    pub async fn bind(listen: SocketAddr, settings: Settings) -> anyhow::Result<Self> {
        let tls = handshake::context(
            &settings.certificate,
            &settings.chain,
            &settings.key,
            &settings.endpoint,
        )?;
        let listener = TcpListener::bind(listen).await?;
        Ok(Self {
            listener,
            house: Arc::new(House {
                endpoint: settings.endpoint,
                tls,
                registry: settings.registry,
                broker: Broker::default(),
                transcript: settings.transcript,
                now: settings.now,
            }),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves `until`, then ends every connection.
    pub async fn run(self, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { listener, house } = self;
        let address = listener.local_addr()?;
        house.tell(
            Step::new("listening", Outcome::Ok)
                .detail(format!(
                    "{} on {address}; issuers: {}",
                    house.endpoint,
                    house.registry.issuer_names().join(", ")
                ))
                .with("listen", address.to_string())
                .with("endpoint", house.endpoint.clone()),
        );
        let door = Arc::new(Door::default());
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut count = 0_u64;
        tokio::pin!(until);
        loop {
            let accepted = tokio::select! {
                () = &mut until => break,
                accepted = listener.accept() => accepted,
                // A connection's end is only swept up.
                Some(_) = connections.join_next() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // No file descriptor, a reset on the way: the next may do better.
                    let step = Step::new("connection-refused", Outcome::Refused);
                    house.tell(step.detail(format!("accepting failed: {error}")));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            count += 1;
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                let step = Step::new("connection-refused", Outcome::Refused)
                    .at(count, peer)
                    .detail(format!("{CONNECTIONS_MAX} connections are open already"));
                house.tell(step);
                continue;
            };
            let Some(waiting) = door.enter(peer.ip()) else {
                let step = Step::new("connection-refused", Outcome::Refused)
                    .at(count, peer)
                    .detail(format!(
                        "{} connections of {} wait to be accepted already",
                        door::WAITING_MAX,
                        peer.ip()
                    ));
                house.tell(step);
                continue;
            };
            stream.set_nodelay(true).ok();
            let house = Arc::clone(&house);
            let stopped = stopped.clone();
            connections.spawn(async move {
                let visit = connection::Visit {
                    house: &house,
                    peer,
                    number: count,
                };
                visit.serve(stream, waiting, stopped).await;
                drop(place);
            });
        }
        stopping.send(true).ok();
        let all_gone = async { while connections.join_next().await.is_some() {} };
        tokio::time::timeout(STOP_TIMEOUT, all_gone).await.ok();
        house.tell(Step::new("stopped", Outcome::Ok).detail("the rehearsal has ended"));
        house.transcript.flush();
        Ok(())
    }
}

impl House {
    fn tell(&self, step: Step) {
        self.transcript.tell((self.now)(), step);
    }
}
