//! The smallest synchronous standby: PostgreSQL's own `pg_receivewal`, which keeps the write-ahead log.

use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use super::world::OwnWorld;
use super::world::World;

/// Its name in `synchronous_standby_names`.
pub const NAME: &str = "keeper";

/// Streams from a world's server, and confirms, until it is dropped.
pub struct Keeper(Child);

impl Keeper {
    pub fn start(own: &OwnWorld) -> Self {
        let dir = own.world.dir.join("keeper");
        std::fs::create_dir_all(&dir).unwrap();
        let socket = std::fs::canonicalize(own.world.dir.join("postgres")).unwrap();
        let server = format!(
            "host={} user=postgres application_name={NAME}",
            socket.display()
        );
        let process = Command::new("pg_receivewal")
            .args(["--synchronous", "-d", &server, "-D"])
            .arg(dir)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(process)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Makes the server's commits wait for the standbys of these names; for none, when there is no name.
pub fn wait_for_standbys(world: &World, names: &str) {
    world.sql(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{names}'"
    ));
    world.sql("SELECT pg_reload_conf()");
}
