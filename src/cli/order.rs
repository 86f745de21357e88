//! `order create|devices|list|show|close|report|report-key`: work orders, through a running service.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Map, Value, json};

use crate::ca::order;
use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert;
use crate::cli::client::Connect;
use crate::cli::signing_key;

/// Work orders, through a running service.
#[derive(Subcommand)]
pub enum OrderCommand {
    /// Create a work order.
    Create(CreateArguments),
    /// Give a work order its device list, before its first device.
    Devices(DevicesArguments),
    /// List work orders, by name.
    List(ListArguments),
    /// Show one work order and its counts.
    Show(NameArguments),
    /// Close a work order, for ever.
    Close(NameArguments),
    /// Print a closed work order's signed report, a JWS.
    Report(NameArguments),
    /// Make the key that signs reports in its token, at the HSM; write and print its public half.
    ReportKey,
}

/// `order create`
#[derive(Args)]
pub struct CreateArguments {
    #[command(flatten)]
    connect: Connect,
    /// A signed ticket from head office, which says all the rest.
    #[arg(long, conflicts_with_all = ["name", "profile", "quantity", "scrap_allowance", "reworks_max", "device_first", "device_last", "device_pattern", "stations", "opens_at", "closes_at"])]
    ticket: Option<PathBuf>,
    /// Unique name.
    #[arg(value_parser = name, required_unless_present = "ticket")]
    name: Option<String>,
    /// Profile's name.
    #[arg(long, required_unless_present = "ticket")]
    profile: Option<String>,
    /// Devices that may be certified under it.
    #[arg(long, required_unless_present = "ticket")]
    quantity: Option<u32>,
    /// Scrapped devices whose places may be given to others.
    #[arg(long)]
    scrap_allowance: Option<u32>,
    /// Reworks it allows. Without it: those that the profile allows each device.
    #[arg(long)]
    reworks_max: Option<u32>,
    /// First device identity, with `--device-last`: of one length, compared octet by octet.
    #[arg(long, requires = "device_last")]
    device_first: Option<String>,
    /// Last device identity.
    #[arg(long, requires = "device_first")]
    device_last: Option<String>,
    /// What a device identity looks like, a character each: # digit, @ letter, ? any, \ the next one itself.
    #[arg(long)]
    device_pattern: Option<String>,
    /// Station that may book on it; may be repeated. Without it: all.
    #[arg(long = "station")]
    stations: Vec<String>,
    /// RFC 3339; before it the order takes nothing.
    #[arg(long)]
    opens_at: Option<String>,
    /// RFC 3339; from then on it takes nothing.
    #[arg(long)]
    closes_at: Option<String>,
}

/// `order devices`
#[derive(Args)]
pub struct DevicesArguments {
    #[command(flatten)]
    connect: Connect,
    /// Order's name.
    #[arg(value_parser = name)]
    name: String,
    /// The list: `.csv` with a column `device`, `.ndjson` with a JSON string a line, or `.json`.
    file: PathBuf,
}

/// `order list`
#[derive(Args)]
pub struct ListArguments {
    #[command(flatten)]
    connect: Connect,
    /// Orders at most.
    #[arg(long, default_value_t = 100)]
    limit: u16,
    /// `next` of the page before.
    #[arg(long, value_parser = name)]
    cursor: Option<String>,
}

/// `order show`, `order close`, `order report`
#[derive(Args)]
pub struct NameArguments {
    #[command(flatten)]
    connect: Connect,
    /// Order's name.
    #[arg(value_parser = name)]
    name: String,
}

/// It becomes a part of an address.
fn name(text: &str) -> Result<String, String> {
    if order::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 printable ASCII characters without space or / ? # %".to_owned())
    }
}

