//! `ceremony show|run`: keys and CA certificates by a written plan.
//!
//! `show` opens no token and writes nothing: it says every object and every call beforehand. `run` says the
//! same, does it, and writes a transcript with the digest of all that was made, signed by two people.

mod plan;
mod transcript;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use chrono::DateTime;
use chrono::Months;
use chrono::NaiveDate;
use chrono::Utc;
use clap::Args;
use clap::Subcommand;
use serde_json::json;

use crate::app::SystemClock;
use crate::ca::Clock;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::ceremony::plan::Authority;
use crate::cli::ceremony::plan::Certificate;
use crate::cli::ceremony::plan::Plan;
use crate::cli::ceremony::plan::Token;
use crate::cli::ceremony::transcript::Transcript;
use crate::cli::issuer::generation_subject;
use crate::config::secret;
use crate::hsm::HUNG_AFTER_MS;
use crate::hsm::TokenConfig;
use crate::hsm::ceremony::KeyCeremony;
use crate::hsm::ceremony::init_token;
use crate::pki::hex;
use crate::pki::issuer::Issuer;
use crate::pki::key_policy::KeyAlgorithm;
use crate::pki::key_policy::SubjectPublicKeyInfo;
use crate::pki::pem;
use crate::pki::serial::InstanceByte;
use crate::pki::serial::SerialNumber;
use crate::pki::tbs::TbsCaCertificate;
use crate::pki::tbs::ToBeSigned;
use crate::pki::validity::Validity;

/// Ceremonies.
#[derive(Subcommand)]
pub enum CeremonyCommand {
    /// Say every object and every call of a plan. Opens no token, changes nothing.
    Show {
        /// The plan, TOML.
        plan: PathBuf,
    },
    /// Carry out a plan, and write its transcript.
    Run(RunArguments),
}

/// `ceremony run`
#[derive(Args)]
pub struct RunArguments {
    /// The plan, TOML.
    plan: PathBuf,
    /// The transcript, which must not exist yet; signatures go beside it, `FILE.NAME.sig`.
    #[arg(long, value_name = "FILE")]
    transcript: PathBuf,
    /// Somebody who is there, `NAME=FILE` with a private key, PEM (EC or RSA). Two or more.
    #[arg(long = "signer", value_name = "NAME=FILE", required = true)]
    signers: Vec<String>,
    /// Do not ask before the first object is made.
    #[arg(long)]
    yes: bool,
}

/// Runs one of them.
pub fn run(global: &Global, command: &CeremonyCommand) -> Outcome {
    match command {
        CeremonyCommand::Show { plan } => {
            let (plan, sha256) = read(plan)?;
            if global.json {
                let body =
                    json!({ "name": plan.name, "plan_sha256": sha256, "steps": plan.steps() });
                return crate::cli::print_json(&body);
            }
            println!("{}\nSHA-256 of the plan: {sha256}", plan.name);
            for (number, step) in (1..).zip(plan.steps()) {
                println!("{number:>3}. {step}");
            }
            Ok(())
        }
        CeremonyCommand::Run(arguments) => carry_out(arguments),
    }
}

fn read(path: &Path) -> Result<(Plan, String), Failure> {
    Plan::read(path).map_err(|fault| Failure::new(Failure::REFUSED, fault))
}

fn carry_out(arguments: &RunArguments) -> Outcome {
    let (plan, sha256) = read(&arguments.plan)?;
    crate::cli::enter(&plan.environment)?;
    let refused = |fault| Failure::new(Failure::REFUSED, fault);
    let signers = transcript::signers(&arguments.signers).map_err(refused)?;
    for file in plan.files().chain([&arguments.transcript]) {
        if file.exists() {
            return Err(refused(anyhow!(
                "{}: there is something already",
                file.display()
            )));
        }
    }
    let began = SystemClock.now();
    let mut ceremony = Ceremony {
        began,
        pins: pins(&plan)?,
        open: BTreeMap::new(),
        made: BTreeMap::new(),
        certificates: BTreeMap::new(),
        transcript: Transcript::begin(&plan.name, &sha256, &signers, began),
        plan: &plan,
    };
    for (number, step) in (1..).zip(plan.steps()) {
        eprintln!("{number:>3}. {step}");
    }
    if !arguments.yes {
        agreed(&plan.name).map_err(refused)?;
    }
    transcript::reserve(&arguments.transcript, &signers).map_err(refused)?;
    let outcome = ceremony.all();
    // Also of one that stopped half-way: what it made is in the tokens.
    let failed = outcome.as_ref().err().map(|fault| format!("{fault:#}"));
    let transcript = ceremony
        .transcript
        .end(SystemClock.now(), failed.as_deref());
    let written = transcript.write(&arguments.transcript, &signers);
    if written.is_ok() {
        eprintln!("transcript in {}", arguments.transcript.display());
    }
    // Why the ceremony stopped comes first.
    outcome.and(written).map_err(Failure::from)
}

