//! A process of the product that serves requests.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstcome_stack::Program;
use rustix::process::Signal;

use crate::LIMIT;

const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A running process, killed on drop.
#[derive(Debug)]
pub struct Service {
    pub program: Program,
    /// `http://127.0.0.1:PORT`
    pub url: String,
}

impl Service {
    /// Waits until stdout has `listening on http://…`, and a line that begins with `ready`.
    pub async fn ready(program: Program, ready: &str) -> Result<Self> {
        let [url, _] = program.lines(["listening on ", ready], LIMIT).await?;
        Ok(Self { program, url })
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub fn address(&self) -> Result<SocketAddr> {
        let address = self.url.strip_prefix("http://").context("no address")?;
        Ok(address.parse()?)
    }

    /// Kills the process as a crash would (SIGKILL).
    pub async fn kill(self) -> Result<()> {
        self.end(Signal::KILL).await.map(drop)
    }

    /// Stops the process with SIGTERM and waits until it has ended.
    pub async fn stop(self) -> Result<()> {
        let status = self.end(Signal::TERM).await?;
        let (name, log) = (self.program.name(), self.program.log_tail());
        ensure!(status.success(), "{name} ended with {status}:\n{log}");
        Ok(())
    }

    /// Sends the signal and waits until the process has ended. Fails if it had ended by itself
    /// before.
    async fn end(&self, signal: Signal) -> Result<ExitStatus> {
        let ended = self.program.status()?;
        let (name, log) = (self.program.name(), self.program.log_tail());
        ensure!(ended.is_none(), "{name} had ended ({ended:?}):\n{log}");
        self.program.signal(signal)?;
        self.program.ended(STOP_LIMIT).await
    }
}
