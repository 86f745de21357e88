//! `jitp rehearse`: arguments and files of the local endpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use openssl::pkey::PKey;
use openssl::pkey::Private;
use openssl::x509::X509;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::app::SystemClock;
use crate::ca::Clock;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::dev::tls::Authority;
use crate::cli::jitp::ProfileText;
use crate::cli::jitp::configured_issuer;
use crate::cli::jitp::parse_template;
use crate::cli::jitp::read_text;
use crate::config::RawConfig;
use crate::pki::iot_policy::IotPolicy;
use crate::pki::issuer::Issuer;
use crate::pki::jitp::JitpTemplate;
use crate::rehearsal::Rehearsal;
use crate::rehearsal::Settings;
use crate::rehearsal::registry::Registry;
use crate::rehearsal::registry::sentences;
use crate::rehearsal::transcript::Transcript;

/// `jitp rehearse`
#[derive(Args)]
#[command(after_help = "\
A device connects twice: the first CONNECT is dropped while the template is applied, the second is
accepted if the policy allows. Each step is a line on standard output; with --json, JSON lines on
standard output and the readable ones on standard error. SIGTERM or Ctrl-C ends it with exit 0.
The manual's page `rehearsal` says what this cannot show.")]
pub struct RehearseArguments {
    /// Address and port to listen on; port 0 takes any.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8883")]
    listen: SocketAddr,
    /// A configured issuer that AWS IoT will know as a CA; again for more.
    #[arg(long = "issuer", value_name = "NAME")]
    issuers: Vec<String>,
    /// A CA certificate that AWS IoT will know, PEM; again for more.
    #[arg(long = "ca", value_name = "FILE")]
    cas: Vec<PathBuf>,
    /// The provisioning template: its body, or a registration config.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "profile",
        conflicts_with = "profile"
    )]
    template: Option<PathBuf>,
    /// A profile's TOML file, or the name of a profile of the configuration: its template and,
    /// unless others are named, its issuer.
    #[arg(long, value_name = "FILE|NAME")]
    profile: Option<PathBuf>,
    /// A policy that the template names, and its document; again for more.
    #[arg(long = "policy", value_name = "NAME=FILE")]
    policies: Vec<String>,
    /// Host name that devices connect to and send as SNI.
    #[arg(long, value_name = "HOSTNAME", default_value = "localhost")]
    endpoint: String,
    /// The endpoint's certificate, then its chain, PEM. Without it, one is made for this run.
    #[arg(long, value_name = "FILE", requires = "server_key")]
    server_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "server_certificate")]
    server_key: Option<PathBuf>,
    /// Where to write the CA of the endpoint's own certificate, for the devices to trust.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "server_certificate",
        conflicts_with = "server_certificate"
    )]
    write_ca: Option<PathBuf>,
    /// Remember certificates and things here, so that they are known after a restart.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

/// Runs until SIGTERM or Ctrl-C.
pub fn run(global: &Global, arguments: &RehearseArguments) -> Outcome {
    let (template, issuers) = template_and_issuers(global, arguments)?;
    let policies = policies(&arguments.policies)?;
    let named: Vec<&Issuer> = issuers.iter().collect();
    let mut registry = Registry::new(&named, template, policies)
        .map_err(|fault| Failure::new(Failure::REFUSED, fault))?;
    if let Some(file) = &arguments.state {
        let known = registry
            .keep_in(file)
            .with_context(|| file.display().to_string())?;
        eprintln!("{}: {known} certificates are known", file.display());
    }
    let (certificate, chain, key) = server(arguments)?;
    let settings = Settings {
        endpoint: arguments.endpoint.clone(),
        certificate,
        chain,
        key,
        registry,
        transcript: Transcript::start(global.json)?,
        now: Arc::new(|| SystemClock.now()),
    };
    let listen = arguments.listen;
    crate::cli::runtime()?.block_on(async move {
        // Before anything is said: whoever reads "listening" may stop it.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let rehearsal = Rehearsal::bind(listen, settings)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        rehearsal.run(stop).await
    })?;
    Ok(())
}

fn template_and_issuers(
    global: &Global,
    arguments: &RehearseArguments,
) -> Result<(JitpTemplate, Vec<Issuer>), Failure> {
    let mut names = arguments.issuers.clone();
    let template = match (&arguments.profile, &arguments.template) {
        (Some(name), _) => {
            let profile = ProfileText::read(global, name)?.parse()?;
            if names.is_empty() && arguments.cas.is_empty() {
                names.extend(profile.issuers().map(str::to_owned));
            }
            profile.jitp.ok_or_else(|| {
                Failure::new(
                    Failure::REFUSED,
                    anyhow!(
                        "profile `{}` names no provisioning template",
                        name.display()
                    ),
                )
            })?
        }
        (None, Some(file)) => parse_template(file)?,
        (None, None) => return Err(Failure::new(2, anyhow!("name a --template or a --profile"))),
    };
    let mut issuers = Vec::new();
    for name in &names {
        issuers.push(configured_issuer(&RawConfig::read(&global.config)?, name)?);
    }
    for file in &arguments.cas {
        let issuer = Issuer::parse(&file.display().to_string(), &read_text(file)?, None);
        issuers.push(issuer.map_err(|fault| Failure::new(Failure::REFUSED, fault))?);
    }
    if issuers.is_empty() {
        let error = anyhow!("name an --issuer or a --ca: whose certificates are taken?");
        return Err(Failure::new(2, error));
    }
    Ok((template, issuers))
}

fn policies(pairs: &[String]) -> Result<BTreeMap<String, IotPolicy>, Failure> {
    let mut policies = BTreeMap::new();
    for pair in pairs {
        let Some((name, file)) = pair.split_once('=') else {
            return Err(Failure::new(2, anyhow!("`{pair}` is not NAME=FILE")));
        };
        let policy = IotPolicy::parse(&read_text(Path::new(file))?).map_err(|fault| {
            let faults = sentences(&fault.0);
            Failure::new(Failure::REFUSED, anyhow!("policy {name}: {file}: {faults}"))
        })?;
        if policies.insert(name.to_owned(), policy).is_some() {
            return Err(Failure::new(2, anyhow!("policy `{name}` is there twice")));
        }
    }
    Ok(policies)
}

fn server(arguments: &RehearseArguments) -> Result<(X509, Vec<X509>, PKey<Private>), Failure> {
    if let (Some(certificate), Some(key)) = (&arguments.server_certificate, &arguments.server_key) {
        let certificates = X509::stack_from_pem(read_text(certificate)?.as_bytes())
            .with_context(|| certificate.display().to_string())?;
        let mut certificates = certificates.into_iter();
        let leaf = certificates
            .next()
            .with_context(|| format!("{}: no certificate", certificate.display()))?;
        let pem = zeroize::Zeroizing::new(read_text(key)?);
        let key = PKey::private_key_from_pem(pem.as_bytes())
            .with_context(|| key.display().to_string())?;
        return Ok((leaf, certificates.collect(), key));
    }
    let authority = Authority::make("certfactory rehearsal CA")?;
    let (certificate, key) = authority.server_for(&arguments.endpoint)?;
    if let Some(file) = &arguments.write_ca {
        std::fs::write(file, authority.pem()?).with_context(|| file.display().to_string())?;
    }
    Ok((certificate, Vec::new(), key))
}
