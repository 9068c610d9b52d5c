//! A watchdog process that kills the processes of its owner, however the owner ends.
//!
//! `Drop` alone is not enough: statics are never dropped, and a SIGKILL runs no code.
//! `PR_SET_PDEATHSIG` would fire when the spawning *thread* ends. So a small shell script waits for
//! the end of a pipe. See `janitor.sh`.

use parking_lot::Mutex;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};

/// Kills the adopted process groups when the last clone is dropped or the owning process ends.
#[derive(Debug, Clone)]
pub struct Janitor(Arc<Shell>);

#[derive(Debug)]
struct Shell(Mutex<Child>);

impl Janitor {
    pub fn start() -> Result<Self> {
        Self::spawn(None)
    }

    /// Starts a janitor that also deletes this folder, which need not exist yet.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self> {
        Self::spawn(Some(folder))
    }

    fn spawn(folder: Option<&Path>) -> Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", include_str!("janitor.sh"), "janitor"])
            .args(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C reaches the whole foreground group; the janitor must outlive it.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        Ok(Self(Arc::new(Shell(Mutex::new(shell)))))
    }

    /// Adopts a process group. The janitor kills it at the end.
    pub fn adopt(&self, pid: u32) -> Result<()> {
        self.send(&format!("+{pid}\n"))
    }

    /// Forgets a process that has been waited for, because the kernel may reuse its ID.
    pub fn forget(&self, pid: u32) -> Result<()> {
        self.send(&format!("-{pid}\n"))
    }

    fn send(&self, line: &str) -> Result<()> {
        let mut shell = self.0.0.lock();
        let pipe = shell.stdin.as_mut().context("the janitor has no pipe")?;
        pipe.write_all(line.as_bytes())
            .context("the janitor has ended; was it killed?")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let shell = self.0.get_mut();
        drop(shell.stdin.take());
        // When this returns, the processes have ended and the folder is deleted.
        let _ = shell.wait();
    }
}
