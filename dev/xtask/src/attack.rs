//! Runs schemathesis against both services. It is fetched once into the cache folder.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::programs::{Profile, build_all_and_fetch};
use crate::shell::{cache, command, install, run};
use crate::suite;

const VERSION: &str = "4.32.5";

#[derive(Clone, Copy, Subcommand)]
pub(crate) enum Part {
    /// Only fetch schemathesis, and print where its program is
    Fetch,
}

pub(crate) fn attack(part: Option<Part>) -> Result<()> {
    let program = python_package("schemathesis", VERSION)?.join("bin/schemathesis");
    if matches!(part, Some(Part::Fetch)) {
        println!("{}", program.display());
        return Ok(());
    }
    build_all_and_fetch(&Profile::new("dev".to_owned()))?;
    suite::attacks(&program)
}

/// Returns the virtual environment of a PyPI package in the cache folder. The file `whole` marks it
/// as complete. The folder cannot be renamed once it is filled, because its programs contain its
/// path.
pub(crate) fn python_package(name: &str, version: &str) -> Result<PathBuf> {
    let root = cache()?.join(format!("{name}-{version}"));
    if root.join("whole").exists() {
        return Ok(root);
    }
    let has_venv = command("python3")
        .args(["-c", "import venv, ensurepip"])
        .output();
    if !has_venv.is_ok_and(|tried| tried.status.success()) {
        install(&["python3-venv"])?;
    }
    eprintln!("[xtask] fetching {name} {version} into {}", root.display());
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    run(command("python3").args(["-m", "venv"]).arg(&root))?;
    run(command(root.join("bin/pip")).args(["-q", "install", &format!("{name}=={version}")]))?;
    fs::write(root.join("whole"), "")?;
    Ok(root)
}
