//! What a certificate costs service, database and HSM, measured while the stations of `benchmark line` play,
//! and kept in a file for `benchmark plan`.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use chrono::DateTime;
use chrono::Utc;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::Serialize;
use tokio::net::TcpStream;

use crate::app;
use crate::app::SystemClock;
use crate::ca::Clock;
use crate::config::Config;
use crate::db::costs::Done;
use crate::db::costs::PgCosts;

/// Sessions tell of what they wrote a second late.
const SETTLED_AFTER: Duration = Duration::from_millis(1_500);
/// How long the service is watched while nobody asks anything of it.
const IDLE: Duration = Duration::from_secs(5);
/// `USER_HZ` of proc(5): the unit of a process's times, the same on every Linux that the service is built for.
const TICKS_A_SECOND: f64 = 100.0;

/// A file of measured costs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Costs {
    /// Where they were measured.
    pub(super) machine: Machine,
    /// Each with its own load, in the order in which they were made.
    pub(super) runs: Vec<Run>,
}

/// Where costs were measured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    /// As `/proc/cpuinfo` names it.
    pub(super) processor: String,
    pub(super) cores: usize,
    /// The server's version.
    pub(super) postgresql: String,
    /// The service's version.
    pub(super) certfactory: String,
}

/// What one load cost: totals of its time, without what the service does when nobody asks.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    pub(super) at: DateTime<Utc>,
    pub(super) profile: String,
    pub(super) connections: usize,
    pub(super) certificates: u64,
    pub(super) seconds: f64,
    /// Processor time of the service; `None`: it is on another machine.
    pub(super) service_cpu_seconds: Option<f64>,
    /// The same of all processes of PostgreSQL.
    pub(super) database_cpu_seconds: Option<f64>,
    /// The same of the stations that were played.
    pub(super) load_cpu_seconds: f64,
    pub(super) wal_bytes: f64,
    pub(super) wal_writes: f64,
    /// Times that the write-ahead log was made durable.
    pub(super) fsyncs: f64,
    pub(super) table_bytes: f64,
    pub(super) index_bytes: f64,
    pub(super) log_entries: f64,
    /// Octets of an entry of the log.
    pub(super) leaf_bytes: f64,
    pub(super) signatures: f64,
    /// The issuer's key alone, on all its sessions; `None`: out of reach of this machine.
    pub(super) signer_per_second: Option<f64>,
    pub(super) signer_sessions: usize,
    /// What the service needs when nobody asks, in cores.
    pub(super) idle_service_cores: Option<f64>,
    pub(super) idle_database_cores: Option<f64>,
    pub(super) idle_wal_bytes_per_second: f64,
    pub(super) idle_fsyncs_per_second: f64,
}

/// What a load was.
pub(super) struct Played {
    pub(super) profile: String,
    pub(super) connections: usize,
    pub(super) certificates: u64,
    pub(super) elapsed: Duration,
    pub(super) signer_per_second: Option<f64>,
}

/// Watches service and database.
pub(super) struct Meter {
    path: PathBuf,
    operations: SocketAddr,
    signer_sessions: usize,
    /// The profile's issuer, as metrics name it.
    issuer: String,
    database: PgCosts,
    idle: Option<Idle>,
    before: Option<Snapshot>,
}

struct Idle {
    service_cores: Option<f64>,
    database_cores: Option<f64>,
    wal_bytes_per_second: f64,
    fsyncs_per_second: f64,
}

struct Snapshot {
    at: Instant,
    service: Option<f64>,
    database: Option<f64>,
    own: f64,
    signatures: f64,
    done: Done,
}

impl Costs {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}

impl Meter {
    /// Of the configured service, database and token; on the current Tokio runtime.
    pub(super) fn new(config: &Config, profile: &str, path: &Path) -> anyhow::Result<Self> {
        let found = config.profiles.iter().find(|it| it.name == profile);
        let issuer = found.map(|it| it.issuer.clone());
        let issuer = issuer.with_context(|| format!("no profile is named `{profile}`"))?;
        let section = config.raw.issuer.iter().find(|it| it.name == issuer);
        let token = section.and_then(|it| config.raw.hsm.iter().find(|hsm| hsm.name == it.hsm));
        Ok(Self {
            path: path.to_owned(),
            operations: config.raw.operations.listen,
            signer_sessions: token.map_or(1, |token| token.sessions),
            issuer,
            database: PgCosts::new(&app::database_config(config)?)?,
            idle: None,
            before: None,
        })
    }

    /// Before the first request, with all stations connected: what it costs that nobody asks.
    #[allow(clippy::cast_precision_loss, reason = "octets of seconds")]
    pub(super) async fn begin(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(SETTLED_AFTER).await;
        let first = self.look().await?;
        tokio::time::sleep(IDLE).await;
        let last = self.look().await?;
        let seconds = (last.at - first.at).as_secs_f64();
        let wal = last.done.wal_octets.saturating_sub(first.done.wal_octets);
        let syncs = last.done.wal_syncs.saturating_sub(first.done.wal_syncs);
        self.idle = Some(Idle {
            service_cores: difference(first.service, last.service).map(|it| it / seconds),
            database_cores: difference(first.database, last.database).map(|it| it / seconds),
            wal_bytes_per_second: wal as f64 / seconds,
            fsyncs_per_second: syncs as f64 / seconds,
        });
        self.before = Some(last);
        Ok(())
    }

