//! One child process: started behind a latch, signalled, waited for.

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

/// Waits for a line before it becomes the server: if the owner is killed before the janitor knows
/// the process, the pipe ends instead and no server ever starts.
const GATE: &str = r#"read -r go || exit 1; exec "$@" </dev/null"#;

/// How often a condition is checked.
pub(crate) const POLL: Duration = Duration::from_millis(5);

pub(crate) type CommandLine = Vec<OsString>;

/// A running server and the process group that it leads.
///
/// Not tokio's `Child`: that one is tied to the runtime it was started on, and a stack outlives the
/// runtime of the test that started it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    janitor: Janitor,
}

impl Process {
    /// Starts a program; its output is appended to `log`.
    pub(crate) fn start(janitor: &Janitor, command: &CommandLine, dir: &Path, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log).context("cannot open the log file")?;
        let mut child = Command::new("sh")
            .args(["-c", GATE, "gate"])
            .args(command)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        let gate = child.stdin.take();
        let process = Self { child, janitor: janitor.clone() };
        janitor.adopt(process.pid())?;
        gate.context("the child has no pipe")?.write_all(b"go\n").context("the child did not wait at its gate")?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("the process has no number")?;
        kill_process_group(pid, signal).with_context(|| format!("cannot signal process {}", self.pid()))
    }

    /// Whether SIGSTOP has taken effect: the kernel stops a process a moment after the signal was
    /// sent.
    pub(crate) fn is_frozen(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state follows the name, which stands in parentheses and may hold anything.
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// The exit status if it has ended. Once this gave a status the number is no longer ours.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begun.elapsed() > limit {
                bail!("process {} did not end within {limit:?}", self.pid());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            let _ = self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        let _ = self.janitor.forget(self.child.id());
    }
}
