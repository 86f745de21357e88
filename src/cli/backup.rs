//! `backup` and `restore`: the database in a directory, with the checkpoint that says what it must
//! hold, and back.
//!
//! The dump is PostgreSQL's own (`pg_dump`, `pg_restore`). What was released after it is not in it:
//! that is what the journal and `reconcile` are for.

use std::fs::DirBuilder;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::anyhow;
use chrono::DateTime;
use chrono::Utc;
use clap::Args;
use secrecy::ExposeSecret;
use secrecy::SecretString;
use serde::Deserialize;
use serde::Serialize;

use crate::app::SystemClock;
use crate::app::owner_config;
use crate::ca::Clock;
use crate::ca::log::LogBook;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::audit;
use crate::config::DatabaseSection;
use crate::config::RawConfig;
use crate::config::secret;
use crate::db;
use crate::db::backup::Completed;
use crate::db::config::DbConfig;
use crate::db::log::PgLog;
use crate::db::migrate::schema_version;
use crate::pki::hex;

const DUMP: &str = "database.dump";
const CHECKPOINT: &str = "checkpoint";
const MANIFEST: &str = "manifest.json";

/// `backup`
#[derive(Args)]
pub struct BackupArguments {
    /// Directory of the backup; must not exist yet.
    directory: PathBuf,
}

/// `restore`
#[derive(Args)]
pub struct RestoreArguments {
    /// A directory that `backup` made.
    directory: PathBuf,
    /// Afterwards hold every entry against the backup's checkpoint and every row against its entry.
    #[arg(long)]
    verify: bool,
}

/// What a backup is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    made_at: DateTime<Utc>,
    /// Of the program that made it.
    version: String,
    /// The database's, `YYYYMMDDhhmmss`.
    schema: i64,
    /// Entries of the log that it holds at least.
    entries: u64,
    dump_octets: u64,
    dump_sha256: String,
    /// Null when no log was signed.
    checkpoint_sha256: Option<String>,
}

/// Makes a backup, beside a service that runs.
pub fn backup(global: &Global, arguments: &BackupArguments) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    let owner = Owner::of(&raw.database)?;
    // Without a slash at its end, which names what is in it.
    let directory: &Path = &arguments.directory.components().collect::<PathBuf>();
    if directory.exists() {
        let taken = anyhow!("{}: there is something already", directory.display());
        return Err(Failure::new(Failure::REFUSED, taken));
    }
    let unfinished = unfinished(directory);
    let named = || unfinished.display().to_string();
    // Whoever reads a dump reads the whole database.
    let mut private = DirBuilder::new();
    private.mode(0o700);
    private.create(&unfinished).with_context(|| {
        let path = named();
        format!("{path} (where it is there already, a backup did not end: remove it)")
    })?;
    let made = owner.make(&unfinished);
    let (manifest, sha256) = made.inspect_err(|_| {
        // Half a backup is none.
        std::fs::remove_dir_all(&unfinished).ok();
    })?;
    std::fs::rename(&unfinished, directory).with_context(named)?;
    let parent = directory.parent().filter(|it| !it.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))?;
    let runtime = crate::cli::runtime()?;
    let completed = Completed {
        entries: manifest.entries,
        octets: manifest.dump_octets,
        sha256,
    };
    runtime
        .block_on(db::backup::completed(&owner.database, &completed))
        .context("the backup is complete, but the database could not be told")
        .map_err(|fault| Failure::new(Failure::DEPENDENCY, fault))?;
    print(global, directory, &manifest)
}

/// Puts a backup into an empty database, whole or not at all.
pub fn restore(global: &Global, arguments: &RestoreArguments) -> Outcome {
    let raw = RawConfig::read(&global.config)?;
    let owner = Owner::of(&raw.database)?;
    let directory = &arguments.directory;
    let manifest = intact(directory).map_err(|fault| Failure::new(Failure::REFUSED, fault))?;
    let runtime = crate::cli::runtime()?;
    let empty = runtime
        .block_on(db::backup::make_room(&owner.database))
        .map_err(|fault| Failure::new(Failure::DEPENDENCY, fault))?;
    if !empty {
        let full = anyhow!("the database of database.owner_url is not empty");
        return Err(Failure::new(Failure::REFUSED, full));
    }
    let mut restore = owner.program("pg_restore");
    restore
        .args(["--exit-on-error", "--single-transaction", "--no-owner"])
        .arg(directory.join(DUMP));
    run(restore)?;
    runtime
        .block_on(db::migrate::migrate(&owner.database))
        .context("migrating what was restored")?;
    // One document of each kind of output.
    if !(arguments.verify && global.json) {
        print(global, directory, &manifest)?;
    }
    if arguments.verify {
        if manifest.checkpoint_sha256.is_none() {
            return Err(anyhow!("the backup holds no checkpoint to verify it against").into());
        }
        let checkpoint = directory.join(CHECKPOINT);
        audit::verify_database(global, &raw, &owner.database, &checkpoint)?;
    }
    eprintln!("what was released after it is in the journal: `certfactory reconcile`, then start");
    Ok(())
}

/// The schema's owner: how to reach the database as whom.
struct Owner {
    database: DbConfig,
    url: String,
    password: Option<SecretString>,
}

