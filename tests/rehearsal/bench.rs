//! A bench: a CA and devices made by OpenSSL, an endpoint that runs, clients that are mosquitto's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::faults::signal;
use crate::support::world::data;

const PROGRAM: &str = env!("CARGO_BIN_EXE_certfactory");
/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Files of one test.
pub struct Bench(TempDir);

impl Bench {
    /// With a CA, `ca.pem`, and the policy `FactoryDevicePolicy`.
    pub fn new() -> Self {
        let bench = Self(TempDir::new().unwrap());
        bench.make_ca("ca");
        bench.write("policy.json", &device_policy().to_string());
        bench
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    pub fn make_ca(&self, name: &str) {
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            &self.path(&format!("{name}.key")),
            "-out",
            &self.path(&format!("{name}.pem")),
            "-subj",
            "/CN=Bench CA",
            "-days",
            "30",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
    }

    /// `NAME.key` and `NAME.pem`, signed by a CA of this bench, valid for some days.
    pub fn make_device(&self, name: &str, subject: &str, ca: &str, key: &str, days: &str) {
        let (key_file, csr) = (
            self.path(&format!("{name}.key")),
            self.path(&format!("{name}.csr")),
        );
        let mut request = vec!["req", "-new", "-nodes", "-keyout", &key_file, "-out", &csr];
        request.extend(["-subj", subject]);
        match key.strip_prefix("rsa") {
            Some(_) => request.extend(["-newkey", key]),
            None => request.extend(["-newkey", "ec", "-pkeyopt", key]),
        }
        openssl(&request);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &self.path(&format!("{ca}.pem")),
            "-CAkey",
            &self.path(&format!("{ca}.key")),
            "-days",
            days,
            "-out",
            &self.path(&format!("{name}.pem")),
        ]);
    }

    /// A device that AWS IoT takes.
    pub fn device(&self, name: &str, subject: &str) -> Identity {
        self.make_device(name, subject, "ca", "ec_paramgen_curve:prime256v1", "10");
        Identity {
            certificate: self.file(&format!("{name}.pem")),
            key: self.file(&format!("{name}.key")),
        }
    }

    /// The endpoint for the workshop's template.
    pub fn endpoint(&self) -> Endpoint {
        let template = data("jitp-workshop.json");
        let policy = format!("FactoryDevicePolicy={}", self.path("policy.json"));
        self.endpoint_with(&[
            "--template",
            template.to_str().unwrap(),
            "--policy",
            &policy,
        ])
    }

    /// The endpoint under the bench's CA, with more arguments.
    pub fn endpoint_with(&self, arguments: &[&str]) -> Endpoint {
        let mut command = Command::new(PROGRAM);
        command.args(["jitp", "rehearse", "--ca", &self.path("ca.pem")]);
        command.args(arguments);
        Endpoint::start(command, self.file("endpoint-ca.pem"))
    }
}

/// What every device of a line may do: connect under its thing's name, its own topics.
pub fn device_policy() -> Value {
    let arn = |rest: &str| format!("arn:aws:iot:eu-central-1:123456789012:{rest}");
    json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "iot:Connect",
          "Resource": arn("client/${iot:Connection.Thing.ThingName}") },
        { "Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"],
          "Resource": [arn("topic/factory/${iot:ClientId}/*"), arn("topic/all")] },
        { "Effect": "Allow", "Action": "iot:Subscribe",
          "Resource": [arn("topicfilter/factory/${iot:ClientId}/*"), arn("topicfilter/all")] },
    ]})
}

pub fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A certificate (with or without its CA) and its key.
#[derive(Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A running endpoint and its transcript.
pub struct Endpoint {
    process: Child,
    pub ca: PathBuf,
    pub port: u16,
    steps: Arc<Mutex<Vec<Value>>>,
}

