//! Stations that ask at a steady pace, as a line does, and write down how long each answer took.

use std::time::{Duration, Instant};

use certfactory::cli::client::{Client, Connect, Connection};
use hyper::Method;
use hyper::body::Bytes;

use crate::load::connect;
use crate::support::device::Device;
use crate::support::tls::{Identity, Use};
use crate::support::world::World;

/// How many there are.
pub const STATIONS: usize = 16;
/// From one request of a station to its next.
const PACE: Duration = Duration::from_millis(50);

/// A station of its own, known to the service within a second; its key and certificate are files.
pub fn enrol(world: &World, authority: &Identity, name: &str) -> Client {
    let identity = Identity::make(name, Use::Client, Some(authority), (-1, 30));
    let certificate = world.dir.join(format!("clients/{name}.pem"));
    identity.write(&certificate, &certificate.with_extension("key"));
    world.register(name, "station", &identity.spki_sha256());
    let connect = Connect {
        client_certificate: Some(certificate),
        ..connect(world)
    };
    Client::new(&connect, &world.dir.join("config.toml")).unwrap()
}

/// The body of a fresh device's request.
pub fn body() -> Bytes {
    Device::p256().request("lightbulb").to_string().into()
}

/// Quiet stations, connected.
pub struct Quiet {
    runtime: tokio::runtime::Runtime,
    connections: Vec<Connection>,
}

impl Quiet {
    pub fn connect(world: &World, authority: &Identity) -> Self {
        let clients: Vec<Client> = (0..STATIONS)
            .map(|n| enrol(world, authority, &format!("quiet-{n}")))
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let connections = runtime.block_on(async {
            let mut connections = Vec::new();
            for client in clients {
                connections.push(client.connect().await.unwrap());
            }
            connections
        });
        Self {
            runtime,
            connections,
        }
    }

    /// Lets them ask for so long; the time that 99 of 100 answers took at most, and how many came.
    /// Every request is answered with a certificate.
    pub fn p99(&mut self, span: Duration) -> (Duration, usize) {
        let end = Instant::now() + span;
        let connections = std::mem::take(&mut self.connections);
        let mut took = Vec::new();
        let connections = self.runtime.block_on(async {
            let stations: Vec<_> = connections
                .into_iter()
                .enumerate()
                .map(|(n, connection)| tokio::spawn(station(connection, n, end)))
                .collect();
            let mut connections = Vec::new();
            for station in stations {
                let (connection, times) = station.await.unwrap();
                connections.push(connection);
                took.extend(times);
            }
            connections
        });
        self.connections = connections;
        took.sort_unstable();
        (took[took.len() * 99 / 100], took.len())
    }
}

async fn station(
    mut connection: Connection,
    n: usize,
    end: Instant,
) -> (Connection, Vec<Duration>) {
    let first =
        Instant::now() + PACE * u32::try_from(n).unwrap() / u32::try_from(STATIONS).unwrap();
    let mut took = Vec::new();
    for turn in 0.. {
        let at = first + PACE * turn;
        if at >= end {
            break;
        }
        let body = body();
        tokio::time::sleep_until(at.into()).await;
        let asked = Instant::now();
        let headers = [("content-type", "application/json")];
        let answer = connection.send(Method::POST, "/v1/certificates", &headers, body);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        took.push(asked.elapsed());
    }
    (connection, took)
}
