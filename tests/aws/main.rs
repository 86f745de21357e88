//! AWS IoT's tools and emulators on what the factory makes for them.

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

mod roads;
