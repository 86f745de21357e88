//! `dev`: a private development world from one command, and a first certificate out of it.
//!
//! The world is real: PostgreSQL with fsync, a SoftHSM token, TLS with client certificates. Only
//! its trust is for play: everything lies in one directory and may be deleted with it.

pub mod demonstration;
pub mod postgres;
pub mod tls;
pub mod world;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;
use crate::cli::Outcome;
use crate::cli::dev::world::World;

/// Time for the service to become ready, and to stop.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(20);

/// `dev`
#[derive(Args)]
pub struct DevArguments {
    /// Directory of the world.
    #[arg(long, default_value = ".dev")]
    dir: PathBuf,
    /// Port of the API; 0 takes a free one.
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// Port of operations; 0 takes a free one.
    #[arg(long, default_value_t = 9464)]
    ops_port: u16,
    /// Port of CRLs and issuer certificates, which certificates name; 0 takes a free one. Without
    /// it: 8480, or a free one when that is taken.
    #[arg(long)]
    repository_port: Option<u16>,
    /// Stop after the first certificate.
    #[arg(long)]
    once: bool,
    /// Make the world, start nothing; its database is left stopped.
    #[arg(long, conflicts_with = "once")]
    make_only: bool,
}

/// Makes the world where it is missing, runs it, issues a first certificate, stays until Ctrl-C.
pub fn run(arguments: &DevArguments) -> Outcome {
    std::fs::create_dir_all(&arguments.dir).with_context(|| arguments.dir.display().to_string())?;
    let dir = std::fs::canonicalize(&arguments.dir)?;
    let token = world::softhsm_conf(&dir);
    if std::env::var_os("SOFTHSM2_CONF").as_deref() != Some(token.as_os_str()) {
        // SoftHSM reads its place from the environment, which a running process cannot change.
        let error = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env("SOFTHSM2_CONF", token)
            .exec();
        return Err(error.into());
    }
    let lock = std::fs::File::create(dir.join("lock"))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        return Err(Failure::new(
            1,
            anyhow::anyhow!("{}: another `certfactory dev` runs here", dir.display()),
        ));
    };
    let mut world = World::make(
        &dir,
        arguments.port,
        arguments.ops_port,
        arguments.repository_port,
    )?;
    let outcome = if arguments.make_only {
        Ok(())
    } else {
        run_world(&mut world, arguments.once)
    };
    world.postgres.stop()?;
    Ok(outcome?)
}

fn run_world(world: &mut World, once: bool) -> anyhow::Result<()> {
    crate::cli::runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        world.release_addresses();
        let mut service = start_service(world)?;
        let outcome = match wait_ready(world, &mut service).await {
            Ok(()) => demonstration::first_certificate(world),
            Err(error) => Err(error),
        };
        if outcome.is_ok() && !once {
            eprintln!("\nrunning; Ctrl-C stops it");
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    () = tokio::time::sleep(Duration::from_millis(500)) => {}
                }
                if let Some(status) = service.try_wait()? {
                    bail!(
                        "the service ended by itself ({status}); see {}",
                        world.service_log().display()
                    );
                }
            }
        }
        stop_service(&mut service).await?;
        outcome
    })
}

fn start_service(world: &World) -> anyhow::Result<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(world.service_log())?;
    Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg("--config")
        .arg(world.dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the service")
}

async fn wait_ready(world: &World, service: &mut Child) -> anyhow::Result<()> {
    let end = Instant::now() + SERVICE_TIMEOUT;
    let url = format!("http://{}/readyz", world.operations);
    loop {
        if let Some(status) = service.try_wait()? {
            bail!(
                "the service did not start ({status}); see {}",
                world.service_log().display()
            );
        }
        let answer = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
            .output()
            .context("running curl")?;
        if answer.stdout == b"200" {
            return Ok(());
        }
        if Instant::now() > end {
            bail!(
                "the service is not ready; ask {url} or see {}",
                world.service_log().display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn stop_service(service: &mut Child) -> anyhow::Result<()> {
    if service.try_wait()?.is_none() {
        kill(Pid::from_raw(i32::try_from(service.id())?), Signal::SIGTERM)?;
    }
    let end = Instant::now() + SERVICE_TIMEOUT;
    while service.try_wait()?.is_none() {
        if Instant::now() > end {
            service.kill()?;
            service.wait()?;
            bail!("the service did not stop in time");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
