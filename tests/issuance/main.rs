//! The spine under fault: neighbours die, freeze, lie and come back while stations go on asking.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test that unwraps fails where it should, looks again after a nap, and is nobody's library"
)]

#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/mod.rs"]
mod support;

mod batches;
mod clock;
mod crl;
mod database;
mod failover;
mod floor;
mod hsm;
mod life;
mod load;
mod log;
mod orders;
mod pooler;
mod process;
mod profiles;
mod reload;
mod replicas;
mod restore;
mod rotation;
mod standby;
mod start;
mod verification;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One load at a time: recovery times are promises, and two loads would share two cores.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Answers come by the deadline of 5 s; one more for a slow machine.
const DEADLINE_AND_MARGIN: Duration = Duration::from_secs(6);

/// How long an intent may stay open when its maker has gone.
const RECOVERED: Duration = Duration::from_secs(10);
