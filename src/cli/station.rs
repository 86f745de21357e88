//! `station add|list|show|rights|disable|enable|code|enrol|renew|approvals|approve`: who may use the
//! service, through a running service; and `station first-administrator`, in its database.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use hyper::Method;
use hyper::body::Bytes;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::app::owner_config;
use crate::ca::station::enrolment::enrolment_code;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert;
use crate::cli::cert::Format;
use crate::cli::client::Connect;
use crate::config::RawConfig;
use crate::db::principals::add_first_administrator;

/// Stations and people, through a running service.
#[derive(Subcommand)]
pub enum StationCommand {
    /// Register a station or a person; prints the code by which it enrols its key.
    Add(AddArguments),
    /// List all who are registered.
    List(ListArguments),
    /// Show one of them.
    Show(NameArguments),
    /// Give it other rights, all of them.
    Rights(RightsArguments),
    /// Shut it out, at its next request.
    Disable(NameArguments),
    /// Let it in again.
    Enable(NameArguments),
    /// Print another enrolment code, for a station that lost its key.
    Code(NameArguments),
    /// Enrol a key: a certification request by it, and the enrolment code.
    Enrol(EnrolArguments),
    /// Another certificate for another key, before the present one expires.
    Renew(RenewArguments),
    /// What waits for another administrator.
    Approvals(ListArguments),
    /// Approve what another administrator proposed.
    Approve(ApproveArguments),
    /// Register the first administrator, in the database itself, as its owner; prints the enrolment
    /// code. Refused while an administrator can connect.
    FirstAdministrator(FirstArguments),
}

/// `station add`
#[derive(Args)]
pub struct AddArguments {
    #[command(flatten)]
    connect: Connect,
    /// Unique name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    #[arg(value_parser = name)]
    name: String,
    /// station, operator, auditor or administrator.
    #[arg(long, default_value = "station")]
    role: String,
    #[command(flatten)]
    rights: Rights,
}

/// What somebody may do of what their role may; what is not said is not limited.
#[derive(Args)]
struct Rights {
    /// issue, confirm, rework, scrap; may be repeated. Without it: issue and confirm.
    #[arg(long = "act")]
    acts: Vec<String>,
    /// Profile; may be repeated. Named, its devices may be confirmed, reworked and scrapped whoever
    /// issued to them.
    #[arg(long = "profile")]
    profiles: Vec<String>,
    /// Work order; may be repeated.
    #[arg(long = "order")]
    orders: Vec<String>,
    /// Network it may come from, `10.1.0.0/16`; may be repeated.
    #[arg(long = "network")]
    networks: Vec<String>,
    /// Hours, UTC, `mon-fri 06:00-22:00`; may be repeated.
    #[arg(long = "hours")]
    hours: Vec<String>,
    /// Requests a second.
    #[arg(long)]
    requests_per_second: Option<u32>,
    /// Devices between midnight and midnight, UTC.
    #[arg(long)]
    devices_per_day: Option<u32>,
}

impl Rights {
    fn body(&self) -> Value {
        let mut rights = json!({});
        for (field, values) in [
            ("acts", &self.acts),
            ("profiles", &self.profiles),
            ("orders", &self.orders),
            ("networks", &self.networks),
            ("hours", &self.hours),
        ] {
            if !values.is_empty() {
                rights[field] = json!(values);
            }
        }
        for (field, value) in [
            ("requests_per_second", self.requests_per_second),
            ("devices_per_day", self.devices_per_day),
        ] {
            if let Some(value) = value {
                rights[field] = json!(value);
            }
        }
        rights
    }
}

/// `station list`, `station approvals`
#[derive(Args)]
pub struct ListArguments {
    #[command(flatten)]
    connect: Connect,
}

/// `station show|disable|enable|code`
#[derive(Args)]
pub struct NameArguments {
    #[command(flatten)]
    connect: Connect,
    /// Its name.
    #[arg(value_parser = name)]
    name: String,
}

/// `station rights`
#[derive(Args)]
pub struct RightsArguments {
    #[command(flatten)]
    connect: Connect,
    /// Its name.
    #[arg(value_parser = name)]
    name: String,
    #[command(flatten)]
    rights: Rights,
}

