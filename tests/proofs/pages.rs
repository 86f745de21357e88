//! The pages of the line: how soon they are seen, and what ten viewers cost the line.
//!
//! The cost is taken as processor time of service and database a certificate, which a machine that is
//! busy otherwise changes less than a rate; rates are printed beside it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use certfactory::cli::client::Client;
use certfactory::cli::client::Connect;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

use crate::browser::Browser;
use crate::support::world::World;

const PAGES: [&str; 4] = ["/ui", "/ui/stations", "/ui/orders", "/ui/batches"];
/// What a page may take to be seen.
const PAINT_MAX_MS: f64 = 300.0;
/// What the viewers may cost.
const COST_MAX: f64 = 1.03;
const VIEWERS: usize = 10;
/// As the pages ask by themselves.
const EVERY: Duration = Duration::from_secs(5);
const CONNECTIONS: &str = "16";

fn world() -> World {
    let path = std::env::var_os("CERTFACTORY_CONFIG").map(PathBuf::from);
    let path = path.expect("CERTFACTORY_CONFIG is not set: source .dev/env");
    World::at(std::fs::canonicalize(path.parent().unwrap()).unwrap())
}

/// First paint of each page: of the first time that somebody looks, and of later ones.
pub fn paint(times: u32) {
    let world = world();
    let rows = world.sql("SELECT count(*) FROM outcome WHERE der IS NOT NULL");
    println!("certificates               {rows}");
    let browser = Browser::at(&world, "auditor");
    // A browser that has just started is slow by itself.
    browser.open("/ui/problems");
    browser.first_paint();
    let mut slow = Vec::new();
    for path in PAGES {
        browser.open(path);
        let first = browser.first_paint();
        let mut paints: Vec<f64> = (0..times)
            .map(|_| {
                // Nothing is kept of the load before.
                browser.open("/ui/problems");
                std::thread::sleep(Duration::from_millis(300));
                browser.open(path);
                browser.first_paint()
            })
            .collect();
        paints.sort_by(f64::total_cmp);
        let median = paints[paints.len() / 2];
        println!(
            "first paint of {path:<12} first {first:.0} ms; then median {median:.0} ms, {:.0} to {:.0} ms",
            paints[0],
            paints[paints.len() - 1]
        );
        if median > PAINT_MAX_MS {
            slow.push(path);
        }
    }
    browser.was_quiet();
    assert!(slow.is_empty(), "over {PAINT_MAX_MS} ms: {slow:?}");
}

/// The line alone and beside ten viewers, in turn.
pub fn viewers(pairs: u32, seconds: u32) {
    let world = world();
    line(&world, 5);
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        // What a machine does while it gets slower must not fall on the same side each time.
        let mut runs = [false, true];
        if pair % 2 == 1 {
            runs.reverse();
        }
        let mut of = [(0.0, 0.0); 2];
        for watched in runs {
            let viewers = watched.then(|| Viewers::start(&world));
            of[usize::from(watched)] = line(&world, seconds);
            if let Some(viewers) = viewers {
                viewers.stop();
            }
        }
        let [alone, beside] = of;
        println!(
            "alone {:.0}/s, {:.0} µs of processor a certificate; beside {VIEWERS} viewers {:.0}/s, {:.0} µs",
            alone.0, alone.1, beside.0, beside.1
        );
        rates.push(beside.0 / alone.0);
        costs.push(beside.1 / alone.1);
    }
    for values in [&mut rates, &mut costs] {
        values.sort_by(f64::total_cmp);
    }
    let (rate, cost) = (rates[rates.len() / 2], costs[costs.len() / 2]);
    println!("median ratio of rates      {rate:.3}");
    println!("median ratio of costs      {cost:.3}");
    assert!(cost <= COST_MAX, "the viewers cost more than 3 %");
}

