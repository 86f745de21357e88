//! Emulators of AWS on free loopback ports, one of each for all tests, and accounts in them.
//!
//! What they have and lack (tried): ministack checks verification certificates and modes, and
//! keeps provisioning templates, but no billing groups; every access key of twelve digits is an
//! account. moto has billing groups and IAM with AWS's managed policies, but no provisioning
//! templates, ignores mode and auto-registration, and makes a new registration code each time.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::world::free_port;

/// A Region that no default would choose.
pub const REGION: &str = "eu-central-1";

/// A program of the Python environment that `tests/run` makes.
pub fn python(name: &str) -> PathBuf {
    let environment =
        std::env::var("CERTFACTORY_AWS_PYTHON").expect("tests/run sets CERTFACTORY_AWS_PYTHON");
    Path::new(&environment).join("bin").join(name)
}

/// One account in one Region of an emulator.
pub struct Account {
    pub id: String,
    pub region: String,
    pub url: String,
}

impl Account {
    /// An account of its own in ministack.
    pub fn of_ministack() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(700_000_000_001);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed).to_string(),
            region: REGION.to_owned(),
            url: ministack().to_owned(),
        }
    }

    /// moto has one account; its Regions are apart, but for IAM.
    pub fn of_moto(region: &str) -> Self {
        Self {
            id: "123456789012".to_owned(),
            region: region.to_owned(),
            url: moto().to_owned(),
        }
    }

    /// The environment in which a program works in this account, and only there.
    pub fn environment(&self, command: &mut Command) {
        let tools = python("");
        let path = std::env::var("PATH").unwrap();
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command
            .env("PATH", format!("{}:{path}", tools.display()))
            .env("AWS_ACCESS_KEY_ID", &self.id)
            .env("AWS_SECRET_ACCESS_KEY", "none")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL", &self.url);
    }

    /// One call of the AWS CLI: its JSON answer, or what it says went wrong.
    pub fn aws(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(python("aws"));
        self.environment(&mut command);
        let output = command
            .args(arguments)
            .args(["--output", "json", "--region", &self.region])
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or_default());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Many questions at once, through AWS's SDK for Python: name, service, method, parameters. The
    /// answer is null where the thing is not there, or the emulator lacks the call.
    pub fn answers(&self, questions: &[(&str, &str, &str, Value)]) -> Value {
        const ASK: &str = r#"
import boto3, botocore, json, sys
answers = {}
for name, service, method, parameters in json.loads(sys.argv[1]):
    config = botocore.config.Config(retries={"max_attempts": 0})
    try:
        answer = getattr(boto3.client(service, config=config), method)(**parameters)
        del answer["ResponseMetadata"]
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in ("ResourceNotFoundException", "NoSuchEntity", "500"):
            raise
        answer = None
    answers[name] = answer
print(json.dumps(answers, default=str))
"#;
        let mut command = Command::new(python("python"));
        self.environment(&mut command);
        let output = command
            .args(["-c", ASK, &serde_json::to_string(questions).unwrap()])
            .env("AWS_DEFAULT_REGION", &self.region)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One that must succeed.
    pub fn must(&self, arguments: &[&str]) -> Value {
        self.aws(arguments)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}"))
    }
}

fn ministack() -> &'static str {
    static SERVER: OnceLock<Server> = OnceLock::new();
    &SERVER
        .get_or_init(|| {
            let port = free_port();
            let mut command = Command::new(python("ministack"));
            command
                .env("GATEWAY_PORT", port.to_string())
                .env("BIND_HOST", "127.0.0.1")
                .env("IOT_MTLS_ENABLED", "0")
                .env("SFTP_ENABLED", "0");
            Server::start(command, port)
        })
        .url
}

fn moto() -> &'static str {
    static SERVER: OnceLock<Server> = OnceLock::new();
    &SERVER
        .get_or_init(|| {
            let port = free_port();
            let mut command = Command::new(python("python"));
            // Certificate ids as AWS makes them, from the DER; by default moto hashes the PEM.
            let start = "import sys\n\
                from moto.core.config import default_user_config\n\
                default_user_config['iot']['use_valid_cert'] = True\n\
                from moto.server import main\n\
                main(['-H', '127.0.0.1', '-p', sys.argv[1]])";
            command
                .args(["-c", start, &port.to_string()])
                .env("MOTO_IAM_LOAD_MANAGED_POLICIES", "true");
            Server::start(command, port)
        })
        .url
}

/// A server that ends with this process: its keeper reads a pipe whose other end closes then.
struct Server {
    url: String,
    _keeper: ChildStdin,
}

impl Server {
    #[allow(
        clippy::zombie_processes,
        reason = "the keeper outlives this process, to end the server behind it"
    )]
    fn start(server: Command, port: u16) -> Self {
        // Its own temporary files too; the keeper removes them.
        let dir = TempDir::new().unwrap().keep();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let script = r#"dir=$1; shift; exec 3<&0; "$@" </dev/null & p=$!; cat <&3 >/dev/null; kill $p; wait $p; rm -rf "$dir""#;
        let mut keeper = Command::new("bash");
        keeper
            .args(["-c", script, "bash"])
            .arg(&dir)
            .arg(server.get_program())
            .args(server.get_args());
        for (name, value) in server.get_envs() {
            keeper.env(name, value.unwrap_or_default());
        }
        let mut keeper = keeper
            .env("TMPDIR", &dir)
            .env("HOME", &dir)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap();
            assert!(Instant::now() < end, "an emulator did not start: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _keeper: keeper.stdin.take().unwrap(),
        }
    }
}
