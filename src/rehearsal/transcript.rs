//! What happened, step by step: a JSON line for machines, a line for people.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::Utc;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

/// Steps that wait to be written; more are counted and lost.
const WAITING_MAX: usize = 4_096;
/// How long a value may be in a readable line, in characters.
const SHOWN_MAX: usize = 200;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// As it should, and somebody should look.
    Warning,
    /// The device was refused.
    Refused,
}

/// One step of one connection.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    event: &'static str,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    /// In AWS's own words, where they are known: a log's reason or an error's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    aws_reason: Option<String>,
    detail: String,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Step {
    /// A step with a stable name.
    #[must_use]
    pub fn new(event: &'static str, outcome: Outcome) -> Self {
        Self {
            event,
            outcome,
            connection: None,
            peer: None,
            aws_reason: None,
            detail: String::new(),
            more: Map::new(),
        }
    }

    /// Of one connection.
    #[must_use]
    pub fn at(mut self, connection: u64, peer: SocketAddr) -> Self {
        self.connection = Some(connection);
        self.peer = Some(peer);
        self
    }

    /// What happened, for a person.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// What AWS would write.
    #[must_use]
    pub fn aws(mut self, reason: impl Into<String>) -> Self {
        self.aws_reason = Some(reason.into());
        self
    }

    /// Another member of the JSON line.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        // Only strings, numbers, lists and maps with string keys come here, which all serialize.
        let value = serde_json::to_value(value).unwrap_or_default();
        self.more.insert(name.to_owned(), value);
        self
    }

    fn line(&self, time: DateTime<Utc>) -> String {
        let mark = match self.outcome {
            Outcome::Ok => "ok     ",
            Outcome::Warning => "WARNING",
            Outcome::Refused => "REFUSED",
        };
        let connection = self.connection.map_or(String::new(), |n| format!("#{n} "));
        let mut line = format!(
            "{} {mark} {connection}{}: {}",
            time.format("%H:%M:%S%.3f"),
            self.event,
            shown(&self.detail)
        );
        if let Some(reason) = &self.aws_reason {
            line.push_str("\n                     AWS: ");
            line.push_str(&shown(reason));
        }
        line
    }
}

/// Nothing that a device sends moves a terminal's cursor.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_MAX * 4)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(SHOWN_MAX * 4).is_some() {
        shown.push('…');
    }
    shown
}

/// Writes steps on a thread of its own: a slow terminal holds up no device.
#[derive(Clone)]
pub struct Transcript {
    sender: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

enum Line {
    Step(DateTime<Utc>, Box<Step>),
    Flush(SyncSender<()>),
}

impl Transcript {
    /// `json`: JSON lines on standard output and the readable ones on standard error; else the
    /// readable ones on standard output.
    pub fn start(json: bool) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("transcript".to_owned())
            .spawn(move || {
                for line in receiver {
                    match line {
                        Line::Step(time, step) => write(json, time, &step),
                        Line::Flush(done) => {
                            done.send(()).ok();
                        }
                    }
                    let lost = count.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        eprintln!("{lost} steps were too many to write");
                    }
                }
            })?;
        Ok(Self { sender, lost })
    }

    /// Never waits.
    pub fn tell(&self, time: DateTime<Utc>, step: Step) {
        if self
            .sender
            .try_send(Line::Step(time, Box::new(step)))
            .is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, a second at most, until what was told is written.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.sender.try_send(Line::Flush(done)).is_ok() {
            wait.recv_timeout(Duration::from_secs(1)).ok();
        }
    }
}

/// A reader that went away is no reason to stop.
fn write(json: bool, time: DateTime<Utc>, step: &Step) {
    let line = step.line(time);
    if !json {
        writeln!(std::io::stdout(), "{line}").ok();
        return;
    }
    let dated = Dated {
        time: time.to_rfc3339_opts(SecondsFormat::Millis, true),
        step,
    };
    if let Ok(text) = serde_json::to_string(&dated) {
        writeln!(std::io::stdout(), "{text}").ok();
    }
    writeln!(std::io::stderr(), "{line}").ok();
}

/// A step with its time first.
#[derive(Serialize)]
struct Dated<'a> {
    time: String,
    #[serde(flatten)]
    step: &'a Step,
}
