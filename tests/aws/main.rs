//! AWS's own command line and two emulators of AWS IoT, before what the product makes for them.

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

mod emulator;
mod kit;
mod roads;
