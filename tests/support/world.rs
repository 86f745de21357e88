//! Worlds: a shared one for what only asks, and worlds of their own for what breaks things.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use openssl::x509::{CrlStatus, X509, X509Crl};
use serde_json::Value;
use tempfile::TempDir;

use super::faults::{family, signal};
use super::http::Curl;
use super::tls::{Identity, Use};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_certfactory");

/// A development world that runs as long as this process, shared by all tests of a file.
///
/// It ends by itself: its keeper reads a pipe whose other end closes with this process.
#[allow(
    clippy::zombie_processes,
    reason = "the keeper outlives this process, to clean up behind it"
)]
pub fn shared() -> &'static World {
    static SHARED: OnceLock<(World, ChildStdin)> = OnceLock::new();
    &SHARED
        .get_or_init(|| {
            let dir = directory();
            // The keeper removes the directory too: a static is never dropped.
            let dir_path = dir.keep();
            let script = r#""$0" dev --dir "$1" --port 0 --ops-port 0 --repository-port 0 & p=$!; cat <&3 >/dev/null; kill $p; wait $p; rm -rf "$1""#;
            let mut keeper = Command::new("bash")
                .args(["-c", &format!("exec 3<&0; {script}"), PROGRAM])
                .arg(&dir_path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap();
            let stdin = keeper.stdin.take().unwrap();
            let mut lines = BufReader::new(keeper.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().contains("certificateId")), "the development world did not start");
            std::thread::spawn(move || lines.count());
            (World::at(dir_path), stdin)
        })
        .0
}

/// A world's files and addresses.
pub struct World {
    pub dir: PathBuf,
    pub url: String,
    pub operations: String,
    pub repository: String,
}

impl World {
    /// One that is there.
    pub fn at(dir: PathBuf) -> Self {
        let text = std::fs::read_to_string(dir.join("config.toml")).unwrap();
        let config: toml::Table = text.parse().unwrap();
        let listen = |section: &str| config[section]["listen"].as_str().unwrap().to_owned();
        Self {
            url: format!("https://{}", listen("http")),
            operations: format!("http://{}", listen("operations")),
            repository: format!("http://{}", listen("repository")),
            dir,
        }
    }

    /// Calls the API as `station-01`, `operator`, `auditor` or `administrator`.
    pub fn client(&self, name: &str) -> Curl {
        let file = |extension: &str| self.dir.join(format!("clients/{name}.{extension}"));
        Curl::new(
            &self.url,
            &self.dir.join("tls/ca.pem"),
            Some((file("pem"), file("key"))),
        )
    }

    /// Creates a work order of this name that is large enough, unless it is there.
    pub fn order(&self, name: &str, profile: &str) {
        let body = serde_json::json!({ "name": name, "profile": profile, "quantity": 1_000_000 });
        let headers = [("Content-Type", "application/json")];
        let body = body.to_string();
        let made =
            self.client("operator")
                .send("POST", "/v1/orders", &headers, Some(body.as_bytes()));
        assert!(matches!(made.status, 200 | 201), "{made:?}");
    }

    /// Calls the API without a client certificate.
    pub fn nobody(&self) -> Curl {
        Curl::new(&self.url, &self.dir.join("tls/ca.pem"), None)
    }

    /// Calls the operations listener.
    pub fn operations(&self) -> Curl {
        Curl::new(&self.operations, &self.dir.join("tls/ca.pem"), None)
    }

    /// Calls the repository listener.
    pub fn repository(&self) -> Curl {
        Curl::new(&self.repository, &self.dir.join("tls/ca.pem"), None)
    }