/// Runs one of them.
pub fn run(global: &Global, command: &OrderCommand) -> Outcome {
    let ask = |connect: &Connect, method, path: &str, body: Option<(&str, Vec<u8>)>| {
        let mut connect = connect.clone();
        let beside = global.config.parent().unwrap_or(Path::new("."));
        connect
            .client_certificate
            .get_or_insert_with(|| beside.join("clients/operator.pem"));
        let headers: Vec<_> = body
            .iter()
            .map(|(media_type, _)| ("content-type", *media_type))
            .collect();
        let body = body.map_or_else(Bytes::new, |(_, body)| body.into());
        let answer = cert::ask(global, &connect, method, path, &headers, body)?;
        Ok::<_, Failure>(answer.body)
    };
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let answer = match command {
        OrderCommand::Create(order) => {
            let (path, media_type, body) = if let Some(ticket) = &order.ticket {
                ("/v1/orders/tickets", "application/jose", read(ticket)?)
            } else {
                let body = serde_json::to_vec(&body(order))?;
                ("/v1/orders", "application/json", body)
            };
            ask(&order.connect, Method::POST, path, Some((media_type, body)))?
        }
        OrderCommand::Devices(list) => {
            let media_type = match list.file.extension().and_then(OsStr::to_str) {
                Some("csv") => "text/csv",
                Some("ndjson" | "jsonl") => "application/x-ndjson",
                Some("json") => "application/json",
                _ => {
                    return Err(Failure::new(
                        2,
                        anyhow!("a list's name ends with .csv, .ndjson or .json"),
                    ));
                }
            };
            let path = format!("/v1/orders/{}/devices", list.name);
            let body = Some((media_type, read(&list.file)?));
            ask(&list.connect, Method::POST, &path, body)?
        }
        OrderCommand::List(list) => {
            let mut path = format!("/v1/orders?limit={}", list.limit);
            if let Some(cursor) = &list.cursor {
                path += "&";
                path += &serde_urlencoded::to_string([("cursor", cursor)])?;
            }
            ask(&list.connect, Method::GET, &path, None)?
        }
        OrderCommand::Show(order) => {
            let path = format!("/v1/orders/{}", order.name);
            ask(&order.connect, Method::GET, &path, None)?
        }
        OrderCommand::Close(order) => {
            let path = format!("/v1/orders/{}/closure", order.name);
            ask(&order.connect, Method::POST, &path, None)?
        }
        OrderCommand::Report(order) => {
            let path = format!("/v1/orders/{}/report", order.name);
            let report = ask(&order.connect, Method::GET, &path, None)?;
            let report = std::str::from_utf8(&report)?;
            if global.json {
                return crate::cli::print_json(&json!({ "report": report }));
            }
            println!("{report}");
            return Ok(());
        }
        OrderCommand::ReportKey => {
            return signing_key::run(global, "site.report_key", signing_key::report_key);
        }
    };
    let answer: Value = serde_json::from_slice(&answer)?;
    if global.json {
        return crate::cli::print_json(&answer);
    }
    let one = [answer.clone()];
    let orders = answer["items"].as_array().map_or(&one[..], Vec::as_slice);
    println!("{}", table(orders));
    if let Some(next) = answer["next"].as_str() {
        eprintln!("there are more: --cursor {next}");
    }
    Ok(())
}

fn body(order: &CreateArguments) -> Value {
    let mut body = Map::new();
    body.insert("name".into(), json!(order.name));
    body.insert("profile".into(), json!(order.profile));
    body.insert("quantity".into(), json!(order.quantity));
    for (field, value) in [
        ("scrap_allowance", order.scrap_allowance),
        ("reworks_max", order.reworks_max),
    ] {
        if let Some(value) = value {
            body.insert(field.into(), json!(value));
        }
    }
    body.insert("stations".into(), json!(order.stations));
    for (field, value) in [
        ("device_first", &order.device_first),
        ("device_last", &order.device_last),
        ("device_pattern", &order.device_pattern),
        ("opens_at", &order.opens_at),
        ("closes_at", &order.closes_at),
    ] {
        if let Some(value) = value {
            body.insert(field.into(), json!(value));
        }
    }
    Value::Object(body)
}

fn table(orders: &[Value]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.set_header([
        "ORDER",
        "PROFILE",
        "QUANTITY",
        "ISSUED",
        "CONFIRMED",
        "SCRAPPED",
        "REMAINING",
        "CLOSED",
    ]);
    for order in orders {
        let cell = |field: &str| match &order[field] {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        table.add_row(
            [
                "name",
                "profile",
                "quantity",
                "issued",
                "confirmed",
                "scrapped",
                "remaining",
                "closed_at",
            ]
            .map(cell),
        );
    }
    table
}
