//! Replicas that come and go under load without a failed request, and what more of them give.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::load::Load;
use crate::support::faults::signal;
use crate::support::replica::{HaProxy, Replica, start_on_socket};
use crate::support::world::{OwnWorld, World, free_port};
use crate::{STATIONS, seconds};

/// Connections of the load that is measured.
const CONNECTIONS: usize = 64;

pub fn rolling(times: u32) {
    behind_a_balancer(times);
    on_one_socket(times);
}

/// Two serve; a third comes, and one of the others goes, in turn.
fn behind_a_balancer(times: u32) {
    let own = OwnWorld::make();
    own.configure(|config| {
        let http = config["http"].as_table_mut().unwrap();
        http.insert("drain_seconds".into(), 3.into());
    });
    let mut replicas: Vec<Replica> = (2..5).map(|n| Replica::make(&own, n, |_| {})).collect();
    own.start_postgres();
    let balanced: Vec<(u16, u16)> = replicas
        .iter()
        .map(|replica| (replica.api_port, replica.operations_port))
        .collect();
    for replica in &mut replicas[..2] {
        replica.start("all");
        replica.wait_ready(seconds(30));
    }
    let balancer = HaProxy::start(&own, &balanced);
    let load = Load::start(&balancer.world, STATIONS);
    load.wait_issued(1_000, seconds(60));
    for time in 0..times {
        let (comes, goes) = ((time + 2) as usize % 3, time as usize % 3);
        let start = Instant::now();
        replicas[comes].start("all");
        replicas[comes].wait_ready(seconds(30));
        let ready = start.elapsed();
        load.wait_issued(500, seconds(60));
        let gone = replicas[goes].stop();
        load.wait_issued(500, seconds(60));
        let served = replicas[comes].metric("certfactory_http_request_seconds_count");
        println!(
            "replica {} ready after {:.1} s, replica {} gone after {:.1} s; the new one answered {served} requests",
            comes + 2,
            ready.as_secs_f64(),
            goes + 2,
            gone.as_secs_f64()
        );
        assert!(served > 0.0, "nobody came to the new one");
    }
    report("behind HAProxy", &own, load);
}

