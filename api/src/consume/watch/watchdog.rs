//! The watchdog over the loop: a consumer that makes no progress says so, and ends itself in the end, since a process that is
//! started again is well and one that is stuck stays so.
//!
//! Stuck is a loop that does not come round, or one that does and writes nothing although messages wait and both stores
//! answer. A store that is away is not this process's fault: it waits and tries again for as long as it takes.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;

use crate::consume::watch::health::Health;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(500);

/// When a consumer counts as dead, and as stuck.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The group takes the partitions of a member that is silent for so long.
    pub(crate) session: Duration,
    /// A loop without progress for so long is stuck; three times that, and it ends itself.
    pub(crate) stuck: Duration,
}

impl Patience {
    pub(crate) fn set(self, config: &mut ClientConfig) {
        let ms = |time: Duration| time.as_millis().to_string();
        config
            .set("session.timeout.ms", ms(self.session))
            .set("heartbeat.interval.ms", ms(self.session / 4))
            // A loop that stands still goes on sending heartbeats: this is what takes its partitions away. Never below
            // the session's time, which librdkafka refuses.
            .set("max.poll.interval.ms", ms((self.stuck * 2).max(self.session)));
    }

    fn end(self) -> Duration {
        self.stuck * 3
    }
}

/// The watching thread: not a task, as what is stuck may be the runtime. It ends when this is dropped.
pub(crate) struct Watchdog {
    _stop: Sender<()>,
}

impl Watchdog {
    pub(crate) fn start(health: Arc<Health>, patience: Patience) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        std::thread::Builder::new().name("consume-watchdog".into()).spawn(move || {
            let mut watch = Watch::default();
            let mut looked_at = Instant::now();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let passed = looked_at.elapsed();
                looked_at = Instant::now();
                let trouble = watch.look(health.signs(), passed);
                tell(&health, patience, trouble);
            }
        })?;
        Ok(Self { _stop: stop })
    }
}

#[expect(clippy::disallowed_methods, reason = "what would have to return from main is stuck")]
fn tell(health: &Health, patience: Patience, (what, time): (&'static str, Duration)) {
    if time < patience.stuck {
        health.stuck(None);
        return;
    }
    let (seconds, end) = (time.as_secs(), patience.end().as_secs());
    if health.stuck(Some(format!("{what} for {seconds} s"))) {
        tracing::error!(
            seconds,
            "{what}: this consumer is stuck. Its partitions go to others; at {end} s it ends itself to be started again. \
             If that comes again, keep its log and a stack trace (gdb -p PID -batch -ex 'thread apply all bt')"
        );
    }
    if time >= patience.end() {
        tracing::error!(seconds, "{what}: this consumer ends itself, so that it is started again");
        std::process::exit(1);
    }
}

/// What the loop and the lag's watcher left to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signs {
    /// When the loop came round last.
    pub(crate) turned_at: Instant,
    /// Whether messages wait, and none of them is being written.
    pub(crate) waits: bool,
    /// Grows with every batch that is written and every word of a store that is away.
    pub(crate) heard: u64,
}

/// What was seen so far. Time is added up from looks, each counted as two at most: after a process was frozen, or its
/// machine asleep, nothing is blamed on the loop.
#[derive(Debug, Default)]
struct Watch {
    last: Option<Signs>,
    still: Duration,
    idle: Duration,
}

impl Watch {
    /// What is worse, and for how long it has been so.
    fn look(&mut self, signs: Signs, passed: Duration) -> (&'static str, Duration) {
        let passed = passed.min(EVERY * 2);
        let last = self.last.replace(signs);
        let turned = last.is_none_or(|last| last.turned_at != signs.turned_at);
        let idles = signs.waits && last.is_some_and(|last| last.heard == signs.heard);
        self.still = if turned { Duration::ZERO } else { self.still + passed };
        self.idle = if idles { self.idle + passed } else { Duration::ZERO };
        if self.still >= self.idle {
            ("the loop has stood still", self.still)
        } else {
            ("nothing was written although messages wait and both stores answer", self.idle)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = EVERY;

    /// Looks at a loop: so many times; does it come round, do messages wait, is anything written or told meanwhile?
    fn after(looks: &[(u32, bool, bool, bool)]) -> (&'static str, Duration) {
        let mut watch = Watch::default();
        let mut signs = Signs { turned_at: Instant::now(), waits: false, heard: 0 };
        let mut seen = watch.look(signs, ROUND);
        for (times, turns, waits, heard) in looks {
            for _ in 0..*times {
                signs.turned_at += if *turns { ROUND } else { Duration::ZERO };
                signs.heard += u64::from(*heard);
                signs.waits = *waits;
                seen = watch.look(signs, ROUND);
            }
        }
        seen
    }

    #[test]
    fn a_loop_that_comes_round_is_well_with_nothing_to_do_and_with_much_to_do() {
        assert!(after(&[(200, true, false, false)]).1.is_zero());
        assert!(after(&[(200, true, true, true)]).1.is_zero());
    }

    #[test]
    fn a_loop_that_stands_still_is_seen_and_forgiven_when_it_goes_on() {
        assert_eq!(after(&[(60, false, false, false)]), ("the loop has stood still", Duration::from_secs(30)));
        assert!(after(&[(60, false, false, false), (1, true, false, false)]).1.is_zero());
    }

    #[test]
    fn a_loop_that_turns_and_writes_nothing_is_seen_unless_a_store_says_why() {
        let (what, time) = after(&[(60, true, true, false)]);
        assert!(what.starts_with("nothing was written") && time == Duration::from_secs(30), "{what} {time:?}");
        assert!(after(&[(60, true, true, false), (1, true, true, true)]).1.is_zero());
        assert!(after(&[(60, true, true, false), (1, true, false, false)]).1.is_zero());
    }

    #[test]
    fn a_process_that_was_frozen_is_not_blamed() {
        let mut watch = Watch::default();
        let signs = Signs { turned_at: Instant::now(), waits: true, heard: 0 };
        watch.look(signs, ROUND);
        assert!(watch.look(signs, Duration::from_secs(3_600)).1 <= ROUND * 2);
    }
}
