//! Selects and runs the tests on real servers, and prints one line of totals.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::programs::{Profile, build_all_and_fetch};
use crate::shell::{Failed, cargo, command, output, run, setting};

/// The program with the tests of the whole system.
const SYSTEM: &str = "it";

/// Tests of the whole system that run before a release and not for every change, because each costs
/// several times as much as other tests. For every change, schedules with several faults replace
/// those with single faults, and the services' own tests check the data that the pages get.
const BEFORE_A_RELEASE: [&str; 38] = [
    // Single faults, on separate servers that are killed, silent or full.
    "faults::single",
    "faults::brokers",
    "faults::silent",
    "faults::late",
    "faults::memory",
    "faults::clocks",
    "faults::redis_servers",
    "faults::mysql_failover",
    "faults::clusters",
    "faults::outages",
    "faults::judge",
    "repair_after_its_redis_was_demoted",
    "connections_to_a_demoted_primary",
    "errors_are_distinguished_in_any_server_language",
    "starts_without_mysql",
    "starts_without_kafka",
    "operations::silent_hosts",
    "operations::silent_stops",
    "restore::",
    // TLS and logins, except the main job and its secrets.
    "tls::refused",
    "every_kafka_login_method",
    // A browser, except for a claim and a reload.
    "pages::from_mails",
    "pages::looks",
    "pages::operations",
    "pages::waiting",
    "a_claim_survives_a_lost_network",
    "a_confirmed_return_frees_the_slot",
    "the_page_returns_the_coupon_of_the_drop",
    // Many rows, users or processes.
    "claims::acknowledged",
    "consumer::flood",
    "each_lost_key_of_a_second_day",
    "a_coupon_reopens_after_a_loss_during_all",
    "manifests_roll_out",
    // Tests that must wait for time to pass.
    "a_deep_pass_due_in_the_same_second",
    "partitions_of_a_killed_consumer",
    "a_restarted_static_member",
    "passes_that_cannot_read_the_topic",
    "redis_restart_while",
];

/// The tests of the model. Its largest worlds also run only before a release.
const MODEL: &str = "protocol";

/// Tests that need schemathesis (`cargo xtask attack`).
const ATTACKS: &str = "attack::";

/// Number of fault schedules for every change. `make chaos SEEDS=500` runs those of a release.
const SEEDS: &str = "5";

/// Runs the tests of every change. With arguments, runs `cargo test` with them.
pub(crate) fn test(args: &[String]) -> Result<()> {
    let profile = Profile::new("dev".to_owned());
    build_all_and_fetch(&profile)?;
    let begun = Instant::now();
    let runs = if args.is_empty() {
        every_change(&profile)?
    } else {
        vec![Run::shown(cargo_test(&Threads::system(), args))?]
    };
    sum_up(runs, begun)
}

/// Runs the tests that are skipped for every change.
pub(crate) fn faults() -> Result<()> {
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    let begun = Instant::now();
    let system = [&["--test", SYSTEM, "--"][..], &BEFORE_A_RELEASE].concat();
    let mut runs = Vec::new();
    let model = ["--test", MODEL, "--", "--ignored"];
    for args in [&system[..], &model] {
        runs.push(Run::shown(cargo_test(&Threads::system(), args))?);
    }
    sum_up(runs, begun)
}

pub(crate) fn attacks(schemathesis: &Path) -> Result<()> {
    run(test_it(&[ATTACKS, "--nocapture"]).env("SCHEMATHESIS", schemathesis))
}

pub(crate) fn crashes() -> Result<()> {
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    let mut tests = test_it(&["cycles::", "--nocapture"]);
    run(tests.env(
        "CYCLES",
        setting("CYCLES").unwrap_or_else(|| "100".to_owned()),
    ))
}

pub(crate) fn api_docs() -> Result<()> {
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    run(test_it(&["api_docs::"]).env("UPDATE_DOCS", "1"))
}

/// Returns the `cargo test` command for the system tests, with these arguments of the test program.
pub(crate) fn test_it(args: &[&str]) -> Command {
    let mut tests = cargo(&["test", "--workspace", "--locked", "--test", SYSTEM, "--"]);
    tests.args(args);
    tests
}