/// Certificates a second, and microseconds of processor of service and database each.
fn line(world: &World, seconds: u32) -> (f64, f64) {
    let before = processor(world);
    let issued_before = world.metric("certfactory_certificates_issued_total");
    let output = world
        .program(&["benchmark", "line", "--connections", CONNECTIONS])
        .args(["--seconds", &seconds.to_string(), "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let used = processor(world) - before;
    let issued = world.metric("certfactory_certificates_issued_total") - issued_before;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["errors"], 0, "{said}");
    let rate = said["certificates_per_second"].as_f64().unwrap();
    (rate, used * 1e6 / issued)
}

/// Processor seconds of the service and of the database so far.
fn processor(world: &World) -> f64 {
    let file = world.dir.join("postgres/data/postmaster.pid");
    let file = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
    let postmaster = file.lines().next().unwrap();
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let children = std::fs::read_to_string(children).unwrap();
    let children = children.split_whitespace().map(|child| ticks(child, 2));
    // Of the postmaster with those of its children that have ended.
    let ticks = ticks(postmaster, 4) + children.sum::<u64>() + ticks(&service(world), 2);
    ticks as f64 / 100.0
}

/// The process that listens at the world's address: its own metric counts whole seconds only.
fn service(world: &World) -> String {
    let port: u16 = world.url.rsplit(':').next().unwrap().parse().unwrap();
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listens = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let here = fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A";
        here.then(|| format!("socket:[{}]", fields[9]))
    };
    let socket = sockets.lines().skip(1).find_map(listens);
    let socket = PathBuf::from(socket.expect("nobody listens there"));
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let holds = |process: &std::fs::DirEntry| {
        let files = std::fs::read_dir(process.path().join("fd"));
        let mut files = files.into_iter().flatten().flatten();
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|it| it == socket))
    };
    let process = processes.into_iter().find(holds);
    let process = process.expect("the service is somebody else's");
    process.file_name().into_string().unwrap()
}

/// The first `count` of user, system, and the same of children that have ended.
fn ticks(process: &str, count: usize) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields = after_name.split(' ').skip(12).take(count);
    fields.map(|field| field.parse::<u64>().unwrap_or(0)).sum()
}

/// Viewers who look on, as their browsers do.
struct Viewers {
    stop: Arc<AtomicBool>,
    latencies: Arc<Mutex<Vec<Duration>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Viewers {
    fn start(world: &World) -> Self {
        let connect = Connect {
            url: world.url.parse().unwrap(),
            client_certificate: Some(world.dir.join("clients/operator.pem")),
            client_key: None,
            anonymous: false,
            ca: None,
        };
        let client = Client::new(&connect, &world.dir.join("config.toml")).unwrap();
        let (stop, latencies) = (Arc::<AtomicBool>::default(), Arc::<Mutex<_>>::default());
        let look_on = |number: usize| {
            let (client, stop, latencies) = (client.clone(), stop.clone(), latencies.clone());
            std::thread::spawn(move || {
                std::thread::sleep(EVERY * u32::try_from(number).unwrap() / 10);
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(look(&client, number, &stop, &latencies));
            })
        };
        let threads = (0..VIEWERS).map(look_on).collect();
        Self {
            stop,
            latencies,
            threads,
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let mut latencies = self.latencies.lock().unwrap();
        latencies.sort_unstable();
        let (count, last) = (latencies.len(), latencies.last());
        println!(
            "  {count} looks, median {:?}, longest {last:?}",
            latencies[count / 2]
        );
    }
}

/// Most look at the line; some at each other page.
async fn look(client: &Client, number: usize, stop: &AtomicBool, latencies: &Mutex<Vec<Duration>>) {
    let path = PAGES[if number < 6 { 0 } else { number % PAGES.len() }];
    let mut connection = client.connect().await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let headers = [("hx-request", "true")];
        let answer = connection.send(Method::GET, path, &headers, Bytes::new());
        let answer = answer.await.unwrap();
        assert_eq!(answer.status.as_u16(), 200, "{path}");
        latencies.lock().unwrap().push(start.elapsed());
        while start.elapsed() < EVERY && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
