//! Builds the programs, and runs tasks that consist of one program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::histories;
use crate::shell::{cargo, command, exec, output, run, setting};

/// The packages with the programs of a running system. All tasks build the same selection, because
/// another one may enable other features, and dependencies would be built twice.
const SYSTEM: [&str; 5] = [
    "firstcome-api",
    "firstcome-reconciler",
    "firstcome-load",
    "firstcome-harness",
    "firstcome-stack",
];
const BENCH: [&str; 1] = ["firstcome-bench"];
const CHAOS: [&str; 1] = ["firstcome-chaos"];

/// The profile from `PROFILE`, and the folder into which cargo builds its programs.
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

impl Profile {
    pub(crate) fn new(name: String) -> Self {
        let folder = if name == "dev" { "debug" } else { &name };
        Self {
            folder: target().join(folder),
            name,
        }
    }

    /// Returns the profile that `PROFILE` in the environment names, otherwise `default`.
    pub(crate) fn or(default: &str) -> Self {
        Self::new(setting("PROFILE").unwrap_or_else(|| default.to_owned()))
    }

    pub(crate) fn program(&self, name: &str) -> Command {
        command(self.folder.join(name))
    }
}

pub(crate) fn target() -> PathBuf {
    PathBuf::from(setting("CARGO_TARGET_DIR").unwrap_or_else(|| "target".to_owned()))
}

/// Builds these packages. Cargo prints only errors.
pub(crate) fn build(profile: &Profile, packages: &[&[&str]]) -> Result<()> {
    eprintln!(
        "[xtask] building the programs ({}); the first time takes minutes",
        profile.name
    );
    let mut build = cargo(&["build", "--quiet", "--locked", "--profile", &profile.name]);
    for package in packages.iter().flat_map(|packages| packages.iter()) {
        build.args(["-p", package]);
    }
    run(&mut build)
}

/// A built program with tests.
pub(crate) struct TestProgram {
    /// The name of the file in `tests`, or of the library.
    pub(crate) name: String,
    path: PathBuf,
    /// The folder of its package.
    folder: PathBuf,
}

impl TestProgram {
    /// Reads a line of `cargo build --message-format=json`. `None` for everything but a test
    /// program.
    fn parse(line: &str) -> Result<Option<Self>> {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let text = |pointer: &str| message.pointer(pointer).and_then(|value| value.as_str());
        let is_test = message.pointer("/profile/test") == Some(&true.into());
        let Some(path) = text("/executable").filter(|_| is_test) else {
            return Ok(None);
        };
        let manifest = text("/manifest_path").context("cargo names no package")?;
        let folder = Path::new(manifest).parent();
        Ok(Some(Self {
            name: text("/target/name")
                .context("cargo names no target")?
                .to_owned(),
            path: path.into(),
            folder: folder.context("a package has no folder")?.to_owned(),
        }))
    }

    /// Returns the command that `cargo test` would run, without building anything.
    pub(crate) fn command(&self) -> Command {
        let mut tests = command(&self.path);
        tests.current_dir(&self.folder);
        tests.env("CARGO_MANIFEST_DIR", &self.folder);
        tests
    }
}

/// Runs a command of cargo that builds tests. Returns their programs.
pub(crate) fn build_tests(build: &mut Command) -> Result<Vec<TestProgram>> {
    let built = output(build.arg("--message-format=json-render-diagnostics"))?;
    let programs = built.lines().map(TestProgram::parse);
    programs.filter_map(Result::transpose).collect()
}

/// Builds every program and test. `--all-targets` would also build each library and program as a
/// benchmark, which none of them is. Returns the programs with tests.
fn build_all(profile: &Profile) -> Result<Vec<TestProgram>> {
    const ALL: [&str; 5] = ["build", "--workspace", "--bins", "--tests", "--locked"];
    build_tests(cargo(&ALL).args(["--profile", &profile.name]))
}

/// Builds every program and test, and fetches the servers at the same time. Returns the programs
/// with tests.
pub(crate) fn build_all_and_fetch(profile: &Profile) -> Result<Vec<TestProgram>> {
    let mut first = cargo(&["build", "--workspace", "--locked"]);
    run(first.args(["--bin", "firstcome-stack", "--profile", &profile.name]))?;
    let mut stack = profile.program("firstcome-stack");
    let mut fetching = stack
        .arg("setup")
        .spawn()
        .context("cannot start firstcome-stack")?;
    let built = build_all(profile);
    let fetched = fetching.wait()?;
    let built = built?;
    crate::shell::judge(&stack, fetched)?;
    Ok(built)
}

fn fetch(profile: &Profile) -> Result<()> {
    run(profile.program("firstcome-stack").arg("setup"))
}

pub(crate) fn setup() -> Result<()> {
    let profile = Profile::or("dev");
    build(&profile, &[&SYSTEM])?;
    fetch(&profile)
}

/// Builds the system's programs without fetching servers.
pub(crate) fn build_system(profile: &Profile) -> Result<()> {
    build(profile, &[&SYSTEM])
}

/// Builds the system's programs, and replaces this process with one of them.
pub(crate) fn become_program(name: &str, args: &[&str]) -> Result<()> {
    let profile = Profile::or("dev");
    build(&profile, &[&SYSTEM])?;
    exec(profile.program(name).args(args))
}

pub(crate) fn chaos() -> Result<()> {
    let profile = Profile::or("dev");
    build(&profile, &[&SYSTEM, &CHAOS])?;
    fetch(&profile)?;
    let mut chaos = profile.program("firstcome-chaos");
    if let Some(schedule) = setting("REPLAY") {
        return exec(chaos.args(["replay", &schedule]));
    }
    let ran = run(chaos.arg("run").env("HISTORIES", histories::FOLDER));
    // The argument of `and` is evaluated even if a schedule failed, so that porcupine judges the
    // histories of those that passed.
    ran.and(histories::check(Vec::new()))
}

pub(crate) fn bench(args: &[String]) -> Result<()> {
    let profile = Profile::new("release".to_owned());
    build(&profile, &[&SYSTEM, &BENCH])?;
    exec(profile.program("firstcome-bench").args(args))
}
