//! Runs the property tests of all inputs and of the repair plan with new random inputs. A failing
//! input is shrunk and shown.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::programs::{Profile, build_all_and_fetch};
use crate::shell::{Failed, cargo, run, setting};

const PROPERTIES: [&str; 5] = [
    "::any_",
    "plan::tests::properties",
    "no_user_id_ends",
    "issued_rows_fit",
    "the_scripts_do_what",
];

pub(crate) fn run_for_minutes() -> Result<()> {
    const TESTS: [&str; 6] = [
        "test",
        "--workspace",
        "--lib",
        "--test",
        "scripts",
        "--locked",
    ];
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    let minutes = setting("MINUTES").map_or(Ok(10), |minutes| minutes.parse());
    let minutes: u64 = minutes.context("MINUTES is a number")?;
    let cases = setting("CASES").unwrap_or_else(|| "5000".to_owned());
    run(cargo(&TESTS).arg("--no-run"))?;
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(60 * minutes) {
        let mut properties = cargo(&TESTS);
        properties.args(["--quiet", "--"]).args(PROPERTIES);
        let ran = properties.env("PROPTEST_CASES", &cases).output()?;
        let log = String::from_utf8_lossy(&ran.stdout);
        if !ran.status.success() {
            eprintln!("{log}{}", String::from_utf8_lossy(&ran.stderr));
            return Err(Failed::check("a property does not hold"));
        }
        rounds += 1;
        eprintln!(
            "[fuzz] round {rounds}: {} properties of {cases} cases each, {} s",
            crate::suite::passed(&log),
            begun.elapsed().as_secs()
        );
    }
    println!("fuzz: {rounds} rounds, no case failed");
    Ok(())
}
