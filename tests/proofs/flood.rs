//! One station that asks as fast as it can on many connections and heeds no refusal, beside quiet ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use certfactory::cli::client::Client;
use hyper::Method;
use hyper::body::Bytes;

use crate::quiet::{Quiet, STATIONS, body, enrol};
use crate::support::world::OwnWorld;

/// Connections of the station that floods.
const CONNECTIONS: usize = 64;
/// Its requests, made beforehand: what it spends on them is not the service's.
const BODIES: usize = 30_000;

/// `per_second`: a station's rate, 0 for none, where it is not the default. At once, it may what is the default.
pub fn flood(pairs: u32, span: Duration, per_second: Option<u32>) {
    let mut own = OwnWorld::make();
    let authority = own.second_authority();
    own.configure(|config| {
        let limits = config["limits"].as_table_mut().unwrap();
        limits.remove("station_requests_at_once");
        limits.remove("station_requests_per_second");
        if let Some(rate) = per_second {
            limits.insert("station_requests_per_second".into(), rate.into());
        }
    });
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let mut quiet = Quiet::connect(&own.world, &authority);
    let flooding = enrol(&own.world, &authority, "flooding");
    let bodies: Arc<Vec<Bytes>> = Arc::new((0..BODIES).map(|_| body()).collect());
    let next = Arc::new(AtomicUsize::new(0));
    // The first second after a start is slower than those that follow.
    quiet.p99(Duration::from_secs(3));

    println!("{STATIONS} quiet stations, one that floods on {CONNECTIONS} connections");
    let mut ratios = Vec::new();
    for _ in 0..pairs {
        let (alone, answers) = quiet.p99(span);
        let flood = Flood::start(&flooding, &bodies, &next);
        std::thread::sleep(Duration::from_secs(1));
        let (beside, answers_beside) = quiet.p99(span);
        let (certified, refused, seconds) = flood.stop();
        let ratio = beside.as_secs_f64() / alone.as_secs_f64();
        println!(
            "p99 alone {:.1} ms ({answers} answers), beside {:.1} ms ({answers_beside}), ratio {ratio:.2}; the flood got {:.0} certificates and {:.0} refusals a second",
            alone.as_secs_f64() * 1e3,
            beside.as_secs_f64() * 1e3,
            certified / seconds,
            refused / seconds
        );
        ratios.push(ratio);
        std::thread::sleep(Duration::from_secs(1));
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("median ratio               {median:.2}");
    own.assert_alive();
    assert!(median <= 1.2, "the others' p99 grew by more than 20 %");
}

/// A flood that goes on.
struct Flood {
    stop: Arc<AtomicBool>,
    certified: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    start: Instant,
    thread: std::thread::JoinHandle<()>,
}

impl Flood {
    fn start(client: &Client, bodies: &Arc<Vec<Bytes>>, next: &Arc<AtomicUsize>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (certified, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let thread = std::thread::spawn({
            let (client, bodies, next) = (client.clone(), bodies.clone(), next.clone());
            let (stop, certified, refused) = (stop.clone(), certified.clone(), refused.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let ask = || async {
                    let mut connection = client.connect().await.unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let body = bodies[next.fetch_add(1, Ordering::Relaxed) % BODIES].clone();
                        let headers = [("content-type", "application/json")];
                        let answer =
                            connection.send(Method::POST, "/v1/certificates", &headers, body);
                        let count = match answer.await.unwrap().status.as_u16() {
                            200 | 201 => &certified,
                            429 => &refused,
                            other => panic!("{other}"),
                        };
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let connections = (0..CONNECTIONS).map(|_| ask());
                runtime.block_on(futures_util::future::join_all(connections));
            }
        });
        Self {
            stop,
            certified,
            refused,
            start: Instant::now(),
            thread,
        }
    }

    /// Certificates, refusals, seconds.
    fn stop(self) -> (f64, f64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let count = |n: &AtomicUsize| f64::from(u32::try_from(n.load(Ordering::Relaxed)).unwrap());
        let seconds = self.start.elapsed().as_secs_f64();
        (count(&self.certified), count(&self.refused), seconds)
    }
}
