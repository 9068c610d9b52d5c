//! Runs cargo-deny with deny.toml. It is built once into the cache folder, in under a minute.
//!
//! Advisories are checked if this machine has RustSec's advisory-db, in ADVISORY_DB or in the
//! folder of `cargo deny fetch`. No package registry has it, so it is not fetched here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::{cache, cargo, command, output, read, run, setting};

const VERSION: &str = "0.20.2";

/// The folder name that cargo-deny derives from the database's URL.
const DATABASE: &str = "advisory-db-3157b0e258782691";

pub(crate) fn check() -> Result<()> {
    let deny = program()?;
    let mut rules = command(&deny);
    rules.args([
        "--log-level",
        "error",
        "--locked",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    run(&mut rules)?;
    let database = database()?;
    if !database.exists() {
        let today = output(command("date").args(["-u", "+%F"]))?;
        eprintln!(
            "[lint] known vulnerabilities in dependencies: UNCHECKED on {}, since there is no advisory database here (ADVISORY_DB names a clone of advisory-db)",
            today.trim()
        );
        return Ok(());
    }
    check_advisories(&deny, &database)
}

fn program() -> Result<PathBuf> {
    let root = cache()?.join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    eprintln!(
        "[lint] building cargo-deny {VERSION} into {}",
        root.display()
    );
    let build = tempfile::tempdir()?;
    // The build is not optimised, because the program is fast enough.
    let mut install = cargo(&["install", "--quiet", "--locked", "--debug", "--no-track"]);
    install.args([
        "--config",
        "profile.dev.debug=false",
        "--version",
        VERSION,
        "cargo-deny",
        "--root",
    ]);
    run(install
        .arg(build.path().join("root"))
        .env("CARGO_TARGET_DIR", build.path()))?;
    fs::create_dir_all(root.join("bin"))?;
    // The program is renamed at the end, so that an interrupted copy is never used.
    let part = root.join(format!("bin/.part-{}", std::process::id()));
    fs::copy(build.path().join("root/bin/cargo-deny"), &part)?;
    fs::rename(part, &program)?;
    Ok(program)
}

fn database() -> Result<PathBuf> {
    if let Some(database) = setting("ADVISORY_DB") {
        return Ok(database.into());
    }
    let home = setting("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| setting("HOME").map(|home| Path::new(&home).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join("advisory-dbs").join(DATABASE))
}

fn check_advisories(deny: &Path, database: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clone = folder.path().join(DATABASE);
    run(command("git")
        .args(["clone", "-q"])
        .arg(database)
        .arg(&clone))?;
    run(command("git").arg("-C").arg(&clone).args(["fetch", "-q"]))?;
    let config = folder.path().join("deny.toml");
    fs::write(&config, with_advisories(&read("deny.toml")?, folder.path()))?;
    let mut advisories = command(deny);
    advisories.args(["--offline", "--log-level", "error", "--locked", "--config"]);
    run(advisories.arg(&config).args(["check", "advisories"]))?;
    let newest = output(
        command("git")
            .arg("-C")
            .arg(&clone)
            .args(["log", "-1", "--format=%cs"]),
    )?;
    eprintln!(
        "[lint] no unknown vulnerability in dependencies, by the advisories of {}",
        newest.trim()
    );
    Ok(())
}

/// Returns deny.toml with the database's folder. Lines that begin with `# advisories: ` apply only
/// here, because `cargo deny check licenses bans sources` refuses them without a database.
fn with_advisories(rules: &str, folder: &Path) -> String {
    let mut rules = format!(
        "{rules}\n[advisories]\ndb-path = \"{}\"\nmaximum-db-staleness = \"P3650D\"\n",
        folder.display()
    );
    let own: Vec<_> = rules
        .lines()
        .filter_map(|line| line.strip_prefix("# advisories: "))
        .map(str::to_owned)
        .collect();
    rules.extend(own.iter().map(|line| format!("{line}\n")));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applies_the_list_of_known_advisories() {
        let rules = with_advisories("# advisories: ignore = []\n[bans]\n", Path::new("/db"));
        assert!(
            rules.ends_with("db-path = \"/db\"\nmaximum-db-staleness = \"P3650D\"\nignore = []\n"),
            "{rules}"
        );
    }
}
