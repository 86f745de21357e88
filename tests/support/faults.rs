//! Means of breaking neighbours: stopped processes, a module that misbehaves, an HSM behind a socket.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fault_module::fault_module;
use super::world::OwnWorld;

const P11_KIT_CLIENT: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";

/// Sends a signal to a process, which may have gone.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).ok();
}

/// A process and all below it.
pub fn family(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // "pid (name) state ppid …", and a name may hold anything
        if let Some(parent) = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok())
        {
            parents.push((child, parent));
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(child, _)| *child),
        );
        next += 1;
    }
    found
}

/// Processes that stand still until this is dropped.
pub struct Frozen(Vec<u32>);

impl Frozen {
    pub fn new(processes: Vec<u32>) -> Self {
        for pid in &processes {
            signal(*pid, Signal::SIGSTOP);
        }
        Self(processes)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            signal(*pid, Signal::SIGCONT);
        }
    }
}

/// The world's token directory, gone or back.
pub fn token_away(own: &OwnWorld, away: bool) {
    let (here, there) = (
        own.world.dir.join("softhsm/tokens"),
        own.world.dir.join("softhsm/tokens.away"),
    );
    if away {
        fs::rename(here, there).unwrap();
    } else {
        // SoftHSM may have made itself a new, empty one
        fs::remove_dir_all(&here).ok();
        fs::rename(there, here).unwrap();
    }
}

/// Puts the fault module between the service and the token.
pub fn use_fault_module(own: &mut OwnWorld) {
    let module = fault_module();
    let mut softhsm = String::new();
    own.configure(|config| {
        let hsm = config["hsm"][0].as_table_mut().unwrap();
        softhsm = hsm
            .insert("module".into(), module.to_str().unwrap().into())
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned();
    });
    let control = own.world.dir.join("control");
    fs::write(&control, "").unwrap();
    own.set("FAULT_MODULE_TARGET", &softhsm);
    own.set("FAULT_MODULE_CONTROL", control.to_str().unwrap());
    own.set(
        "FAULT_MODULE_COUNTS",
        own.world.dir.join("counts").to_str().unwrap(),
    );
}

/// Tells the fault module what to do.
pub fn control(own: &OwnWorld, words: &str) {
    let new = own.world.dir.join("control.new");
    fs::write(&new, words).unwrap();
    fs::rename(new, own.world.dir.join("control")).unwrap();
}

/// Calls of `C_Login` or `C_Sign` the fault module saw.
pub fn calls(own: &OwnWorld, what: &str) -> u64 {
    let text = fs::read_to_string(own.world.dir.join("counts")).unwrap_or_default();
    let count = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix(what)?.strip_prefix('='));
    count.map_or(0, |count| count.parse().unwrap())
}

/// The token as a network HSM: `p11-kit server` in front of SoftHSM.
pub struct NetworkHsm {
    server: Option<Child>,
    socket: PathBuf,
    module: String,
    softhsm_conf: PathBuf,
}

impl NetworkHsm {
    /// Starts the server and makes the world's service use it.
    pub fn in_front_of(own: &mut OwnWorld) -> Self {
        let socket = own.world.dir.join("p11-kit");
        let mut module = String::new();
        own.configure(|config| {
            let hsm = config["hsm"][0].as_table_mut().unwrap();
            // As hsm-config/softhsm2.md has it: the client sends all calls over one socket.
            hsm.insert("sessions".into(), 1.into());
            module = hsm
                .insert("module".into(), P11_KIT_CLIENT.into())
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned();
        });
        own.set(
            "P11_KIT_SERVER_ADDRESS",
            &format!("unix:path={}", socket.display()),
        );
        let mut hsm = Self {
            server: None,
            socket,
            module,
            softhsm_conf: own.world.dir.join("softhsm/softhsm2.conf"),
        };
        hsm.start();
        hsm
    }

    pub fn start(&mut self) {
        fs::remove_file(&self.socket).ok();
        let server = Command::new("p11-kit")
            .args(["server", "--foreground", "--name"])
            .arg(&self.socket)
            .args(["--provider", &self.module, "pkcs11:"])
            .env("SOFTHSM2_CONF", &self.softhsm_conf)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.server = Some(server.unwrap());
    }

    /// The server and its child for each connection, killed.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            for pid in family(server.id()) {
                signal(pid, Signal::SIGKILL);
            }
            server.wait().unwrap();
        }
    }

    /// Stands still until the answer is dropped.
    pub fn freeze(&self) -> Frozen {
        Frozen::new(family(self.server.as_ref().unwrap().id()))
    }
}

impl Drop for NetworkHsm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Debian's libfaketime, to be preloaded: it shifts the clock of one program.
pub fn faketime() -> String {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"];
    let place = |arch| format!("/usr/lib/{arch}/faketime/libfaketimeMT.so.1");
    places
        .into_iter()
        .map(place)
        .find(|path| std::path::Path::new(path).exists())
        .expect("libfaketime is installed")
}
