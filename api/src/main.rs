//! `firstcome-api`: admits people, turns admissions into rows, and prepares the stores.

use std::process::ExitCode;

/// Fewer cycles per claim than the system's allocator, and stable memory use (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    firstcome_api::cli::main()
}
