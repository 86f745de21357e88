//! `cert export`: issued certificates as AWS IoT's provisioning roads take them. Streamed: memory
//! holds one certificate, whatever the number.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::cert::pairs;
use crate::cli::cert::refused;
use crate::cli::client::Client;
use crate::cli::client::Connect;
use crate::pki::Violation;
use crate::pki::jitp::names;
use crate::pki::roads;
use crate::pki::roads::Road;
use crate::pki::roads::RoadDevice;

/// Longest line of the service's answer, octets. A certificate and its chain as JSON have a tenth.
const LINE_LENGTH_MAX: usize = 1 << 20;

/// `cert export`
#[derive(Args)]
pub struct ExportArguments {
    #[command(flatten)]
    connect: Connect,
    /// For which road.
    #[arg(long, value_enum)]
    format: Format,
    /// Filter as in REST, `order=WO-17`, `profile=lightbulb`, `issued_after=…`; may be repeated.
    #[arg(long = "filter", value_name = "NAME=VALUE")]
    filters: Vec<String>,
    /// Folder for the data, the matching template and the script that loads them; made when missing.
    /// Without it the data alone goes to standard output.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    bulk: BulkArguments,
}

/// What the template of `--format bulk` gives each thing. All of it must exist in the account.
#[derive(Args)]
struct BulkArguments {
    /// `bulk`: policy of each certificate.
    #[arg(long, default_value = "FactoryDevicePolicy", value_parser = |text: &str| named(text, names::policy))]
    policy_name: String,
    /// `bulk`: type of each thing.
    #[arg(long, value_parser = |text: &str| named(text, names::thing_type))]
    thing_type: Option<String>,
    /// `bulk`: group of each thing; may be repeated.
    #[arg(long = "thing-group", value_parser = |text: &str| named(text, names::thing_group))]
    thing_groups: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Just-in-time registration: one row a certificate, CSV, or NDJSON with `--json`.
    AllowList,
    /// Bulk registration and single things: one line of template parameters a device, NDJSON.
    Bulk,
    /// Accounts that do not know the CA: one certificate a line, NDJSON.
    Certificates,
}

/// What an export needs of a certificate as REST shows it.
#[derive(Deserialize)]
struct Item {
    serial_number: String,
    certificate: String,
    ca_chain: Vec<String>,
    fingerprint_sha256: String,
    device: String,
    order: Option<String>,
    thing_name: Option<String>,
    status: String,
}

impl Item {
    fn device(&self) -> RoadDevice<'_> {
        RoadDevice {
            serial_number: &self.serial_number,
            certificate: &self.certificate,
            issuer: self.ca_chain.first().map(String::as_str),
            fingerprint_sha256: &self.fingerprint_sha256,
            device: &self.device,
            order: self.order.as_deref(),
            thing_name: self.thing_name.as_deref(),
            status: &self.status,
        }
    }
}

fn named(text: &str, check: fn(&str) -> Vec<Violation>) -> Result<String, String> {
    match check(text).first() {
        None => Ok(text.to_owned()),
        Some(violation) => Err(violation.detail.clone()),
    }
}

/// Runs it. What AWS IoT would refuse is left out and named on standard error; then the exit code
/// is 4, and everything else has been written.
pub(super) fn run(global: &Global, arguments: &ExportArguments) -> Outcome {
    let road = match arguments.format {
        Format::AllowList if global.json => Road::AllowListLines,
        Format::AllowList => Road::AllowListTable,
        Format::Bulk => Road::Bulk,
        Format::Certificates => Road::Certificates,
    };
    let mut query = pairs(&arguments.filters)?;
    let other = ["limit", "cursor", "kind"];
    if let Some(name) = other.iter().find(|n| query.contains_key(**n)) {
        return Err(Failure::new(
            2,
            anyhow!("`{name}` is no filter here: an export holds every device that matches"),
        ));
    }
    if arguments.format != Format::AllowList {
        // What is revoked has no place in the cloud; an allow-list says that it is.
        query
            .entry("status".to_owned())
            .or_insert_with(|| "issued".to_owned());
    }
    let path = format!("/v1/certificates?{}", serde_urlencoded::to_string(&query)?);
    let client = Client::new(&arguments.connect, &global.config)?;
    let runtime = crate::cli::runtime()?;
    let counts = match &arguments.output {
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            let counts = runtime.block_on(transfer(&client, &path, road, &mut out))?;
            out.flush()?;
            counts
        }
        Some(folder) => {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            // Under its name only when it is whole.
            let file = folder.join(road.file_name());
            let part = folder.join(format!("{}.part", road.file_name()));
            let mut out = BufWriter::new(create(&part)?);
            let counts = runtime.block_on(transfer(&client, &path, road, &mut out))?;
            out.into_inner()
                .map_err(std::io::IntoInnerError::into_error)?
                .sync_all()?;
            std::fs::rename(&part, &file).with_context(|| file.display().to_string())?;
            companions(folder, arguments)?;
            eprintln!("{}", file.display());
            counts
        }
    };
    eprintln!(
        "{} certificates written, {} left out",
        counts.written, counts.left_out
    );
    if counts.left_out > 0 {
        return Err(Failure::new(
            Failure::REFUSED,
            anyhow!("AWS IoT would refuse {} of them", counts.left_out),
        ));
    }
    Ok(())
}

