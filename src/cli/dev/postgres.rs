//! A private PostgreSQL cluster: the distribution's own server, unix socket only.

use std::ffi::c_ulong;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::pki::hex;
use anyhow::{Context, bail};

/// The user that runs the server when we are root: PostgreSQL refuses root.
const SERVER_USER: &str = "postgres";
/// `sockaddr_un` holds 108 octets; the server adds `/.s.PGSQL.5432`.
const SOCKET_DIRECTORY_LENGTH_MAX: usize = 90;

/// One cluster.
pub struct Postgres {
    data: PathBuf,
    socket_directory: PathBuf,
    log: PathBuf,
    programs: PathBuf,
}

impl Postgres {
    /// Makes the cluster below `home` if it is not there. Does not start it.
    pub fn make(wanted_home: &Path, log: &Path) -> anyhow::Result<Self> {
        let home = reachable(wanted_home)?;
        let log = if home == wanted_home {
            log.to_path_buf()
        } else {
            linked(log, &home.join("postgres.log"))?
        };
        let data = home.join("data");
        let socket_directory = if home.as_os_str().len() > SOCKET_DIRECTORY_LENGTH_MAX {
            short_directory(&home)?
        } else {
            home.clone()
        };
        let cluster = Self {
            data,
            socket_directory,
            log,
            programs: programs()?,
        };
        if !cluster.data.join("PG_VERSION").exists() {
            cluster.initialise()?;
        }
        Ok(cluster)
    }

    fn initialise(&self) -> anyhow::Result<()> {
        // The socket's directory is private to the server's user, and that is the access control.
        let data = path(&self.data)?;
        self.run(
            "initdb",
            &[
                "-D",
                data,
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                // A new segment is filled with zeros while all commits wait: 16 MB take 40 ms.
                "--wal-segsize=1",
            ],
        )?;
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nunix_socket_permissions = 0700\nshared_buffers = {}MB\nwal_compression = lz4\nmax_wal_size = 4GB\ncheckpoint_timeout = 15min\njit = off\n",
            path(&self.socket_directory)?,
            shared_buffers(),
        );
        let file = self.data.join("postgresql.auto.conf");
        std::fs::write(&file, settings).with_context(|| file.display().to_string())
    }

    /// Starts the server unless it runs, and makes sure that the one that answers is this one.
    pub fn start(&self) -> anyhow::Result<()> {
        if !self.running()? {
            let log = path(&self.log)?;
            let_server_write(&self.log)?;
            self.run(
                "pg_ctl",
                &["start", "-w", "-s", "-D", path(&self.data)?, "-l", log],
            )?;
        }
        let answers = self.psql("postgres", "SHOW data_directory")?;
        if Path::new(answers.trim()) != self.data {
            bail!(
                "the server at {} is not ours: its data is in {}",
                self.socket_directory.display(),
                answers.trim()
            );
        }
        Ok(())
    }

    /// Stops the server if it runs.
    pub fn stop(&self) -> anyhow::Result<()> {
        if self.running()? {
            self.run(
                "pg_ctl",
                &["stop", "-w", "-s", "-m", "fast", "-D", path(&self.data)?],
            )?;
        }
        Ok(())
    }

    fn running(&self) -> anyhow::Result<bool> {
        Ok(self
            .command("pg_ctl", &["status", "-D", path(&self.data)?])
            .output()?
            .status
            .success())
    }

    /// Runs SQL as the cluster's superuser; returns what it prints, unaligned, tuples only.
    pub fn psql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let socket = path(&self.socket_directory)?;
        self.run(
            "psql",
            &[
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                socket,
                "-U",
                "postgres",
                "-d",
                database,
                "-c",
                sql,
            ],
        )
    }

    /// Address of a database, for a role without a password.
    pub fn url(&self, role: &str, database: &str) -> anyhow::Result<String> {
        let host = path(&self.socket_directory)?
            .replace('%', "%25")
            .replace('/', "%2F")
            .replace(' ', "%20");
        Ok(format!("postgres://{role}@{host}/{database}"))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .command(program, arguments)
            .output()
            .with_context(|| format!("running {program}"))?;
        if !status.success() {
            bail!(
                "{program}: {}{}",
                String::from_utf8_lossy(&stderr),
                String::from_utf8_lossy(&stdout)
            );
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = self.programs.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", SERVER_USER, "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // pg_ctl's child keeps what it inherits: it must not hold our caller's pipes open.
        command
            .args(arguments)
            .current_dir("/")
            .stdin(std::process::Stdio::null());
        command
    }
}

