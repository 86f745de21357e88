//! Plants and their head office: worlds whose databases are published over TLS, lines between them that can
//! be cut, and a database that subscribes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::http::Curl;
use super::tls::{Identity, Use};
use super::world::{OwnWorld, PROGRAM, free_port, tail};

/// The role by which head office reads a plant; its client certificate bears the name.
const ROLE: &str = "head_office";

/// A development world that publishes its rows.
pub struct Plant {
    pub own: OwnWorld,
    pub site: String,
    /// Where its database listens, with TLS.
    address: SocketAddr,
}

impl Plant {
    /// Made, running and published. `number` gives its database an address of its own.
    pub fn running(site: &str, number: u8, office: &HeadOffice) -> Self {
        let own = OwnWorld::make();
        own.configure(|config| {
            config["site"]["id"] = site.into();
            let published = config["site"].as_table_mut().unwrap();
            published.insert("published".into(), true.into());
            let keys = config["ticket_key"].as_array_mut().unwrap();
            let mut key = toml::Table::new();
            key.insert("kid".into(), "office".into());
            let pem = office.path("ticket.pem").display().to_string();
            key.insert("public_key".into(), pem.into());
            keys.push(key.into());
            config["audit"]["origin"] = format!("{site}.example/certfactory").into();
        });
        own.start_postgres();
        // What is missing is said, and nothing else is wrong.
        let refused = own.world.program(&["migrate"]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(5), "{said}");
        assert!(said.contains("set wal_level = logical"), "{said}");
        own.stop_postgres("fast");

        let address: SocketAddr = format!("127.{}.{number}.1:5432", 10 + std::process::id() % 200)
            .parse()
            .unwrap();
        let data = std::fs::canonicalize(own.world.dir.join("postgres/data")).unwrap();
        let server = Identity::make("plant", Use::Server, Some(&office.authority), (-1, 30));
        let write = |name: &str, octets: &[u8]| {
            let path = data.join(name);
            std::fs::write(&path, octets).unwrap();
            give_to_server(&path);
        };
        write("plant.pem", &server.pem());
        write("plant.key", &server.key_pem());
        write("head-office-ca.pem", &office.authority.pem());
        write(
            "pg_hba.conf",
            format!("local all all trust\nhostssl certfactory {ROLE} 127.0.0.1/32 cert\n")
                .as_bytes(),
        );
        let mut settings = std::fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.auto.conf"))
            .unwrap();
        write!(
            settings,
            "wal_level = logical\nlisten_addresses = '{}'\nssl = on\nssl_cert_file = 'plant.pem'\nssl_key_file = 'plant.key'\nssl_ca_file = 'head-office-ca.pem'\nwal_sender_timeout = 10s\n",
            address.ip()
        )
        .unwrap();
        drop(settings);
        own.start_postgres();
        let migrated = own.world.program(&["migrate"]).output().unwrap();
        assert!(migrated.status.success(), "{migrated:?}");
        own.world.sql(&format!(
            "CREATE ROLE {ROLE} LOGIN REPLICATION IN ROLE certfactory_replication"
        ));
        let mut plant = Self {
            own,
            site: site.to_owned(),
            address,
        };
        plant.own.start_service();
        plant.own.wait_ready(Duration::from_secs(20));
        plant
    }

    /// A line to its database that can be cut.
    pub fn line(&self) -> Line {
        Line::to(self.address)
    }
}

