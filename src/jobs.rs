//! Work over rows that no request waits for: batches and their packages.

pub mod batches;
pub mod package;
pub mod packer;
