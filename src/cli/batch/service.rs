//! The service as these commands call it: for hours, across its restarts.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::cli::Failure;
use crate::cli::Global;
use crate::cli::cert;
use crate::cli::client::Client;
use crate::cli::client::Connect;
use crate::cli::client::Connection;
use crate::cli::client::RequestBody;
use crate::cli::client::Stream;

/// For one document.
const GET_TIMEOUT: Duration = Duration::from_secs(30);
/// For what a call does: the service writes up to a million rows before it gives it.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
/// How long a call is repeated that fails for the time being.
const PATIENCE: Duration = Duration::from_secs(30);
/// First and longest wait between two of them.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Longest problem document that is read, in octets.
const PROBLEM_LENGTH_MAX: usize = 1 << 20;

/// One service, over one connection that is made again when it is lost.
pub struct Service {
    client: Client,
    connection: Option<Connection>,
    json: bool,
}

/// Whether to try again helps: no answer came, or one that says so.
#[must_use]
pub fn passes(failure: &Failure) -> bool {
    failure.code == Failure::DEPENDENCY
}

/// A failure that passes.
pub fn away(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Failure::DEPENDENCY, error)
}

/// Repeats what fails for the time being, for half a minute.
pub async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let end = Instant::now() + PATIENCE;
    let (mut wait, longest) = WAITS;
    loop {
        match call().await {
            Err(failure) if passes(&failure) && Instant::now() + wait < end => {
                eprintln!("{:#}; trying again", failure.error);
            }
            other => return other,
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

impl Service {
    /// Reads the key material, the operator's unless another is named; does not connect yet.
    pub fn new(global: &Global, connect: &Connect) -> anyhow::Result<Self> {
        let mut connect = connect.clone();
        let beside = global.config.parent().unwrap_or(Path::new("."));
        connect
            .client_certificate
            .get_or_insert_with(|| beside.join("clients/operator.pem"));
        Ok(Self {
            client: Client::new(&connect, &global.config)?,
            connection: None,
            json: global.json,
        })
    }

    /// Asks for a JSON document.
    pub async fn get(&mut self, path: &str) -> Result<Value, Failure> {
        let kept = self.connection.is_some();
        let answer = self.get_once(path).await;
        // The service may close a connection that rests; that says nothing about the service.
        if answer.is_err() && kept && self.connection.is_none() {
            return self.get_once(path).await;
        }
        answer
    }

    async fn get_once(&mut self, path: &str) -> Result<Value, Failure> {
        let nothing = Bytes::new().into();
        self.call_within(GET_TIMEOUT, Method::GET, path, &[], nothing)
            .await
    }

    /// One call, once; a problem is a failure with the exit code that fits it.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: RequestBody,
    ) -> Result<Value, Failure> {
        self.call_within(ANSWER_TIMEOUT, method, path, headers, body)
            .await
    }

    /// The same with a limit of its own.
    pub async fn call_within(
        &mut self,
        limit: Duration,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: RequestBody,
    ) -> Result<Value, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.connect().await.map_err(away)?,
        };
        let answer = connection
            .send_within(limit, method, path, headers, body)
            .await
            .map_err(away)?;
        self.connection = Some(connection);
        if answer.status.is_success() {
            return Ok(serde_json::from_slice(&answer.body)?);
        }
        Err(self.refused(answer.status, &answer.body))
    }

    /// Asks for something long, on a connection of its own. Any status but the `expected` ones is a
    /// failure.
    pub async fn stream(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        expected: &[StatusCode],
    ) -> Result<(Connection, Stream), Failure> {
        let mut connection = self.client.connect().await.map_err(away)?;
        let mut answer = connection.stream(path, headers).await.map_err(away)?;
        if expected.contains(&answer.status) {
            return Ok((connection, answer));
        }
        let mut problem = Vec::new();
        while let Some(octets) = answer.next().await.map_err(away)? {
            problem.extend_from_slice(&octets);
            if problem.len() > PROBLEM_LENGTH_MAX {
                return Err(anyhow!("{} and no problem document", answer.status).into());
            }
        }
        Err(self.refused(answer.status, &problem))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Failure {
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut failure = cert::refused(status.as_u16(), &problem);
        if status == StatusCode::TOO_MANY_REQUESTS {
            failure.code = Failure::DEPENDENCY;
        }
        if self.json && !passes(&failure) {
            println!("{problem:#}");
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::away;
    use super::patiently;
    use crate::cli::Failure;

    #[test]
    fn only_what_passes_is_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for (failures, code, calls) in [(2, 5, 3), (1, 4, 1)] {
            let mut called = 0;
            let outcome = runtime.block_on(patiently(async || {
                called += 1;
                match (called <= failures, code) {
                    (true, 5) => Err(away(anyhow!("down"))),
                    (true, code) => Err(Failure::new(code, anyhow!("no"))),
                    _ => Ok(()),
                }
            }));
            assert_eq!(outcome.is_ok(), code == 5);
            assert_eq!(called, calls);
        }
    }
}
