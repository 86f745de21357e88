//! `jitp evaluate`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert;
use crate::cli::client::Connect;
use crate::cli::jitp::ProfileText;
use crate::cli::jitp::Source;
use crate::cli::jitp::devices;
use crate::cli::jitp::devices::DeviceList;
use crate::cli::jitp::parse_template;
use crate::pki::Violation;
use crate::pki::certificate::SubjectFault;
use crate::pki::certificate::subject_of;
use crate::pki::jitp::Policy;
use crate::pki::jitp::Provisioning;
use crate::pki::jitp::UNDOCUMENTED;
use crate::pki::name::AttributeType;
use crate::pki::profile::evaluation::Basis;
use crate::pki::profile::evaluation::Evaluation;
use crate::pki::profile::known_attributes;

/// `jitp evaluate`
#[derive(Args)]
pub struct EvaluateArguments {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    list: DeviceList,
    #[command(flatten)]
    connect: Connect,
}

/// Which device, or which list of devices.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Subject attributes, `CN=lamp-000001,C=DE`; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    subject: Vec<String>,
    /// A device's certificate, PEM or DER; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Serial number of a certificate that the running service issued, 32 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// A list of devices, CSV with a header or NDJSON; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
}

/// Prints what AWS IoT would make of the device, or why it would not. Exit code 4 for the latter,
/// and when any device of a list fails.
pub fn run(global: &Global, arguments: &EvaluateArguments) -> Outcome {
    let (template, profile);
    let basis = match &arguments.source {
        Source {
            profile: Some(_),
            template: Some(_),
        } => {
            let both = anyhow!("give a template or --profile, whose own template is taken");
            return Err(Failure::new(2, both));
        }
        Source {
            profile: Some(given),
            ..
        } => {
            profile = ProfileText::read(global, given)?.parse()?;
            Basis::Profile(&profile)
        }
        Source { template: path, .. } => {
            template = parse_template(&path.clone().unwrap_or_default())?;
            Basis::Template(&template)
        }
    };
    let Some(template) = basis.template() else {
        let missing = anyhow!("the profile names no template");
        return Err(Failure::new(Failure::NOT_FOUND, missing));
    };
    let doubts = template.warnings().iter();
    for doubt in doubts.filter(|doubt| doubt.rule == UNDOCUMENTED) {
        eprintln!("warning: {doubt}");
    }
    if let Some(path) = &arguments.which.devices {
        return devices::run(global, path, &arguments.list, basis);
    }
    let evaluation = match attributes(global, arguments)? {
        Ok(attributes) => basis.evaluate(attributes),
        Err(violations) => Evaluation {
            violations,
            ..Evaluation::default()
        },
    };
    if global.json {
        let mut answer = serde_json::to_value(&evaluation)?;
        answer["template_warnings"] = serde_json::to_value(template.warnings())?;
        crate::cli::print_json(&answer)?;
    } else {
        print(&evaluation);
    }
    match evaluation.provisioning {
        Some(_) => Ok(()),
        None => Err(Failure::new(
            Failure::REFUSED,
            anyhow!("the device would not be provisioned"),
        )),
    }
}

/// The device's subject attributes, or what is wrong with them already.
fn attributes(
    global: &Global,
    arguments: &EvaluateArguments,
) -> Result<Result<BTreeMap<AttributeType, String>, Vec<Violation>>, Failure> {
    let Which {
        subject,
        certificate,
        serial,
        ..
    } = &arguments.which;
    if let Some(path) = certificate {
        return match subject_of(&cert::read(path)?) {
            Ok(attributes) => Ok(Ok(attributes)),
            Err(SubjectFault::Subject(violations)) => Ok(Err(violations)),
            Err(fault @ SubjectFault::Malformed(_)) => {
                Err(anyhow!("{}: {fault}", path.display()).into())
            }
        };
    }
    let named = match serial {
        Some(serial) => issued(global, &arguments.connect, serial)?,
        None => pairs(subject)?,
    };
    Ok(known_attributes(&named))
}

/// The subject of a certificate that the service issued.
fn issued(
    global: &Global,
    connect: &Connect,
    serial: &str,
) -> Result<BTreeMap<String, String>, Failure> {
    if serial.len() != 32 || !serial.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        let usage = anyhow!("a serial number is 32 hexadecimal digits");
        return Err(Failure::new(2, usage));
    }
    let path = format!("/v1/certificates/{serial}");
    let answer = cert::ask(global, connect, Method::GET, &path, &[], Bytes::new())?;
    let body: Value = serde_json::from_slice(&answer.body)?;
    Ok(serde_json::from_value(body["subject"].clone())?)
}

/// `NAME=VALUE` pairs, several in one argument where a comma and a known name follow:
/// `O=Lamps, Inc,C=DE` is two.
fn pairs(given: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let begins_pair = |text: &str| {
        let name = text.split_once('=').map(|(name, _)| name);
        name.and_then(AttributeType::from_short_name).is_some()
    };
    let mut pairs = BTreeMap::new();
    for argument in given {
        let mut parts: Vec<String> = Vec::new();
        for part in argument.split(',') {
            match parts.last_mut() {
                Some(last) if !begins_pair(part) => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => parts.push(part.to_owned()),
            }
        }
        for part in parts {
            let Some((name, value)) = part.split_once('=') else {
                return Err(Failure::new(2, anyhow!("`{part}` is not NAME=VALUE")));
            };
            if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(Failure::new(2, anyhow!("{name} is given twice")));
            }
        }
    }
    Ok(pairs)
}

fn print(evaluation: &Evaluation) {
    if let Some(provisioning) = &evaluation.provisioning {
        print_provisioning(provisioning);
    }
    for violation in &evaluation.violations {
        println!("{}", line("violation", violation));
    }
    for warning in &evaluation.warnings {
        println!("{}", line("warning", warning));
    }
}

fn line(level: &str, violation: &Violation) -> String {
    let attribute = violation.attribute.as_deref().unwrap_or("-");
    format!(
        "{level}: {} {attribute}: {}",
        violation.rule, violation.detail
    )
}

fn print_provisioning(provisioning: &Provisioning) {
    let show = |name: &str, value: &str| println!("{name:<20} {value}");
    let optional = |name: &str, value: &Option<String>| {
        show(name, value.as_deref().unwrap_or("-"));
    };
    optional("thing_name", &provisioning.thing_name);
    optional("thing_type", &provisioning.thing_type);
    for group in &provisioning.groups {
        show("group", group);
    }
    optional("billing_group", &provisioning.billing_group);
    for (name, value) in &provisioning.attributes {
        show("attribute", &format!("{name} = {value}"));
    }
    for policy in &provisioning.policies {
        match policy {
            Policy::Name(name) => show("policy_name", name),
            Policy::Document(document) => show("policy_document", document),
        }
    }
    let status = serde_json::to_value(provisioning.certificate_status);
    let status = status.unwrap_or_default();
    show("certificate_status", status.as_str().unwrap_or_default());
}
