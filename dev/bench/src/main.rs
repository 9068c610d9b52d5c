//! `firstcome-bench`. See the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    firstcome_bench::sections::main()
}