    /// After the last answer: adds the run to the file.
    #[allow(clippy::cast_precision_loss, reason = "counts of one run")]
    pub(super) async fn end(&mut self, played: &Played) -> anyhow::Result<()> {
        tokio::time::sleep(SETTLED_AFTER).await;
        let after = self.look().await?;
        let (Some(before), Some(idle)) = (self.before.take(), self.idle.take()) else {
            bail!("nothing was measured before the load");
        };
        // What was done while nobody asked is not the certificates'.
        let more = (after.at - before.at)
            .saturating_sub(played.elapsed)
            .as_secs_f64();
        let cores = |spent: Option<f64>, idle: Option<f64>| Some((spent? - idle? * more).max(0.0));
        let (was, is) = (&before.done, &after.done);
        let counted =
            |was: u64, is: u64, idle: f64| (is.saturating_sub(was) as f64 - idle * more).max(0.0);
        let run = Run {
            at: SystemClock.now(),
            profile: played.profile.clone(),
            connections: played.connections,
            certificates: played.certificates,
            seconds: played.elapsed.as_secs_f64(),
            service_cpu_seconds: cores(
                difference(before.service, after.service),
                idle.service_cores,
            ),
            database_cpu_seconds: cores(
                difference(before.database, after.database),
                idle.database_cores,
            ),
            load_cpu_seconds: after.own - before.own,
            wal_bytes: counted(was.wal_octets, is.wal_octets, idle.wal_bytes_per_second),
            wal_writes: counted(was.wal_writes, is.wal_writes, idle.fsyncs_per_second),
            fsyncs: counted(was.wal_syncs, is.wal_syncs, idle.fsyncs_per_second),
            table_bytes: counted(was.table_octets, is.table_octets, 0.0),
            index_bytes: counted(was.index_octets, is.index_octets, 0.0),
            log_entries: counted(was.log_entries, is.log_entries, 0.0),
            leaf_bytes: is.leaf_octets as f64,
            signatures: after.signatures - before.signatures,
            signer_per_second: played.signer_per_second,
            signer_sessions: self.signer_sessions,
            idle_service_cores: idle.service_cores,
            idle_database_cores: idle.database_cores,
            idle_wal_bytes_per_second: idle.wal_bytes_per_second,
            idle_fsyncs_per_second: idle.fsyncs_per_second,
        };
        self.keep(run, &after.done.version)
    }

    fn keep(&self, run: Run, postgresql: &str) -> anyhow::Result<()> {
        let machine = Machine {
            processor: processor(),
            cores: std::thread::available_parallelism()?.get(),
            postgresql: postgresql.to_owned(),
            certfactory: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut costs = if self.path.exists() {
            Costs::read(&self.path)?
        } else {
            Costs {
                machine: machine.clone(),
                runs: Vec::new(),
            }
        };
        if costs.machine != machine {
            bail!(
                "{}: measured on another machine or with another version; name a new file",
                self.path.display()
            );
        }
        costs.runs.push(run);
        let text = serde_json::to_string_pretty(&costs)? + "\n";
        std::fs::write(&self.path, text).with_context(|| self.path.display().to_string())
    }

    async fn look(&self) -> anyhow::Result<Snapshot> {
        let version: serde_json::Value = serde_json::from_str(&self.get("/version").await?)?;
        let metrics = self.get("/metrics").await?;
        let done = self.database.done().await.context("asking the database")?;
        let service = version["pid"].as_u64();
        let database = u64::try_from(done.backend).ok();
        let database = database.filter(|_| done.is_local).and_then(parent);
        Ok(Snapshot {
            at: Instant::now(),
            service: service
                .filter(|_| {
                    self.operations.ip().is_loopback() || self.operations.ip().is_unspecified()
                })
                .and_then(of_process),
            database: database.and_then(of_family),
            own: of_process("self").unwrap_or_default(),
            signatures: signatures(&metrics, &self.issuer),
            done,
        })
    }

    /// From the operations listener.
    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let stream = TcpStream::connect(self.operations).await;
        let stream = stream.with_context(|| format!("the service at {}", self.operations))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", self.operations.to_string())
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok(String::from_utf8(body.to_vec())?)
    }
}

fn difference(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    Some(after? - before?)
}

/// Signatures of the issuer's key so far.
fn signatures(metrics: &str, issuer: &str) -> f64 {
    let name = format!("certfactory_hsm_sign_seconds_count{{issuer=\"{issuer}\"}} ");
    let counts = metrics.lines().filter_map(|line| line.strip_prefix(&name));
    counts.filter_map(|count| count.parse::<f64>().ok()).sum()
}

/// Seconds of processor time of a process: fields 14 and 15 of `/proc/PID/stat`.
fn of_process(pid: impl std::fmt::Display) -> Option<f64> {
    let [user, system, ..] = times(&pid.to_string())?;
    Some((user + system) / TICKS_A_SECOND)
}

/// The same of a process, of its children, and of those that have ended (fields 16 and 17).
fn of_family(pid: u64) -> Option<f64> {
    let own: f64 = times(&pid.to_string())?.iter().sum();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let children = children.split_whitespace().filter_map(of_process);
    Some(own / TICKS_A_SECOND + children.sum::<f64>())
}

fn times(pid: &str) -> Option<[f64; 4]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything; the state is the third field.
    let (_, fields) = text.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || times.next()?.parse::<f64>().ok();
    Some([next()?, next()?, next()?, next()?])
}

/// The postmaster of a backend.
fn parent(pid: u64) -> Option<u64> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    (name.trim() == "postgres").then(|| parent.trim().parse().ok())?
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}