/// Lets the server's user write the file.
fn let_server_write(file: &Path) -> anyhow::Result<()> {
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(file)?;
    give(file)
}

/// A place for the cluster that the server's user can reach: `home`, or, where a directory above
/// it is closed to that user, one under `/var/tmp` with a link at `home`.
fn reachable(home: &Path) -> anyhow::Result<PathBuf> {
    if !home.exists() {
        std::fs::create_dir_all(home)?;
        give(home)?;
        if nix::unistd::geteuid().is_root() {
            let can = Command::new("runuser")
                .args(["-u", SERVER_USER, "--", "test", "-w", path(home)?])
                .status()?
                .success();
            if !can {
                let elsewhere = short_directory(home)?;
                std::fs::remove_dir(home)?;
                std::os::unix::fs::symlink(&elsewhere, home)?;
            }
        }
    }
    Ok(std::fs::canonicalize(home)?)
}

/// The file beside the cluster, where the server can write it, with a link at the usual place.
fn linked(link: &Path, file: &Path) -> anyhow::Result<PathBuf> {
    if std::fs::symlink_metadata(link).is_err() {
        std::os::unix::fs::symlink(file, link)?;
    }
    Ok(file.to_path_buf())
}

/// A directory of this world's own under `/var/tmp`. Everybody may write there, so one that is
/// there already is taken only if it is a directory of ours or of the server's user.
fn short_directory(home: &Path) -> anyhow::Result<PathBuf> {
    let mut name = hex(&openssl::sha::sha256(home.as_os_str().as_encoded_bytes()));
    name.truncate(12);
    let directory = Path::new("/var/tmp").join(format!("certfactory-{name}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::symlink_metadata(&directory)?;
            let us = nix::unistd::geteuid();
            let server = nix::unistd::User::from_name(SERVER_USER)?.map(|user| user.uid.as_raw());
            let ours = found.uid() == us.as_raw() || us.is_root() && Some(found.uid()) == server;
            if !found.is_dir() || !ours {
                bail!("{}: belongs to somebody else", directory.display());
            }
        }
        made => made.with_context(|| directory.display().to_string())?,
    }
    give(&directory)?;
    Ok(directory)
}

/// Makes the server's user the owner, when that is not us; nobody else may enter.
fn give(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name(SERVER_USER)?
            .with_context(|| format!("there is no user `{SERVER_USER}`; install postgresql"))?;
        nix::unistd::chown(file, Some(user.uid), Some(user.gid))?;
    }
    let mode = if file.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Directory of the newest installed server, 15 or later.
fn programs() -> anyhow::Result<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = installed
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| *version >= 15)
        .max();
    match newest {
        Some(version) => Ok(PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))),
        None => {
            bail!("no PostgreSQL server 15 or later in /usr/lib/postgresql; install postgresql")
        }
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{}: not UTF-8", path.display()))
}

/// In MB: a quarter of the machine's memory (PostgreSQL, 20.4.1), and at most 4 GB, in which the indexes of ten million
/// certificates over what has no order find room. It is used as it is needed.
fn shared_buffers() -> c_ulong {
    let machine = rustix::system::sysinfo();
    let memory = machine.totalram.saturating_mul(machine.mem_unit.into());
    (memory / (4 << 20)).clamp(128, 4_096)
}
