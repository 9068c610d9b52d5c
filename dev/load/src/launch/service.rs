//! One process: started, watched until it is ready, stopped.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use firstcome_stack::Janitor;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client::Target;
use crate::ops::Ops;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const LISTENING: &str = "listening on ";
const LOG_LINES: usize = 25;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    pid: u32,
    url: Option<String>,
    log: PathBuf,
    janitor: Janitor,
}

impl Service {
    /// Starts a program and waits until its stdout has said `listening on http://…`, and a line
    /// that begins with `ready`.
    pub(super) async fn start(
        name: &str,
        command: &mut Command,
        ready: &str,
        logs: &Path,
        janitor: &Janitor,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        // A group of its own: Ctrl-C is for the owner, who stops everything in order.
        let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        janitor.adopt(pid)?;
        let lines = read_lines(child.stdout.take().context("no stdout")?);
        let mut service = Self { name: name.to_owned(), child, pid, url: None, log, janitor: janitor.clone() };
        service.until_ready(lines, ready).await?;
        Ok(service)
    }

    async fn until_ready(&mut self, mut stdout: watch::Receiver<Vec<String>>, ready: &str) -> Result<()> {
        let wanted = [LISTENING, ready];
        let all_printed =
            |lines: &Vec<String>| wanted.iter().all(|text| lines.iter().any(|line| line.starts_with(text)));
        let lines = match timeout(START_LIMIT, stdout.wait_for(all_printed)).await {
            Ok(Ok(lines)) => lines.clone(),
            Ok(Err(_)) => bail!("{} ended while starting:\n{}", self.name, self.log_tail()),
            Err(_) => bail!("{} did not print {wanted:?} within {START_LIMIT:?}:\n{}", self.name, self.log_tail()),
        };
        self.url = lines.iter().find_map(|line| line.strip_prefix(LISTENING)).map(|url| url.trim().to_owned());
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn target(&self) -> Result<Target> {
        self.url.as_deref().with_context(|| format!("{} did not print where it listens", self.name))?.parse()
    }

    /// The same as an address.
    pub fn address(&self) -> Result<SocketAddr> {
        self.target()?.authority().parse().context("no address")
    }

    /// Its metrics, as Prometheus reads them.
    pub async fn metrics(&self) -> Result<String> {
        let (_, text) = Ops { target: self.target()?, token: String::new() }.get_text("/metrics").await?;
        Ok(text)
    }

    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Kills it as a crash would (SIGKILL).
    pub async fn kill(mut self) -> Result<()> {
        self.still_runs()?;
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        self.still_runs()?;
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("no process number")?;
        kill_process(pid, Signal::TERM)?;
        let Ok(status) = timeout(STOP_LIMIT, self.child.wait()).await else {
            self.child.kill().await?;
            bail!("{} did not stop within {STOP_LIMIT:?} of SIGTERM:\n{}", self.name, self.log_tail());
        };
        let status = status?;
        ensure!(status.success(), "{} ended with {status}:\n{}", self.name, self.log_tail());
        Ok(())
    }

    fn still_runs(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{} had ended by itself ({ended:?}):\n{}", self.name, self.log_tail());
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The number of a process that was waited for may belong to another one by now.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.janitor.forget(self.pid);
        }
    }
}

/// Collects the lines of its stdout, for as long as it writes, so that the pipe never fills.
fn read_lines(stdout: tokio::process::ChildStdout) -> watch::Receiver<Vec<String>> {
    let (sender, lines) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut reader = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = reader.next_line().await {
            sender.send_modify(|lines| lines.push(line));
        }
    });
    lines
}