/// Runs the tests of every change. The system tests wait for servers most of the time, so all other
/// tests and the fault schedules run concurrently, and their output is shown afterwards.
fn every_change(profile: &Profile) -> Result<Vec<Run>> {
    let mut system = vec!["--test", SYSTEM, "--"];
    for words in BEFORE_A_RELEASE.iter().chain([&ATTACKS]) {
        system.extend(["--skip", words]);
    }
    let programs = test_programs()?;
    // `--bins` is not used, because it also builds and links the programs with `test = false`.
    // `--doc` is not used, because no crate has a tested example.
    let mut others = vec!["--lib", "--bin", "xtask"];
    for name in programs.iter().filter(|name| *name != SYSTEM) {
        others.extend(["--test", name]);
    }
    let schedules = schedules(profile)?;
    thread::scope(|scope| {
        let others = scope.spawn(|| Run::kept(cargo_test(&Threads::processors(), &others)));
        let schedules = scope.spawn(|| Run::kept(schedules));
        let mut runs = vec![Run::shown(cargo_test(&Threads::system(), &system))?];
        for beside in [others, schedules] {
            let run = beside
                .join()
                .map_err(|_| Failed::check("a thread panicked"))??;
            print!("{}", run.log);
            runs.push(run);
        }
        Ok(runs)
    })
}

/// Returns the command of the fault schedules. Each commit draws other ones, so that no test is
/// always the same five. `FIRST` and `SEEDS` in the environment select them.
fn schedules(profile: &Profile) -> Result<Command> {
    let seeds = setting("SEEDS").unwrap_or_else(|| SEEDS.to_owned());
    let first = match setting("FIRST") {
        Some(first) => first,
        None => first_seed(&commit().context("set FIRST to choose the fault schedules")?)?,
    };
    println!(
        "[test] fault schedules; to run them alone: make chaos FIRST={first} SEEDS={seeds} WORKERS=1"
    );
    let mut chaos = profile.program("firstcome-chaos");
    chaos.arg("run");
    chaos.envs([("FIRST", &*first), ("SEEDS", &seeds), ("WORKERS", "1")]);
    Ok(chaos)
}

fn commit() -> Result<String> {
    output(command("git").args(["rev-parse", "HEAD"]))
}

/// Derives the first of a commit's seeds from its hash.
fn first_seed(commit: &str) -> Result<String> {
    let digits = commit.get(..8).context("git names no commit")?;
    let number = u32::from_str_radix(digits, 16).context("a commit's hash")?;
    Ok((1 + number % 1_000_000).to_string())
}

/// Number of concurrent tests.
struct Threads(String);

impl Threads {
    /// Returns more threads than cores, because system tests wait for servers most of the time.
    fn system() -> Self {
        let default = || (2 * processors()).to_string();
        Self(setting("RUST_TEST_THREADS").unwrap_or_else(default))
    }

    fn processors() -> Self {
        Self(processors().to_string())
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(2, usize::from)
}

fn cargo_test(threads: &Threads, args: &[impl AsRef<std::ffi::OsStr>]) -> Command {
    let mut tests = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    tests.args(args).env("RUST_TEST_THREADS", &threads.0);
    if setting("TMPDIR").is_none() && has_room_in_memory() {
        tests.env("TMPDIR", MEMORY);
    }
    tests
}

/// Returns the names of all test programs of the workspace.
fn test_programs() -> Result<Vec<String>> {
    let metadata = output(&mut cargo(&[
        "metadata",
        "--no-deps",
        "--locked",
        "--format-version=1",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let mut names: Vec<_> = targets(&metadata)
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Returns all targets that `cargo metadata` lists.
fn targets(metadata: &Value) -> impl Iterator<Item = &Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.flat_map(|package| package["targets"].as_array().into_iter().flatten())
}

const MEMORY: &str = "/dev/shm";
const ROOM_KB: u64 = 8_000_000;

/// Whether the servers of tests can write to memory instead of a disk, for which Redis and MySQL
/// would wait before each response. The files of a killed server survive in either case.
fn has_room_in_memory() -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let disk = Command::new("df").args(["--output=avail", MEMORY]).output();
    let disk = disk.map(|df| String::from_utf8_lossy(&df.stdout).into_owned());
    may_run_programs(&mounts)
        && first_number(&memory, "MemAvailable:") >= Some(ROOM_KB)
        && disk.is_ok_and(|disk| first_number(&disk, "Avail") >= Some(ROOM_KB))
}

fn may_run_programs(mounts: &str) -> bool {
    mounts
        .lines()
        .any(|line| line.contains(&format!(" {MEMORY} ")) && !line.contains("noexec"))
}

/// Returns the first number after this word.
fn first_number(text: &str, word: &str) -> Option<u64> {
    let (_, rest) = text.split_once(word)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The output of a command on both streams, and its error.
struct Run {
    log: String,
    /// The error of a command that failed.
    failed: Option<anyhow::Error>,
}

impl Run {
    fn shown(command: Command) -> Result<Self> {
        Self::of(command, true)
    }

    fn kept(command: Command) -> Result<Self> {
        Self::of(command, false)
    }

    fn of(mut command: Command, is_shown: bool) -> Result<Self> {
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().context("cannot start the tests")?;
        // Drops the writing ends that the command holds. Otherwise the pipe would never end.
        command.stdout(io::stdout()).stderr(io::stderr());
        let mut log = String::new();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            if is_shown {
                io::stdout().write_all(text.as_bytes())?;
            }
            log.push_str(&text);
            line.clear();
        }
        let status = child.wait()?;
        let failed = crate::shell::judge(&command, status).err();
        Ok(Self { log, failed })
    }
}

/// Prints one line for all runs. Returns the error of the first run that failed.
fn sum_up(runs: Vec<Run>, begun: Instant) -> Result<()> {
    let log: String = runs.iter().map(|run| run.log.as_str()).collect();
    println!("\n{}", Summary::of(&log).line(begun.elapsed().as_secs()));
    runs.into_iter()
        .find_map(|run| run.failed)
        .map_or(Ok(()), Err)
}

/// The counts that test programs print.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    left_out: u64,
    programs: u64,
    failures: Vec<String>,
}

impl Summary {
    fn of(log: &str) -> Self {
        let mut summary = Self::default();
        for line in log.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                summary.programs += 1;
                summary.passed += count(counts, "passed");
                summary.failed += count(counts, "failed");
                summary.ignored += count(counts, "ignored");
                summary.left_out += count(counts, "filtered");
            }
            let name = line
                .strip_prefix("test ")
                .and_then(|line| line.strip_suffix(" ... FAILED"));
            summary.failures.extend(name.map(str::to_owned));
        }
        summary
    }

