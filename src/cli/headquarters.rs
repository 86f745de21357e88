//! `headquarters migrate|ticket-key|plant|person`: head office's database, its plants and its people, as a
//! superuser of its cluster.

use std::path::PathBuf;

use anyhow::Context;
use anyhow::anyhow;
use clap::Args;
use clap::Subcommand;
use openssl::x509::X509;

use crate::app;
use crate::ca::Principal;
use crate::ca::Role;
use crate::ca::headquarters::PlantBook;
use crate::ca::station::Rights;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::signing_key;
use crate::cli::signing_key::Place;
use crate::config::headquarters::HeadquartersConfig;
use crate::config::secret;
use crate::db;
use crate::db::config::DbConfig;
use crate::db::headquarters::PgPlants;
use crate::db::headquarters::subscribe;
use crate::db::headquarters::subscribe::NewPlant;
use crate::db::headquarters::subscribe::PlantFault;
use crate::pki::note::VerifierKey;

/// Head office: its database, its plants and people.
#[derive(Subcommand)]
pub enum HeadquartersCommand {
    /// Bring head office's database to the schema this version knows.
    Migrate,
    /// Make the key that signs tickets in its token; write and print its public half.
    TicketKey,
    /// The plants it subscribes to.
    #[command(subcommand)]
    Plant(PlantCommand),
    /// Who may ask it.
    #[command(subcommand)]
    Person(PersonCommand),
}

/// `headquarters plant`
#[derive(Subcommand)]
pub enum PlantCommand {
    /// Subscribe to a plant. Again, with another key or limit: changes those.
    Add(AddArguments),
    /// List the plants and how they stand.
    List,
    /// End the subscription, and remove the plant's rows.
    Remove(RemoveArguments),
}

/// `headquarters plant add`
#[derive(Args)]
pub struct AddArguments {
    /// The plant's `[site] id`: lower-case letters, digits and hyphens, at most 40.
    #[arg(value_parser = plant_name)]
    name: String,
    /// File whose first line is the address of the plant's database: `postgres://ROLE@HOST/DATABASE?sslmode=verify-full…`.
    #[arg(long)]
    connection_file: PathBuf,
    /// The plant's log key, PEM; without it its checkpoints are not looked at.
    #[arg(long, requires = "log_origin")]
    log_key: Option<PathBuf>,
    /// The plant's `[audit] origin`.
    #[arg(long, requires = "log_key")]
    log_origin: Option<String>,
    /// Seconds after which the plant's feed is late.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i32).range(1..))]
    late_after_seconds: i32,
}

/// `headquarters plant remove`
#[derive(Args)]
pub struct RemoveArguments {
    /// The plant's name.
    #[arg(value_parser = plant_name)]
    name: String,
    /// The plant's database is gone or was made anew: do not ask it to drop its slot.
    #[arg(long)]
    forget_slot: bool,
}

/// `headquarters person`
#[derive(Subcommand)]
pub enum PersonCommand {
    /// Let somebody ask.
    Add(PersonArguments),
    /// Let somebody ask no more.
    Disable(NameArguments),
}

/// `headquarters person add`
#[derive(Args)]
pub struct PersonArguments {
    /// Unique name.
    name: String,
    /// `auditor` reads; `operator`, a planner, may order, too.
    #[arg(long, value_parser = ["auditor", "operator"])]
    role: String,
    /// Their client certificate, PEM.
    #[arg(long)]
    certificate: PathBuf,
}

/// `headquarters person disable`
#[derive(Args)]
pub struct NameArguments {
    /// Their name.
    name: String,
}

fn plant_name(text: &str) -> Result<String, String> {
    if subscribe::is_plant_name(text) {
        Ok(text.to_owned())
    } else {
        Err("1 to 40 lower-case letters, digits and hyphens".to_owned())
    }
}