/// What stands beside the data, so that nobody has to write it.
fn companions(folder: &Path, arguments: &ExportArguments) -> anyhow::Result<()> {
    let bulk = &arguments.bulk;
    match arguments.format {
        Format::AllowList => Ok(()),
        Format::Bulk => {
            let template = roads::bulk_template(
                &bulk.policy_name,
                bulk.thing_type.as_deref(),
                &bulk.thing_groups,
            );
            let text = serde_json::to_string_pretty(&template)? + "\n";
            create(&folder.join("bulk-template.json"))?.write_all(text.as_bytes())?;
            script(
                folder,
                "register-bulk.sh",
                include_str!("../../../deploy/aws/bulk/register-bulk.sh"),
            )
        }
        Format::Certificates => script(
            folder,
            "register-certificates.py",
            include_str!("../../../deploy/aws/multi-account/register-certificates.py"),
        ),
    }
}

fn script(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = create(&folder.join(name))?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| path.display().to_string())
}

struct Counts {
    written: u64,
    left_out: u64,
}

/// Takes the service's NDJSON as it comes and writes one road's line for each of its own.
async fn transfer(
    client: &Client,
    path: &str,
    road: Road,
    out: &mut impl Write,
) -> Result<Counts, Failure> {
    let dependency = |error| Failure::new(Failure::DEPENDENCY, error);
    let mut connection = client.connect().await.map_err(dependency)?;
    let mut answer = connection
        .stream(path, &[("accept", "application/x-ndjson")])
        .await
        .map_err(dependency)?;
    let mut counts = Counts {
        written: 0,
        left_out: 0,
    };
    let status = answer.status;
    if status.is_success() {
        out.write_all(road.head().as_bytes())?;
    }
    let mut line = Vec::new();
    while let Some(octets) = answer.next().await.map_err(dependency)? {
        if !status.is_success() {
            line.extend_from_slice(&octets);
            continue;
        }
        for part in octets.split_inclusive(|octet| *octet == b'\n') {
            line.extend_from_slice(part);
            if line.len() > LINE_LENGTH_MAX {
                return Err(
                    anyhow!("the service sent a line of over {LINE_LENGTH_MAX} octets").into(),
                );
            }
            if part.ends_with(b"\n") {
                one(&line, road, out, &mut counts)?;
                line.clear();
            }
        }
    }
    if !status.is_success() {
        let problem: Value = serde_json::from_slice(&line).unwrap_or_default();
        return Err(refused(status.as_u16(), &problem));
    }
    if !line.is_empty() {
        return Err(dependency(anyhow!("the answer ends within a line")));
    }
    Ok(counts)
}

fn one(line: &[u8], road: Road, out: &mut impl Write, counts: &mut Counts) -> Outcome {
    let item: Item = serde_json::from_slice(line).context("the service's answer")?;
    let mut text = Vec::new();
    match road.append(&item.device(), &mut text) {
        Ok(()) => {
            out.write_all(&text)?;
            counts.written += 1;
        }
        Err(why) => {
            eprintln!("{} left out: {why}", item.serial_number);
            counts.left_out += 1;
        }
    }
    Ok(())
}
