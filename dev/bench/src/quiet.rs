//! Waits until the machine is idle. After a part, MySQL still flushes pages and the broker closes
//! segments, which would disturb the next part.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use firstcome_load::terminal::step;
use tokio::time::{Instant, sleep};

/// Length of one CPU sample.
const SPAN: Duration = Duration::from_millis(500);
/// Number of consecutive samples that must be idle.
const SAMPLES: u32 = 4;
/// Idle share that a sample must reach.
const IDLE: f64 = 0.95;
/// Load that lasts longer than this does not come from the previous part.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the processors are idle. Warns if they are not idle within a minute.
pub async fn settle() -> Result<()> {
    let begun = Instant::now();
    let mut samples = 0;
    while samples < SAMPLES {
        let before = ProcessorTime::now()?;
        sleep(SPAN).await;
        let idle = ProcessorTime::now()?.idle_since(&before);
        samples = if idle >= IDLE { samples + 1 } else { 0 };
        if begun.elapsed() > LIMIT {
            step(format!(
                "the machine is not idle ({:.0} %): the next figures are less reliable",
                idle * 100.0
            ));
            break;
        }
    }
    Ok(())
}

/// CPU time of all processors since boot, in ticks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProcessorTime {
    idle: u64,
    all: u64,
}

impl ProcessorTime {
    pub(crate) fn now() -> Result<Self> {
        Self::read(&fs::read_to_string("/proc/stat")?)
            .context("/proc/stat has no line of all processors")
    }

    /// Parses the first line: user, nice, system, idle, iowait, …. Iowait does not count as idle.
    fn read(stat: &str) -> Option<Self> {
        let ticks: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .map_while(|n| n.parse().ok())
            .collect();
        Some(Self {
            idle: *ticks.get(3)?,
            all: ticks.iter().take(8).sum(),
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn idle_since(&self, before: &Self) -> f64 {
        (self.idle - before.idle) as f64 / (self.all - before.all).max(1) as f64
    }
}
