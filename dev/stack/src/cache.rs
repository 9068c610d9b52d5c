//! The cache folder. Each entry is fetched once and is complete.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Prints a step of a fetch.
pub(crate) fn step(what: &str, text: impl std::fmt::Display) {
    eprintln!("[{what}] {text}");
}

/// `$FIRSTCOME_CACHE`, otherwise `$XDG_CACHE_HOME/firstcome`, otherwise `~/.cache/firstcome`.
fn folder() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("FIRSTCOME_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("firstcome")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/firstcome")))
        .context("no folder to keep the servers in: set FIRSTCOME_CACHE")
        .and_then(|dir| Ok(std::path::absolute(dir)?))
}

/// Takes a lock in the cache folder, so that one process fetches while the others wait.
pub(crate) fn lock(name: &str) -> Result<File> {
    let folder = folder()?;
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(format!("{name}.lock")))?;
    if file.try_lock().is_err() {
        step(name, "waiting for another fetch to end");
        file.lock()?;
    }
    Ok(file)
}

/// Returns the folder `name` of the cache. If it is missing, `fill` creates its content.
///
/// The folder is filled under a temporary name and then renamed, so a folder that exists is
/// complete.
pub(crate) fn get(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = folder()?;
    let wanted = folder.join(name);
    if wanted.exists() {
        return Ok(wanted);
    }
    let _lock = lock(name)?;
    if wanted.exists() {
        return Ok(wanted);
    }
    let prefix = format!("{name}.part-");
    remove_interrupted(&folder, &prefix)?;
    // The name is new each time, because a tool that outlives an interrupted fetch keeps writing to
    // the old one.
    let part = folder.join(format!("{prefix}{:08x}", rand::random::<u32>()));
    fs::create_dir(&part)?;
    fill(&part)?;
    fs::rename(&part, &wanted)?;
    Ok(wanted)
}

/// Deletes folders of interrupted fetches. The caller holds the lock, so no process is filling one.
fn remove_interrupted(folder: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
