//! The watchdog: reports a consumer without progress as stuck, and ends the process if that lasts,
//! because a restart usually helps.
//!
//! A loop is stuck if it does not iterate, or if it writes nothing although messages wait and both
//! stores answer. While a store is unavailable the loop is not stuck, because it retries without
//! limit.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;

use super::report::{Health, LoopState};

const EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
pub(crate) struct LivenessLimits {
    /// The group reassigns the partitions of a member that is silent for this long.
    pub(crate) session: Duration,
    /// A loop without progress for this long is stuck. After three times as long, the process
    /// exits.
    pub(crate) stuck: Duration,
}

impl LivenessLimits {
    pub(crate) fn apply(self, config: &mut ClientConfig) {
        let ms = |time: Duration| time.as_millis().to_string();
        config
            .set("session.timeout.ms", ms(self.session))
            .set("heartbeat.interval.ms", ms(self.session / 4))
            // librdkafka sends heartbeats even if the loop makes no progress. This limit makes the
            // group reassign its partitions. It must not be below the session timeout.
            .set(
                "max.poll.interval.ms",
                ms((self.stuck * 2).max(self.session)),
            );
    }

    fn exit(self) -> Duration {
        self.stuck * 3
    }
}

/// The watchdog's thread, which ends when this is dropped. It is not a task, because the runtime
/// itself may be stuck.
pub(crate) struct Watchdog {
    _stop: Sender<()>,
}

impl Watchdog {
    pub(crate) fn start(health: Arc<Health>, limits: LivenessLimits) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        std::thread::Builder::new()
            .name("consume-watchdog".into())
            .spawn(move || {
                let mut watch = ProgressWatch::default();
                let mut checked_at = Instant::now();
                while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                    let passed = checked_at.elapsed();
                    checked_at = Instant::now();
                    let (what, time) = watch.check(health.loop_state(), passed);
                    report(&health, limits, what, time);
                }
            })?;
        Ok(Self { _stop: stop })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the thread that would return from main is stuck"
)]
fn report(health: &Health, limits: LivenessLimits, what: &'static str, time: Duration) {
    if time < limits.stuck {
        health.stuck(None);
        return;
    }
    let seconds = time.as_secs();
    let end = limits.exit().as_secs();
    if health.stuck(Some(format!("{what} for {seconds} s"))) {
        tracing::error!(
            seconds,
            "{what}: this consumer is stuck. Its partitions go to others; at {end} s it ends itself to be started again. \
             If that comes again, keep its log and a stack trace (gdb -p PID -batch -ex 'thread apply all bt')"
        );
    }
    if time >= limits.exit() {
        tracing::error!(
            seconds,
            "{what}: this consumer exits, so that its supervisor restarts it"
        );
        std::process::exit(1);
    }
}

/// Adds up the time without progress. One check counts as at most two periods, so that the time
/// during which the process or the machine was suspended does not count.
#[derive(Debug, Default)]
struct ProgressWatch {
    last: Option<LoopState>,
    still: Duration,
    idle: Duration,
}

impl ProgressWatch {
    /// Returns the condition that has lasted longer, with its duration.
    fn check(&mut self, state: LoopState, passed: Duration) -> (&'static str, Duration) {
        let passed = passed.min(EVERY * 2);
        let last = self.last.replace(state);
        let iterated = last.is_none_or(|last| last.iterated_at != state.iterated_at);
        let idles = state.backlog && last.is_some_and(|last| last.progress == state.progress);
        self.still = if iterated {
            Duration::ZERO
        } else {
            self.still + passed
        };
        self.idle = if idles {
            self.idle + passed
        } else {
            Duration::ZERO
        };
        if self.still >= self.idle {
            ("the loop has stood still", self.still)
        } else {
            (
                "nothing was written although messages wait and both stores answer",
                self.idle,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a loop the given number of times. The flags state whether it iterates, has a backlog,
    /// and makes progress.
    fn after(checks: &[(u32, bool, bool, bool)]) -> (&'static str, Duration) {
        let mut watch = ProgressWatch::default();
        let mut state = LoopState {
            iterated_at: Instant::now(),
            backlog: false,
            progress: 0,
        };
        let mut trouble = watch.check(state, EVERY);
        for (times, iterates, backlog, progresses) in checks {
            for _ in 0..*times {
                state.iterated_at += if *iterates { EVERY } else { Duration::ZERO };
                state.progress += u64::from(*progresses);
                state.backlog = *backlog;
                trouble = watch.check(state, EVERY);
            }
        }
        trouble
    }

    #[test]
    fn iterating_loop_is_not_stuck_when_idle_or_busy() {
        assert!(after(&[(200, true, false, false)]).1.is_zero());
        assert!(after(&[(200, true, true, true)]).1.is_zero());
    }

    #[test]
    fn loop_is_stuck_while_it_does_not_iterate() {
        assert_eq!(
            after(&[(60, false, false, false)]),
            ("the loop has stood still", Duration::from_secs(30))
        );
        assert!(
            after(&[(60, false, false, false), (1, true, false, false)])
                .1
                .is_zero()
        );
    }

    #[test]
    fn loop_is_stuck_if_it_writes_nothing_and_both_stores_answer() {
        let (what, time) = after(&[(60, true, true, false)]);
        assert!(
            what.starts_with("nothing was written") && time == Duration::from_secs(30),
            "{what} {time:?}"
        );
        assert!(
            after(&[(60, true, true, false), (1, true, true, true)])
                .1
                .is_zero()
        );
        assert!(
            after(&[(60, true, true, false), (1, true, false, false)])
                .1
                .is_zero()
        );
    }

    #[test]
    fn time_spent_suspended_does_not_count_towards_the_timeout() {
        let mut watch = ProgressWatch::default();
        let state = LoopState {
            iterated_at: Instant::now(),
            backlog: true,
            progress: 0,
        };
        watch.check(state, EVERY);
        assert!(watch.check(state, Duration::from_secs(3_600)).1 <= EVERY * 2);
    }
}
