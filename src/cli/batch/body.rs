//! A batch as REST shows it: what the commands read of it, and how they print it.

use anyhow::Context;
use comfy_table::Table;
use indicatif::{FormattedDuration, HumanCount};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;

/// What the commands read of a batch.
#[derive(Debug, Deserialize)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// Why it is paused or cancelled.
    pub reason: Option<String>,
    /// Devices it is to make.
    pub count: u64,
    /// Devices that have their certificate.
    pub issued: u64,
    /// Devices that cannot have one.
    pub failed: u64,
    /// What it makes now.
    pub devices_per_second: Option<f64>,
    /// Until its end, at that rate.
    pub eta_seconds: Option<f64>,
    /// Whether it makes nothing although it should.
    pub stalled: bool,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Its package, once it is closed.
    pub package: Option<Package>,
}

/// A closed package.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Octets.
    pub length: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its device list has not been sent.
    AwaitingDevices,
    /// It makes devices.
    Running,
    /// By an operator, or by a fault.
    Paused,
    /// All devices are made; the package is being closed.
    Packing,
    /// The end.
    Done,
    /// The other end.
    Cancelled,
}

impl Batch {
    /// Reads the service's answer.
    pub fn read(answer: &Value) -> anyhow::Result<Self> {
        Self::deserialize(answer).context("the service's answer is no batch")
    }

    /// Whether nothing more will happen to its devices.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Cancelled)
    }

    /// Rate and remaining time, as far as they are known.
    #[must_use]
    pub fn pace(&self) -> String {
        let rate = self.devices_per_second.map(|rate| format!("{rate:.0}/s"));
        let left = self.eta_seconds.and_then(|seconds| {
            let left = Duration::try_from_secs_f64(seconds.round()).ok()?;
            Some(format!("{} left", FormattedDuration(left)))
        });
        let failed = (self.failed > 0).then(|| format!("{} failed", HumanCount(self.failed)));
        let packing = (self.state == State::Packing).then(|| "closing the package".to_owned());
        let parts: Vec<_> = [failed, rate, left, packing]
            .into_iter()
            .flatten()
            .collect();
        parts.join(", ")
    }

    /// Why it does not go on, where it does not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let because = |cause: &Option<String>| {
            cause
                .as_ref()
                .map_or_else(String::new, |cause| format!(": {cause}"))
        };
        match self.state {
            State::AwaitingDevices => Some("waits for its device list".to_owned()),
            State::Paused => Some(format!("paused{}", because(&self.reason))),
            _ if self.stalled => Some(format!("stalled{}", because(&self.last_error))),
            _ => None,
        }
    }

    /// Whether every device has its certificate; otherwise a failure with exit code 4.
    pub fn verdict(&self) -> Outcome {
        let fault = match self.state {
            State::Cancelled => format!("the batch was cancelled{}", {
                let reason = self.reason.as_deref();
                reason.map_or_else(String::new, |reason| format!(": {reason}"))
            }),
            _ if self.failed > 0 => format!(
                "{} of {} devices have no certificate",
                self.failed, self.count
            ),
            _ => return Ok(()),
        };
        Err(Failure::new(Failure::REFUSED, anyhow::anyhow!(fault)))
    }
}

/// Prints a batch or a page of them: JSON, or in that form.
pub fn print(global: &Global, answer: &Value, form: fn(&Value) -> Table) -> Outcome {
    if global.json {
        return crate::cli::print_json(answer);
    }
    println!("{}", form(answer));
    Ok(())
}

/// One batch, or the batches of a page, a row each.
#[must_use]
pub fn table(answer: &Value) -> Table {
    const FIELDS: [&str; 8] = [
        "id",
        "state",
        "profile",
        "order",
        "count",
        "issued",
        "failed",
        "created_at",
    ];
    let one = std::slice::from_ref(answer);
    let mut table = Table::new();
    table.set_header(FIELDS.map(|field| field.to_uppercase().replace('_', " ")));
    for batch in answer["items"].as_array().map_or(one, Vec::as_slice) {
        table.add_row(FIELDS.map(|field| cell(&batch[field])));
    }
    table
}

/// One batch, a field a row.
#[must_use]
pub fn details(batch: &Value) -> Table {
    let mut table = Table::new();
    for (field, value) in batch.as_object().into_iter().flatten() {
        if let Some(package) = value.as_object() {
            for (part, value) in package {
                table.add_row([format!("{field} {part}"), cell(value)]);
            }
        } else {
            table.add_row([field.replace('_', " "), cell(value)]);
        }
    }
    table
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Batch;

    fn batch(changes: &Value) -> Batch {
        let mut body = json!({
            "id": "0198", "state": "running", "reason": null, "profile": "lightbulb", "order": null,
            "count": 1000, "issued": 400, "failed": 0, "remaining": 600, "devices_per_second": 812.4,
            "eta_seconds": 100, "stalled": false, "last_error": null, "package": null,
        });
        for (field, value) in changes.as_object().unwrap() {
            body[field] = value.clone();
        }
        Batch::read(&body).unwrap()
    }

    #[test]
    fn the_pace_says_what_is_known() {
        for (changes, expected) in [
            (json!({}), "812/s, 00:01:40 left"),
            (
                json!({ "eta_seconds": null, "failed": 2000 }),
                "2,000 failed, 812/s",
            ),
            (
                json!({ "state": "packing", "devices_per_second": null, "eta_seconds": null }),
                "closing the package",
            ),
            (json!({ "eta_seconds": -1 }), "812/s"),
        ] {
            assert_eq!(batch(&changes).pace(), expected, "{changes}");
        }
    }

    #[test]
    fn what_holds_a_batch_up_is_said_with_its_reason() {
        for (changes, expected) in [
            (json!({}), None),
            (json!({ "state": "paused" }), Some("paused")),
            (
                json!({ "state": "paused", "reason": "the disk is full" }),
                Some("paused: the disk is full"),
            ),
            (
                json!({ "stalled": true, "last_error": "no HSM" }),
                Some("stalled: no HSM"),
            ),
            (
                json!({ "state": "awaiting-devices" }),
                Some("waits for its device list"),
            ),
        ] {
            assert_eq!(batch(&changes).trouble().as_deref(), expected, "{changes}");
        }
    }

    #[test]
    fn only_a_whole_batch_is_a_success() {
        for (changes, code) in [
            (json!({ "state": "done" }), None),
            (json!({ "state": "done", "failed": 1 }), Some(4)),
            (json!({ "state": "cancelled" }), Some(4)),
        ] {
            let batch = batch(&changes);
            assert!(batch.is_over());
            assert_eq!(batch.verdict().err().map(|f| f.code), code, "{changes}");
        }
    }
}
