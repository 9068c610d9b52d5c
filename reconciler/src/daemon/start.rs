//! Start-up of the daemon, the only place that waits for the stores. It waits without a limit. If
//! the daemon ended instead, it would be restarted repeatedly, and would never run long enough to
//! send a mail.

use std::time::Duration;

use croner::Cron;
use firstcome_shared::config::StartError;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::schedule::time_zone;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::schedule::{CronSchedule, ScheduledJob};
use crate::notify::Notifier;
use crate::passes::mail;
use crate::record;
use crate::report::{FailureCause, Run};
use crate::stores::{self, Stores};

/// Maximum wait for a store. A store that does not respond in this time counts as a failed pass.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Another daemon counts as working if its record that admission is open has changed within this
/// time. A working daemon updates the record every five seconds.
const NOTED_WITHIN: Duration = Duration::from_secs(12);

/// Waits for the stores and loads the schedules. Reports an unavailable store by mail, like a
/// failed pass. Returns `None` if `stop` is cancelled first.
///
/// # Errors
/// If a store rejects this process, or its settings could lose promises.
pub(super) async fn wait_for_stores(
    all: &Stores,
    notifier: &Notifier,
    crons: &[(ScheduledJob, &Cron)],
    stop: &CancellationToken,
) -> anyhow::Result<Option<Vec<CronSchedule>>> {
    time_zone::warn_if_old();
    let mut missing = String::new();
    let mut failed: Option<Run> = None;
    let mut other = OtherDaemon::default();
    loop {
        let next = Instant::now() + ATTEMPT;
        let (cause, store, reason) = match stores::check(all, ATTEMPT, stop).await {
            Ok(()) => match schedules(&all.db, crons).await {
                Ok(schedules) => return Ok(Some(schedules)),
                Err(error) => (FailureCause::Mysql, "MySQL".to_owned(), error.to_string()),
            },
            Err((_, StartError::Stopped(_))) => return Ok(None),
            Err((cause, StartError::Missing { store, reason, .. })) => (cause, store, reason),
            Err((_, refused @ StartError::Refused(_))) => return Err(refused.into()),
        };
        if missing != store {
            tracing::warn!(reason, "waiting for {store}; passes begin once it answers");
            missing = store;
        }
        // If another daemon works, either only this one cannot reach the store, or the other one
        // reports the problem.
        let note = notifier.last_note().await.ok().flatten();
        if !other.works(note, Instant::now()) {
            // All attempts without this store are one run.
            let run = failed.take().filter(|run| run.cause() == Some(cause));
            let run = run.unwrap_or_else(|| {
                let mut run = record::unasked();
                record::fail_by(&mut run, cause, reason);
                run
            });
            if let Err(error) = record::finish(&all.db, &run, false).await {
                tracing::debug!(%error, "the run is not recorded yet");
            }
            mail(notifier, &run).await;
            failed = Some(run);
        }
        // Pause before the next attempt, since a store may reject a connection at once (a MySQL
        // without a free connection, for example).
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Loads the schedules.
pub(crate) async fn schedules(
    db: &Db,
    crons: &[(ScheduledJob, &Cron)],
) -> Result<Vec<CronSchedule>, DbError> {
    let mut schedules = Vec::with_capacity(crons.len());
    for (job, cron) in crons {
        schedules.push(CronSchedule::load(db, *job, cron).await?);
    }
    Ok(schedules)
}

/// Detects whether another daemon works from the records that it writes. Since the clocks of two
/// hosts may differ, only changes of the record matter. The first record counts as a change.
#[derive(Default)]
struct OtherDaemon {
    note: Option<String>,
    changed_at: Option<Instant>,
}

impl OtherDaemon {
    fn works(&mut self, note: Option<String>, now: Instant) -> bool {
        if note != self.note {
            self.changed_at = Some(now);
            self.note = note;
        }
        self.note.is_some() && self.changed_at.is_some_and(|at| now - at < NOTED_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_daemon_counts_as_working_while_its_record_changes() {
        let mut other = OtherDaemon::default();
        let began = Instant::now();
        let mut works = |note: Option<&str>, seconds| {
            other.works(
                note.map(str::to_owned),
                began + Duration::from_secs(seconds),
            )
        };
        assert!(!works(None, 0), "there is none");
        assert!(works(Some("a"), 2), "of a daemon that may have ended");
        assert!(works(Some("a"), 6) && works(Some("b"), 8) && works(Some("b"), 18));
        assert!(!works(Some("b"), 20) && !works(Some("b"), 60) && !works(None, 62));
    }
}
