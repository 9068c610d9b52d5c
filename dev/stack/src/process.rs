//! Starts, signals and waits for a child process.

use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::janitor::Janitor;

/// Waits for a line before it executes the server. If the owner is killed before the janitor has
/// adopted the process, the pipe ends and the server never starts.
const GATE: &str = r#"read -r go || exit 1; exec "$@" </dev/null"#;

/// Polling interval of conditions.
pub(crate) const POLL: Duration = Duration::from_millis(5);

pub(crate) type CommandLine = Vec<OsString>;

/// A running process and the process group that it leads, killed on drop.
///
/// This is not tokio's `Child`, because that is tied to the runtime on which it was started, and a
/// stack outlives the runtime of the test that started it.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    pub(crate) child: Mutex<Child>,
    pid: u32,
    janitor: Janitor,
}

impl ServerProcess {
    /// Starts a program in a new process group, so that Ctrl-C reaches only the owner, which then
    /// stops everything in order.
    pub(crate) fn start(janitor: &Janitor, command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).spawn()?;
        let pid = child.id();
        let process = Self {
            child: Mutex::new(child),
            pid,
            janitor: janitor.clone(),
        };
        janitor.adopt(pid)?;
        Ok(process)
    }

    /// Starts a server through [`GATE`]. Its output is appended to `log`.
    pub(crate) fn start_server(
        janitor: &Janitor,
        command: &CommandLine,
        dir: &Path,
        log: &Path,
    ) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .context("cannot open the log file")?;
        let mut gate = Command::new("sh");
        gate.args(["-c", GATE, "gate"])
            .args(command)
            .current_dir(dir);
        gate.stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut process = Self::start(janitor, &mut gate).context("cannot start sh")?;
        let pipe = process.child.get_mut().stdin.take();
        pipe.context("the child has no pipe")?
            .write_all(b"go\n")
            .context("the child did not wait at its gate")?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to the whole group. Does nothing if the process has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        // The signal is sent under the lock, because the ID may belong to another process after a
        // wait.
        let mut child = self.child.lock();
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("the process has no id")?;
        kill_process_group(pid, signal)
            .with_context(|| format!("cannot signal process {}", self.pid))
    }

    /// Whether SIGSTOP has taken effect. The kernel stops a process a moment after the signal.
    pub(crate) fn is_frozen(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The state follows the name, which is in parentheses and may contain anything.
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    }

    /// Returns the exit status if the process has ended.
    pub(crate) fn ended(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child.lock().try_wait()?)
    }

    /// Waits until the process has ended.
    pub(crate) async fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begun.elapsed() > limit {
                bail!("process {} did not end within {limit:?}", self.pid);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.signal(Signal::KILL);
        let _ = self.child.get_mut().wait();
        let _ = self.janitor.forget(self.pid);
    }
}
