//! Shows where the time of the tests goes: the slowest tests of each test program.

use std::process::Command;

/// Number of tests that are shown of each program.
const SHOWN: usize = 10;
/// Faster tests are not shown.
const LEAST_SECONDS: f64 = 1.0;

/// Completes the command of a test program, so that each line of a test ends with its time. libtest
/// reports times only as an unstable option, which the variable permits.
pub(crate) fn with_times(tests: &mut Command) -> &mut Command {
    tests.args(["-Zunstable-options", "--report-time"]);
    tests.env("RUSTC_BOOTSTRAP", "1")
}

/// Prints the slowest tests in the output of a program.
pub(crate) fn print(name: &str, log: &str) {
    let mut tests: Vec<(f64, &str)> = log.lines().filter_map(time_and_name).collect();
    tests.sort_by(|one, other| other.0.total_cmp(&one.0));
    tests.truncate(SHOWN);
    for (seconds, test) in tests {
        println!("[test] {seconds:7.1} s {name} {test}");
    }
}

/// Parses a line such as `test gate::closes ... ok <1.234s>`.
fn time_and_name(line: &str) -> Option<(f64, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let (_, time) = rest.rsplit_once('<')?;
    let seconds = time.strip_suffix("s>")?.parse().ok()?;
    (seconds >= LEAST_SECONDS).then_some((seconds, name))
}
