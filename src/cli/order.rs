//! `order create|list|show|close`: work orders, through a running service.

use std::path::Path;

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

/// Work orders, through a running service.
#[derive(Subcommand)]
pub enum OrderCommand {
    /// Create a work order.
    Create(CreateArguments),
    /// List work orders, by name.
    List(ListArguments),
    /// Show one work order and its counts.
    Show(NameArguments),
    /// Close a work order, for ever.
    Close(NameArguments),
}

/// `order create`
#[derive(Args)]
pub struct CreateArguments {
    #[command(flatten)]
    connect: Connect,
    /// Unique name.
    #[arg(value_parser = name)]
    name: String,
    /// Profile's name.
    #[arg(long)]
    profile: String,
    /// Devices that may be certified under it.
    #[arg(long)]
    quantity: u32,
    /// Scrapped devices whose places may be given to others.
    #[arg(long, default_value_t = 0)]
    scrap_allowance: u32,
    /// Reworks it allows. Without it: those that the profile allows each device.
    #[arg(long)]
    reworks_max: Option<u32>,
    /// First device identity, with `--device-last`: of one length, compared octet by octet.
    #[arg(long, requires = "device_last")]
    device_first: Option<String>,
    /// Last device identity.
    #[arg(long, requires = "device_first")]
    device_last: Option<String>,
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

/// `order show`, `order close`
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
    let ask = |connect: &Connect, method, path: &str, body: Option<Value>| {
        let mut connect = connect.clone();
        let beside = global.config.parent().unwrap_or(Path::new("."));
        connect
            .client_certificate
            .get_or_insert_with(|| beside.join("clients/operator.pem"));
        let headers: &[_] = match &body {
            Some(_) => &[("content-type", "application/json")],
            None => &[],
        };
        let body = match &body {
            Some(body) => Bytes::from(serde_json::to_vec(body)?),
            None => Bytes::new(),
        };
        let answer = cert::ask(global, &connect, method, path, headers, body)?;
        Ok::<Value, Failure>(serde_json::from_slice(&answer.body)?)
    };
    let answer = match command {
        OrderCommand::Create(order) => {
            let body = body(order);
            ask(&order.connect, Method::POST, "/v1/orders", Some(body))?
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
    };
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
    body.insert("scrap_allowance".into(), json!(order.scrap_allowance));
    if let Some(reworks_max) = order.reworks_max {
        body.insert("reworks_max".into(), json!(reworks_max));
    }
    body.insert("stations".into(), json!(order.stations));
    for (field, value) in [
        ("device_first", &order.device_first),
        ("device_last", &order.device_last),
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
