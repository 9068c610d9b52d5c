//! The temporary folder of a stack or of a single server. When its guard is dropped or the owning
//! process ends, the servers in it are killed and the folder is deleted.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::janitor::Janitor;

const PREFIX: &str = "firstcome-stack-";
/// The owner holds a lock on this file. A folder whose lock is free was abandoned.
const OWNER: &str = "owner.lock";

#[derive(Debug)]
pub(crate) struct TempDirGuard {
    dir: PathBuf,
    /// Kills the servers in the folder and deletes it.
    pub(crate) janitor: Janitor,
    _owner: fs::File,
}

impl TempDirGuard {
    /// Creates the folder and starts its janitor. Blocks for some milliseconds.
    pub(crate) fn new() -> Result<Self> {
        remove_left_behind();
        let dir = std::path::absolute(std::env::temp_dir())?
            .join(format!("{PREFIX}{:016x}", rand::random::<u64>()));
        // The janitor starts before the folder exists, so that a SIGKILL in between leaves nothing.
        let janitor = Janitor::of_folder(&dir)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let owner = fs::File::create(dir.join(OWNER))?;
        owner.lock()?;
        Ok(Self {
            dir,
            janitor,
            _owner: owner,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Deletes folders whose owner and janitor were killed together, as when a container is stopped.
fn remove_left_behind() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_left_behind(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_left_behind(dir: &Path) -> bool {
    // Only old folders are deleted, because a new one has no lock for a moment.
    let old = fs::metadata(dir)
        .and_then(|data| data.modified())
        .is_ok_and(|time| {
            SystemTime::now()
                .duration_since(time)
                .is_ok_and(|age| age > Duration::from_secs(60))
        });
    old && fs::File::open(dir.join(OWNER)).is_ok_and(|file| file.try_lock().is_ok())
}
