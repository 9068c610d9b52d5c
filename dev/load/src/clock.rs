//! Arrival times of open and closed loops.

use std::time::{Duration, Instant};

/// The arrival clock of a crowd. In an open loop each request has a fixed due time, and its latency
/// counts from there, so a stalled server is charged for everybody who would have come meanwhile.
/// In a closed loop, a stalled server is simply asked less often, and exactly those waits are
/// missing ("coordinated omission").
#[derive(Debug, Clone, Copy)]
pub struct CrowdClock {
    /// Due time of the first request.
    pub begun: Instant,
    rate: Option<f64>,
}

impl CrowdClock {
    /// Starts now: with this many requests per second, or without a rate (a closed loop, in which a
    /// request is due when it is sent).
    pub fn start(rate: Option<f64>) -> Self {
        Self {
            begun: Instant::now(),
            rate,
        }
    }

    /// Waits until a request is due and returns the instant from which its latency counts. The
    /// timer has millisecond resolution; late wake-ups count as latency, so figures of this loop
    /// are up to 1 ms too high, never too low.
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