/// Asks for the ceremony's name.
fn agreed(name: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(anyhow!(
            "there is no terminal to ask at; --yes goes on without"
        ));
    }
    eprint!("To begin, type the ceremony's name, `{name}`: ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim_end() == name {
        Ok(())
    } else {
        Err(anyhow!("not begun"))
    }
}

struct Pins {
    user: secrecy::SecretString,
    security_officer: Option<secrecy::SecretString>,
}

fn pins(plan: &Plan) -> anyhow::Result<BTreeMap<String, Pins>> {
    let both = |(name, token): (&String, &Token)| {
        let pins = Pins {
            user: secret(&token.pin_file)?,
            security_officer: token.so_pin_file.as_deref().map(secret).transpose()?,
        };
        Ok((name.clone(), pins))
    };
    plan.token.iter().map(both).collect()
}

/// A key that was made, and where.
struct Made {
    token: String,
    label: String,
    public_key: SubjectPublicKeyInfo,
}

/// A certificate that was made.
struct Certified {
    issuer: Issuer,
    key: String,
    pem: String,
}

struct Ceremony<'a> {
    plan: &'a Plan,
    pins: BTreeMap<String, Pins>,
    open: BTreeMap<String, KeyCeremony>,
    made: BTreeMap<String, Made>,
    certificates: BTreeMap<String, Certified>,
    transcript: Transcript,
    /// One for all certificates: none of them outlives what signs it by a second.
    began: DateTime<Utc>,
}

