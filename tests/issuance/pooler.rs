//! Debian's pgbouncer between the service and its database: with sessions of the service's own, and with shared ones.

use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::RECOVERED;
use crate::alone;
use crate::load::Load;
use crate::seconds;
use crate::support::faults::family;
use crate::support::faults::signal;
use crate::support::world::OwnWorld;
use crate::support::world::free_port;

/// A pgbouncer before a world's server, which its service is configured to use.
struct Pooler {
    configuration: PathBuf,
    port: u16,
    process: Child,
}

impl Pooler {
    /// `sessions`: how many of the server's it may hold.
    fn start(own: &OwnWorld, mode: &str, sessions: u32) -> Self {
        let port = free_port();
        let directory = own.world.dir.join("pooler");
        std::fs::create_dir_all(&directory).unwrap();
        let users = directory.join("users.txt");
        std::fs::write(&users, "\"certfactory\" \"\"\n").unwrap();
        let socket = std::fs::canonicalize(own.world.dir.join("postgres")).unwrap();
        // extra_float_digits is all that the driver asks for and pgbouncer does not know.
        let text = format!(
            "[databases]\ncertfactory = host={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = {sessions}\nmax_client_conn = 400\n\
             ignore_startup_parameters = extra_float_digits\n",
            socket.display(),
            users.display(),
        );
        let configuration = directory.join("pgbouncer.ini");
        std::fs::write(&configuration, text).unwrap();
        own.configure(|config| {
            config["database"]["url"] =
                format!("postgres://certfactory@127.0.0.1:{port}/certfactory").into();
        });
        let process = spawn(&configuration);
        let pooler = Self {
            configuration,
            port,
            process,
        };
        pooler.wait();
        pooler
    }

    fn wait(&self) {
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < seconds(5), "pgbouncer does not start");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        // root's way to another user is a parent of it
        for pid in family(self.process.id()) {
            signal(pid, Signal::SIGKILL);
        }
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = spawn(&self.configuration);
        self.wait();
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.kill();
    }
}

/// It does not run as root, and the server's socket is its own user's.
fn spawn(configuration: &PathBuf) -> Child {
    let mut command = if nix::unistd::Uid::effective().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        command.args(["--", "pgbouncer"]);
        command
    } else {
        Command::new("pgbouncer")
    };
    command
        .arg("-q")
        .arg(configuration)
        .env("PATH", "/usr/sbin:/usr/bin:/bin")
        .current_dir("/")
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn through_a_pooler_that_gives_whole_sessions_the_service_issues_and_heals() {
    let mut own = OwnWorld::make();
    own.start_postgres();
    let mut pooler = Pooler::start(&own, "session", 60);
    own.start_service();
    own.wait_ready(seconds(15));
    let _alone = alone();
    let load = Load::start(&own.world, 16);
    load.wait_issued(100, seconds(10));
    // Settings that were asked for are those of the sessions.
    let waits = own.world.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'certfactory%' AND usename = 'certfactory'",
    );
    assert_ne!(waits, "0", "the service does not go through the pooler");
    pooler.kill();
    own.wait_not_ready("\"database\"", seconds(3));
    pooler.start_again();
    own.wait_ready(seconds(5));
    load.wait_issued(100, seconds(10));
    let history = load.stop();
    own.assert_alive();
    history.saw_only(&["database-unavailable", "request-in-progress"]);
    own.wait_no_open_intents(RECOVERED);
    history.holds_against(&own.world);
    own.kill_service();
}

#[test]
fn through_a_pooler_that_shares_sessions_the_service_does_not_start_and_says_why() {
    let own = OwnWorld::make();
    own.start_postgres();
    for (mode, sessions) in [("transaction", 1), ("transaction", 20)] {
        let pooler = Pooler::start(&own, mode, sessions);
        let (code, said) = own.refused_start();
        assert_eq!(code, 1, "{mode} {sessions}: {said}");
        assert!(said.contains("pool_mode = session"), "{mode}: {said}");
        let doctor = own.world.program(&["doctor"]).output().unwrap();
        let found = String::from_utf8(doctor.stdout).unwrap();
        assert!(found.contains("pool_mode = session"), "{mode}: {found}");
        assert!(found.contains("/manual/high-availability"), "{found}");
        drop(pooler);
    }
    // It lets no transaction begin, and says so itself.
    let _pooler = Pooler::start(&own, "statement", 20);
    let (code, said) = own.refused_start();
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("statement pooling"), "{said}");
}
