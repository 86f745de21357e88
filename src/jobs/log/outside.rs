//! Checkpoints out of the building: each witness gets the newest one with the proof that the log only
//! grew since the last, and what it co-signs is kept beside it (C2SP tlog-witness).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use chrono::TimeDelta;
use chrono::Utc;
use http_body_util::BodyExt as _;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::Method;
use hyper::Request;
use hyper::StatusCode;
use hyper::Uri;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use openssl::ssl::SslConnector;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::ca::Ca;
use crate::ca::log::LogPart;
use crate::ca::log::NoteKind;
use crate::ca::log::StoredCheckpoint;
use crate::metrics::LogMetrics;
use crate::pki::note::Note;
use crate::pki::note::VerifierKey;

/// How often it is looked for a checkpoint that a witness has not seen.
const EVERY: Duration = Duration::from_secs(1);
/// A witness is asked again so long after its last answer also when there is no news: its signature
/// says that it is there.
const AGAIN: TimeDelta = TimeDelta::minutes(1);
/// How long a witness that failed or refused is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// Time for one request.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest answer, octets.
const ANSWER_LENGTH_MAX: usize = 64 * 1024;

/// One witness.
pub struct Outside {
    /// Its key, under its name.
    pub key: VerifierKey,
    /// Where it takes checkpoints.
    pub url: Uri,
    /// For `https`.
    pub tls: Option<SslConnector>,
}

/// Why a witness has not co-signed.
enum Trouble {
    /// It cannot be reached, or its answer is none.
    Away(String),
    /// It says no: it has seen another history than ours.
    Refused(String),
}