/// One process after the other on one socket.
fn on_one_socket(times: u32) {
    let own = OwnWorld::make();
    let port = free_port();
    let socket = TcpListener::bind(("127.0.0.1", port)).unwrap();
    own.configure(|config| {
        config["http"]["listen"] = format!("127.0.0.1:{port}").into();
    });
    own.start_postgres();
    let (config, log) = (own.world.dir.join("config.toml"), own.log_path());
    let start = || start_on_socket(&config, &log, &socket);
    let mut service = start();
    own.wait_ready(seconds(30));
    let mut world = World::at(own.world.dir.clone());
    world.url = format!("https://127.0.0.1:{port}");
    let load = Load::start(&world, STATIONS);
    for _ in 0..times {
        load.wait_issued(500, seconds(60));
        let begun = Instant::now();
        signal(service.id(), Signal::SIGTERM);
        assert!(service.wait().unwrap().success());
        let ended = begun.elapsed();
        service = start();
        own.wait_ready(seconds(30));
        println!(
            "restarted on the socket: gone after {:.2} s, ready after {:.2} s",
            ended.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
    }
    load.wait_issued(500, seconds(60));
    report("on one socket", &own, load);
    signal(service.id(), Signal::SIGTERM);
    service.wait().unwrap();
}

fn report(how: &str, own: &OwnWorld, load: Load) {
    let history = load.stop();
    history.holds_against(&own.world);
    history.saw_no_failure();
    let answers = history.answers.lock().unwrap();
    let gaps = answers.windows(2).map(|pair| pair[1].0 - pair[0].0);
    println!(
        "{how}: {} certificates, all in the ledger byte for byte, none twice; 0 failed requests, 0 failed connections; longest time without an answer {:.2} s",
        history.certificates.lock().unwrap().len(),
        gaps.max().unwrap_or_default().as_secs_f64()
    );
}

/// A share of a core for one replica. Removed when dropped.
pub struct Quota(PathBuf);

impl Quota {
    /// `percent` of one core, given out every 10 ms.
    pub fn new(name: &str, percent: u32) -> Self {
        let name = format!("certfactory-proof-{}-{name}", std::process::id());
        let first = PathBuf::from("/sys/fs/cgroup/cpu");
        let unified = !first.exists();
        let root = if unified {
            PathBuf::from("/sys/fs/cgroup")
        } else {
            first
        };
        let directory = root.join(name);
        std::fs::create_dir(&directory).expect("a cgroup: as root, where cgroups can be made");
        let write = |file: &str, text: String| {
            std::fs::write(directory.join(file), text).unwrap();
        };
        let (quota, period) = (percent * 100, 10_000);
        if unified {
            write("cpu.max", format!("{quota} {period}"));
        } else {
            write("cpu.cfs_period_us", period.to_string());
            write("cpu.cfs_quota_us", quota.to_string());
        }
        Self(directory)
    }

    /// From now on for this process and all its threads.
    pub fn hold(&self, pid: u32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// No longer.
    pub fn release(&self, pid: u32) {
        let outside = self.0.parent().unwrap().join("cgroup.procs");
        std::fs::write(outside, pid.to_string()).unwrap();
    }

    /// Whatever is started meanwhile is held from its start.
    fn inside(&self, start: impl FnOnce()) {
        self.hold(std::process::id());
        start();
        self.release(std::process::id());
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // The last process has just been buried.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What one measurement gave.
struct Measured {
    rate: f64,
    p50: f64,
    p99: f64,
}

pub fn scale(rounds: u32, time: u32) {
    let own = OwnWorld::make();
    own.configure(|config| {
        // All stations come from the balancer's address, and are one station.
        let http = config["http"].as_table_mut().unwrap();
        http.insert("connections_per_address_max".into(), 1_000.into());
    });
    let mut replicas: Vec<Replica> = (2..6).map(|n| Replica::make(&own, n, |_| {})).collect();
    own.start_postgres();
    let settings = [(1, 2, 50, 1.8), (1, 4, 25, 3.2)];
    let mut compared: [Vec<[Measured; 2]>; 2] = Default::default();
    for round in 1..=rounds {
        for (place, (one, more, percent, _)) in settings.into_iter().enumerate() {
            let mut measure = |count: usize| {
                let measured = measure(&own, &mut replicas[..count], percent, time);
                println!(
                    "round {round}: {count} at {percent} % of a core: {:.0} certificates/s, p50 {:.1} ms, p99 {:.1} ms",
                    measured.rate, measured.p50, measured.p99
                );
                measured
            };
            // One after the other and the other way round: the machine's pace changes within minutes.
            compared[place].push(if round % 2 == 1 {
                let first = measure(one);
                [first, measure(more)]
            } else {
                let first = measure(more);
                [measure(one), first]
            });
        }
    }
    for ((_, more, percent, wanted), pairs) in settings.into_iter().zip(&compared) {
        let figure = |of: &dyn Fn(&[Measured; 2]) -> f64| median(pairs.iter().map(of).collect());
        let times = figure(&|pair| pair[1].rate / pair[0].rate);
        let p99 = figure(&|pair| pair[1].p99 / pair[0].p99);
        println!(
            "{more} at {percent} % of a core each: {times:.2} times the certificates of one, round by round ({:.0} and {:.0}/s), p99 {p99:.2} times ({:.1} and {:.1} ms)",
            figure(&|pair| pair[1].rate),
            figure(&|pair| pair[0].rate),
            figure(&|pair| pair[1].p99),
            figure(&|pair| pair[0].p99)
        );
        assert!(times >= wanted, "{wanted} times were to be had");
        assert!(p99 <= 1.05, "with a longer p99");
    }
}

/// Of an even number, between the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (half, last) = (values.len() / 2, values.len() - 1);
    f64::midpoint(values[half], values[last - half])
}

/// `benchmark line` through HAProxy on replicas that are held to so much of a core each.
fn measure(own: &OwnWorld, replicas: &mut [Replica], percent: u32, time: u32) -> Measured {
    let quotas: Vec<Quota> = (1..=replicas.len())
        .map(|n| Quota::new(&n.to_string(), percent))
        .collect();
    // From their start: a service sizes itself by what it may use.
    for (replica, quota) in replicas.iter_mut().zip(&quotas) {
        quota.inside(|| replica.start("all"));
    }
    for replica in &*replicas {
        replica.wait_ready(seconds(60));
    }
    let ports: Vec<(u16, u16)> = replicas
        .iter()
        .map(|replica| (replica.api_port, replica.operations_port))
        .collect();
    let balancer = HaProxy::start(own, &ports);
    let output = Command::new(crate::support::world::PROGRAM)
        .args(["benchmark", "line", "--json", "--connections"])
        .args([&CONNECTIONS.to_string(), "--seconds", &time.to_string()])
        .env("CERTFACTORY_CONFIG", own.world.dir.join("config.toml"))
        .env("CERTFACTORY_URL", &balancer.world.url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["errors"], 0, "{said}");
    drop(balancer);
    for replica in &mut *replicas {
        replica.stop();
    }
    let number = |name: &str| said[name].as_f64().unwrap();
    Measured {
        rate: number("certificates_per_second"),
        p50: number("p50_ms"),
        p99: number("p99_ms"),
    }
}
