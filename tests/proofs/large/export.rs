//! Everything, as NDJSON: how fast it comes, and what the service needs for it.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::large::Dev;
use crate::large::runtime;

/// How often the service's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Takes all rows once.
pub fn export() {
    let dev = Dev::open();
    let service = Process::serving(&dev);
    let before = service.resident();
    let (most, over) = (AtomicU64::new(before), AtomicBool::new(false));
    let start = Instant::now();
    let (rows, octets, first) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(service.resident(), Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        // Also when it breaks off: the other thread is waited for.
        let taken = std::panic::catch_unwind(|| runtime().block_on(take(&dev)));
        over.store(true, Ordering::Relaxed);
        taken.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "rows             {rows} in {seconds:.1} s, {:.0}/s",
        rows as f64 / seconds
    );
    println!(
        "octets           {octets}, {:.1} MB/s, {} a row",
        octets as f64 / 1e6 / seconds,
        octets / rows.max(1)
    );
    println!("first octets     after {:.0} ms", first.as_secs_f64() * 1e3);
    println!(
        "service's memory {} MB before, {} MB at most, {} MB after",
        before / 1_024,
        most.into_inner() / 1_024,
        service.resident() / 1_024
    );
}

/// Rows, octets, and when the first came.
async fn take(dev: &Dev) -> (u64, u64, Duration) {
    let mut connection = dev.auditor().connect().await.unwrap();
    let start = Instant::now();
    let headers = [("accept", "application/x-ndjson")];
    let answer = connection.stream("/v1/certificates", &headers).await;
    let mut answer = answer.unwrap();
    assert_eq!(answer.status, 200);
    let (mut rows, mut octets, mut first, mut said) = (0, 0, None, Instant::now());
    while let Some(piece) = answer.next().await.unwrap() {
        first.get_or_insert_with(|| start.elapsed());
        octets += piece.len() as u64;
        rows += lines(&piece);
        if said.elapsed() >= Duration::from_secs(5) {
            said = Instant::now();
            eprintln!(
                "{rows} rows, {:.0}/s",
                rows as f64 / start.elapsed().as_secs_f64()
            );
        }
    }
    (rows, octets, first.unwrap_or_default())
}

/// Line breaks, counted as fast as they come: what is measured is not the counting.
fn lines(piece: &[u8]) -> u64 {
    let of_few = |octets: &[u8]| octets.iter().map(|it| u8::from(*it == b'\n')).sum::<u8>();
    piece
        .chunks(255)
        .map(|octets| u64::from(of_few(octets)))
        .sum()
}

/// The service's process.
struct Process(PathBuf);

impl Process {
    /// The one that serves this world, however it was started.
    fn serving(dev: &Dev) -> Self {
        let config = dev.world.dir.join("config.toml");
        let config = config.to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap();
        let serves = |process: &PathBuf| {
            let read = |name| std::fs::read(process.join(name)).unwrap_or_default();
            let (arguments, environment) = (read("cmdline"), read("environ"));
            let (arguments, environment) = (
                String::from_utf8_lossy(&arguments),
                String::from_utf8_lossy(&environment),
            );
            let mut words = arguments.split('\0');
            words.next().is_some_and(|it| it.ends_with("certfactory"))
                && words.any(|it| it == "serve")
                && (arguments.contains(config) || environment.contains(config))
        };
        let found = processes.map(|it| it.unwrap().path()).find(serves);
        Self(found.expect("the service of this world does not run"))
    }

    /// Memory it holds, in kilobytes.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(self.0.join("status")).unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    }
}
