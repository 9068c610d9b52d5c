//! The program `firstcome-reconciler`.

use std::process::ExitCode;

fn main() -> ExitCode {
    firstcome_reconciler::cli::main()
}
