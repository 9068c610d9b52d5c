//! The cache folder: things are fetched once, whole or not at all.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::progress;

/// `$FIRSTCOME_CACHE`, else `$XDG_CACHE_HOME/firstcome`, else `~/.cache/firstcome`.
fn folder() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FIRSTCOME_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("firstcome")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/firstcome")))
        .context("no folder to keep the servers in: set FIRSTCOME_CACHE")
        .and_then(|dir| Ok(std::path::absolute(dir)?))
}

/// Holds a lock of the cache folder: of several processes one fetches, the others wait for it.
pub(crate) fn lock(name: &str) -> Result<File> {
    let dir = folder()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make the cache folder {}", dir.display()))?;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join(format!("{name}.lock")))?;
    if file.try_lock().is_err() {
        progress::step(name, "waiting for another process that is fetching it");
        file.lock()?;
    }
    Ok(file)
}

/// The folder `name` of the cache; if it is not there, `fill` makes its content.
///
/// It is filled under another name and renamed at the end, so a folder that exists is complete.
pub(crate) fn get(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let wanted = folder()?.join(name);
    if wanted.exists() {
        return Ok(wanted);
    }
    let _lock = lock(name)?;
    if wanted.exists() {
        return Ok(wanted);
    }
    let part = folder()?.join(format!("{name}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir(&part)?;
    fill(&part)?;
    fs::rename(&part, &wanted)?;
    Ok(wanted)
}
