//! `certfactory` gives every unit of a production line its birth certificate.
//!
//! A line station posts a certification request. The factory checks it, reserves it in the
//! ledger, lets the HSM sign it, verifies the signature, records the certificate, and only then
//! answers. Start reading at [`ca::issue`]: that one function is the product.
//!
//! The layers, each naming only those below it:
//!
//! ```text
//!                 ┌─ http ─┐
//! main → cli → app┼────────┼─→ ca ─→ pki        hsm and db implement ca's ports
//!                 ├─ hsm  ─┤
//!                 └─ db   ─┘
//! ```
//!
//! * [`pki`]: pure; bytes, values and a time go in, values come out
//! * [`ca`]: the certification authority and the ports it needs
//! * [`hsm`], [`db`]: the two neighbours
//! * [`journal`]: the log's second copy, on another disk
//! * [`http`]: the REST front end
//! * [`rehearsal`]: AWS IoT Core's part at a device's first connection, for the last station;
//!   names only [`pki`]
//! * [`witness`]: what co-signs a log's checkpoints, somewhere else; names only [`pki`]
//! * [`manual`]: how an issuance works, the threat model, decisions, problems

pub mod app;
pub mod ca;
pub mod cli;
pub mod config;
pub mod db;
pub mod hsm;
pub mod http;
pub mod jobs;
pub mod journal;
pub mod manual;
pub mod metrics;
pub mod pki;
pub mod rehearsal;
pub mod telemetry;
pub mod witness;
