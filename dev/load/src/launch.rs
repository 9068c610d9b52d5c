//! Servers that only one run uses, and the life cycle of a process on them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstcome_stack::{Janitor, Program, Stack, StackOptions};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::cpu_seconds;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Redis, MySQL, Kafka and a mail sink, and a folder for logs.
#[derive(Debug)]
pub struct Servers {
    pub stack: Stack,
    logs: PathBuf,
    _temporary: TempDir,
    janitor: Janitor,
}

impl Servers {
    /// Starts the servers. Without a folder, logs go to a temporary one.
    pub async fn start(options: StackOptions, logs: Option<&Path>) -> Result<Self> {
        let stack = Stack::start(options).await?;
        let temporary = TempDir::new()?;
        let logs = logs.unwrap_or(temporary.path()).to_owned();
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self {
            stack,
            logs,
            _temporary: temporary,
            janitor: Janitor::start()?,
        })
    }

    /// Starts a program and waits until its stdout has `listening on http://…`, and a line that
    /// begins with `ready`.
    pub async fn spawn(&self, name: &str, command: &mut Command, ready: &str) -> Result<Service> {
        let log = self.logs.join(format!("{name}.log"));
        let program = Program::start(name, command, &log, &self.janitor)?;
        let [url, _] = program.lines(["listening on ", ready], START_LIMIT).await?;
        Ok(Service { program, url })
    }

    /// Returns the CPU seconds of MySQL, Redis and Kafka so far. 0 for a server that is down.
    pub fn cpu(&self) -> [f64; 3] {
        let Stack {
            mysql,
            redis,
            kafka,
            ..
        } = &self.stack;
        [mysql.pid(), redis.pid(), kafka.pid()]
            .map(|pid| pid.and_then(|pid| cpu_seconds(pid).ok()).unwrap_or(0.0))
    }
}

/// A running process, killed on drop.
#[derive(Debug)]
pub struct Service {
    program: Program,
    /// `http://127.0.0.1:PORT`
    pub url: String,
}

impl Service {
    pub fn name(&self) -> &str {
        self.program.name()
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub fn address(&self) -> Result<SocketAddr> {
        let address = self.url.strip_prefix("http://").context("no address")?;
        Ok(address.parse()?)
    }

    pub fn log_tail(&self) -> String {
        self.program.log_tail()
    }

    /// Kills the process as a crash would (SIGKILL).
    pub async fn kill(self) -> Result<()> {
        self.still_runs()?;
        self.program.signal(Signal::KILL)?;
        self.program.ended(STOP_LIMIT).await.map(drop)
    }

    /// Stops the process with SIGTERM and waits until it has ended.
    pub async fn stop(self) -> Result<()> {
        self.still_runs()?;
        let status = self.program.stop(STOP_LIMIT).await?;
        let (name, log) = (self.name(), self.log_tail());
        ensure!(status.success(), "{name} ended with {status}:\n{log}");
        Ok(())
    }

    fn still_runs(&self) -> Result<()> {
        let ended = self.program.status()?;
        let (name, log) = (self.name(), self.log_tail());
        ensure!(ended.is_none(), "{name} had ended ({ended:?}):\n{log}");
        Ok(())
    }
}
