//! Shows where the time of the tests goes: the slowest tests of each test program.

use std::process::Command;

/// Number of tests that are shown of each program.
const SHOWN: usize = 10;
/// Faster tests are not shown.
const LEAST_SECONDS: f64 = 1.0;

/// libtest reports times only as an unstable option, which this variable of the test programs
/// permits. In cargo's own environment, it would rebuild dependencies.
const RUNNER: &str = r#"target."cfg(all())".runner=["env","RUSTC_BOOTSTRAP=1"]"#;

/// Completes a `cargo test` command without arguments of the test programs, so that each line of
/// a test ends with its time.
pub(crate) fn with_times(tests: &mut Command) -> &mut Command {
    tests.args(["--config", RUNNER, "--"]);
    tests.args(["-Zunstable-options", "--report-time"])
}

/// Prints the slowest tests of each program in the output of `cargo test`.
pub(crate) fn print(log: &str) {
    for program in log.split("     Running ").skip(1) {
        let name = program.split(" (").next().unwrap_or_default();
        let mut tests: Vec<(f64, &str)> = program.lines().filter_map(time_and_name).collect();
        tests.sort_by(|one, other| other.0.total_cmp(&one.0));
        tests.truncate(SHOWN);
        if !tests.is_empty() {
            println!("[test] slowest tests of {name}:");
        }
        for (seconds, test) in tests {
            println!("[test] {seconds:7.1} s {test}");
        }
    }
}

/// Parses a line such as `test gate::closes ... ok <1.234s>`.
fn time_and_name(line: &str) -> Option<(f64, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let (_, time) = rest.rsplit_once('<')?;
    let seconds = time.strip_suffix("s>")?.parse().ok()?;
    (seconds >= LEAST_SECONDS).then_some((seconds, name))
}
