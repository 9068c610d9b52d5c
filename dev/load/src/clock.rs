//! Arrival times of open and closed loops.

use std::time::{Duration, Instant};

/// The arrival clock of a crowd. In an open loop each request has a fixed due time from which its
/// latency counts, so a stall of the server counts for every user who arrives meanwhile. In a
/// closed loop a stalled server gets fewer requests, and those waits are missing from the figures
/// ("coordinated omission").
#[derive(Debug, Clone, Copy)]
pub struct CrowdClock {
    /// Due time of the first request.
    pub begun: Instant,
    rate: Option<f64>,
}

impl CrowdClock {
    /// Starts the clock, with this number of requests per second. Without a rate it is a closed
    /// loop, in which a request is due when it is sent.
    pub fn start(rate: Option<f64>) -> Self {
        Self {
            begun: Instant::now(),
            rate,
        }
    }

    /// Waits until a request is due and returns the time from which its latency counts. The timer
    /// has millisecond resolution, and late wake-ups count as latency, so latencies of an open loop
    /// are up to 1 ms too high.
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