impl Ceremony<'_> {
    fn all(&mut self) -> anyhow::Result<()> {
        let plan = self.plan;
        // What is there already, before anything is made.
        for authority in &plan.authority {
            self.authority(authority)
                .with_context(|| format!("authority `{}`", authority.name))?;
        }
        let (new, old): (Vec<_>, Vec<_>) = plan
            .token
            .iter()
            .partition(|(_, token)| token.so_pin_file.is_some());
        for (name, token) in old.into_iter().chain(new) {
            self.token(name, token)
                .with_context(|| format!("token `{name}`"))?;
        }
        for key in &plan.key {
            self.key(key)
                .with_context(|| format!("key `{}`", key.name))?;
        }
        for certificate in &plan.certificate {
            self.certificate(certificate)
                .with_context(|| format!("certificate `{}`", certificate.name))?;
        }
        for it in &plan.public_key {
            let made = self.made(&it.key)?;
            let text = pem::public_key(made.public_key.as_der());
            write(&it.file, &text)?;
            self.transcript.step(
                SystemClock.now(),
                json!({ "public_key": it.key, "sha256": sha256(&text) }),
            );
        }
        Ok(())
    }

    fn token(&mut self, name: &str, token: &Token) -> anyhow::Result<()> {
        let pins = self.pins.get(name).context("its PIN was not read")?;
        if let Some(security_officer) = &pins.security_officer {
            init_token(&token.module, &token.label, security_officer, &pins.user)?;
        }
        let opened = KeyCeremony::open(&TokenConfig {
            name: name.to_owned(),
            module: token.module.clone(),
            token_label: token.label.clone(),
            token_serial: None,
            pin: pins.user.clone(),
            sessions: 1,
            queue_depth_max: 1,
            hung_after_ms: HUNG_AFTER_MS,
            recover_module: false,
            keys: Vec::new(),
        })?;
        self.open.insert(name.to_owned(), opened);
        self.transcript.step(
            SystemClock.now(),
            json!({
                "token": name, "label": token.label, "module": token.module,
                "initialised": pins.security_officer.is_some(),
            }),
        );
        Ok(())
    }

    /// That its token holds the key of its certificate shows when what it signs verifies.
    fn authority(&mut self, known: &Authority) -> anyhow::Result<()> {
        let path = &known.certificate;
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let issuer = Issuer::parse(&known.name, &text, None)?;
        self.transcript.step(
            SystemClock.now(),
            json!({
                "authority": known.name, "subject": issuer.subject, "token": known.token, "label": known.label,
                "spki_sha256": hex(&issuer.public_key.sha256()),
            }),
        );
        // A key's name has no slash.
        let key = format!("authority/{}", known.name);
        let made = Made {
            token: known.token.clone(),
            label: known.label.clone(),
            public_key: issuer.public_key.clone(),
        };
        self.made.insert(key.clone(), made);
        let certified = Certified {
            issuer,
            key,
            pem: text,
        };
        self.certificates.insert(known.name.clone(), certified);
        Ok(())
    }

    fn key(&mut self, key: &plan::Key) -> anyhow::Result<()> {
        let algorithm = KeyAlgorithm::from_name(&key.algorithm).context("no key algorithm")?;
        let spki =
            self.opened(&key.token)?
                .generate(&key.label, key.label.as_bytes(), algorithm)?;
        let public_key = SubjectPublicKeyInfo::from_der(&spki)?;
        self.transcript.step(
            SystemClock.now(),
            json!({
                "key": key.name, "token": key.token, "label": key.label, "algorithm": key.algorithm,
                "sensitive": true, "extractable": false, "spki_sha256": hex(&public_key.sha256()),
            }),
        );
        let made = Made {
            token: key.token.clone(),
            label: key.label.clone(),
            public_key,
        };
        self.made.insert(key.name.clone(), made);
        Ok(())
    }

    fn certificate(&mut self, wanted: &Certificate) -> anyhow::Result<()> {
        let above = wanted.signed_by.as_ref();
        let above = above.and_then(|name| self.certificates.get(name));
        let key = self.made(&wanted.key)?;
        let given: Vec<(&str, &str)> = wanted
            .subject
            .iter()
            .map(|(kind, value)| (kind.as_str(), value.as_str()))
            .collect();
        let subject = generation_subject(&given, &key.public_key)?;
        let mut random = [0; 15];
        openssl::rand::rand_bytes(&mut random)?;
        let serial = SerialNumber::new(InstanceByte::new(1).context("an instance byte")?, random);
        let validity = validity(self.began, wanted.years)?;
        let tbs = TbsCaCertificate::below(
            above.map(|it| &it.issuer),
            &subject,
            &key.public_key,
            serial,
            validity,
            wanted.path_length,
        )?;
        let signer = self.made(above.map_or(&wanted.key, |it| &it.key))?;
        let signature = self
            .opened(&signer.token)?
            .sign(&signer.label, &tbs as &dyn ToBeSigned)?;
        let der = tbs.assemble(&signature)?;
        let above_it = above.map(|it| it.pem.as_str()).unwrap_or_default();
        let text = pem::certificate(&der) + above_it;
        let issuer = Issuer::parse(&wanted.name, &text, None)?;
        // What was signed is told, also where it cannot be written.
        self.transcript.step(
            SystemClock.now(),
            json!({
                "certificate": wanted.name, "subject": issuer.subject, "signed_by": wanted.signed_by,
                "serial_number": serial.to_hex(), "path_length": wanted.path_length,
                "not_before": validity.not_before.to_rfc3339(), "not_after": validity.not_after.to_rfc3339(),
                "fingerprint_sha256": hex(&openssl::sha::sha256(&der)),
            }),
        );
        write(&wanted.file, &text)?;
        let certified = Certified {
            issuer,
            key: wanted.key.clone(),
            pem: text,
        };
        self.certificates.insert(wanted.name.clone(), certified);
        Ok(())
    }

    fn opened(&self, token: &str) -> anyhow::Result<&KeyCeremony> {
        let found = self.open.get(token);
        found.with_context(|| format!("token `{token}` is not open"))
    }

    fn made(&self, key: &str) -> anyhow::Result<&Made> {
        let found = self.made.get(key);
        found.with_context(|| format!("key `{key}` was not made"))
    }
}

/// From this second on; without a number of years to the end of time (IEEE 802.1AR).
fn validity(now: DateTime<Utc>, years: Option<u32>) -> anyhow::Result<Validity> {
    let not_after = match years {
        Some(years) => now.checked_add_months(Months::new(12 * years)),
        None => NaiveDate::from_ymd_opt(9999, 12, 31)
            .and_then(|day| day.and_hms_opt(23, 59, 59))
            .map(|end| end.and_utc()),
    };
    Ok(Validity {
        not_before: now,
        not_after: not_after.context("a date")?,
    })
}

/// Never over a file that is there.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let written = || -> std::io::Result<()> {
        let mut file = std::fs::File::create_new(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().with_context(|| path.display().to_string())
}

fn sha256(text: &str) -> String {
    hex(&openssl::sha::sha256(text.as_bytes()))
}