/// `station enrol`
#[derive(Args)]
pub struct EnrolArguments {
    #[command(flatten)]
    connect: Connect,
    /// Its name.
    #[arg(value_parser = name)]
    name: String,
    /// Certification request by the key, PEM or DER.
    #[arg(long)]
    csr: PathBuf,
    /// File with the enrolment code; `-` for standard input.
    #[arg(long)]
    code_file: PathBuf,
    /// Output, unless `--json`.
    #[arg(long, value_enum, default_value = "pem")]
    format: Format,
}

/// `station renew`
#[derive(Args)]
pub struct RenewArguments {
    #[command(flatten)]
    connect: Connect,
    /// Its own name.
    #[arg(value_parser = name)]
    name: String,
    /// Certification request by the new key, PEM or DER.
    #[arg(long)]
    csr: PathBuf,
    /// Output, unless `--json`.
    #[arg(long, value_enum, default_value = "pem")]
    format: Format,
}

/// `station approve`
#[derive(Args)]
pub struct ApproveArguments {
    #[command(flatten)]
    connect: Connect,
    /// The proposal's id, 32 hexadecimal digits.
    #[arg(value_parser = name)]
    id: String,
}

/// `station first-administrator`
#[derive(Args)]
pub struct FirstArguments {
    /// Unique name: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    #[arg(value_parser = name)]
    name: String,
}

/// It becomes a part of an address.
fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// Runs one of them, as the administrator unless another certificate is named.
pub fn run(global: &Global, command: &StationCommand) -> Outcome {
    let ask = |connect: &Connect, method, path: &str, body: Option<&Value>| {
        let mut connect = connect.clone();
        let beside = global.config.parent().unwrap_or(Path::new("."));
        connect
            .client_certificate
            .get_or_insert_with(|| beside.join("clients/administrator.pem"));
        let headers: &[_] = match body {
            Some(_) => &[("content-type", "application/json")],
            None => &[],
        };
        let body = match body {
            Some(body) => Bytes::from(serde_json::to_vec(body)?),
            None => Bytes::new(),
        };
        let answer = cert::ask(global, &connect, method, path, headers, body)?;
        Ok::<Value, Failure>(serde_json::from_slice(&answer.body)?)
    };
    let of = |name: &str, what: &str| format!("/v1/stations/{name}/{what}");
    let answer = match command {
        StationCommand::Add(it) => {
            let body = json!({ "name": it.name, "role": it.role, "rights": it.rights.body() });
            ask(&it.connect, Method::POST, "/v1/stations", Some(&body))?
        }
        StationCommand::List(it) => ask(&it.connect, Method::GET, "/v1/stations", None)?,
        StationCommand::Show(it) => {
            let path = format!("/v1/stations/{}", it.name);
            ask(&it.connect, Method::GET, &path, None)?
        }
        StationCommand::Rights(it) => {
            let body = it.rights.body();
            ask(
                &it.connect,
                Method::PUT,
                &of(&it.name, "rights"),
                Some(&body),
            )?
        }
        StationCommand::Disable(it) => {
            ask(&it.connect, Method::POST, &of(&it.name, "disable"), None)?
        }
        StationCommand::Enable(it) => {
            ask(&it.connect, Method::POST, &of(&it.name, "enable"), None)?
        }
        StationCommand::Code(it) => ask(
            &it.connect,
            Method::POST,
            &of(&it.name, "enrolment-code"),
            None,
        )?,
        StationCommand::Enrol(it) => return enrol(global, it),
        StationCommand::Renew(it) => return renew(global, it),
        StationCommand::Approvals(it) => ask(&it.connect, Method::GET, "/v1/approvals", None)?,
        StationCommand::Approve(it) => {
            let path = format!("/v1/approvals/{}", it.id);
            ask(&it.connect, Method::POST, &path, None)?
        }
        StationCommand::FirstAdministrator(it) => first_administrator(global, &it.name)?,
    };
    print(global, &answer)
}

