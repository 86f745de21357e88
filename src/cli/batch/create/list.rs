//! A device list on its way to a batch.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::Method;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::batch::body::Batch;
use crate::cli::batch::body::State;
use crate::cli::batch::service::Service;
use crate::cli::batch::service::patiently;
use crate::cli::client::RequestBody;

/// For two gibibytes over a slow line, and a million rows into the database.
const INTAKE_TIMEOUT: Duration = Duration::from_hours(1);
/// Longest list, in octets.
const LENGTH_MAX: u64 = 2 << 30;

/// An open list.
pub(super) struct List {
    file: File,
    media_type: &'static str,
    length: u64,
}

impl List {
    /// Opens it; its name says what it is.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let media_type = match path.extension().and_then(OsStr::to_str) {
            Some("csv") => "text/csv",
            Some("ndjson" | "jsonl") => "application/x-ndjson",
            _ => {
                let other = anyhow!("a list's name ends with .csv or .ndjson");
                return Err(Failure::new(2, other));
            }
        };
        let named = || path.display().to_string();
        let file = File::open(path).with_context(named)?;
        let metadata = file.metadata().with_context(named)?;
        if !metadata.is_file() || metadata.len() > LENGTH_MAX {
            let other = anyhow!("{}: no file of at most {LENGTH_MAX} octets", named());
            return Err(Failure::new(2, other));
        }
        Ok(Self {
            file,
            media_type,
            length: metadata.len(),
        })
    }

    /// Sends it to a batch that waits for it, again while the service is away. An answer that was lost
    /// is no reason to send it twice.
    pub(super) async fn send(self, service: &mut Service, id: &str) -> Result<Value, Failure> {
        let path = format!("/v1/batches/{id}");
        let mut lost = false;
        patiently(async || {
            if lost {
                let answer = service.get(&path).await?;
                if Batch::read(&answer)?.state != State::AwaitingDevices {
                    return Ok(answer);
                }
            }
            lost = true;
            self.once(service, &path).await
        })
        .await
    }

    async fn once(&self, service: &mut Service, path: &str) -> Result<Value, Failure> {
        use std::io::Seek;
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        let length = self.length.to_string();
        let headers = [
            ("content-type", self.media_type),
            ("content-length", length.as_str()),
        ];
        let path = format!("{path}/devices");
        let body = RequestBody::file(file.into());
        service
            .call_within(INTAKE_TIMEOUT, Method::POST, &path, &headers, body)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::List;

    #[test]
    fn a_lists_name_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for (name, media_type) in [
            ("a.csv", Some("text/csv")),
            ("a.ndjson", Some("application/x-ndjson")),
            ("a.xlsx", None),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, "device\n").unwrap();
            let list = List::open(&path);
            assert_eq!(list.as_ref().ok().map(|list| list.media_type), media_type);
            assert!(list.is_ok_and(|list| list.length == 7) == media_type.is_some());
        }
        assert_eq!(
            List::open(&folder.path().join("none.csv"))
                .err()
                .unwrap()
                .code,
            1
        );
    }
}
