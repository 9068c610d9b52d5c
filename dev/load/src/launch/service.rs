//! The life cycle of one process: start, readiness, stop.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstcome_stack::{Janitor, Program};
use rustix::process::Signal;

use crate::client::Target;
use crate::ops::Ops;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A running process, killed on drop.
#[derive(Debug)]
pub struct Service {
    program: Program,
    url: String,
}

impl Service {
    /// Starts a program and waits until its stdout has `listening on http://…`, and a line that
    /// begins with `ready`.
    pub(super) async fn start(
        name: &str,
        command: &mut Command,
        ready: &str,
        logs: &Path,
        janitor: &Janitor,
    ) -> Result<Self> {
        let program = Program::start(name, command, &logs.join(format!("{name}.log")), janitor)?;
        let [url, _] = program.lines(["listening on ", ready], START_LIMIT).await?;
        Ok(Self { program, url })
    }

    pub fn name(&self) -> &str {
        self.program.name()
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub fn target(&self) -> Result<Target> {
        self.url.parse()
    }

    /// Returns the socket address.
    pub fn address(&self) -> Result<SocketAddr> {
        self.target()?.authority().parse().context("no address")
    }

    /// Reads the metrics in Prometheus format.
    pub async fn metrics(&self) -> Result<String> {
        Ops {
            target: self.target()?,
            token: String::new(),
        }
        .get_text("/metrics")
        .await
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
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.name(),
            self.log_tail()
        );
        Ok(())
    }

    fn still_runs(&self) -> Result<()> {
        let ended = self.program.status()?;
        ensure!(
            ended.is_none(),
            "{} had ended by itself ({ended:?}):\n{}",
            self.name(),
            self.log_tail()
        );
        Ok(())
    }
}