impl Endpoint {
    /// Adds where to listen, and what CA to write.
    pub fn start(mut command: Command, ca: PathBuf) -> Self {
        let mut process = command
            .args(["--json", "--listen", "127.0.0.1:0", "--write-ca"])
            .arg(&ca)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let steps = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let collected = Arc::clone(&steps);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let step = serde_json::from_str(&line).expect("a JSON line");
                collected.lock().unwrap().push(step);
            }
        });
        let mut endpoint = Self {
            process,
            ca,
            port: 0,
            steps,
        };
        let listening = endpoint.wait("listening");
        let address = listening["listen"].as_str().unwrap();
        endpoint.port = address.rsplit(':').next().unwrap().parse().unwrap();
        endpoint
    }

    pub fn steps(&self) -> Vec<Value> {
        self.steps.lock().unwrap().clone()
    }

    /// The `n`th step of that name, from 0, once it is there.
    pub fn wait_for(&self, event: &str, n: usize) -> Value {
        let start = Instant::now();
        loop {
            let found = self
                .steps()
                .into_iter()
                .filter(|step| step["event"] == event)
                .nth(n);
            if let Some(step) = found {
                return step;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "no `{event}` number {n} in {:#?}",
                self.steps()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until so many steps are of that kind.
    pub fn wait_until(&self, wanted: usize, is: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        while self.steps().iter().filter(|step| is(step)).count() < wanted {
            assert!(start.elapsed() < PATIENCE, "{:#?}", self.steps());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The first step of that name.
    pub fn wait(&self, event: &str) -> Value {
        self.wait_for(event, 0)
    }

    pub fn count(&self, event: &str) -> usize {
        let steps = self.steps();
        steps.iter().filter(|step| step["event"] == event).count()
    }

    /// A mosquitto client with the device's certificate, connecting by host name.
    pub fn client(&self, program: &str, identity: &Identity, client_id: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-h", "localhost", "-p", &self.port.to_string()])
            .arg("--cafile")
            .arg(&self.ca)
            .arg("--cert")
            .arg(&identity.certificate)
            .arg("--key")
            .arg(&identity.key)
            .stdin(Stdio::null());
        // Without the option, mosquitto sends an empty one.
        if !client_id.is_empty() {
            command.args(["-i", client_id]);
        }
        command
    }

    /// `mosquitto_pub` of one message with QoS 1; whether it says it succeeded.
    pub fn publish(&self, identity: &Identity, client_id: &str, topic: &str) -> Output {
        self.publish_with(identity, client_id, topic, &[])
    }

    pub fn publish_with(
        &self,
        identity: &Identity,
        client_id: &str,
        topic: &str,
        more: &[&str],
    ) -> Output {
        let mut command = self.client("mosquitto_pub", identity, client_id);
        command
            .args(["-t", topic, "-m", "hello", "-q", "1"])
            .args(more);
        within(command, PATIENCE)
    }

    /// Both first connections of a device: dropped, then accepted.
    pub fn introduce(&self, identity: &Identity, client_id: &str) {
        let topic = format!("factory/{client_id}/state");
        assert!(!self.publish(identity, client_id, &topic).status.success());
        let second = self.publish(identity, client_id, &topic);
        assert!(second.status.success(), "{second:?} {:#?}", self.steps());
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal and returns the exit code.
    pub fn stop(mut self, with: Signal) -> (Option<i32>, Vec<Value>) {
        signal(self.pid(), with);
        let status = self.process.wait().unwrap();
        let start = Instant::now();
        while self.count("stopped") == 0 && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        (status.code(), self.steps())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Runs a client, which is killed when it takes too long.
pub fn within(mut command: Command, limit: Duration) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (pid, done) = (child.id(), std::sync::mpsc::channel::<()>());
    let (finished, wait) = done;
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            signal(pid, Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(finished);
    watchdog.join().unwrap();
    output
}

pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// SHA-256 over the DER, as OpenSSL computes it.
pub fn certificate_id(certificate: &Path) -> String {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(certificate)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let digits = text.trim().split('=').nth(1).unwrap().replace(':', "");
    digits.to_lowercase()
}
