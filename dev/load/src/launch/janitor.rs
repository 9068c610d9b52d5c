//! Nothing outlives its owner, not even when that is killed. See `janitor.sh`.

use parking_lot::Mutex;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};

/// A shell that waits at the end of a pipe. Clones share it; the last one to go ends it.
#[derive(Debug, Clone)]
pub(crate) struct Janitor {
    shell: Arc<Shell>,
}

#[derive(Debug)]
struct Shell {
    child: Mutex<Child>,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Janitor {
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", include_str!("janitor.sh"), "janitor"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C reaches the whole foreground group; the janitor must outlive it.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let pipe = Mutex::new(child.stdin.take());
        Ok(Self { shell: Arc::new(Shell { child: Mutex::new(child), pipe }) })
    }

    pub(crate) fn adopt(&self, pid: u32) -> Result<()> {
        self.tell(&format!("+{pid}\n"))
    }

    pub(crate) fn forget(&self, pid: u32) -> Result<()> {
        self.tell(&format!("-{pid}\n"))
    }

    fn tell(&self, line: &str) -> Result<()> {
        let mut pipe = self.shell.pipe.lock();
        let pipe = pipe.as_mut().context("the janitor has no pipe")?;
        pipe.write_all(line.as_bytes()).context("the janitor is gone; was it killed?")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.pipe.get_mut().take());
        let _ = self.child.get_mut().wait();
    }
}
