//! The world's PostgreSQL server, started by us: for a while without what makes it durable.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

/// A ledger that is made anew after a crash needs no WAL, no fsync and no vacuum meanwhile.
const HASTY: &str = "-c wal_level=minimal -c max_wal_senders=0 -c fsync=off -c full_page_writes=off \
     -c synchronous_commit=off -c autovacuum=off -c checkpoint_timeout=1h -c max_wal_size=4GB \
     -c shared_buffers=1GB -c maintenance_work_mem=1GB -c max_parallel_maintenance_workers=2";

/// The server of a development world, which nobody else starts or stops meanwhile.
pub struct Cluster {
    data: PathBuf,
    log: PathBuf,
    programs: PathBuf,
    _lock: Flock<File>,
}

impl Cluster {
    pub fn of(dir: &Path) -> Self {
        let lock = File::create(dir.join("lock")).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock);
        let lock = lock.unwrap_or_else(|_| {
            panic!("stop the `certfactory dev` that runs in {}", dir.display())
        });
        let data = std::fs::canonicalize(dir.join("postgres"))
            .unwrap()
            .join("data");
        let version = std::fs::read_to_string(data.join("PG_VERSION")).unwrap();
        Self {
            data,
            log: dir.join("log/postgres.log"),
            programs: PathBuf::from(format!("/usr/lib/postgresql/{}/bin", version.trim())),
            _lock: lock,
        }
    }

    /// Starts it, also when it ran before, in haste.
    pub fn start_hasty(&self) {
        self.stop();
        self.pg_ctl(&[
            "start",
            "-w",
            "-s",
            "-o",
            HASTY,
            "-l",
            self.log.to_str().unwrap(),
        ]);
    }

    /// Makes durable what was made in haste, and starts it as it is configured.
    pub fn start_durable(&self) {
        self.stop();
        self.run("initdb", &["--sync-only"]);
        self.start();
    }

    fn start(&self) {
        if !self.runs() {
            self.pg_ctl(&["start", "-w", "-s", "-l", self.log.to_str().unwrap()]);
        }
    }

    pub fn stop(&self) {
        if self.runs() {
            self.pg_ctl(&["stop", "-w", "-s", "-t", "600", "-m", "fast"]);
        }
    }

    /// The command that stops it.
    pub fn stopping(&self) -> String {
        let user = if nix::unistd::geteuid().is_root() {
            "runuser -u postgres -- "
        } else {
            ""
        };
        format!(
            "{user}{}/pg_ctl stop -D {}",
            self.programs.display(),
            self.data.display()
        )
    }

    fn runs(&self) -> bool {
        let mut status = self.command("pg_ctl", &["status"]);
        status.output().unwrap().status.success()
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        self.run("pg_ctl", arguments);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = self
            .command(program, arguments)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = self.programs.join(program);
        // PostgreSQL refuses root.
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(arguments)
            .arg("-D")
            .arg(&self.data)
            .current_dir("/")
            .stdin(std::process::Stdio::null());
        command
    }
}
