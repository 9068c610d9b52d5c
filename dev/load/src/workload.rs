//! The crowd of a measurement: a process of its own, so that what it costs is never counted as the server's, with a client
//! that does as little as HTTP/1.1 allows.

mod drive;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

pub use drive::drive;
pub use wire::Wire;

/// What a crowd is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Where; a loopback address, or it is refused.
    pub target: SocketAddr,
    pub coupon: i64,
    pub people: u32,
    pub each: u32,
    pub connections: usize,
    /// Requests a second, by the clock and not by the answers (open loop); without it each connection asks again as soon
    /// as it was answered.
    pub rate: Option<f64>,
    /// Each connection asks once before the clock starts, for somebody of its own whose answer is not counted: opening many
    /// connections at one instant is not what is measured.
    #[serde(default)]
    pub warm: bool,
    /// What user ids begin with.
    pub prefix: String,
}

impl Plan {
    /// A closed loop in which everybody asks twice, the second time at once, as people do who are afraid to miss out.
    pub fn rush(target: SocketAddr, coupon: i64, requests: u32, connections: usize) -> Self {
        let people = (requests / 2).max(1);
        Self { target, coupon, people, each: 2, connections, rate: None, warm: false, prefix: "p-".into() }
    }

    /// A closed loop in which everybody asks once.
    pub fn once_each(target: SocketAddr, coupon: i64, people: u32, connections: usize) -> Self {
        Self { each: 1, people, ..Self::rush(target, coupon, 2, connections) }
    }

    /// The same people by the clock, so many a second, on connections that have been used before.
    #[must_use]
    pub fn by_the_clock(self, rate: f64) -> Self {
        Self { rate: Some(rate), warm: true, ..self }
    }

    /// The same crowd with other names.
    #[must_use]
    pub fn named(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// How many requests it comes to.
    pub fn requests(&self) -> u32 {
        self.people * self.each
    }
}

/// What a crowd was told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    pub requests: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    pub per_second: f64,
    pub answers: BTreeMap<String, u64>,
    /// How long people waited for `accepted`.
    pub winners: Option<Latency>,
    /// How long people waited for any other answer.
    pub losers: Option<Latency>,
    /// People who were told yes, with the slot they were told (0: the design names none).
    pub yes: HashMap<String, u32>,
    /// Those of them who were told `accepted`, not only `already_claimed`.
    pub accepted: HashSet<String>,
    /// People who were told yes and also told that it is sold out.
    pub holders_denied: u64,
    /// Admissions by time: count in each [`BUCKET_MS`].
    pub admissions: Vec<u32>,
    /// Seconds of CPU that this process took.
    pub cpu_seconds: f64,
}

/// Width of the time series, in milliseconds.
pub const BUCKET_MS: u64 = 5;

impl Seen {
    /// How many answers of a kind came.
    pub fn count(&self, kind: &str) -> u64 {
        self.answers.get(kind).copied().unwrap_or(0)
    }

    /// Answers that are none of the contract's.
    pub fn unclear(&self) -> u64 {
        ["failed", "no_answer", "refused", "unavailable"].iter().map(|kind| self.count(kind)).sum()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1,000 were faster.
    pub p999: f64,
    pub max: f64,
    /// Points of the whole curve: quantile and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

impl Latency {
    #[allow(clippy::cast_precision_loss, reason = "at most a minute in microseconds")]
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        let points = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0];
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
            curve: points.map(|quantile| (quantile, at(quantile))).to_vec(),
        })
    }
}

/// Lets the crowd ask from a process of its own.
pub async fn crowd(plan: &Plan) -> Result<Seen> {
    ensure!(plan.target.ip().is_loopback(), "{} is not this machine: the crowd asks nobody else", plan.target);
    let mut child = Command::new(std::env::current_exe()?)
        .arg("crowd")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(&serde_json::to_vec(plan)?).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "the crowd ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("what the crowd said could not be read")
}

/// The same, with the microseconds of CPU that the process of this number took for each request meanwhile.
pub async fn crowd_at(pid: u32, plan: &Plan) -> Result<(Seen, f64)> {
    let before = crate::process::cpu_seconds(pid)?;
    let seen = crowd(plan).await?;
    let each = (crate::process::cpu_seconds(pid)? - before) * 1e6 / f64::from(plan.requests().max(1));
    Ok((seen, each))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_but_this_machine_is_asked() {
        let plan = Plan::rush(([192, 0, 2, 1], 80).into(), 1, 10, 1);
        assert!(crowd(&plan).await.unwrap_err().to_string().contains("not this machine"));
        assert!(drive(&plan).await.unwrap_err().to_string().contains("not this machine"));
    }

    #[test]
    fn everybody_of_a_rush_asks_twice() {
        let plan = Plan::rush(([127, 0, 0, 1], 80).into(), 1, 20_000, 64);
        assert_eq!((plan.people, plan.each, plan.requests()), (10_000, 2, 20_000));
    }
}
