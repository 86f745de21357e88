//! The rehearsal endpoint, met by the clients that devices have: mosquitto and OpenSSL.

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

mod bench;
mod command;
mod hostile;
mod policy;
mod provisioning;
mod tls;
mod workshop;
