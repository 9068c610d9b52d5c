//! `firstcome-reconciler`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    firstcome_reconciler::cli::main()
}