/// Before there is anybody whom the service knows, only the database's owner can say who is.
fn first_administrator(global: &Global, name: &str) -> Result<Value, Failure> {
    let raw = RawConfig::read(&global.config)?;
    let database = &raw.database;
    let url = database.owner_url.as_ref().unwrap_or(&database.url);
    let owner = owner_config(database, url)?;
    let (code, code_sha256) = enrolment_code().map_err(anyhow::Error::new)?;
    let added = crate::cli::runtime()?
        .block_on(add_first_administrator(&owner, name, &code_sha256))
        .map_err(|e| Failure::new(Failure::DEPENDENCY, e))?;
    if !added {
        let there = anyhow!("an administrator can connect, or `{name}` is somebody else");
        return Err(Failure::new(Failure::REFUSED, there));
    }
    Ok(json!({
        "name": name, "role": "administrator",
        "enrolment_code": code.expose_secret(), "enrolment_code_hours": 24,
    }))
}

fn enrol(global: &Global, arguments: &EnrolArguments) -> Outcome {
    let code = Zeroizing::new(cert::read(&arguments.code_file)?);
    let code = std::str::from_utf8(&code)
        .ok()
        .map(str::trim)
        .filter(|code| code.len() == 64 && code.bytes().all(|b| b.is_ascii_hexdigit()))
        .ok_or_else(|| Failure::new(2, anyhow!("the code file holds no enrolment code")))?;
    let bearer = secrecy::SecretString::from(format!("Bearer {code}"));
    let headers = [
        ("content-type", "application/pkcs10"),
        ("authorization", bearer.expose_secret()),
    ];
    let csr = cert::read(&arguments.csr)?;
    let path = format!("/v1/stations/{}/enrolment", arguments.name);
    let connect = Connect {
        anonymous: true,
        ..arguments.connect.clone()
    };
    let answer = cert::ask(global, &connect, Method::POST, &path, &headers, csr.into())?;
    cert::print(global, &answer, arguments.format)
}

fn renew(global: &Global, arguments: &RenewArguments) -> Outcome {
    let csr = cert::read(&arguments.csr).context("the certification request")?;
    let path = format!("/v1/stations/{}/renewal", arguments.name);
    let headers = [("content-type", "application/pkcs10")];
    let answer = cert::ask(
        global,
        &arguments.connect,
        Method::POST,
        &path,
        &headers,
        csr.into(),
    )?;
    cert::print(global, &answer, arguments.format)
}

/// The code alone, where there is one: it is what the next command needs.
fn print(global: &Global, answer: &Value) -> Outcome {
    if global.json {
        return crate::cli::print_json(answer);
    }
    if let Some(code) = answer["enrolment_code"].as_str() {
        eprintln!(
            "{}: enrolment code, good for {} hours and one key",
            answer["name"].as_str().unwrap_or_default(),
            answer["enrolment_code_hours"]
        );
        println!("{code}");
        return Ok(());
    }
    if answer["act"].is_object() {
        eprintln!("another administrator has to approve it:");
        println!("{}", answer["id"].as_str().unwrap_or_default());
        return Ok(());
    }
    let one = [answer.clone()];
    let items = answer["items"].as_array().map_or(&one[..], Vec::as_slice);
    let mut table = comfy_table::Table::new();
    if items.iter().any(|item| item["act"].is_object()) {
        table.set_header(["ID", "ACT", "PROPOSED BY", "AT"]);
        for item in items {
            let text = |field: &str| item[field].as_str().unwrap_or("-").to_owned();
            let act = item["act"].to_string();
            table.add_row([text("id"), act, text("proposed_by"), text("proposed_at")]);
        }
    } else {
        table.set_header(["NAME", "ROLE", "STATE", "RIGHTS"]);
        for item in items {
            let text = |field: &str| item[field].as_str().unwrap_or("-").to_owned();
            let enrolled = item["keys"].as_array().is_some_and(|keys| !keys.is_empty());
            let state = match (item["disabled"].as_bool(), enrolled) {
                (Some(true), _) => "disabled",
                (_, true) => "enrolled",
                (_, false) => "not enrolled",
            };
            let rights = item["rights"].to_string();
            table.add_row([text("name"), text("role"), state.to_owned(), rights]);
        }
    }
    println!("{table}");
    Ok(())
}
