//! Runs a crowd in a separate process (`firstcome-crowd`), so that its CPU time does not count as
//! the server's.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use firstcome_stack::built_program;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::crowd::Crowd;
use crate::generator::{self, CrowdPlan};
use crate::measure::cpu_seconds;
use crate::tally::{CrowdProgress, Tally};

const PROGRAM: &str = "firstcome-crowd";

/// The work of a crowd. Each request is sent once, whatever the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Workload {
    /// The server's address. Only loopback addresses are accepted.
    pub target: SocketAddr,
    pub coupon: i64,
    pub people: u32,
    pub requests_per_person: u32,
    pub connections: usize,
    /// See [`CrowdPlan::rate`].
    pub rate: Option<f64>,
    /// See [`CrowdPlan::warm_up`].
    pub warm_up: bool,
    /// Prefix of the user IDs.
    pub prefix: String,
}

impl Workload {
    /// Creates a closed loop in which every user claims twice at once, as impatient users do.
    pub fn rush(target: SocketAddr, coupon: i64, requests: u32, connections: usize) -> Self {
        let people = (requests / 2).max(1);
        let prefix = "p-".to_owned();
        Self {
            target,
            coupon,
            people,
            requests_per_person: 2,
            connections,
            rate: None,
            warm_up: false,
            prefix,
        }
    }

    /// Creates a closed loop in which every user claims once.
    pub fn once_each(target: SocketAddr, coupon: i64, people: u32, connections: usize) -> Self {
        Self {
            requests_per_person: 1,
            people,
            ..Self::rush(target, coupon, 2, connections)
        }
    }

    /// Turns the workload into an open loop at this rate, on warmed-up connections.
    #[must_use]
    pub fn by_the_clock(self, rate: f64) -> Self {
        Self {
            rate: Some(rate),
            warm_up: true,
            ..self
        }
    }

    /// Returns the workload with different user IDs.
    #[must_use]
    pub fn named(self, prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ..self
        }
    }

    pub fn requests(&self) -> u32 {
        self.people * self.requests_per_person
    }

    fn only_this_machine(&self) -> Result<()> {
        ensure!(
            self.target.ip().is_loopback(),
            "{} is not this machine",
            self.target
        );
        Ok(())
    }

    /// Runs the workload in a separate process.
    pub async fn run(&self) -> Result<Tally> {
        self.only_this_machine()?;
        let mut child = Command::new(built_program(PROGRAM)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(&serde_json::to_vec(self)?).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        ensure!(
            output.status.success(),
            "{PROGRAM} ended with {}",
            output.status
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{PROGRAM} printed no tally"))
    }

    /// Does the same as [`Self::run`], and also returns the CPU microseconds per request of the
    /// process `pid`.
    pub async fn run_metered(&self, pid: u32) -> Result<(Tally, f64)> {
        let before = cpu_seconds(pid)?;
        let tally = self.run().await?;
        let each = (cpu_seconds(pid)? - before) * 1e6 / f64::from(self.requests().max(1));
        Ok((tally, each))
    }

    async fn run_here(&self) -> Result<Tally> {
        self.only_this_machine()?;
        let crowd = Crowd::gather(self.people, &self.prefix, self.requests_per_person, 1)?;
        let plan = CrowdPlan::new(
            vec![self.target.into()],
            self.coupon,
            crowd,
            self.connections,
        );
        let plan = CrowdPlan {
            rate: self.rate,
            warm_up: self.warm_up,
            ..plan
        };
        generator::run(plan, Arc::new(CrowdProgress::default())).await
    }
}

/// Runs the program: reads a workload from stdin and writes its tally to stdout.
pub async fn main() -> Result<()> {
    let mut workload = Vec::new();
    std::io::stdin().read_to_end(&mut workload)?;
    let workload: Workload = serde_json::from_slice(&workload)?;
    println!("{}", serde_json::to_string(&workload.run_here().await?)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refuses_remote_hosts() {
        let elsewhere = Workload::rush(([192, 0, 2, 1], 80).into(), 1, 10, 1);
        assert!(
            elsewhere
                .run()
                .await
                .unwrap_err()
                .to_string()
                .contains("not this machine")
        );
        assert!(
            elsewhere
                .run_here()
                .await
                .unwrap_err()
                .to_string()
                .contains("not this machine")
        );
    }
}
