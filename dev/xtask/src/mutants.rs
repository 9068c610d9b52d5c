//! Plants faults in the rules, one at a time. At least one of the tests that a fault names must
//! fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::programs::{TestProgram, build_tests};
use crate::shell::{cargo, command, judge, output, read, run as run_to_end, setting};
use crate::suite::{MORE_CASES, SYSTEM, processors, with_threads};

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
    /// The arguments of cargo that select a test program.
    target: [String; 2],
    /// The arguments that select tests of it.
    words: BTreeSet<String>,
}

impl Mutant {
    fn parse(paragraph: &str) -> Result<Self> {
        let lines: Vec<String> = paragraph.lines().map(str::to_owned).collect();
        let [what, file, from, to, tests] = <[String; 5]>::try_from(lines)
            .map_err(|lines| anyhow::anyhow!("a fault has five lines: {lines:?}"))?;
        let (program, words) = tests
            .split_once(' ')
            .filter(|(program, _)| !program.starts_with('-'))
            .with_context(|| format!("{what}: no program and words of tests"))?;
        // Of a library, only the package is selected: the workspace has many.
        let package = file.split('/').next().unwrap_or_default();
        let target = match program {
            "lib" => [
                format!("--manifest-path={package}/Cargo.toml"),
                "--lib".to_owned(),
            ],
            _ => ["--workspace".to_owned(), format!("--test={program}")],
        };
        Ok(Self {
            target,
            words: words.split(' ').map(str::to_owned).collect(),
            what,
            file,
            from,
            to,
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

    /// Returns a test that fails while the fault is planted.
    fn caught_by(&self, program: &TestProgram) -> Result<Option<String>> {
        let (before, after) = self.texts()?;
        fs::write(&self.file, after)?;
        let built = if program.name == SYSTEM {
            build_programs()
        } else {
            build(&self.target).map(drop)
        };
        let failure = built.and_then(|()| first_failure(program, &self.words));
        fs::write(&self.file, before)?;
        failure
    }
}

fn build(target: &[String]) -> Result<TestProgram> {
    let built = build_tests(cargo(&["test", "--no-run", "--locked"]).args(target))?;
    let program = built.into_iter().next();
    program.with_context(|| format!("{target:?} is no test program"))
}

/// Builds what the tests of the whole system start. Building these tests again would take longer.
fn build_programs() -> Result<()> {
    let bins = ["--bin", "firstcome-api", "--bin", "firstcome-reconciler"];
    run_to_end(cargo(&["build", "--workspace", "--locked", "--quiet"]).args(bins))
}

/// Runs tests until one fails. Returns its name. Fails if a word selects no test, which happens when
/// tests are renamed.
fn first_failure(program: &TestProgram, words: &BTreeSet<String>) -> Result<Option<String>> {
    let mut tests = program.command();
    with_threads(tests.args(words), 2 * processors());
    // Finding the smallest input of a failure takes minutes, and proves nothing more.
    tests.envs(MORE_CASES).env("PROPTEST_MAX_SHRINK_ITERS", "0");
    let mut child = tests.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = child.stdout.take().context("the tests have no output")?;
    let mut ran = String::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        let test = line.strip_prefix("test ").unwrap_or_default();
        if let Some(test) = test.strip_suffix(" ... FAILED") {
            child.kill()?;
            child.wait()?;
            return Ok(Some(test.to_owned()));
        }
        ran += test;
    }
    judge(&tests, child.wait()?)?;
    let unused = words
        .iter()
        .find(|word| !word.starts_with("--") && !ran.contains(word.as_str()));
    ensure!(
        unused.is_none(),
        "{unused:?} selects no test of {}",
        program.name
    );
    Ok(None)
}

/// Starts a process that takes the fault out of the files again, however this one ends.
fn restorer(mutants: &[Mutant]) -> Result<Child> {
    let mut shell = command("sh");
    shell.args(["-c", "read _; git restore -- \"$@\"", "restorer"]);
    shell.args(mutants.iter().map(|mutant| &mutant.file));
    // Ctrl-C reaches the whole foreground group.
    let shell = shell.stdin(Stdio::piped()).process_group(0).spawn();
    shell.context("cannot start sh")
}

/// Plants the faults, or only checks that they can be planted. If `ONLY` is set, only the faults
/// whose description or file contains its value. The output of an earlier run can be given as
/// `DONE`: faults that were caught in it are left out.
pub(crate) fn run(part: Option<Part>) -> Result<()> {
    let list = read(LIST)?;
    let paragraphs = list.split("\n\n").skip(1).map(str::trim_end);
    let mut mutants = paragraphs.map(Mutant::parse).collect::<Result<Vec<_>>>()?;
    let only = setting("ONLY").unwrap_or_default();
    let done = setting("DONE").map(read).transpose()?.unwrap_or_default();
    mutants.retain(|mutant| {
        (mutant.what.contains(&only) || mutant.file.contains(&only))
            && !done.contains(&format!("caught {}: ", mutant.what))
    });
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
    // A build then replaces one fault by the next in the same crates.
    mutants.sort_by(|one, other| (&one.target, &one.file).cmp(&(&other.target, &other.file)));
    // Tests that fail without a fault prove nothing. A program runs once for all its faults.
    let mut words: BTreeMap<(&[String; 2], bool), BTreeSet<String>> = BTreeMap::new();
    for mutant in &mutants {
        let of_release = mutant.words.contains("--ignored");
        let words = words.entry((&mutant.target, of_release)).or_default();
        words.extend(mutant.words.iter().cloned());
    }
    let mut programs = BTreeMap::new();
    for ((target, _), words) in words {
        let program = build(target)?;
        if program.name == SYSTEM {
            build_programs()?;
        }
        let broken = first_failure(&program, &words)?;
        ensure!(broken.is_none(), "{broken:?} fails without a fault");
        programs.insert(target, program);
    }
    let mut restorer = restorer(&mutants)?;
    let mut not_caught = 0;
    for mutant in &mutants {
        let begun = Instant::now();
        let caught = mutant.caught_by(&programs[&mutant.target]);
        let how = match &caught {
            Ok(Some(test)) => format!("caught {}: {test}", mutant.what),
            Ok(None) => format!("MISSED {}", mutant.what),
            Err(error) => format!("FAIL {}: {error:#}", mutant.what),
        };
        println!("{how} ({} s)", begun.elapsed().as_secs());
        not_caught += usize::from(!matches!(caught, Ok(Some(_))));
    }
    drop(restorer.stdin.take());
    restorer.wait()?;
    ensure!(not_caught == 0, "{not_caught} faults were not caught");
    Ok(())
}
