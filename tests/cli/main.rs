//! The command line as its users use it: what it prints where, what it returns, what it never says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

#[path = "../support/mod.rs"]
mod support;

mod archive;
mod audit;
mod batches;
mod benchmark;
mod ceremony;
mod cert;
mod config;
mod dev;
mod export;
mod help;
mod issuer;
mod jitp;
mod kit;
mod orders;
mod query;
mod secrets;
mod stations;
mod verification;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use support::world::World;

/// What a command left behind.
#[derive(Debug)]
struct Done {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Done {
    fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|e| panic!("standard output is not JSON ({e}): {self:?}"))
    }

    /// Exit code 0.
    fn ok(self) -> Self {
        self.fails(0)
    }

    /// That exit code.
    fn fails(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "{}\n{}",
            self.err,
            String::from_utf8_lossy(&self.out)
        );
        self
    }

    /// Nothing on standard output: it is for data.
    fn silent(self) -> Self {
        assert_eq!(String::from_utf8_lossy(&self.out), "");
        self
    }

    fn says(self, part: &str) -> Self {
        assert!(
            self.err.contains(part),
            "standard error lacks `{part}`: {}",
            self.err
        );
        self
    }
}

/// Runs a command of the product in a world.
fn run(world: &World, arguments: &[&str]) -> Done {
    finish(world.program(arguments), b"")
}

/// Runs any command to its end.
fn finish(mut command: Command, input: &[u8]) -> Done {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    // A command that does not read its input closes it.
    child.stdin.take().unwrap().write_all(input).ok();
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a neighbour's tool, which must succeed; returns what it printed.
fn tool(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command, b"").ok().text()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
