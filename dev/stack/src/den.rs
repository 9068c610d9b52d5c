//! The temporary folder of a stack and the janitor that empties it.
//!
//! `Drop` alone is not enough: statics are never dropped, and a SIGKILL runs nothing. `PR_SET_PDEATHSIG` would fire when
//! the spawning *thread* ends. So a small shell script waits at the end of a pipe; see `janitor.sh`.

use parking_lot::Mutex;
use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

const PREFIX: &str = "firstcome-stack-";
/// The owner holds a lock on this file; a folder whose lock is free was left behind.
const OWNER: &str = "owner.lock";

/// A temporary folder that is deleted, with the servers that live in it, when this value or its process goes.
#[derive(Debug)]
pub(crate) struct Den {
    dir: PathBuf,
    janitor: Mutex<Child>,
    _owner: fs::File,
}

impl Den {
    /// Makes the folder and starts its janitor. Blocks for some milliseconds.
    pub(crate) fn new() -> Result<Self> {
        remove_left_behind();
        let dir = std::path::absolute(std::env::temp_dir())?.join(format!("{PREFIX}{:016x}", rand::random::<u64>()));
        // The janitor is there before the folder: a SIGKILL between the two leaves nothing behind.
        let janitor = Command::new("sh")
            .args(["-c", include_str!("janitor.sh"), "janitor"])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C reaches the whole foreground group; the janitor must outlive it.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let owner = fs::File::create(dir.join(OWNER))?;
        owner.lock()?;
        Ok(Self { dir, janitor: Mutex::new(janitor), _owner: owner })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on the janitor kills this process group at the end.
    pub(crate) fn adopt(&self, pid: u32) -> Result<()> {
        self.tell(&format!("+{pid}\n"))
    }

    /// The process has been waited for: its number may be given to a stranger.
    pub(crate) fn forget(&self, pid: u32) -> Result<()> {
        self.tell(&format!("-{pid}\n"))
    }

    fn tell(&self, line: &str) -> Result<()> {
        let mut janitor = self.janitor.lock();
        let pipe = janitor.stdin.as_mut().context("the janitor has no pipe")?;
        pipe.write_all(line.as_bytes()).context("the janitor of this stack is gone; was it killed?")
    }
}

impl Drop for Den {
    fn drop(&mut self) {
        let janitor = self.janitor.get_mut();
        drop(janitor.stdin.take());
        // Whoever drops a stack may expect its folder to be gone.
        let _ = janitor.wait();
    }
}

/// Deletes folders whose owner and janitor were killed together, as when a container is stopped.
fn remove_left_behind() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_left_behind(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_left_behind(dir: &Path) -> bool {
    // A new folder has no lock yet for an instant.
    let old = fs::metadata(dir)
        .and_then(|data| data.modified())
        .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > Duration::from_secs(60)));
    old && fs::File::open(dir.join(OWNER)).is_ok_and(|file| file.try_lock().is_ok())
}
