//! `firstcome-api`: admits users, turns admissions into rows, and prepares the stores.

use std::process::ExitCode;

/// mimalloc needs fewer cycles per claim than the system's allocator, and keeps memory use stable
/// (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    firstcome_api::cli::main()
}