impl Owner {
    fn of(database: &DatabaseSection) -> anyhow::Result<Self> {
        let url = database.owner_url.as_ref().context(
            "database.owner_url is not configured: the service's own role does not see everything",
        )?;
        Ok(Self {
            database: owner_config(database, url)?,
            url: as_libpq_reads(url),
            password: database
                .owner_password_file
                .as_deref()
                .map(secret)
                .transpose()?,
        })
    }

    /// One of PostgreSQL's programs. The password is in its environment, never among its arguments.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.arg("--dbname").arg(&self.url);
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password.expose_secret());
        }
        command
    }

    /// Dump, checkpoint and manifest, durable; the manifest, and the dump's SHA-256.
    fn make(&self, directory: &Path) -> anyhow::Result<(Manifest, [u8; 32])> {
        // Before the dump: what it proves is in the dump then.
        let (schema, proved) = crate::cli::runtime()?.block_on(async {
            let log = PgLog::for_readers(&self.database, None)?;
            let schema = db::backup::schema(&self.database).await?;
            Ok::<_, anyhow::Error>((schema, log.checkpoint().await?))
        })?;
        let checkpoint = match &proved {
            Some(proved) => {
                let path = directory.join(CHECKPOINT);
                write(&path, proved.cosigned().as_bytes())?;
                Some(hex(&sha256(&path)?.0))
            }
            None => None,
        };
        let path = directory.join(DUMP);
        let mut dump = self.program("pg_dump");
        dump.args(["--format=custom", "--compress=1", "--file"])
            .arg(&path);
        run(dump)?;
        sync(&path)?;
        let (digest, octets) = sha256(&path)?;
        let manifest = Manifest {
            made_at: SystemClock.now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema,
            entries: proved.map_or(0, |proved| proved.size),
            dump_octets: octets,
            dump_sha256: hex(&digest),
            checkpoint_sha256: checkpoint,
        };
        let text = serde_json::to_vec_pretty(&manifest)?;
        write(&directory.join(MANIFEST), &text)?;
        sync(directory)?;
        Ok((manifest, digest))
    }
}

/// A setting of the session is `options[role]=owner` in our addresses and `options=-c role=owner` in those
/// that PostgreSQL's own programs read.
fn as_libpq_reads(url: &str) -> String {
    let Some((place, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let mut options = Vec::new();
    let mut others = Vec::new();
    for pair in query.split('&') {
        let setting = pair.strip_prefix("options[");
        match setting.and_then(|setting| setting.split_once("]=")) {
            Some((name, value)) => options.push(format!("-c%20{name}%3D{value}")),
            None => others.push(pair.to_owned()),
        }
    }
    if !options.is_empty() {
        others.push(format!("options={}", options.join("%20")));
    }
    format!("{place}?{}", others.join("&"))
}

/// The manifest of a backup whose files are what it says.
fn intact(directory: &Path) -> anyhow::Result<Manifest> {
    let path = directory.join(MANIFEST);
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let manifest: Manifest =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let files = [
        (DUMP, Some(&manifest.dump_sha256)),
        (CHECKPOINT, manifest.checkpoint_sha256.as_ref()),
    ];
    for (name, expected) in files {
        let Some(expected) = expected else { continue };
        let (digest, _) = sha256(&directory.join(name))?;
        if hex(&digest) != *expected {
            return Err(anyhow!("{name}: not the file that was backed up"));
        }
    }
    if manifest.schema > schema_version() {
        return Err(anyhow!(
            "the backup has schema {}, this program knows {}: use the program of version {} or later",
            manifest.schema,
            schema_version(),
            manifest.version
        ));
    }
    Ok(manifest)
}

fn print(global: &Global, directory: &Path, manifest: &Manifest) -> Outcome {
    if global.json {
        return crate::cli::print_json(manifest);
    }
    println!("backup     {}", directory.display());
    println!("made at    {}", manifest.made_at.to_rfc3339());
    println!("entries    {}, or more", manifest.entries);
    println!("dump       {} octets", manifest.dump_octets);
    println!("SHA-256    {}", manifest.dump_sha256);
    Ok(())
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("{name}, of PostgreSQL's client programs"))?;
    if status.success() {
        return Ok(());
    }
    Err(anyhow!("{name}: {status}"))
}

/// SHA-256 and length.
fn sha256(path: &Path) -> anyhow::Result<([u8; 32], u64)> {
    let named = || path.display().to_string();
    let mut file = std::fs::File::open(path).with_context(named)?;
    let mut sha256 = openssl::sha::Sha256::new();
    let mut octets = 0;
    let mut piece = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut piece).with_context(named)?;
        if length == 0 {
            return Ok((sha256.finish(), octets));
        }
        sha256.update(&piece[..length]);
        octets += u64::try_from(length)?;
    }
}

fn unfinished(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(".unfinished");
    PathBuf::from(name)
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, content).with_context(|| path.display().to_string())?;
    sync(path)
}

fn sync(path: &Path) -> anyhow::Result<()> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_session_reach_postgresqls_own_programs() {
        let plain = "postgres://owner@%2Frun%2Fpostgresql/certfactory";
        assert_eq!(as_libpq_reads(plain), plain);
        assert_eq!(
            as_libpq_reads(
                "postgres://postgres@db/certfactory?sslmode=verify-full&options[role]=owner"
            ),
            "postgres://postgres@db/certfactory?sslmode=verify-full&options=-c%20role%3Downer"
        );
    }
}
