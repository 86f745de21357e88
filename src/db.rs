//! The PostgreSQL adapter: [`ledger::PgLedger`] implements [`crate::ca::Ledger`] and
//! [`crate::ca::order::OrderBook`],
//! [`archive::PgArchive`] implements [`crate::ca::Archive`] and [`crate::ca::ocsp::StatusBook`],
//! [`standby::Reading`] implements [`crate::ca::searches::Searches`],
//! [`crls::PgCrlStore`] implements [`crate::ca::crl::CrlStore`], [`log::PgLog`] implements
//! [`crate::ca::log::LogBook`], [`floor::PgFloor`] implements [`crate::ca::floor::FloorBook`],
//! [`headquarters::PgPlants`] implements [`crate::ca::headquarters::PlantBook`];
//! [`replicas::PgReplicas`] keeps a [`crate::ca::replica::Replica`].
//!
//! Five rules hold in this room:
//!
//! * What is final is only inserted. Unique constraints and one primary key an outcome carry all
//!   safety; leases and time limits only save work.
//! * A batch is one transaction that may be run again: a commit whose reply was lost is settled by
//!   running the same batch on a new connection.
//! * No database call sits under a timeout, a `select!` or a handler that may be dropped. Work
//!   runs in tasks of its own, callers wait on channels, and a connection that did not end its
//!   work is closed, never used again. (sqlx 0.9.0 otherwise hands out connections that are still
//!   inside a transaction: its issue 4393.)
//! * A session that writes is admitted first: by a primary, whose commits are where they have to be and whose log
//!   holds what this process has seen. What was only read is answered when that holds of it, too.
//! * Time is bounded by the server (`statement_timeout`, `lock_timeout`) and, for a server that
//!   is frozen or gone, by a watchdog that closes the connection.

pub mod archive;
pub mod backup;
pub mod batches;
pub mod check;
pub mod config;
pub mod costs;
pub mod crls;
pub mod error;
pub mod floor;
pub mod headquarters;
pub mod ledger;
pub mod log;
pub mod measures;
pub mod migrate;
pub mod parts;
pub mod principals;
pub mod replicas;
pub mod restore;
pub mod site;
pub mod standby;

mod device_lists;
mod export;
mod lane;
mod lives;
mod orders;
mod pooling;
mod record;
mod reports;
mod reserve;
mod row;
mod session;
mod settle;
mod stations;
mod statuses;
mod tickets;
mod vitals;