/// Runs one of them.
pub fn run(global: &Global, command: &HeadquartersCommand) -> Outcome {
    let config = HeadquartersConfig::read(&global.config)?;
    let url = config.database.owner_url.as_ref().context(
        "database.owner_url is not configured: it must be of a superuser of head office's cluster",
    )?;
    let owner = app::owner_config(&config.database, url)?;
    let runtime = crate::cli::runtime()?;
    match command {
        HeadquartersCommand::TicketKey => return make_ticket_key(global, &config),
        HeadquartersCommand::Migrate => {
            runtime
                .block_on(subscribe::migrate(&owner))
                .context("migrating")
                .map_err(|error| Failure::new(Failure::DEPENDENCY, error))?;
            eprintln!("the schema is up to date");
        }
        HeadquartersCommand::Plant(PlantCommand::Add(arguments)) => {
            let plant = new_plant(arguments)?;
            let add = subscribe::add(&owner, &plant);
            runtime.block_on(add).map_err(failure)?;
            eprintln!("subscribed to {}; its rows are being copied", plant.site);
        }
        HeadquartersCommand::Plant(PlantCommand::List) => {
            return runtime.block_on(list(global, &owner));
        }
        HeadquartersCommand::Plant(PlantCommand::Remove(arguments)) => {
            let remove = subscribe::remove(&owner, &arguments.name, arguments.forget_slot);
            runtime.block_on(remove).map_err(failure)?;
            eprintln!("{} is removed, and all its rows here", arguments.name);
        }
        HeadquartersCommand::Person(PersonCommand::Add(person)) => {
            let principal = principal(person)?;
            let add = db::principals::add(&owner, &principal);
            let added = add_outcome(runtime.block_on(add))?;
            let word = if added { "may ask" } else { "was there" };
            eprintln!("{} {word}", person.name);
        }
        HeadquartersCommand::Person(PersonCommand::Disable(person)) => {
            let disable = db::principals::set_disabled(&owner, &person.name, true);
            add_outcome(runtime.block_on(disable))?;
            eprintln!("{} may ask no more", person.name);
        }
    }
    Ok(())
}

fn make_ticket_key(global: &Global, config: &HeadquartersConfig) -> Outcome {
    crate::cli::enter(&config.environment())?;
    let Some(section) = &config.tickets else {
        let missing = anyhow!("no [tickets] is configured");
        return Err(Failure::new(Failure::NOT_FOUND, missing));
    };
    let place = Place {
        section: "tickets",
        hsm: &section.hsm,
        key_label: &section.key_label,
        public_key: &section.public_key,
    };
    signing_key::make_in(&config.hsm, &place)?;
    signing_key::show(global, &place)
}

fn new_plant(arguments: &AddArguments) -> Result<NewPlant, Failure> {
    let log_key = match (&arguments.log_key, &arguments.log_origin) {
        (Some(path), Some(origin)) => {
            let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
            let key = VerifierKey::from_pem(origin, &pem);
            let key = key.map_err(|why| anyhow!("{}: {why}", path.display()))?;
            Some(key.vkey())
        }
        _ => None,
    };
    Ok(NewPlant {
        site: arguments.name.clone(),
        connection: secret(&arguments.connection_file)?,
        log_key,
        late_after_seconds: arguments.late_after_seconds,
    })
}

async fn list(global: &Global, owner: &DbConfig) -> Outcome {
    let plants = PgPlants::new(owner)?.plants().await;
    let plants = plants.map_err(|error| Failure::new(Failure::DEPENDENCY, error))?;
    if global.json {
        return crate::cli::print_json(&plants);
    }
    for plant in plants {
        let lag = plant.lag_seconds.map_or_else(
            || "never heard of".to_owned(),
            |lag| format!("{lag:.1} s behind"),
        );
        println!(
            "{}\t{lag}{}\t{} certificates\t{} entries, {} witnessed\t{} findings",
            plant.site,
            if plant.late { ", LATE" } else { "" },
            plant.certificates,
            plant.log_entries,
            plant.witnessed_entries,
            plant.findings_open
        );
    }
    Ok(())
}

fn principal(person: &PersonArguments) -> anyhow::Result<Principal> {
    let path = &person.certificate;
    let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
    let certificate = X509::from_pem(&pem).with_context(|| path.display().to_string())?;
    let spki = certificate.public_key()?.public_key_to_der()?;
    Ok(Principal {
        name: person.name.clone(),
        role: Role::from_word(&person.role).context("no such role")?,
        disabled: false,
        spki_sha256: openssl::sha::sha256(&spki),
        rights: Rights::default(),
    })
}

fn add_outcome<T>(outcome: Result<T, db::error::DbFault>) -> Result<T, Failure> {
    outcome.map_err(|fault| {
        let code = match fault {
            db::error::DbFault::PrincipalTaken(_) => Failure::REFUSED,
            db::error::DbFault::PrincipalUnknown(_) => Failure::NOT_FOUND,
            _ => Failure::DEPENDENCY,
        };
        Failure::new(code, fault)
    })
}

fn failure(fault: PlantFault) -> Failure {
    let code = match fault {
        PlantFault::Here(_) | PlantFault::There(_) => Failure::DEPENDENCY,
        PlantFault::NotReady(_) | PlantFault::OtherSite { .. } => Failure::REFUSED,
        PlantFault::Unknown(_) => Failure::NOT_FOUND,
    };
    Failure::new(code, fault)
}
