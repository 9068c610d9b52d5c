//! Checks that do not run the product, cheapest first.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use regex_lite::Regex;

use crate::shell::{
    Failed, cargo, cargo_home, cargo_tool, command, files, output, read, run as run_command,
    setting,
};
use crate::{deploy, helm};

const CARGO_DENY: &str = "0.20.2";

/// The folder name that cargo-deny derives from the database's URL.
const ADVISORIES: &str = "advisory-db-3157b0e258782691";

#[derive(Subcommand)]
pub(crate) enum Part {
    /// All checks that compile nothing of the product
    Quick,
}

pub(crate) fn run(part: Option<&Part>) -> Result<()> {
    quick()?;
    match part {
        None => compiled(),
        Some(Part::Quick) => Ok(()),
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
    step("docker-compose.yml, the chart's schema", deploy::check)?;
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
    step("documentation", || {
        const DOC: [&str; 5] = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
        run_command(cargo(&DOC).env("RUSTDOCFLAGS", "-D warnings"))
    })
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
    if found.is_empty() {
        return Ok(());
    }
    Err(Failed::check(found.join(", ")))
}

/// Runs cargo-deny with deny.toml. Advisories are checked if this machine has RustSec's
/// advisory-db, in ADVISORY_DB or in the folder of `cargo deny fetch`: no package registry has it.
fn deny() -> Result<()> {
    let program = cargo_tool("cargo-deny", CARGO_DENY)?;
    let mut rules = command(&program);
    rules.args(["--log-level", "error", "--locked", "check"]);
    run_command(rules.args(["licenses", "bans", "sources"]))?;
    let database = match setting("ADVISORY_DB") {
        Some(database) => PathBuf::from(database),
        None => cargo_home()?.join("advisory-dbs").join(ADVISORIES),
    };
    if !database.exists() {
        eprintln!(
            "[lint] known vulnerabilities in dependencies: UNCHECKED, since there is no advisory \
             database here (ADVISORY_DB names a clone of advisory-db)"
        );
        return Ok(());
    }
    // cargo-deny needs a separate clone under this name.
    let folder = tempfile::tempdir()?;
    let clone = folder.path().join(ADVISORIES);
    let git = |args: &[&str]| {
        let mut git = command("git");
        git.arg("-C").arg(&clone).args(args);
        git
    };
    run_command(
        command("git")
            .args(["clone", "-q"])
            .arg(database)
            .arg(&clone),
    )?;
    run_command(&mut git(&["fetch", "-q"]))?;
    let config = folder.path().join("deny.toml");
    fs::write(&config, with_advisories(&read("deny.toml")?, folder.path()))?;
    let mut advisories = command(&program);
    advisories.args(["--offline", "--log-level", "error", "--locked", "--config"]);
    run_command(advisories.arg(&config).args(["check", "advisories"]))?;
    let newest = output(&mut git(&["log", "-1", "--format=%cs"]))?;
    eprintln!(
        "[lint] no unknown vulnerability in dependencies, by the advisories of {}",
        newest.trim()
    );
    Ok(())
}

/// Returns deny.toml with the database's folder. Lines that begin with `# advisories: ` apply only
/// here, because `cargo deny check licenses bans sources` refuses them without a database.
fn with_advisories(rules: &str, folder: &Path) -> String {
    let own = rules
        .lines()
        .filter_map(|line| line.strip_prefix("# advisories: "));
    format!(
        "{rules}\n[advisories]\ndb-path = \"{}\"\nmaximum-db-staleness = \"P3650D\"\n{}\n",
        folder.display(),
        own.collect::<Vec<_>>().join("\n")
    )
}
