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

#[allow(dead_code, reason = "the tests of faults use more of it")]
#[path = "../issuance/load.rs"]
mod load;
#[path = "../support/mod.rs"]
mod support;

mod audit;
mod batch_lists;
mod batches;
mod crl;
mod device_lists;
mod devices;
mod documents;
mod issue;
mod jitp;
mod life;
mod limits;
mod ocsp;
mod orders;
mod pages;
mod principals;
mod refusals;
mod reports;
mod roles;
mod search;
mod slow;
mod stations;
mod tickets;
mod tls_files;
mod transport;
mod ui;
mod verification;
