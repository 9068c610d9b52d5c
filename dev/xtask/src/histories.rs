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
        of_schedules(Path::new(FOLDER))?
    } else {
        files
    };
    let go = |words: &[&str]| {
        let mut go = command("go");
        go.current_dir("dev/histories").args(words);
        go
    };
    if !go(&["mod", "download"])
        .status()
        .is_ok_and(|it| it.success())
    {
        return unchecked("linearizability, without Go or its modules");
    }
    run(&mut go(&["test", "./..."]))?;
    let program = std::path::absolute("target/histories-checker")?;
    run(go(&["build", "-o"]).arg(&program).arg("."))?;
    if files.is_empty() {
        return unchecked("linearizability of fault schedules: none has run");
    }
    run(command(&program).args(&files))?;
    // A checker that finds nothing proves nothing.
    run(command(&program).arg("-plant").args(&files))?;
    eprintln!("[histories] {} histories, none of them wrong", files.len());
    Ok(())
}

fn of_schedules(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let read = || format!("cannot read {}", folder.display());
    let files = folder.read_dir().with_context(read)?;
    let paths: std::io::Result<Vec<PathBuf>> = files.map(|file| Ok(file?.path())).collect();
    paths.with_context(read)
}
