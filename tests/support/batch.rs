//! Batches, as an operator orders and follows them.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::Response;
use super::recipient::Recipient;
use super::world::World;

/// A pattern of `count` devices of the lightbulb profile that nobody else has.
pub fn pattern(count: u32) -> Value {
    let mut run = [0; 4];
    openssl::rand::rand_bytes(&mut run).unwrap();
    let run: String = run.iter().map(|octet| format!("{octet:02x}")).collect();
    json!({ "count": count, "start": 1, "subject": {
        "CN": format!("lamp-{run}-{{seq:07}}"), "serialNumber": format!("SN{run}{{seq:07}}"), "C": "DE" } })
}

/// A batch of such a pattern, its keys for the recipient.
pub fn order(count: u32, recipient: &Recipient) -> Value {
    json!({ "profile": "lightbulb", "devices": pattern(count), "keys": { "recipient": recipient.pem() } })
}

impl World {
    /// Orders a batch.
    pub fn batch(&self, body: &Value) -> Response {
        self.batch_as("operator", body, &[])
    }

    pub fn batch_as(&self, client: &str, body: &Value, more: &[(&str, &str)]) -> Response {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(more);
        let text = body.to_string();
        self.client(client)
            .send("POST", "/v1/batches", &headers, Some(text.as_bytes()))
    }

    /// Orders a batch that is taken, and its id.
    pub fn taken(&self, body: &Value) -> String {
        let made = self.batch(body);
        assert_eq!(made.status, 202, "{made:?}");
        made.json()["id"].as_str().unwrap().to_owned()
    }

    pub fn show_batch(&self, id: &str) -> Value {
        let shown = self.client("auditor").get(&format!("/v1/batches/{id}"));
        assert_eq!(shown.status, 200, "{shown:?}");
        shown.json()
    }

    pub fn act(&self, id: &str, act: &str) -> Response {
        self.client("operator")
            .send("POST", &format!("/v1/batches/{id}/{act}"), &[], None)
    }

    /// Waits until the batch has come so far; how it stands then.
    pub fn wait_batch(&self, id: &str, at_most: Duration, is: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let shown = self.client("auditor").get(&format!("/v1/batches/{id}"));
            if shown.status == 200 && is(&shown.json()) {
                return shown.json();
            }
            assert!(start.elapsed() < at_most, "after {at_most:?}: {shown:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn wait_done(&self, id: &str, at_most: Duration) -> Value {
        self.wait_batch(id, at_most, |batch| batch["state"] == "done")
    }

    /// The package, downloaded into the recipient's directory, and unpacked beside it.
    pub fn unpack(&self, id: &str, recipient: &Recipient) -> (PathBuf, PathBuf) {
        let package = self
            .client("operator")
            .get(&format!("/v1/batches/{id}/package"));
        assert_eq!(package.status, 200, "{}", package.status);
        let (tar, directory) = (recipient.path("package.tar"), recipient.path("package"));
        std::fs::write(&tar, &package.body).unwrap();
        std::fs::create_dir_all(&directory).unwrap();
        let unpacked = Command::new("tar")
            .arg("xf")
            .arg(&tar)
            .arg("-C")
            .arg(&directory)
            .status();
        assert!(unpacked.unwrap().success());
        (tar, directory)
    }

    /// `batch verify` with the recipient's key; what it prints, as JSON.
    pub fn verify_package(&self, tar: &std::path::Path, recipient: &Recipient) -> Value {
        let verified = self
            .program(&["--json", "batch", "verify"])
            .arg(tar)
            .arg("--report-key")
            .arg(self.dir.join("head-office/report.pem"))
            .arg("--recipient-key")
            .arg(recipient.path("r.key"))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&verified.stderr);
        assert!(verified.status.success(), "{errors}");
        serde_json::from_slice(&verified.stdout).unwrap()
    }
}
