//! The station clients, against the service.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::support::faults::{control, use_fault_module};
use crate::support::world::{OwnWorld, World, shared};
use crate::{finish, ok, source};

/// The three of them, the C one compiled without a warning.
fn clients(dir: &Path) -> [(&'static str, PathBuf); 3] {
    let compiled = dir.join("station");
    ok(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&compiled)
        .arg(source("deploy/stations/station.c"))
        .args(["-lcurl", "-lcrypto"]));
    [
        ("sh", source("deploy/stations/station.sh")),
        ("py", source("deploy/stations/station.py")),
        ("c", compiled),
    ]
}

/// A station's directory and what it calls.
struct Station<'a> {
    world: &'a World,
    name: String,
    program: PathBuf,
    dir: TempDir,
}

impl<'a> Station<'a> {
    /// Registered, with its enrolment code in `code`.
    fn register(world: &'a World, name: &str, program: &Path) -> Self {
        let body = json!({ "name": name, "rights": { "profiles": ["lightbulb"] } }).to_string();
        let headers = [("Content-Type", "application/json")];
        let answer = world.client("administrator").send(
            "POST",
            "/v1/stations",
            &headers,
            Some(body.as_bytes()),
        );
        assert_eq!(answer.status, 201, "{answer:?}");
        let dir = tempfile::tempdir().unwrap();
        let code = answer.json()["enrolment_code"].as_str().unwrap().to_owned();
        fs::write(dir.path().join("code"), code + "\n").unwrap();
        Self {
            world,
            name: name.to_owned(),
            program: program.to_owned(),
            dir,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("CERTFACTORY_URL", &self.world.url)
            .env("CERTFACTORY_CA", self.world.dir.join("tls/ca.pem"))
            .env("CERTFACTORY_STATION", &self.name)
            .env("CERTFACTORY_RETRY_SECONDS", "240");
        command
    }

    /// The command that gives a device of this name its certificate.
    fn device(&self, name: &str) -> Command {
        let serial = format!("serialNumber=SN{}", self.name.to_uppercase());
        let name = format!("CN={name}");
        self.command(&["device", "lightbulb", "lamp.pem", "C=DE", &serial, &name])
    }

    fn mode(&self, file: &str) -> u32 {
        let found = fs::metadata(self.dir.path().join(file)).unwrap();
        found.permissions().mode() & 0o777
    }
}

#[test]
fn each_client_survives_a_restart_of_the_service_in_mid_call_with_one_certificate() {
    let mut own = OwnWorld::make();
    use_fault_module(&mut own);
    own.start_postgres();
    own.start_service();
    own.wait_ready(Duration::from_secs(15));
    let world = World::at(own.world.dir.clone());
    let built = tempfile::tempdir().unwrap();
    let stations: Vec<Station> = clients(built.path())
        .iter()
        .map(|(kind, program)| Station::register(&world, &format!("kit-{kind}"), program))
        .collect();
    std::thread::scope(|scope| {
        for station in &stations {
            scope.spawn(|| ok(&mut station.command(&["enrol", "code"])));
        }
    });
    // Each call is held where its intent is durable and the HSM has not answered.
    control(&own, "delay_ms=60000");
    let serials: Vec<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = stations
            .iter()
            .map(|station| {
                scope.spawn(|| ok(&mut station.device(&format!("lamp-{}", station.name))))
            })
            .collect();
        let start = Instant::now();
        while own.open_intents() < stations.len() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "no call came so far"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        own.kill_service();
        control(&own, "");
        own.start_service();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    for (station, serial) in stations.iter().zip(serials) {
        let path = format!("/v1/certificates?device=lamp-{}", station.name);
        let found = world.client("auditor").get(&path).json();
        let items = found["items"].as_array().unwrap();
        assert_eq!(items.len(), 1, "{}: {found}", station.name);
        assert_eq!(items[0]["serial_number"], serial.trim());
        assert_eq!(items[0]["status"], "confirmed");
        assert_eq!(items[0]["station"], station.name.as_str());
        assert_eq!(station.mode("lamp.key"), 0o600);
        assert_eq!(station.mode(&format!("{}.key", station.name)), 0o600);
        let written = fs::read_to_string(station.dir.path().join("lamp.pem")).unwrap();
        assert!(written.matches("BEGIN CERTIFICATE").count() >= 2);
    }
}

#[test]
fn the_kits_page_works_as_it_stands() {
    let world = shared();
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&world.dir, dir.path().join(".dev")).unwrap();
    std::os::unix::fs::symlink(source("deploy"), dir.path().join("deploy")).unwrap();
    let page = include_str!("../../deploy/stations/README.md");
    let script: String = page
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let program = Path::new(env!("CARGO_BIN_EXE_certfactory"))
        .parent()
        .unwrap();
    let path = format!(
        "{}:{}",
        program.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let said = ok(Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(dir.path())
        .env("PATH", path));
    let serials: Vec<&str> = said.lines().collect();
    assert_eq!(serials.len(), 3, "{said}");
    assert!(serials.iter().all(|it| *it == serials[0]), "{said}");
}

#[test]
fn a_client_stops_with_the_reason_where_asking_again_would_not_help() {
    let world = shared();
    let built = tempfile::tempdir().unwrap();
    for (kind, program) in clients(built.path()) {
        let station = Station::register(world, &format!("stop-{kind}"), &program);
        ok(&mut station.command(&["enrol", "code"]));
        let stops = |command: &mut Command, code: i32, says: &str| {
            let output = finish(command);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{kind}: {said}");
            assert!(said.contains(says), "{kind}: {said}");
        };
        // Refused: nothing is written. The quotation mark arrives as it is.
        stops(&mut station.device("lamp\"5"), 4, "is '\\\"'");
        assert!(!station.dir.path().join("lamp.pem").exists());
        // A certificate of an issuer that is not believed is not confirmed.
        let name = format!("lamp-{}", station.name);
        let others = world.dir.join("issuers/line-rsa.pem");
        stops(
            station.device(&name).env("CERTFACTORY_DEVICE_CA", &others),
            1,
            "verif",
        );
        let path = format!("/v1/certificates?device={name}");
        let found = world.client("auditor").get(&path).json();
        assert_eq!(found["items"][0]["status"], "issued", "{kind}: {found}");
        // A service with another's certificate is not asked again, one that is not there is, for so long.
        stops(station.device(&name).env("CERTFACTORY_CA", &others), 1, "");
        let start = Instant::now();
        let nowhere = "https://127.0.0.1:1";
        stops(
            station
                .device(&name)
                .env("CERTFACTORY_URL", nowhere)
                .env("CERTFACTORY_RETRY_SECONDS", "3"),
            5,
            "not served",
        );
        assert!(start.elapsed() > Duration::from_secs(1), "{kind}");
        stops(&mut station.command(&["device", "lightbulb"]), 2, "usage");
    }
}

#[test]
fn the_shell_client_is_clean_before_shellcheck() {
    ok(Command::new("shellcheck").arg(source("deploy/stations/station.sh")));
}
