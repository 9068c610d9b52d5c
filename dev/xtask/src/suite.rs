//! Selects and runs the tests on real servers. Tests of the whole system with
//! `#[ignore = "release"]` cost several times as much as others and run before a release.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::histories;
use crate::programs::{Profile, TestProgram, build_all_and_fetch};
use crate::shell::{cargo, command, judge, output, run, setting};
use crate::slowest::{self, with_times};

/// The program with the tests of the whole system.
pub(crate) const SYSTEM: &str = "it";

/// Number of fault schedules for every change. `make chaos SEEDS=1000` runs those of a release.
const SEEDS: &str = "60";
/// No more drawn schedules begin after this time since the start of the tests of the system, so
/// that the tests end within six minutes.
const UNTIL: Duration = Duration::from_secs(320);
/// Drawn schedules begin for at least and at most these minutes, unless `MINUTES` is set.
const MINUTES: [f64; 2] = [1.0, 2.5];

/// The numbers of random cases in tests that draw fewer for every change.
pub(crate) const MORE_CASES: [(&str, &str); 3] = [
    ("SCHEDULES", "3000"),
    ("SYSTEMS", "40"),
    ("TIMELINES", "1000"),
];

/// Runs the tests of every change. With arguments, runs `cargo test` with them.
pub(crate) fn test(args: &[String]) -> Result<()> {
    let profile = Profile::new("dev".to_owned());
    let programs = build_all_and_fetch(&profile)?;
    if args.is_empty() {
        every_change(&profile, programs)
    } else {
        run(&mut cargo_test(2 * processors(), args))
    }
}

/// Runs the tests that are skipped for every change.
pub(crate) fn faults() -> Result<()> {
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    let system = ["--test", SYSTEM, "--", "--ignored", "--skip", "attack::"];
    // The test with a crowd takes half an hour and runs separately (docs/RELIABILITY.md).
    let others = [
        "--test", "protocol", "--test", "attach", "--test", "systems", "--",
    ];
    let others = [&others[..], &["--ignored", "--skip", "crowd::"]].concat();
    let larger = [("KILLS", "40"), ("REQUESTS", "30000"), ("CROWD", "10000")];
    let system = run(cargo_test(2 * processors(), &system).envs(larger));
    let others = run(&mut cargo_test(processors(), &others));
    let random = ["--lib", "--test", "attach", "--test", "systems"];
    let random = run(cargo_test(processors(), &random).envs(MORE_CASES));
    system.and(others).and(random)
}

/// Runs the tests that need this program, schemathesis.
pub(crate) fn attacks(schemathesis: &Path) -> Result<()> {
    let mut tests = test_it(&["--ignored", "attack::", "--nocapture"]);
    run(tests.env(SCHEMATHESIS, schemathesis))
}

/// The variable that names the program schemathesis.
const SCHEMATHESIS: &str = "SCHEMATHESIS";

pub(crate) fn crashes() -> Result<()> {
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    let cycles = setting("CYCLES").unwrap_or_else(|| "100".to_owned());
    run(test_it(&["cycles::", "--nocapture"]).env("CYCLES", cycles))
}

/// Returns the `cargo test` command for the system tests, with these arguments of the test program.
pub(crate) fn test_it(args: &[&str]) -> Command {
    let mut tests = cargo(&["test", "--workspace", "--locked", "--test", SYSTEM, "--"]);
    tests.args(args);
    tests
}

/// Test programs that run at the same time: that of the whole system, and two others.
const CONCURRENT: usize = 3;

/// The programs that take longest. They begin first, so that nothing waits for one of them at last.
const LONGEST: [&str; 6] = [
    SYSTEM,
    "services",
    "systems",
    "mail",
    "attach",
    "firstcome_notifier",
];

/// Runs the tests of every change. The fault schedules follow when all tests have ended: run
/// together with tests, each would take nearly twice the CPU time, and time limits would be reached.
/// If the environment names schemathesis, its tests run beside the schedules, whose number depends
/// on what runs beside them, and not their time.
fn every_change(profile: &Profile, mut programs: Vec<TestProgram>) -> Result<()> {
    for name in LONGEST {
        let is_built = programs.iter().any(|program| program.name == name);
        ensure!(is_built, "cargo names no test program {name}");
    }
    programs.sort_by_key(|program| {
        LONGEST
            .iter()
            .position(|name| *name == program.name)
            .unwrap_or(LONGEST.len())
    });
    let queue = Mutex::new(programs.into_iter());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let work = || {
        let ran = std::iter::from_fn(next).map(|program| tested(&program));
        ran.collect::<Result<Vec<_>>>()
    };
    thread::scope(|scope| {
        let checker = scope.spawn(histories::build);
        let begun = Instant::now();
        let workers = [(); CONCURRENT].map(|()| scope.spawn(work));
        let mut tested = Ok(());
        for worker in workers {
            for Tested { name, log, result } in joined(worker)? {
                slowest::print(&name, &log);
                tested = tested.and(result);
            }
        }
        let left = UNTIL.saturating_sub(begun.elapsed());
        let minutes = (left.as_secs_f64() / 60.0).clamp(MINUTES[0], MINUTES[1]);
        let attacked = scope
            .spawn(|| setting(SCHEMATHESIS).map_or(Ok(()), |program| attacks(Path::new(&program))));
        let searched = schedules(profile, minutes).and_then(|mut chaos| run(&mut chaos));
        let attacked = joined(attacked);
        let linear = joined(checker)
            .and_then(|checker| histories::judge(checker.as_deref(), &histories::of_schedules()?));
        tested.and(searched).and(attacked).and(linear)
    })
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread panicked"))
        .flatten()
}

