//! Parse arguments, hand over, map the outcome to an exit code; nothing else.

use clap::Parser;

// An issuance makes a few hundred small allocations; the C library's allocator is slower at them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    certfactory::cli::run(certfactory::cli::Arguments::parse())
}
