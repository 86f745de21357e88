//! `witness`: co-signs the checkpoints of logs, somewhere else than where they are made.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use clap::Subcommand;
use openssl::pkey::PKey;
use openssl::ssl::SslAcceptor;
use openssl::ssl::SslFiletype;
use openssl::ssl::SslMethod;
use serde_json::json;

use crate::cli::Global;
use crate::cli::Outcome;
use crate::pki::note::Cosigner;
use crate::pki::note::VerifierKey;
use crate::pki::note::is_key_name;
use crate::telemetry;
use crate::witness::Witness;
use crate::witness::server;

/// A witness of logs.
#[derive(Subcommand)]
pub enum WitnessCommand {
    /// Make the witness's key, Ed25519, in a file; write and print its public half.
    Init(InitArguments),
    /// Run the witness until SIGTERM.
    Serve(ServeArguments),
}

/// `witness init`
#[derive(Args)]
pub struct InitArguments {
    /// Where the private key goes, PEM, readable by its owner alone.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the public key goes, PEM.
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
}

/// `witness serve`
#[derive(Args)]
pub struct ServeArguments {
    /// Its name in cosignatures: a URL without its scheme.
    #[arg(long, value_parser = key_name)]
    name: String,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A log to witness, `ORIGIN=FILE` with its public key, PEM; may be repeated.
    #[arg(long = "log", value_name = "ORIGIN=FILE", required = true)]
    logs: Vec<String>,
    /// Where it keeps the last checkpoint of each log; made when missing.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Address and port; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7380")]
    listen: SocketAddr,
    /// TLS certificate and chain, PEM. Without it: plain HTTP; what is said is signed either way.
    #[arg(long, value_name = "FILE", requires = "private_key")]
    certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    private_key: Option<PathBuf>,
}

fn key_name(text: &str) -> Result<String, String> {
    if is_key_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name has no space and no plus sign".to_owned())
    }
}

/// Runs one.
pub fn run(global: &Global, command: &WitnessCommand) -> Outcome {
    match command {
        WitnessCommand::Init(arguments) => init(global, arguments),
        WitnessCommand::Serve(arguments) => serve(arguments),
    }
}

fn init(global: &Global, arguments: &InitArguments) -> Outcome {
    let key = PKey::generate_ed25519()?;
    let named = || arguments.key.display().to_string();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&arguments.key)
        .with_context(named)?;
    let pem = zeroize::Zeroizing::new(key.private_key_to_pem_pkcs8()?);
    file.write_all(&pem)
        .and_then(|()| file.sync_all())
        .with_context(named)?;
    let public_key = String::from_utf8(key.public_key_to_pem()?).context("the public key")?;
    let path = &arguments.public_key;
    std::fs::write(path, &public_key).with_context(|| path.display().to_string())?;
    if global.json {
        return crate::cli::print_json(&json!({ "public_key": public_key }));
    }
    print!("{public_key}");
    Ok(())
}

fn serve(arguments: &ServeArguments) -> Outcome {
    let path = &arguments.key;
    let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
    let pem = zeroize::Zeroizing::new(pem);
    let cosigner = Cosigner::from_pem(&arguments.name, &pem).map_err(|fault| anyhow!(fault))?;
    let mut logs = Vec::new();
    for log in &arguments.logs {
        let (origin, path) = log
            .split_once('=')
            .with_context(|| format!("--log {log}: ORIGIN=FILE"))?;
        let pem = std::fs::read(path).with_context(|| path.to_owned())?;
        logs.push(VerifierKey::from_pem(origin, &pem).map_err(|fault| anyhow!(fault))?);
    }
    let state = &arguments.state;
    std::fs::create_dir_all(state).with_context(|| state.display().to_string())?;
    let tls = match (&arguments.certificate, &arguments.private_key) {
        (Some(certificate), Some(private_key)) => {
            let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
            tls.set_certificate_chain_file(certificate)
                .with_context(|| certificate.display().to_string())?;
            tls.set_private_key_file(private_key, SslFiletype::PEM)
                .with_context(|| private_key.display().to_string())?;
            Some(tls)
        }
        _ => None,
    };
    let _log = telemetry::start("info", None).map_err(anyhow::Error::from_boxed)?;
    let witness = Witness::new(cosigner, logs, state.clone());
    let vkey = witness.vkey();
    crate::cli::runtime()?.block_on(async {
        let (address, server) = server::serve(witness, arguments.listen, tls)
            .with_context(|| format!("listening on {}", arguments.listen))?;
        tracing::info!(%address, vkey, "witnessing");
        println!("{address}");
        Ok(server.await?)
    })
}
