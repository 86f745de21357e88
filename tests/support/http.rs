//! A client that is curl.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Calls a service as one of a world's clients, or as nobody.
#[derive(Clone)]
pub struct Curl {
    url: String,
    ca: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
}

/// What came back.
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {:?} {:.600}", self.status, self.headers, body)
    }
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The slug of a problem, its form checked on the way.
    pub fn slug(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for part in ["type", "title", "detail", "instance"] {
            assert!(
                problem[part].as_str().is_some_and(|text| !text.is_empty()),
                "`{part}` in {problem}"
            );
        }
        assert_eq!(problem["instance"].as_str(), self.header("x-request-id"));
        assert_eq!(
            self.status >= 503 || self.status == 429,
            self.header("retry-after").is_some(),
            "{self:?}"
        );
        problem["type"]
            .as_str()
            .unwrap()
            .strip_prefix("/problems/")
            .unwrap()
            .to_owned()
    }
}

impl Curl {
    pub fn new(url: &str, ca: &Path, identity: Option<(PathBuf, PathBuf)>) -> Self {
        Self {
            url: url.into(),
            ca: ca.into(),
            identity,
        }
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], None)
    }

    pub fn get_as(&self, path: &str, accept: &str) -> Response {
        self.send("GET", path, &[("Accept", accept)], None)
    }

    pub fn issue(&self, body: &Value) -> Response {
        self.post(body.to_string().as_bytes())
    }

    pub fn post(&self, body: &[u8]) -> Response {
        self.send(
            "POST",
            "/v1/certificates",
            &[("Content-Type", "application/json")],
            Some(body),
        )
    }

    /// `Err` holds what curl said when there was no HTTP answer, a TLS alert for instance.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Response, String> {
        let mut command = Command::new("curl");
        command
            .args([
                "-sS",
                "--max-time",
                "30",
                "--path-as-is",
                "-D",
                "/dev/stderr",
                "-X",
                method,
                "--cacert",
            ])
            .arg(&self.ca);
        if let Some((certificate, key)) = &self.identity {
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        for (name, value) in headers {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        if body.is_some() {
            command.args(["-H", "Expect:", "--data-binary", "@-"]);
        }
        command.arg(format!("{}{path}", self.url));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("curl");
        let mut stdin = child.stdin.take().unwrap();
        let body = body.unwrap_or_default().to_vec();
        // The service may answer and close before it has read all.
        let writer = std::thread::spawn(move || stdin.write_all(&body).ok());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let head = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut lines = head.lines();
        let Some(status) = lines
            .next()
            .filter(|line| line.starts_with("HTTP/"))
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        else {
            return Err(head);
        };
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Response {
            status,
            headers,
            body: output.stdout,
        })
    }

    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Response {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }
}
