//! A private PostgreSQL: the distribution's own binaries, a unix socket in a temporary directory,
//! nothing else. Goes away with the process that started it, however that one ends.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nix::unistd::Uid;
use secrecy::SecretString;
use sqlx::Connection;
use sqlx::PgConnection;

use certfactory::db::config::DbConfig;
use certfactory::db::migrate::migrate;

/// A server of our own.
pub struct Postgres {
    directory: PathBuf,
    /// Stops the server when its stdin is closed, which the kernel does when we are gone.
    guard: Option<Child>,
}

/// Keeps the server until stdin ends, then stops it and, unless told `keep`, removes its directory.
const GUARD: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= >> "$2/log" 2>&1 &
read word
kill -QUIT $! 2> /dev/null
wait
[ "$word" = keep ] || rm -rf "$2"
"#;

impl Postgres {
    /// One server for all tests of the process that do not break it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server that a test may break.
    pub fn start() -> Self {
        let directory = Self::directory();
        let data = directory.join("data");
        run(unprivileged(&binaries().join("initdb"))
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
            ])
            .args(["--no-sync", "-D"])
            .arg(&data));
        let mut server = Self {
            directory,
            guard: None,
        };
        server.start_again();
        server
    }

    /// A streaming standby of this server.
    pub fn standby(&self) -> Self {
        Self::standby_of(&self.directory)
    }

    /// A streaming standby of the server whose socket is in this directory.
    pub fn standby_of(primary: &Path) -> Self {
        let directory = Self::directory();
        run(unprivileged(&binaries().join("pg_basebackup"))
            .args([
                "-U",
                "postgres",
                "-c",
                "fast",
                "-X",
                "stream",
                "-R",
                "--no-sync",
                "-h",
            ])
            .arg(primary)
            .arg("-D")
            .arg(directory.join("data")));
        let mut server = Self {
            directory,
            guard: None,
        };
        server.start_again();
        server
    }

    fn directory() -> PathBuf {
        let directory = tempfile::Builder::new()
            .prefix("certfactory-pg-")
            .tempdir()
            .unwrap()
            .keep();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        if Uid::effective().is_root() {
            run(Command::new("chown").arg("postgres").arg(&directory));
        }
        directory
    }

    /// The address of one of its databases, for a role.
    pub fn address(&self, role: &str, database: &str) -> String {
        self.url(role, database)
    }

    /// Starts the server that [`Self::stop`] stopped, and waits until it answers.
    pub fn start_again(&mut self) {
        let guard = unprivileged(Path::new("sh"))
            .args(["-c", GUARD, "sh"])
            .arg(binaries())
            .arg(&self.directory)
            .stdin(Stdio::piped())
            // Nobody who reads our output shall wait for the server.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for us; the guard then sees us go.
            .process_group(0)
            .spawn()
            .unwrap();
        self.guard = Some(guard);
        let until = Instant::now() + Duration::from_secs(30);
        let ready = binaries().join("pg_isready");
        while !Command::new(&ready)
            .args(["-q", "-h"])
            .arg(&self.directory)
            .status()
            .unwrap()
            .success()
        {
            assert!(
                Instant::now() < until,
                "PostgreSQL does not start: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server the way a power cut does: `pg_ctl stop -m immediate`.
    pub fn stop(&mut self) {
        kill(self.postmaster(), Signal::SIGQUIT).unwrap();
        self.dismiss_guard("keep\n");
    }

    /// Freezes the server with all its processes.
    pub fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// A new, empty database, and the service's login role.
    pub async fn empty_database(&self) -> Database<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&self.url("postgres", "postgres"))
            .await
            .unwrap();
        let create = format!("CREATE DATABASE {name}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create))
            .execute(&mut admin)
            .await
            .unwrap();
        admin.close().await.unwrap();
        Database { server: self, name }
    }

    /// A new database with the schema, and the service's login role.
    pub async fn database(&self) -> Database<'_> {
        let database = self.empty_database().await;
        migrate(&database.owner()).await.unwrap();
        database
            .execute(
                "DO $$ BEGIN
                     CREATE ROLE service LOGIN IN ROLE certfactory_service;
                 EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
                 END $$",
            )
            .await;
        database
    }

    /// A database that this server has already.
    pub fn existing(&self, name: String) -> Database<'_> {
        Database { server: self, name }
    }

    /// User and system time of each process of the server, in hundredths of a second.
    pub fn processor_seconds(&self) -> String {
        let postmaster = self.postmaster();
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let mut lines = String::new();
        for child in fs::read_to_string(children).unwrap().split_whitespace() {
            let title = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            let times: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split(' ')
                .collect();
            lines += &format!("\n{} {:?}", title.trim_matches('\0'), times.get(12..14));
        }
        lines
    }

    /// What the server wrote into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn url(&self, user: &str, database: &str) -> String {
        format!(
            "postgres://{user}@localhost/{database}?host={}",
            self.directory.display()
        )
    }

    fn postmaster(&self) -> Pid {
        let file = fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().trim().parse().unwrap())
    }

    /// The postmaster first, so that it starts no other while its children are signalled.
    fn signal_all(&self, signal: Signal) {
        let postmaster = self.postmaster();
        kill(postmaster, signal).unwrap();
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        for child in fs::read_to_string(children).unwrap().split_whitespace() {
            let _ = kill(Pid::from_raw(child.parse().unwrap()), signal);
        }
    }

    fn dismiss_guard(&mut self, word: &str) {
        if let Some(mut guard) = self.guard.take() {
            let mut stdin = guard.stdin.take().unwrap();
            stdin.write_all(word.as_bytes()).unwrap();
            drop(stdin);
            guard.wait().unwrap();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.dismiss_guard("");
        // A server that was stopped left it.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A database of a test's own.
pub struct Database<'a> {
    server: &'a Postgres,
    /// Its name.
    pub name: String,
}

impl Database<'_> {
    /// As the service connects.
    pub fn service(&self) -> DbConfig {
        self.config("service")
    }

    /// As migrations connect; a superuser too.
    pub fn owner(&self) -> DbConfig {
        self.config("postgres")
    }

    /// As any role.
    pub fn config(&self, user: &str) -> DbConfig {
        DbConfig {
            url: SecretString::from(self.server.url(user, &self.name)),
            archive_connections_max: 2,
            require_synchronous: false,
            seen: std::sync::Arc::default(),
        }
    }

    /// A connection as any role.
    pub async fn connect(&self, user: &str) -> PgConnection {
        PgConnection::connect(&self.server.url(user, &self.name))
            .await
            .unwrap()
    }

    /// Runs statements as a superuser.
    pub async fn execute(&self, sql: &str) {
        let mut connection = self.connect("postgres").await;
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// One number, as a superuser.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connect("postgres").await;
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let number = sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        number
    }
}

/// The newest version of Debian's packages, else whatever `pg_config` knows.
fn binaries() -> &'static Path {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        let debian = fs::read_dir("/usr/lib/postgresql")
            .ok()
            .and_then(|versions| {
                let versions = versions.filter_map(|entry| Some(entry.ok()?.path()));
                versions
                    .filter(|path| path.join("bin/initdb").exists())
                    .max_by_key(version)
            });
        debian.map_or_else(
            || {
                let output = Command::new("pg_config").arg("--bindir").output();
                let output = output.expect("PostgreSQL's server is not installed");
                PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
            },
            |path| path.join("bin"),
        )
    })
}

/// PostgreSQL does not run as root.
fn unprivileged(program: &Path) -> Command {
    if !Uid::effective().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--",
        ])
        .arg(program)
        .current_dir("/");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