    fn line(&self, seconds: u64) -> String {
        let Self {
            passed,
            failed,
            ignored,
            left_out,
            programs,
            ..
        } = self;
        let failures = self.failures.iter();
        let failures: String = failures.flat_map(|name| ["\n  failed: ", name]).collect();
        let nothing = if *programs == 0 { "\nno test ran" } else { "" };
        format!(
            "{passed} tests passed, {failed} failed, {ignored} ignored, {left_out} left out, \
             in {programs} programs and {seconds} s{failures}{nothing}"
        )
    }
}

/// Returns the number before this word.
fn count(line: &str, word: &str) -> u64 {
    let words: Vec<_> = line.split([' ', ';', '.']).collect();
    let pair = words.windows(2).find(|pair| pair[1] == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
running 2 tests
test a::holds ... ok
test b::breaks ... FAILED

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s

test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.00s
";

    #[test]
    fn adds_counts_of_all_programs_and_names_failures() {
        assert_eq!(
            Summary::of(LOG).line(12),
            "41 tests passed, 1 failed, 2 ignored, 7 left out, in 2 programs and 12 s\n  failed: b::breaks"
        );
    }

    /// If an expensive test were renamed, it would silently run for every change.
    #[test]
    fn each_entry_of_the_lists_matches_tests() {
        let tests = crate::shell::root().join("dev/testkit/tests/it");
        let sources = crate::shell::output(
            Command::new("grep")
                .arg("-rhoE")
                .arg("fn [a-z0-9_]+")
                .arg(&tests),
        )
        .unwrap();
        for words in BEFORE_A_RELEASE {
            let module = words.trim_end_matches("::").replace("::", "/");
            let is_module = tests.join(&module).is_dir() || tests.join(module + ".rs").is_file();
            assert!(
                is_module || sources.contains(words),
                "no test's name contains {words}"
            );
        }
    }

    #[test]
    fn seeds_follow_the_commit() {
        let seed = |commit| first_seed(commit).unwrap();
        assert_eq!(seed("000f423fb0"), "1000000");
        assert_eq!(seed("000f4240b0"), "1");
        assert_eq!(seed("00000000b0"), "1");
        assert!(first_seed("HEAD").is_err() && first_seed("no commit").is_err());
    }

    #[test]
    fn reports_a_run_without_tests() {
        assert!(
            Summary::of("error: could not compile")
                .line(1)
                .ends_with("no test ran")
        );
    }

    #[test]
    fn run_keeps_both_streams_and_the_exit_code() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 101"]);
        let run = Run::kept(command).unwrap();
        assert_eq!(run.log, "out\nerr\n");
        let failed = run.failed.unwrap();
        assert_eq!(failed.downcast_ref::<Failed>().unwrap().code, 101);
    }

    #[test]
    fn parses_available_memory_and_mount_options() {
        assert_eq!(
            first_number("MemTotal: 1 kB\nMemAvailable:   23 kB\n", "MemAvailable:"),
            Some(23)
        );
        assert_eq!(first_number("   Avail\n 4096\n", "Avail"), Some(4096));
        assert!(may_run_programs("tmpfs /dev/shm tmpfs rw,nosuid 0 0\n"));
        assert!(!may_run_programs("tmpfs /dev/shm tmpfs rw,noexec 0 0\n"));
    }
}
