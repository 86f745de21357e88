//! How long a stretch of the work took.

use std::time::Instant;

use sqlx::PgConnection;

/// What `/proc` counts in.
const TICKS_A_SECOND: f64 = 100.0;

/// A stretch of the work: how long it took, and the processor's share, which tells on a machine that
/// does other things beside.
pub struct Stretch {
    start: Instant,
    backend: i32,
    spent: (f64, f64),
}

impl Stretch {
    pub async fn begin(connection: &mut PgConnection) -> Self {
        let backend = sqlx::query_scalar("SELECT pg_backend_pid()");
        let backend = backend.fetch_one(connection).await.unwrap();
        Self {
            start: Instant::now(),
            backend,
            spent: (
                processor_seconds("self"),
                processor_seconds(&backend.to_string()),
            ),
        }
    }

    pub fn end(self, what: &str) {
        let ours = processor_seconds("self") - self.spent.0;
        let theirs = processor_seconds(&self.backend.to_string()) - self.spent.1;
        let seconds = self.start.elapsed().as_secs_f64();
        eprintln!(
            "{what}: {seconds:.1} s, of a processor {ours:.1} s here and {theirs:.1} s in the database"
        );
    }
}

/// What a process has used, its threads included.
fn processor_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // After the name, which may hold anything: utime and stime are the 12th and the 13th.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|it| it.parse::<f64>().unwrap())
        .sum();
    ticks / TICKS_A_SECOND
}

/// Where the processor's share is nobody's business.
pub fn say(what: &str, since: Instant) {
    eprintln!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}
