//! The ledger and the archive on a real PostgreSQL, which is then broken.

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

mod archive;
mod batches;
mod crls;
mod fault;
mod fixture;
mod kind;
mod ledger;
mod lives;
mod log;
mod measures;
mod orders;
mod partition;
mod replicas;
mod schema;
mod site;
mod standby;
mod startup;
