//! Arrival times of open and closed loops.

use std::time::{Duration, Instant};

/// The clock of a crowd. In an open loop each request has an instant of its own, fixed beforehand,
/// and its latency counts from there: a server that stalls is charged for everybody who would have
/// come meanwhile. In a closed loop, where a stalled server is simply asked less often, exactly
/// those waits would be missing ("coordinated omission").
#[derive(Debug, Clone, Copy)]
pub struct CrowdClock {
    /// When the first request is due.
    pub begun: Instant,
    rate: Option<f64>,
}

impl CrowdClock {
    /// Begins now: with so many requests a second, or without a rate (a closed loop, where a
    /// request is due when it is sent).
    pub fn start(rate: Option<f64>) -> Self {
        Self {
            begun: Instant::now(),
            rate,
        }
    }

    /// Waits until a request is due, and gives the instant from which its latency counts. The
    /// timer's steps are milliseconds; what it wakes too late counts as latency, so a figure of
    /// this loop is up to 1 ms too high, never too low.
    pub async fn turn(&self, number: usize) -> Instant {
        let Some(rate) = self.rate else {
            return Instant::now();
        };
        #[allow(
            clippy::cast_precision_loss,
            reason = "numbers of requests are far below 2^52"
        )]
        let due = self.begun + Duration::from_secs_f64(number as f64 / rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        due
    }
}
