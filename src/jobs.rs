//! Work over rows that no request waits for: batches and their packages; the log's journal, tree
//! and checkpoints.

pub mod batches;
pub mod log;
pub mod package;
pub mod packer;