/// A line between head office and a plant.
pub struct Line {
    pub port: u16,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (is_cut, kept) = (cut.clone(), open.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(target) else {
                    continue;
                };
                kept.lock()
                    .unwrap()
                    .extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                pass(near.try_clone().unwrap(), far.try_clone().unwrap());
                pass(far, near);
            }
        });
        Self { port, cut, open }
    }

    /// Cuts it: what is under way is lost, and nobody gets through.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Mends it.
    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut octets = [0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut octets) {
            if to.write_all(&octets[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// Head office: a PostgreSQL cluster and `serve --role headquarters`, each started by its documented commands.
pub struct HeadOffice {
    dir: TempDir,
    /// Signs its own TLS certificate, its clients', and what it shows to plants.
    pub authority: Identity,
    service: Option<Child>,
    pub url: String,
    pub operations: String,
}

impl HeadOffice {
    /// Its database running and migrated, an auditor and a planner known, the service not started.
    pub fn make() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("certfactory-office-")
            .tempdir()
            .unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let authority = Identity::make("head office CA", Use::Authority, None, (-1, 30));
        let office = Self {
            url: format!("https://127.0.0.1:{}", free_port()),
            operations: format!("http://127.0.0.1:{}", free_port()),
            dir,
            authority,
            service: None,
        };
        office.make_database();
        office.make_files();
        office.command(&["headquarters", "ticket-key"]);
        office.command(&["headquarters", "migrate"]);
        office.sql("CREATE ROLE service LOGIN IN ROLE certfactory_headquarters");
        for (name, role) in [("auditor", "auditor"), ("planner", "operator")] {
            let certificate = office.path(&format!("{name}.pem"));
            office.command(&[
                "headquarters",
                "person",
                "add",
                name,
                "--role",
                role,
                "--certificate",
                certificate.to_str().unwrap(),
            ]);
        }
        office
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make_database(&self) {
        let home = self.path("postgres");
        std::fs::create_dir(&home).unwrap();
        give_to_server(&home);
        let data = home.join("data");
        server_program("initdb")
            .args([
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(&data)
            .output()
            .map(succeeded)
            .unwrap();
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nwal_receiver_timeout = 10s\nwal_retrieve_retry_interval = 500ms\nmax_wal_size = 4GB\nshared_buffers = 256MB\njit = off\n",
            home.display()
        );
        let path = data.join("postgresql.auto.conf");
        std::fs::write(&path, settings).unwrap();
        give_to_server(&path);
        self.pg_ctl(&[
            "start",
            "-w",
            "-s",
            "-l",
            home.join("log").to_str().unwrap(),
        ]);
        self.psql("postgres", "CREATE DATABASE headquarters");
    }

    fn make_files(&self) {
        let made = |name: &str, for_use: Use| {
            let identity = Identity::make(name, for_use, Some(&self.authority), (-1, 30));
            identity.write(
                &self.path(&format!("{name}.pem")),
                &self.path(&format!("{name}.key")),
            );
        };
        made("server", Use::Server);
        for name in ["auditor", "planner", "stranger", ROLE] {
            made(name, Use::Client);
        }
        // The server itself connects to plants.
        for name in [format!("{ROLE}.key"), format!("{ROLE}.pem")] {
            give_to_server(&self.path(&name));
        }
        std::fs::write(self.path("ca.pem"), self.authority.pem()).unwrap();
        let socket = self
            .path("postgres")
            .display()
            .to_string()
            .replace('/', "%2F");
        let listen = |url: &str| url.rsplit('/').next().unwrap().to_owned();
        let softhsm = self.path("softhsm2.conf");
        let tokens = self.path("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\n",
            tokens.display()
        );
        std::fs::write(&softhsm, conf).unwrap();
        Command::new("softhsm2-util")
            .args([
                "--init-token",
                "--free",
                "--label",
                "office",
                "--pin",
                "123456",
                "--so-pin",
                "123456",
            ])
            .env("SOFTHSM2_CONF", &softhsm)
            .output()
            .map(succeeded)
            .unwrap();
        std::fs::write(self.path("pin"), "123456").unwrap();
        let module = [
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        ]
        .into_iter()
        .find(|it| Path::new(it).exists())
        .unwrap();
        let signing = format!(
            "\n[[hsm]]\nname = \"softhsm\"\nmodule = \"{module}\"\ntoken_label = \"office\"\npin_file = \"pin\"\n\n[hsm.environment]\nSOFTHSM2_CONF = \"{}\"\n\n[tickets]\nhsm = \"softhsm\"\nkey_label = \"tickets\"\npublic_key = \"ticket.pem\"\nkid = \"office\"\niss = \"head office\"\n",
            softhsm.display()
        );
        let config = format!(
            "[http]\nlisten = \"{}\"\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\nclient_ca = \"ca.pem\"\n\n[operations]\nlisten = \"{}\"\n\n[database]\nurl = \"postgres://service@{socket}/headquarters\"\nowner_url = \"postgres://postgres@{socket}/headquarters\"\n",
            listen(&self.url),
            listen(&self.operations),
        );
        std::fs::write(self.path("config.toml"), config + &signing).unwrap();
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env("CERTFACTORY_CONFIG", self.path("config.toml"));
        command
    }

    /// A command of the product that works; what it prints.
    pub fn command(&self, arguments: &[&str]) -> String {
        succeeded(self.program(arguments).output().unwrap())
    }

    /// One that does not: exit code, and what it says.
    pub fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.program(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?} works: {said}");
        (output.status.code().unwrap_or(-1), said)
    }

    /// The arguments that add a plant behind a line, under a name.
    pub fn addition(&self, plant: &Plant, line: &Line, name: &str) -> Vec<String> {
        let file = self.path(&format!("{name}.connection"));
        let of = |name: &str| self.path(name).display().to_string();
        std::fs::write(
            &file,
            format!(
                "postgres://{ROLE}@127.0.0.1:{}/certfactory?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}&connect_timeout=3\n",
                line.port,
                of("ca.pem"),
                of(&format!("{ROLE}.pem")),
                of(&format!("{ROLE}.key")),
            ),
        )
        .unwrap();
        let log_key = plant.own.world.dir.join("head-office/log.pem");
        let origin = format!("{}.example/certfactory", plant.site);
        let file = file.display().to_string();
        let log_key = log_key.display().to_string();
        [
            "headquarters",
            "plant",
            "add",
            name,
            "--connection-file",
            &file,
            "--log-key",
            &log_key,
            "--log-origin",
            &origin,
            "--late-after-seconds",
            "5",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Subscribes to a plant.
    pub fn add(&self, plant: &Plant, line: &Line) {
        let arguments = self.addition(plant, line, &plant.site);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.command(&arguments);
    }

    pub fn start_service(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("service.log"))
            .unwrap();
        let mut command = self.program(&["serve", "--role", "headquarters"]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.service = Some(command.spawn().unwrap());
        let start = Instant::now();
        while !self
            .operations()
            .try_send("GET", "/readyz", &[], None)
            .is_ok_and(|answer| answer.status == 200)
        {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "head office is not ready\n{}",
                tail(&self.log())
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("service.log")).unwrap_or_default()
    }

    /// Calls it as somebody.
    pub fn client(&self, name: &str) -> Curl {
        let identity = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        Curl::new(&self.url, &self.path("ca.pem"), Some(identity))
    }

    pub fn operations(&self) -> Curl {
        Curl::new(&self.operations, &self.path("ca.pem"), None)
    }

    /// A plant, as `/v1/plants` shows it.
    pub fn plant(&self, site: &str) -> Value {
        let body = self.client("auditor").get("/v1/plants").json();
        let plants = body["plants"].as_array().unwrap();
        let found = plants.iter().find(|plant| plant["site"] == site);
        found
            .unwrap_or_else(|| panic!("no plant {site} in {body}"))
            .clone()
    }

    /// Waits until a plant is as it should be; how long that took.
    pub fn wait_plant(
        &self,
        site: &str,
        at_most: Duration,
        is: impl Fn(&Value) -> bool,
    ) -> Duration {
        let start = Instant::now();
        loop {
            let plant = self.plant(site);
            if is(&plant) {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < at_most,
                "not within {at_most:?}: {plant:#}\n{}\n{}",
                tail(&self.log()),
                tail(&std::fs::read_to_string(self.path("postgres/log")).unwrap_or_default())
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SQL as the superuser.
    pub fn sql(&self, sql: &str) -> String {
        self.psql("headquarters", sql)
    }

    fn psql(&self, database: &str, sql: &str) -> String {
        let output = Command::new("psql")
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-h",
            ])
            .arg(self.path("postgres"))
            .args(["-d", database, "-c", sql])
            .output()
            .unwrap();
        succeeded(output).trim().to_owned()
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let data = self.path("postgres/data");
        let status = server_program("pg_ctl")
            .args(arguments)
            .arg("-D")
            .arg(data)
            .status()
            .unwrap();
        assert!(status.success(), "pg_ctl {arguments:?}: {status}");
    }
}

impl Drop for HeadOffice {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
        let _ = server_program("pg_ctl")
            .args(["stop", "-w", "-s", "-m", "immediate", "-D"])
            .arg(self.path("postgres/data"))
            .status();
        if std::thread::panicking() {
            eprintln!("head office's log ends:\n{}", tail(&self.log()));
        }
    }
}

fn succeeded(output: Output) -> String {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A program of the newest PostgreSQL, as a user that it accepts.
fn server_program(name: &str) -> Command {
    let newest = std::fs::read_dir("/usr/lib/postgresql")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .max()
        .unwrap();
    let program = format!("/usr/lib/postgresql/{newest}/bin/{name}");
    let mut command = if nix::unistd::Uid::effective().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", &program]);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/");
    command
}

/// Nobody else may read it, and the server's user may.
fn give_to_server(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o755 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    if nix::unistd::Uid::effective().is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        nix::unistd::chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}
