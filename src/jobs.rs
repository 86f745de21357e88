//! Work over rows that no request waits for: batches and their packages; the log's journal, tree
//! and checkpoints; what is measured now and then.

pub mod batches;
pub mod headquarters;
pub mod log;
pub mod measure;
pub mod package;
pub mod packer;
mod room;
