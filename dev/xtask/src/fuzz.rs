//! Runs the property tests of all inputs and of the repair plan with new random inputs. A failing
//! input is shrunk and shown.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::programs::{Profile, build_all_and_fetch};
use crate::shell::{Failed, cargo, run, setting};

/// The names of all property tests of the product.
const PROPERTIES: [&str; 10] = [
    "codes_sort_by_drop_and_slot",
    "dead_letter_keeps_message_bytes_unchanged",
    "issued_rows_fit_the_schema_and_a_second_read_issues_nothing",
    "parsed_numbers_and_user_ids_equal_their_text",
    "quoted_ids_are_always_removed",
    "refuses_any_text_without_a_valid_signature",
    "scripts_match_their_model",
    "shortcut_for_consistent_pages_agrees_with_full_comparison",
    "user_id_cannot_terminate_its_sql_literal",
    "windows_of_a_schedule_are_valid_and_ordered",
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::shell::{output, root};

    /// If a property were renamed, it would silently run with the usual inputs only.
    #[test]
    fn each_property_is_a_test() {
        let folders = ["api", "reconciler", "shared"].map(|folder| root().join(folder));
        let mut grep = Command::new("grep");
        grep.args(["-rhoE", "fn [a-z0-9_]+"]).args(folders);
        let sources = output(&mut grep).unwrap();
        for name in PROPERTIES {
            let test = format!("fn {name}");
            assert!(sources.lines().any(|line| line == test), "no {test}");
        }
    }
}
