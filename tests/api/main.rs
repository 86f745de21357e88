//! Black box: the API over HTTPS with client certificates.

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

mod crl;
mod devices;
mod documents;
mod issue;
mod jitp;
mod life;
mod ocsp;
mod orders;
mod principals;
mod refusals;
mod roles;
mod search;
mod stations;
mod verification;
