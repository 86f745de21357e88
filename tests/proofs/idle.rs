//! Connections by the thousand that do nothing any more, from thousands of addresses: on Linux all of
//! 127.0.0.0/8 is this machine, and a client may choose which of them it is.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use openssl::ssl::SslConnector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_openssl::SslStream;

use crate::quiet::{Quiet, enrol};
use crate::support::tls::{address, connector};
use crate::support::world::OwnWorld;

/// Connections of each address.
const PER_ADDRESS: usize = 4;
/// Strangers that connect at a time.
const AT_A_TIME: usize = 100;
/// How long the stations are looked at.
const SPAN: Duration = Duration::from_secs(8);
/// How long the connections are given to come: less than what a silent one is kept.
const ARRIVAL: Duration = Duration::from_secs(65);

pub fn idle(count: u32) {
    let count = usize::try_from(count).unwrap();
    let mut own = OwnWorld::make();
    let authority = own.second_authority();
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let mut quiet = Quiet::connect(&own.world, &authority);
    let late = enrol(&own.world, &authority, "late");
    quiet.p99(Duration::from_secs(3));
    let (alone, _) = quiet.p99(SPAN);
    let before = memory(&own);

    let held = Arc::new(Mutex::new(Vec::new()));
    let next = Arc::new(AtomicUsize::new(0));
    let connector = connector(None).build();
    let to = address(&own.world);
    let start = Instant::now();
    let strangers = std::thread::spawn({
        let held = held.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            for _ in 0..AT_A_TIME {
                let (connector, held, next) = (connector.clone(), held.clone(), next.clone());
                runtime.spawn(async move {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= count {
                            return;
                        }
                        if let Ok(stream) = stranger(&connector, from(n / PER_ADDRESS), to).await {
                            held.lock().unwrap().push(stream);
                        }
                    }
                });
            }
            runtime
        }
    });
    let runtime = strangers.join().unwrap();
    let reached = || held.lock().unwrap().len();
    let (mut meanwhile, mut peak) = (Duration::ZERO, before);
    while reached() < count && start.elapsed() < ARRIVAL {
        let (p99, _) = quiet.p99(Duration::from_secs(5));
        meanwhile = meanwhile.max(p99);
        peak = peak.max(memory(&own));
    }
    let (reached, after) = (reached(), start.elapsed());
    let (with, _) = quiet.p99(SPAN);
    peak = peak.max(memory(&own));
    let began = Instant::now();
    let one = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let newcomer = one.block_on(late.connect()).map(|_| began.elapsed());
    println!(
        "connections that got in    {reached} of {count} within {after:.0?}, from {} addresses",
        count.div_ceil(PER_ADDRESS)
    );
    println!(
        "p99 of quiet stations      alone {alone:.1?}, while they come {meanwhile:.1?} at most, with them {with:.1?}"
    );
    println!("a station that connects    {newcomer:.1?}");
    println!(
        "the service's memory       {} MiB before, {} MiB at most: {} KiB a connection",
        before >> 20,
        peak >> 20,
        ((peak - before) / u64::try_from(reached.max(1)).unwrap()) >> 10
    );
    held.lock().unwrap().clear();
    drop(runtime);
    std::thread::sleep(Duration::from_secs(3));
    let began = Instant::now();
    one.block_on(late.connect()).expect("when they have gone");
    println!("when they have gone        {:.1?}", began.elapsed());
    own.assert_alive();
    assert!(
        with < Duration::from_secs(1),
        "stations that were connected suffer"
    );
    assert!(peak < 2 << 30, "more than 2 GiB");
}

/// The n-th address of this machine that is nobody else's.
fn from(n: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(n).unwrap().to_be_bytes();
    SocketAddr::from(([127, 1, high, low], 0))
}

/// One that connects without a certificate, asks for what is public, and falls silent.
async fn stranger(
    connector: &SslConnector,
    from: SocketAddr,
    to: SocketAddr,
) -> anyhow::Result<SslStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(from)?;
    let tcp = socket.connect(to).await?;
    let ssl = connector
        .configure()?
        .verify_hostname(false)
        .into_ssl("localhost")?;
    let mut stream = SslStream::new(ssl, tcp)?;
    Pin::new(&mut stream).connect().await?;
    let request = b"GET /problems/forbidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    anyhow::ensure!(&answer == b"HTTP/1.1 200");
    Ok(stream)
}

/// Octets that the service's process holds in memory.
fn memory(own: &OwnWorld) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", own.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() << 10
}
