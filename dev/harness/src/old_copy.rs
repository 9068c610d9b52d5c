//! Copies of a server's data, which take the server back in time.

use std::path::Path;

use anyhow::{Result, ensure};

/// A copy of the data that a server had on disk at one moment.
pub struct OldCopy(tempfile::TempDir);

impl OldCopy {
    /// Copies this data folder. Its server must not write at the moment.
    pub fn of(data: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        copy(data, &folder.path().join("data"))?;
        Ok(Self(folder))
    }

    /// Replaces this data folder with the copy. Its server must be down.
    pub fn put_back(&self, data: &Path) -> Result<()> {
        std::fs::remove_dir_all(data)?;
        copy(&self.0.path().join("data"), data)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut copy = std::process::Command::new("cp");
    let copied = copy.arg("-a").args([from, to]).status()?;
    let (from, to) = (from.display(), to.display());
    ensure!(copied.success(), "cannot copy {from} to {to}");
    Ok(())
}