/// A test program that has ended.
struct Tested {
    name: String,
    /// Its output on both streams.
    log: String,
    result: Result<()>,
}

/// Runs a test program, and prints each line of its output after its name. Tests wait for servers
/// most of the time, those of the whole system longest.
fn tested(program: &TestProgram) -> Result<Tested> {
    let mut command = program.command();
    let each = if program.name == SYSTEM { 4 } else { 2 };
    with_threads(with_times(&mut command), each * processors());
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot start the tests")?;
    // Drops the writing ends that the command holds. Otherwise the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let name = program.name.clone();
    let mut log = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{name}: {line}");
        log += &line;
        log.push('\n');
    }
    let mut result = judge(&command, child.wait()?);
    if !log.contains("test result: ok") {
        result = result.and_then(|()| bail!("{name} ended without a result"));
    }
    Ok(Tested { name, log, result })
}

/// Returns the command of the fault schedules. Each commit draws different ones, so that new
/// schedules are tried all the time. `FIRST` and `SEEDS` in the environment select them.
fn schedules(profile: &Profile, minutes: f64) -> Result<Command> {
    let seeds = setting("SEEDS").unwrap_or_else(|| SEEDS.to_owned());
    let of_commit = || {
        let commit = output(command("git").args(["rev-parse", "HEAD"]))?;
        first_seed(&commit).context("set FIRST to choose the fault schedules")
    };
    let first = setting("FIRST").map_or_else(of_commit, Ok)?;
    println!("[test] fault schedules; to run them alone: make chaos FIRST={first} SEEDS={seeds}");
    // A schedule waits for most of its time: it uses 0.4 of a processor.
    let mut chaos = profile.program("firstcome-chaos");
    let workers = (5 * processors() / 2).to_string();
    chaos.envs([("FIRST", first), ("SEEDS", seeds), ("WORKERS", workers)]);
    let minutes = setting("MINUTES").unwrap_or_else(|| format!("{minutes:.2}"));
    chaos.args(["run", "--regressions", "--minutes", &minutes]);
    chaos.env("HISTORIES", histories::FOLDER);
    in_memory(&mut chaos);
    Ok(chaos)
}

/// Derives the first of a commit's seeds from its hash.
fn first_seed(commit: &str) -> Result<String> {
    let digits = commit.get(..8).context("git names no commit")?;
    let number = u32::from_str_radix(digits, 16).context("a commit's hash")?;
    Ok((1 + number % 1_000_000).to_string())
}

pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(2, usize::from)
}

/// Returns the command of tests whose servers keep their files in memory. `RUST_TEST_THREADS`
/// replaces the number of threads.
fn cargo_test(threads: usize, args: &[impl AsRef<std::ffi::OsStr>]) -> Command {
    let mut tests = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    with_threads(tests.args(args), threads);
    tests
}

/// Lets a command run tests in so many threads, with files in memory.
pub(crate) fn with_threads(tests: &mut Command, threads: usize) {
    let threads = setting("RUST_TEST_THREADS").unwrap_or_else(|| threads.to_string());
    in_memory(tests.env("RUST_TEST_THREADS", threads));
}

/// Lets the servers of tests keep their files in memory, if there is room.
fn in_memory(tests: &mut Command) {
    if setting("TMPDIR").is_none() && has_room_in_memory() {
        tests.env("TMPDIR", MEMORY);
    }
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
    let is_mount = |line: &str| line.contains(&format!(" {MEMORY} ")) && !line.contains("noexec");
    mounts.lines().any(is_mount)
        && first_number(&memory, "MemAvailable:") >= Some(ROOM_KB)
        && disk.is_ok_and(|disk| first_number(&disk, "Avail") >= Some(ROOM_KB))
}

/// Returns the first number after this word.
fn first_number(text: &str, word: &str) -> Option<u64> {
    let (_, rest) = text.split_once(word)?;
    rest.split_whitespace().next()?.parse().ok()
}
