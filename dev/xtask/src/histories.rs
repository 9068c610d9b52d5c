//! Checks recorded histories with porcupine, a third-party linearizability checker
//! (`dev/histories`, in Go).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::{command, run, unchecked};

/// The folder in which fault schedules keep their histories.
pub(crate) const FOLDER: &str = "target/histories";

/// Builds the checker, runs its own tests, and checks these histories, or those of the last fault
/// schedules.
pub(crate) fn check(files: Vec<PathBuf>) -> Result<()> {
    let files = if files.is_empty() {
        of_schedules()?
    } else {
        files
    };
    judge(build()?.as_deref(), &files)
}

/// Builds the checker and runs its own tests. Returns its path, or `None` without Go.
pub(crate) fn build() -> Result<Option<PathBuf>> {
    let go = |words: &[&str]| {
        let mut go = command("go");
        go.current_dir("dev/histories").args(words);
        go
    };
    let has_modules = go(&["mod", "download"])
        .status()
        .is_ok_and(|status| status.success());
    if !has_modules {
        unchecked("linearizability, without Go or its modules")?;
        return Ok(None);
    }
    run(&mut go(&["test", "./..."]))?;
    let program = std::path::absolute("target/histories-checker")?;
    run(go(&["build", "-o"]).arg(&program).arg("."))?;
    Ok(Some(program))
}

/// Checks histories with the checker, if there is one.
pub(crate) fn judge(checker: Option<&Path>, files: &[PathBuf]) -> Result<()> {
    let Some(checker) = checker else {
        return Ok(());
    };
    if files.is_empty() {
        return unchecked("linearizability of fault schedules: none has run");
    }
    run(command(checker).args(files))?;
    // A checker that finds nothing proves nothing.
    run(command(checker).arg("-plant").args(files))?;
    eprintln!("[histories] {} histories, none of them wrong", files.len());
    Ok(())
}

/// Returns the histories of the last fault schedules.
pub(crate) fn of_schedules() -> Result<Vec<PathBuf>> {
    let folder = Path::new(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let read = || format!("cannot read {}", folder.display());
    let files = folder.read_dir().with_context(read)?;
    let paths: std::io::Result<Vec<PathBuf>> = files.map(|file| Ok(file?.path())).collect();
    paths.with_context(read)
}