impl Outside {
    /// Keeps the witness up to date for ever.
    pub fn start(self, ca: Arc<Ca>, metrics: Arc<LogMetrics>) {
        tokio::spawn(async move {
            let name = self.key.name().to_owned();
            let mut known = 0;
            let mut last: Option<DateTime<Utc>> = None;
            let mut refused_before = false;
            // One that never answers is late, too.
            let witness_at = metrics.witness_at.with_label_values(&[&name]);
            witness_at.set(ca.clock.now().timestamp());
            let refused = metrics.witness_refused.with_label_values(&[&name]);
            loop {
                tokio::time::sleep(EVERY).await;
                let Ok(Some(newest)) = ca.log_book.checkpoint().await else {
                    continue;
                };
                let fresh = last.is_some_and(|last| ca.clock.now() - last < AGAIN);
                if fresh && newest.size <= known {
                    continue;
                }
                match self.submit(&ca, &newest, &mut known).await {
                    Ok(line) => {
                        let kept = ca
                            .log_book
                            .store_cosignature(newest.size, name.clone(), line);
                        if let Err(fault) = kept.await {
                            tracing::warn!(%fault, witness = name, "a cosignature is not kept");
                        }
                        let now = ca.clock.now();
                        last = Some(now);
                        witness_at.set(now.timestamp());
                        ca.log.set_witness(&name, None);
                        if std::mem::take(&mut refused_before) {
                            let event = json!({ "witness": name, "size": newest.size });
                            ca.tell(NoteKind::Acknowledged, event);
                        }
                    }
                    Err(Trouble::Away(reason)) => {
                        tracing::debug!(reason, witness = name, "the witness is away");
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(Trouble::Refused(reason)) => {
                        refused.inc();
                        if !std::mem::replace(&mut refused_before, true) {
                            tracing::error!(
                                reason,
                                witness = name,
                                size = newest.size,
                                "the witness does not co-sign: it has seen another log"
                            );
                            let event =
                                json!({ "witness": name, "size": newest.size, "refused": reason });
                            ca.tell(NoteKind::Acknowledged, event);
                        }
                        ca.log.set_witness(&name, Some(reason));
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
    }

    /// The witness's signature line. `known` is the size it has seen, as far as we know.
    async fn submit(
        &self,
        ca: &Ca,
        newest: &StoredCheckpoint,
        known: &mut u64,
    ) -> Result<String, Trouble> {
        let mut asked_before = false;
        loop {
            if *known > newest.size {
                return Err(Trouble::Refused(format!(
                    "it has co-signed {known} entries, and the log has {}",
                    newest.size
                )));
            }
            let proof = if *known == 0 {
                Vec::new()
            } else {
                let proof = ca.consistency(*known, newest.size).await;
                proof.map_err(|error| Trouble::Away(error.to_string()))?
            };
            let lines: String = proof
                .iter()
                .map(|hash| STANDARD.encode(hash) + "\n")
                .collect();
            let body = format!("old {known}\n{lines}\n{}", newest.note);
            let (status, answer) = self.post(body).await.map_err(Trouble::Away)?;
            match status {
                StatusCode::OK => {
                    let line = self.verified(newest, &answer)?;
                    *known = newest.size;
                    return Ok(line);
                }
                StatusCode::CONFLICT => {
                    let size = answer.trim_end_matches('\n').parse::<u64>();
                    match size {
                        // It has seen another checkpoint last than we thought: once more from there.
                        Ok(size) if !asked_before && size != *known => {
                            *known = size;
                            asked_before = true;
                        }
                        _ => return Err(Trouble::Refused(answer.trim_end().to_owned())),
                    }
                }
                StatusCode::UNPROCESSABLE_ENTITY
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND => {
                    return Err(Trouble::Refused(answer.trim_end().to_owned()));
                }
                status => return Err(Trouble::Away(format!("{status}: {}", answer.trim_end()))),
            }
        }
    }

    /// The line in the answer that the witness's own key made for this checkpoint.
    fn verified(&self, newest: &StoredCheckpoint, answer: &str) -> Result<String, Trouble> {
        let wrong = |what: &str| Trouble::Away(format!("its answer is no cosignature: {what}"));
        let note = Note::parse(&format!("{}{answer}", newest.note))
            .map_err(|fault| wrong(&fault.to_string()))?;
        self.key
            .verify(&note)
            .map_err(|fault| wrong(&fault.to_string()))?;
        let mut lines = note.signatures.iter();
        let own = lines
            .find(|line| line.name == self.key.name() && line.key_id == self.key.key_id())
            .ok_or_else(|| wrong("no line of its own"))?;
        Ok(own.to_string())
    }

    async fn post(&self, body: String) -> Result<(StatusCode, String), String> {
        let exchange = self.exchange(body);
        let answer = tokio::time::timeout(ANSWER_MAX, exchange).await;
        answer.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    async fn exchange(&self, body: String) -> Result<(StatusCode, String), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let host = self.url.host().ok_or("its address has no host")?;
        let default = if self.tls.is_some() { 443 } else { 80 };
        let port = self.url.port_u16().unwrap_or(default);
        let bare = host.trim_matches(['[', ']']);
        let tcp = TcpStream::connect((bare, port))
            .await
            .map_err(|e| text(&e))?;
        let path = format!("{}/add-checkpoint", self.url.path().trim_end_matches('/'));
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("host", format!("{host}:{port}"))
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| text(&e))?;
        let Some(tls) = &self.tls else {
            return send(TokioIo::new(tcp), request).await;
        };
        let ssl = tls
            .configure()
            .and_then(|configured| configured.into_ssl(bare));
        let ssl = ssl.map_err(|e| text(&e))?;
        let mut stream = SslStream::new(ssl, tcp).map_err(|e| text(&e))?;
        let shaken = std::pin::Pin::new(&mut stream).connect().await;
        shaken.map_err(|e| text(&e))?;
        send(TokioIo::new(stream), request).await
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    let (head, body) = answer.map_err(|e| e.to_string())?.into_parts();
    let body = Limited::new(body, ANSWER_LENGTH_MAX).collect().await;
    connection.abort();
    let octets = body.map_err(|e| e.to_string())?.to_bytes();
    let text = String::from_utf8(octets.to_vec()).map_err(|e| e.to_string())?;
    Ok((head.status, text))
}

/// Holds the age of the last acknowledgement against what the site allows, for ever. `since` is when
/// the service started: a log that no witness has ever seen is as old as that.
pub fn watch_age(ca: Arc<Ca>, hours_max: u32, since: DateTime<Utc>) {
    tokio::spawn(async move {
        loop {
            if let Ok(last) = ca.log_book.acknowledged().await {
                let age = ca.clock.now() - last.unwrap_or(since);
                let reason = (age > TimeDelta::hours(i64::from(hours_max))).then(|| {
                    let hours = age.num_hours();
                    format!("no witness has acknowledged the log for {hours} hours")
                });
                ca.log.set_fault(LogPart::Outside, reason);
            }
            tokio::time::sleep(EVERY).await;
        }
    });
}