    /// Revokes what was issued, as an operator.
    pub fn revoke(&self, body: &Value, reason: &str) {
        let serial = body["serial_number"].as_str().unwrap();
        let path = format!("/v1/certificates/{serial}/revocation");
        let request = serde_json::json!({ "reason": reason }).to_string();
        let headers = [("Content-Type", "application/json")];
        let answer =
            self.client("operator")
                .send("POST", &path, &headers, Some(request.as_bytes()));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Fetches a CRL again and again until the certificate is on it; returns its DER.
    pub fn wait_revoked(&self, path: &str, leaf: &X509, at_most: Duration) -> Vec<u8> {
        let start = Instant::now();
        loop {
            let answer = self.repository().get(path);
            let crl = X509Crl::from_der(&answer.body);
            if crl.is_ok_and(|crl| matches!(crl.get_by_cert(leaf), CrlStatus::Revoked(_))) {
                return answer.body;
            }
            assert!(start.elapsed() < at_most, "not on {path} after {at_most:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sum of all samples of a metric whose line starts with `prefix`.
    pub fn metric(&self, prefix: &str) -> f64 {
        sum(&self.operations().get("/metrics").text(), prefix)
    }

    /// Waits until `/metrics` has this line.
    pub fn wait_metric(&self, line: &str, at_most: Duration) {
        let start = Instant::now();
        loop {
            let text = self.operations().get("/metrics").text();
            if text.lines().any(|shown| shown == line) {
                return;
            }
            assert!(start.elapsed() < at_most, "no `{line}` after {at_most:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A command of the product, in this world.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("CERTFACTORY_CONFIG", self.dir.join("config.toml"))
            .env("CERTFACTORY_URL", &self.url);
        command
    }

    /// Puts somebody into the table of principals, by hand.
    pub fn register(&self, name: &str, role: &str, spki_sha256: &str) {
        self.sql(&format!(
            "INSERT INTO principal (name, role) VALUES ('{name}', '{role}');
             INSERT INTO principal_key (name, spki_sha256) VALUES ('{name}', decode('{spki_sha256}', 'hex'))"
        ));
    }

    /// SQL as the cluster's superuser, on the ledger.
    pub fn sql(&self, sql: &str) -> String {
        let stop = "ON_ERROR_STOP=1";
        let printed = [
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            stop,
            "-d",
            "certfactory",
            "-c",
            sql,
        ];
        self.postgres("psql", &printed).trim().to_owned()
    }

    /// The same, where it must not work; what is said of it.
    pub fn sql_fails(&self, sql: &str) -> String {
        let output = Command::new("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(std::fs::canonicalize(self.dir.join("postgres")).unwrap())
            .args(["-d", "certfactory", "-c", sql])
            .output()
            .unwrap();
        assert!(!output.status.success(), "it works: {sql}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A program of PostgreSQL's clients, as the cluster's superuser; what it prints.
    pub fn postgres(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(["-U", "postgres", "-h"])
            .arg(std::fs::canonicalize(self.dir.join("postgres")).unwrap())
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A world of one test, whose parts can be broken one by one.
pub struct OwnWorld {
    pub world: World,
    pub service: Option<Child>,
    environment: Vec<(String, String)>,
    _dir: TempDir,
}

impl OwnWorld {
    /// Made and not yet running.
    pub fn make() -> Self {
        Self::make_by(Path::new(PROGRAM))
    }

    /// Made by another version's program.
    pub fn make_by(program: &Path) -> Self {
        let dir = directory();
        let status = Command::new(program)
            .args([
                "dev",
                "--make-only",
                "--port",
                &free_port().to_string(),
                "--ops-port",
                &free_port().to_string(),
                "--repository-port",
                &free_port().to_string(),
                "--dir",
            ])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "making a world: {status}");
        Self {
            world: World::at(dir.path().to_path_buf()),
            service: None,
            environment: Vec::new(),
            _dir: dir,
        }
    }

    /// Made, started and ready.
    pub fn running() -> Self {
        let mut own = Self::make();
        own.start_postgres();
        own.start_service();
        own.wait_ready(Duration::from_secs(15));
        own
    }

    /// Another CA of clients, trusted from the service's next start on: the world's own keeps no key.
    pub fn second_authority(&self) -> Identity {
        let authority = Identity::make("the second clients CA", Use::Authority, None, (-1, 30));
        let trusted = self.world.dir.join("tls/clients-ca.pem");
        let mut anchors = std::fs::read(&trusted).unwrap();
        anchors.extend(authority.pem());
        std::fs::write(&trusted, anchors).unwrap();
        authority
    }

    /// Another variable in the service's environment, from its next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// Changes the configuration file.
    pub fn configure(&self, change: impl FnOnce(&mut toml::Table)) {
        let path = self.world.dir.join("config.toml");
        let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        change(&mut config);
        std::fs::write(path, toml::to_string(&config).unwrap()).unwrap();
    }

    pub fn start_service(&mut self) {
        self.start_service_as("all");
    }

    /// Started with one of its roles.
    pub fn start_service_as(&mut self, role: &str) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = self.world.program(&["serve", "--role", role]);
        command
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.service = Some(command.spawn().unwrap());
    }

    pub fn log_path(&self) -> PathBuf {
        self.world.dir.join("log/certfactory.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.service.as_ref().unwrap().id()
    }

    /// SIGKILL, and the body is buried.
    pub fn kill_service(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill().unwrap();
            service.wait().unwrap();
        }
    }

    /// Waits until `/readyz` is green; returns how long it took.
    pub fn wait_ready(&self, at_most: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let (ready, text) = self.readiness();
            if ready {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < at_most,
                "not ready after {at_most:?}: {text}\n{}",
                tail(&self.log())
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether `/readyz` is green, and what it says.
    pub fn readiness(&self) -> (bool, String) {
        match self
            .world
            .operations()
            .try_send("GET", "/readyz", &[], None)
        {
            Ok(response) => (response.status == 200, response.text()),
            Err(error) => (false, error),
        }
    }

    /// Waits until `/readyz` is red for a reason that contains `word`.
    pub fn wait_not_ready(&self, word: &str, at_most: Duration) {
        let start = Instant::now();
        loop {
            let (ready, text) = self.readiness();
            if !ready && text.contains(word) {
                return;
            }
            assert!(
                start.elapsed() < at_most,
                "`{word}` is not among the reasons after {at_most:?}: {text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn start_postgres(&self) {
        let log = self.world.dir.join("log/postgres.log");
        self.pg_ctl(&["start", "-w", "-s", "-l", log.to_str().unwrap()]);
    }

    /// `mode`: `fast` or `immediate`.
    pub fn stop_postgres(&self, mode: &str) {
        self.pg_ctl(&["stop", "-w", "-s", "-m", mode]);
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let home = std::fs::canonicalize(self.world.dir.join("postgres")).unwrap();
        let version = std::fs::read_to_string(home.join("data/PG_VERSION")).unwrap();
        let program = format!("/usr/lib/postgresql/{}/bin/pg_ctl", version.trim());
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", &program]);
            command
        } else {
            Command::new(program)
        };
        let status = command
            .args(arguments)
            .arg("-D")
            .arg(home.join("data"))
            .current_dir("/")
            .status()
            .unwrap();
        assert!(status.success(), "pg_ctl {arguments:?}: {status}");
    }

    /// The service, asked to stop; its exit status, once it has gone.
    pub fn terminate_service(&mut self, at_most: Duration) -> std::process::ExitStatus {
        let mut service = self.service.take().unwrap();
        signal(service.id(), Signal::SIGTERM);
        let start = Instant::now();
        loop {
            if let Some(status) = service.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > at_most {
                service.kill().unwrap();
                service.wait().unwrap();
                panic!(
                    "the service did not stop within {at_most:?}\n{}",
                    tail(&self.log())
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `serve` to its end, which is expected soon: exit code and what it said on stderr.
    pub fn refused_start(&self) -> (i32, String) {
        let mut command = self.world.program(&["serve"]);
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        let mut service = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while service.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(15) {
                service.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = service.wait_with_output().unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    /// Panics when the service has ended by itself.
    pub fn assert_alive(&mut self) {
        let status = self.service.as_mut().unwrap().try_wait().unwrap();
        assert!(status.is_none(), "the service ended by itself: {status:?}");
    }

    /// Whether `/livez` is green.
    pub fn live(&self) -> bool {
        self.world.operations().get("/livez").status == 200
    }

    /// Threads of the service.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .unwrap()
            .count()
    }

    /// The server and its children.
    pub fn postgres_processes(&self) -> Vec<u32> {
        let text =
            std::fs::read_to_string(self.world.dir.join("postgres/data/postmaster.pid")).unwrap();
        family(text.lines().next().unwrap().parse().unwrap())
    }

    /// Waits until no intent is open.
    pub fn wait_no_open_intents(&self, at_most: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let open = self.open_intents();
            if open == 0 {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < at_most,
                "{open} open intents after {at_most:?}\n{}",
                tail(&self.log())
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An open intent is work left over; a sound ledger has none after a while.
    pub fn open_intents(&self) -> usize {
        self.world
            .sql("SELECT count(*) FROM open_intent")
            .parse()
            .unwrap()
    }
}

impl Drop for OwnWorld {
    fn drop(&mut self) {
        self.kill_service();
        let running = self.world.dir.join("postgres/data/postmaster.pid").exists();
        if running {
            self.pg_ctl(&["stop", "-w", "-s", "-m", "immediate"]);
        }
        if std::thread::panicking() {
            eprintln!("the service's log ends:\n{}", tail(&self.log()));
        }
    }
}

/// The certificate in an issue request's answer.
pub fn leaf(body: &Value) -> X509 {
    X509::from_pem(body["certificate"].as_str().unwrap().as_bytes()).unwrap()
}

/// An issue request's answer, as JSON, or a panic that shows the problem.
pub fn issued(response: &super::http::Response) -> Value {
    assert!(
        matches!(response.status, 200 | 201),
        "{response:?}: {}",
        String::from_utf8_lossy(&response.body)
    );
    response.json()
}

/// Sum of all samples of a metric whose line starts with `prefix`.
pub fn sum(text: &str, prefix: &str) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(prefix))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn directory() -> TempDir {
    // In the system's place for such things: PostgreSQL's user must be able to reach it.
    let dir = tempfile::Builder::new()
        .prefix("certfactory-test-")
        .tempdir()
        .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Below the range from which the system gives outgoing connections theirs. No two tests of a file
/// get the same.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let mut random = [0; 2];
        openssl::rand::rand_bytes(&mut random).unwrap();
        let port = 20_000 + u16::from_ne_bytes(random) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap()
        == 0
}

pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(30).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A file of the tests' data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}
