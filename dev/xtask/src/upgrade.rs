//! Upgrades under load: programs of an older commit (OLD) and current programs on the same servers.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::programs::{Profile, build_all_and_fetch, target};
use crate::shell::{cargo, command, judge, output, run, setting};
use crate::suite;

/// The last commit in which a message has only one claim.
const OLDEST: &str = "0eab1da9";
const PROGRAMS: [&str; 2] = ["firstcome-api", "firstcome-reconciler"];

pub(crate) fn test() -> Result<()> {
    let old = setting("OLD").unwrap_or_else(|| OLDEST.to_owned());
    let Ok(commit) = git(&[
        "rev-parse",
        "--verify",
        "--quiet",
        &format!("{old}^{{commit}}"),
    ]) else {
        bail!("the history has no commit {old}; if this is a shallow clone: git fetch --unshallow");
    };
    if git(&["merge-base", "--is-ancestor", &commit, "HEAD"]).is_err() {
        bail!("no upgrade from {old} is possible: it is no ancestor of HEAD");
    }
    let root = std::path::absolute(target())?.join("old");
    let old = root.join(&commit);
    if !is_built(&old) {
        eprintln!(
            "[upgrade-test] building the programs of {}",
            git(&["log", "-1", "--format=%h, %s", &commit])?
        );
        let source = root.join("source");
        unpack(&commit, &source)?;
        build(&source, &old)?;
    }
    eprintln!("[upgrade-test] building the current programs");
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    suite::upgrades(&old)
}

fn git(args: &[&str]) -> Result<String> {
    Ok(output(command("git").args(args))?.trim().to_owned())
}

fn is_built(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).exists())
}

fn unpack(commit: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let mut git = command("git");
    git.args(["archive", commit]).stdout(Stdio::piped());
    let mut archive = git.spawn().context("cannot start git")?;
    let files = archive.stdout.take().context("git archive has no output")?;
    run(command("tar").arg("-xC").arg(folder).stdin(files))?;
    judge(&git, archive.wait()?)
}

/// Builds in the usual target folder, which already has most dependencies, and copies the programs
/// from there because the next build overwrites them.
fn build(source: &Path, into: &Path) -> Result<()> {
    let mut build = cargo(&["build", "--locked", "--manifest-path"]);
    build
        .arg(source.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", std::path::absolute(target())?);
    for program in PROGRAMS {
        build.args(["-p", program]);
    }
    run(&mut build)?;
    fs::create_dir_all(into)?;
    for program in PROGRAMS {
        fs::copy(target().join("debug").join(program), into.join(program))?;
    }
    Ok(())
}
