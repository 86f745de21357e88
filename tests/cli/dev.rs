//! `dev`: a world from one command, wherever its directory lies.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{Done, finish, text};

/// A directory that every user may enter, and a world's place in it.
struct Place {
    above: TempDir,
    world: PathBuf,
}

impl Place {
    fn new(below: &str) -> Self {
        let above = tempfile::Builder::new()
            .prefix("certfactory-test-")
            .tempdir()
            .unwrap();
        fs::set_permissions(above.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let world = above.path().join(below);
        Self { above, world }
    }

    fn dev(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certfactory"));
        command
            .args([
                "dev",
                "--port",
                "0",
                "--ops-port",
                "0",
                "--repository-port",
                "0",
                "--dir",
            ])
            .arg(&self.world)
            .args(more);
        command
    }

    fn once(&self) -> Done {
        finish(self.dev(&["--once"]), b"")
    }

    /// The parts of the world that had to be put elsewhere: the cluster, or its socket.
    fn elsewhere(&self) -> Vec<PathBuf> {
        let postgres = fs::read_link(self.world.join("postgres")).ok();
        let config = fs::read_to_string(self.world.join("config.toml")).unwrap_or_default();
        let host = config
            .lines()
            .find_map(|line| line.strip_prefix("url = \"postgres://certfactory@"));
        let socket = host
            .and_then(|rest| rest.split('/').next())
            .map(|host| PathBuf::from(host.replace("%2F", "/")));
        let all = postgres.into_iter().chain(socket);
        all.filter(|path| path.parent() == Some(Path::new("/var/tmp")))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in self.elsewhere() {
            fs::remove_dir_all(path).ok();
        }
    }
}

/// Ends with the test, whatever happens.
struct Running(Child);

impl Running {
    fn terminate(&mut self) -> Option<i32> {
        Command::new("kill")
            .arg(self.0.id().to_string())
            .status()
            .unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}

/// The first certificate was issued, and is what the output says.
fn tells_of_a_verified_certificate(place: &Place, done: &Done) {
    let told = done.text();
    let value = |name: &str| {
        let line = told.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no `{name}` in {told}"))
            .trim()
            .to_owned()
    };
    let certificate = place.world.join("first/device.pem");
    assert_eq!(value("certificate  "), text(&certificate));
    assert!(value("verified").starts_with("openssl verify -x509_strict"));
    assert!(value("AWS IoT would make").starts_with("thing `lamp-"));
    let curls = told
        .lines()
        .filter(|line| line.starts_with("  curl "))
        .count();
    assert_eq!(curls, 3, "{told}");
    let pem = fs::read(&certificate).unwrap();
    let leaf = openssl::x509::X509::from_pem(&pem).unwrap();
    let serial = leaf.serial_number().to_bn().unwrap().to_vec();
    assert_eq!(
        value("serial number"),
        serial
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    );
    let issuer = fs::read(place.world.join("issuers/line-ec.pem")).unwrap();
    let issuer = openssl::x509::X509::from_pem(&issuer).unwrap();
    assert!(leaf.verify(&issuer.public_key().unwrap()).unwrap());
}

#[test]
fn one_command_makes_a_world_and_the_next_uses_it_again() {
    let place = Place::new("world");
    let first = place.once().ok();
    tells_of_a_verified_certificate(&place, &first);
    let kept = [
        "issuers/line-ec.pem",
        "issuers/line-rsa.pem",
        "tls/ca.pem",
        "clients/station-01.pem",
        "softhsm/pin",
    ];
    let read = || kept.map(|name| fs::read(place.world.join(name)).unwrap());
    let before = read();
    let second = place.once().ok();
    tells_of_a_verified_certificate(&place, &second);
    assert!(read() == before, "the second run made something anew");
    assert!(
        !place.world.join("postgres/data/postmaster.pid").exists(),
        "its database still runs"
    );
}

#[test]
fn a_world_in_a_directory_with_a_space_works_and_so_do_the_lines_it_suggests() {
    let place = Place::new("my first world");
    let mut child = place
        .dev(&[])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut running = Running(child);
    let mut told = Vec::new();
    for line in lines {
        told.push(line);
        if told
            .iter()
            .filter(|line| line.starts_with("  curl "))
            .count()
            == 3
        {
            break;
        }
    }
    let curls: Vec<&String> = told
        .iter()
        .filter(|line| line.starts_with("  curl "))
        .collect();
    assert_eq!(curls.len(), 3, "{told:?}");
    for curl in curls {
        let answer = tool_in_shell(&format!("{curl} -sS --fail-with-body"));
        assert!(answer.contains("lamp-"), "{curl}: {answer}");
    }

    // Two at once would fight over one database.
    let second = place.once().fails(1).silent();
    second.says("another `certfactory dev` runs here");
    assert_eq!(running.terminate(), Some(0));
}

fn tool_in_shell(line: &str) -> String {
    let mut shell = Command::new("bash");
    shell.args(["-c", line]);
    finish(shell, b"").ok().text()
}

#[test]
fn a_world_deeper_than_a_socket_address_is_long_works() {
    let place = Place::new(&"a-long-name-of-a-directory/".repeat(6));
    assert!(place.world.as_os_str().len() > 150);
    tells_of_a_verified_certificate(&place, &place.once().ok());
    assert_eq!(
        place.elsewhere().len(),
        1,
        "the socket cannot be in the world"
    );
    place.once().ok();
}

#[test]
fn a_world_where_the_database_user_may_not_go_works() {
    let place = Place::new("world");
    fs::set_permissions(place.above.path(), fs::Permissions::from_mode(0o700)).unwrap();
    tells_of_a_verified_certificate(&place, &place.once().ok());
    let root = nix::unistd::geteuid().is_root();
    assert_eq!(
        !place.elsewhere().is_empty(),
        root,
        "only root's database runs as somebody else"
    );
    place.once().ok();
}
