//! Plants faults in the rules, one at a time. At least one of the tests that a fault names must
//! fail.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::programs::TestProgram;
use crate::shell::{cargo, command, output, read, setting};
use crate::suite::{MORE_CASES, SYSTEM, build_system_tests, cargo_test, processors, system_tests};

const LIST: &str = "dev/xtask/mutants.txt";

#[derive(Clone, Copy, Subcommand)]
pub(crate) enum Part {
    /// Only check that every fault can be planted
    Check,
}

/// A paragraph of the list.
struct Mutant {
    what: String,
    file: String,
    from: String,
    to: String,
    tests: Vec<String>,
}

impl Mutant {
    fn parse(paragraph: &str) -> Result<Self> {
        let lines: Vec<&str> = paragraph.lines().collect();
        let [what, file, from, to, tests] = <[&str; 5]>::try_from(lines)
            .map_err(|lines| anyhow::anyhow!("a fault has five lines: {lines:?}"))?;
        Ok(Self {
            what: what.to_owned(),
            file: file.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            tests: tests.split(' ').map(str::to_owned).collect(),
        })
    }

    /// Returns the file without and with the fault. Fails unless the text to replace occurs once.
    fn texts(&self) -> Result<(String, String)> {
        let before = read(&self.file)?;
        let times = before.matches(&self.from).count();
        ensure!(
            times == 1,
            "{}: found {times} times in {}",
            self.what,
            self.file
        );
        let after = before.replace(&self.from, &self.to);
        Ok((before, after))
    }

    /// Returns the tests that fail while the fault is planted.
    fn caught_by(&self, system: Option<&TestProgram>) -> Result<Vec<String>> {
        let (before, after) = self.texts()?;
        fs::write(&self.file, after)?;
        let failing = failing(&self.tests, system);
        fs::write(&self.file, before)?;
        failing.with_context(|| self.what.clone())
    }
}

/// Returns the words of a `cargo test` command that select tests by their names.
fn filters(tests: &[String]) -> Vec<&String> {
    let mut filters = Vec::new();
    let mut words = tests.iter();
    while let Some(word) = words.next() {
        if word == "--test" {
            // The name of a test program follows.
            words.next();
        } else if !word.starts_with("--") {
            filters.push(word);
        }
    }
    filters
}

fn is_of_system(tests: &[String]) -> bool {
    tests.iter().any(|word| word == SYSTEM)
}

/// Runs tests. Returns the names of those that fail. Fails if a filter selects no test, which
/// happens when tests are renamed. The tests of the whole system start the programs, so a fault in
/// a program needs no new build of these tests (`system`), which takes longer than most of them.
fn failing(tests: &[String], system: Option<&TestProgram>) -> Result<Vec<String>> {
    let mut run = if let Some(system) = system.filter(|_| is_of_system(tests)) {
        let mut build = cargo(&["build", "--workspace", "--locked", "--quiet"]);
        build.args(["--bin", "firstcome-api", "--bin", "firstcome-reconciler"]);
        let built = build.output().context("cargo build")?;
        ensure!(built.status.success(), "the programs cannot be built");
        system_tests(system, &filters(tests))
    } else {
        cargo_test(2 * processors(), tests)
    };
    run.envs(MORE_CASES);
    // Finding the smallest input of a failure takes minutes, and proves nothing more.
    run.env("PROPTEST_MAX_SHRINK_ITERS", "0");
    let ended = run.output().context("the tests")?;
    let log = String::from_utf8_lossy(&ended.stdout);
    // A fault that does not compile proves nothing.
    ensure!(log.contains("running "), "the tests did not run");
    let ran: Vec<&str> = log
        .lines()
        .filter_map(|line| line.strip_prefix("test "))
        .collect();
    for filter in filters(tests) {
        let is_used = ran.iter().any(|test| test.contains(filter.as_str()));
        ensure!(is_used, "{filter} selects no test");
    }
    let failed: Vec<String> = ran
        .iter()
        .filter_map(|test| test.strip_suffix(" ... FAILED"))
        .map(str::to_owned)
        .collect();
    let names_every_failure = failed.is_empty() == ended.status.success();
    ensure!(
        names_every_failure,
        "{} without the name of a test",
        ended.status
    );
    Ok(failed)
}

/// Plants the faults, or only checks that they can be planted. If `ONLY` is set, only the faults
/// whose description or file contains its value.
pub(crate) fn run(part: Option<Part>) -> Result<()> {
    let list = read(LIST)?;
    let paragraphs = list.split("\n\n").skip(1).map(str::trim_end);
    let mut mutants = paragraphs.map(Mutant::parse).collect::<Result<Vec<_>>>()?;
    let only = setting("ONLY").unwrap_or_default();
    mutants.retain(|mutant| mutant.what.contains(&only) || mutant.file.contains(&only));
    for mutant in &mutants {
        mutant.texts()?;
    }
    ensure!(!mutants.is_empty(), "no fault contains ONLY={only}");
    println!("{} faults can be planted", mutants.len());
    if part.is_some() {
        return Ok(());
    }
    let changed = output(command("git").args(["status", "--porcelain"]))?;
    ensure!(changed.is_empty(), "commit first: the faults change files");
    let mut of_tests: BTreeMap<&Vec<String>, Vec<&Mutant>> = BTreeMap::new();
    for mutant in &mutants {
        of_tests.entry(&mutant.tests).or_default().push(mutant);
    }
    let needs_system = mutants.iter().any(|mutant| is_of_system(&mutant.tests));
    let system = needs_system.then(build_system_tests).transpose()?;
    let system = system.as_ref();
    let mut not_caught = 0;
    // Tests that fail or do not run without a fault prove nothing. All of them run before the first
    // fault, because each fault rebuilds their programs.
    of_tests.retain(|tests, mutants| {
        let why = match failing(tests, system) {
            Ok(already) if already.is_empty() => return true,
            Ok(already) => already.join(", "),
            Err(error) => format!("{error:#}"),
        };
        println!("FAIL without a fault, {} faults: {why}", mutants.len());
        not_caught += mutants.len();
        false
    });
    for mutants in of_tests.into_values() {
        for mutant in mutants {
            let what = &mutant.what;
            match mutant.caught_by(system) {
                Ok(failed) if !failed.is_empty() => {
                    println!("caught {what}: {}", failed.join(", "));
                    continue;
                }
                Ok(_) => println!("MISSED {what}"),
                Err(error) => println!("FAIL {what}: {error:#}"),
            }
            not_caught += 1;
        }
    }
    ensure!(not_caught == 0, "{not_caught} faults were not caught");
    Ok(())
}
