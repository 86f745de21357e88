//! More replicas beside a world's service, and what stands in front of them.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::faults::signal;
use super::http::Curl;
use super::world::{OwnWorld, World, free_port};

/// The same database, issuers and clients; its own addresses, journal and token directory.
pub struct Replica {
    number: u8,
    dir: PathBuf,
    environment: Vec<(String, String)>,
    pub url: String,
    pub operations: String,
    pub api_port: u16,
    pub operations_port: u16,
    process: Option<Child>,
}

impl Replica {
    /// Made and not yet running; `number` is 2 or more, `change` the last word on its configuration.
    pub fn make(own: &OwnWorld, number: u8, change: impl FnOnce(&mut toml::Table)) -> Self {
        let dir = &own.world.dir;
        let tokens = dir.join(format!("softhsm/tokens-{number}"));
        let copied = Command::new("cp")
            .arg("-r")
            .arg(dir.join("softhsm/tokens"))
            .arg(&tokens)
            .status()
            .unwrap();
        assert!(copied.success());
        let conf = std::fs::read_to_string(dir.join("softhsm/softhsm2.conf")).unwrap();
        let own_conf = dir.join(format!("softhsm/softhsm2-{number}.conf"));
        let own_tokens = format!("softhsm/tokens-{number}");
        std::fs::write(&own_conf, conf.replace("softhsm/tokens", &own_tokens)).unwrap();
        let text = std::fs::read_to_string(dir.join("config.toml")).unwrap();
        let mut config: toml::Table = text.parse().unwrap();
        let (api_port, operations_port) = (free_port(), free_port());
        config["http"]["listen"] = format!("127.0.0.1:{api_port}").into();
        config["operations"]["listen"] = format!("127.0.0.1:{operations_port}").into();
        config["repository"]["listen"] = format!("127.0.0.1:{}", free_port()).into();
        let journal = dir.join(format!("journal-{number}"));
        std::fs::create_dir(&journal).unwrap();
        config["audit"]["journal"]["directory"] = journal.to_str().unwrap().into();
        config["hsm"][0]["environment"]["SOFTHSM2_CONF"] = own_conf.to_str().unwrap().into();
        change(&mut config);
        let replica = Self {
            number,
            dir: dir.clone(),
            environment: Vec::new(),
            url: format!("https://127.0.0.1:{api_port}"),
            operations: format!("http://127.0.0.1:{operations_port}"),
            api_port,
            operations_port,
            process: None,
        };
        std::fs::write(replica.config(), toml::to_string(&config).unwrap()).unwrap();
        replica
    }

    fn config(&self) -> PathBuf {
        self.dir.join(format!("config-{}.toml", self.number))
    }

    /// Another variable in its environment, from its next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    pub fn start(&mut self, role: &str) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let child = self
            .command(role)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certfactory"));
        command
            .args(["serve", "--role", role, "--config"])
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to its end, which is expected: exit code and what it said.
    pub fn refused_start(&self, role: &str) -> (i32, String) {
        let output = self.command(role).stdout(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap_or(-1), said)
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir
            .join(format!("log/certfactory-{}.log", self.number))
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// SIGTERM, and it ends well; how long it took.
    pub fn stop(&mut self) -> Duration {
        let start = Instant::now();
        let mut process = self.process.take().unwrap();
        signal(process.id(), Signal::SIGTERM);
        let status = process.wait().unwrap();
        assert!(status.success(), "{status}");
        start.elapsed()
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn curl(&self, url: &str, name: Option<&str>) -> Curl {
        let file = |name, extension| self.dir.join(format!("clients/{name}.{extension}"));
        let identity = name.map(|name| (file(name, "pem"), file(name, "key")));
        Curl::new(url, &self.dir.join("tls/ca.pem"), identity)
    }

    /// Calls its API as one of the world's clients.
    pub fn client(&self, name: &str) -> Curl {
        self.curl(&self.url, Some(name))
    }

    pub fn readyz(&self) -> Result<(bool, serde_json::Value), String> {
        let curl = self.curl(&self.operations, None);
        let answer = curl.try_send("GET", "/readyz", &[], None)?;
        Ok((answer.status == 200, answer.json()))
    }

    pub fn wait_ready(&self, at_most: Duration) {
        let start = Instant::now();
        loop {
            let said = self.readyz();
            if matches!(said, Ok((true, _))) {
                return;
            }
            assert!(
                start.elapsed() < at_most,
                "not ready after {at_most:?}: {said:?}\n{}",
                super::world::tail(&std::fs::read_to_string(self.log_path()).unwrap_or_default())
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sum of all samples of a metric whose line starts with `prefix`.
    pub fn metric(&self, prefix: &str) -> f64 {
        let text = self.curl(&self.operations, None).get("/metrics").text();
        super::world::sum(&text, prefix)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A second replica that is running, with octet 2.
pub struct Second(Replica);

impl Second {
    /// Started, with these variables in its environment.
    pub fn start(own: &OwnWorld, environment: &[(&str, &str)]) -> Self {
        let mut replica = Replica::make(own, 2, |config| {
            let issuance = config["issuance"].as_table_mut().unwrap();
            issuance.insert("instance".into(), 2.into());
        });
        for (name, value) in environment {
            replica.set(name, value);
        }
        replica.start("all");
        Self(replica)
    }

    pub fn kill_and_start(&mut self, _: &OwnWorld) {
        self.0.kill();
        self.0.start("all");
    }
}

impl std::ops::Deref for Second {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.0
    }
}

/// Debian's HAProxy by the configuration in `deploy/haproxy`, in front of some replicas.
pub struct HaProxy {
    process: Child,
    /// The world, reached through it.
    pub world: World,
}

impl HaProxy {
    /// Running; `replicas` are the ports of their API and of their operations.
    pub fn start(own: &OwnWorld, replicas: &[(u16, u16)]) -> Self {
        let port = free_port();
        let text = include_str!("../../deploy/haproxy/haproxy.cfg");
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            if line.trim_start().starts_with("server ") {
                continue;
            }
            lines.push(match line.trim() {
                "bind :8443" => format!("    bind 127.0.0.1:{port}"),
                _ => line.to_owned(),
            });
            if line.trim_start().starts_with("default-server ") {
                lines.extend(replicas.iter().map(|(api, operations)| {
                    format!("    server replica-{api} 127.0.0.1:{api} port {operations}")
                }));
            }
        }
        let file = own.world.dir.join(format!("haproxy-{port}.cfg"));
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        let log = std::fs::File::create(file.with_extension("log")).unwrap();
        let process = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&file)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut world = World::at(own.world.dir.clone());
        world.url = format!("https://127.0.0.1:{port}");
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(5), "no HAProxy");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Until a check has said otherwise, each server counts as up.
        std::thread::sleep(Duration::from_millis(1_200));
        Self { process, world }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process on a socket that it was handed over, as systemd does it.
pub fn start_on_socket(config: &Path, log: &Path, socket: &TcpListener) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    let socket: OwnedFd = socket.try_clone().unwrap().into();
    let script =
        r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" serve --config "$1""#;
    Command::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_certfactory")])
        .arg(config)
        .stdin(Stdio::from(socket))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
