//! `batch watch`: to the end, whatever happens to the service meanwhile.

use std::time::Duration;

use anyhow::anyhow;
use indicatif::HumanCount;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::Outcome;
use crate::cli::batch::INTERRUPTED;
use crate::cli::batch::IdArguments;
use crate::cli::batch::body;
use crate::cli::batch::body::Batch;
use crate::cli::batch::meter::Meter;
use crate::cli::batch::service::Service;
use crate::cli::batch::service::passes;
use crate::cli::batch::service::patiently;

/// Between two looks.
pub const INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global, which: &IdArguments) -> Outcome {
    let mut service = Service::new(global, &which.connect)?;
    let end = to_end(&mut service, &which.id, INTERVAL);
    let answer = crate::cli::runtime()?.block_on(end)?;
    body::print(global, &answer, body::table)?;
    Batch::read(&answer)?.verdict()
}

/// Looks every `interval` until the batch has ended, and returns it as the service shows it. A service
/// that was reached once may be away as long as it likes; SIGINT ends the watching only.
pub async fn to_end(service: &mut Service, id: &str, interval: Duration) -> Result<Value, Failure> {
    tokio::select! {
        end = follow(service, id, interval) => end,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(
            INTERRUPTED,
            anyhow!("the batch goes on; to watch it again: certfactory batch watch {id}"),
        )),
    }
}

async fn follow(service: &mut Service, id: &str, interval: Duration) -> Result<Value, Failure> {
    let path = format!("/v1/batches/{id}");
    let mut answer = Ok(patiently(async || service.get(&path).await).await?);
    let mut meter = Meter::devices()?;
    let mut said = None;
    loop {
        let trouble = match answer {
            Ok(answer) => {
                let batch = Batch::read(&answer)?;
                if batch.is_over() {
                    return Ok(answer);
                }
                let settled = batch.issued + batch.failed;
                meter.show(settled, batch.count, || batch.pace(), || line(&batch));
                batch.trouble()
            }
            Err(failure) if passes(&failure) => Some(format!("{:#}; trying again", failure.error)),
            Err(failure) => return Err(failure),
        };
        if trouble != said {
            meter.say(trouble.as_deref().unwrap_or("it goes on"));
            said = trouble;
        }
        tokio::time::sleep(interval).await;
        answer = service.get(&path).await;
    }
}

fn line(batch: &Batch) -> String {
    let (issued, count) = (HumanCount(batch.issued), HumanCount(batch.count));
    let pace = batch.pace();
    let comma = if pace.is_empty() { "" } else { ", " };
    format!("{}: {issued} of {count} devices{comma}{pace}", batch.id)
}
