//! Checks that do not run the product, cheapest first.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use regex_lite::Regex;

use crate::helm;
use crate::shell::{cargo, cargo_tool, command, files, run as run_command, setting};

const CARGO_DENY: &str = "0.20.2";

#[derive(Subcommand)]
pub(crate) enum Part {
    /// All checks that compile nothing of the product
    Quick,
    /// The documentation of the code, after a build
    Docs,
}

pub(crate) fn run(part: Option<&Part>) -> Result<()> {
    match part {
        None => quick().and_then(|()| compiled()),
        Some(Part::Quick) => quick(),
        Some(Part::Docs) => step("documentation", docs),
    }
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("[lint] {name}");
    check().with_context(|| name.to_owned())
}

fn quick() -> Result<()> {
    step("formatting", || {
        run_command(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    step("no package registry, no path of a machine", neutral)?;
    step("shell scripts", || {
        let mut scripts = files(&["*.sh", ".ci/run"])?;
        scripts.retain(|path| !path.starts_with("deploy/helm"));
        scripts
            .iter()
            .try_for_each(|script| run_command(command("bash").arg("-n").arg(script)))
    })?;
    step("docker-compose.yml", compose)?;
    step("dependencies: licences, bans, sources", deny)
}

fn compiled() -> Result<()> {
    step("the chart and deploy/kubernetes", || {
        helm::run(helm::Part::Check)
    })?;
    step("clippy", || {
        const CLIPPY: [&str; 4] = ["clippy", "--workspace", "--all-targets", "--locked"];
        run_command(cargo(&CLIPPY).args(["--", "-D", "warnings"]))
    })?;
    step("documentation", docs)
}

/// Checks the documentation of libraries with those that a build has made.
fn docs() -> Result<()> {
    let rustdoc = fs::canonicalize("dev/rustdoc.sh")?;
    let mut tests = cargo(&["test", "--workspace", "--locked", "--quiet"]);
    run_command(
        tests
            .args(["--no-fail-fast", "--doc"])
            .env("RUSTDOC", rustdoc),
    )
}

/// Rejects files that only work on one machine: the home folder of a developer, or a package
/// registry other than the public ones, which a machine's own configuration may add.
fn neutral() -> Result<()> {
    let home = Regex::new(r#"(^|[\s"'`=(:])/(root|home/[a-z]+|work)/"#)?;
    let registry = Regex::new(r"(?m)^(source = .registry\+|\[source\.|\[registries|index = )")?;
    let mut found = Vec::new();
    for path in files(&["."])? {
        // Pictures are no text.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let text = text.replace("registry+https://github.com/rust-lang/crates.io-index", "");
        let is_cargos = path == Path::new("Cargo.lock") || path.starts_with(".cargo");
        if home.is_match(&text) || is_cargos && registry.is_match(&text) {
            found.push(path.display().to_string());
        }
    }
    ensure!(found.is_empty(), "{}", found.join(", "));
    Ok(())
}

fn compose() -> Result<()> {
    let compose = |words: &[&str]| {
        let mut docker = command("docker");
        docker.arg("compose").args(words);
        docker
    };
    let version = compose(&["version"]).output();
    if !version.is_ok_and(|version| version.status.success()) {
        eprintln!("[lint] docker-compose.yml: UNCHECKED, since there is no docker compose");
        return Ok(());
    }
    run_command(&mut compose(&["config", "--quiet"]))
}

/// Runs cargo-deny with deny.toml. `ADVISORIES=1` also looks for known vulnerabilities, in RustSec's
/// database on GitHub: no package registry has it.
fn deny() -> Result<()> {
    let mut rules = command(cargo_tool("cargo-deny", CARGO_DENY)?);
    rules.args(["--log-level", "error", "--locked", "check"]);
    rules.args(["licenses", "bans", "sources"]);
    if setting("ADVISORIES").is_some() {
        rules.arg("advisories");
    } else {
        eprintln!("[lint] known vulnerabilities in dependencies: UNCHECKED without ADVISORIES=1");
    }
    run_command(&mut rules)
}
