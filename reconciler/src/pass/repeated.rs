//! Deduplicates failed runs other than normal passes, mostly reopenings. While another store is
//! unavailable, a reopening is attempted every few seconds with the same result. These attempts are
//! recorded as one long run, so that the tables grow with events and not with attempts.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::record;
use crate::report::{Outcome, Run, Status};

/// Time after which the same result counts as a new loss. Far longer than the interval between
/// attempts, even if the stores respond slowly.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Results of failed runs since the last run that changed something, each with its run and the time
/// of its last occurrence. Keeps several results, because two causes may alternate.
#[derive(Default)]
pub(super) struct Repeated(HashMap<u64, (String, Instant)>);

impl Repeated {
    /// Returns the earlier run with the same result. If there is none, remembers this run.
    pub(super) fn said_by(&mut self, run: &Run, now: Instant) -> Option<String> {
        if !is_in_vain(run) {
            self.0.clear();
            return None;
        }
        self.0
            .retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN_AFTER);
        let (said_by, last) = self
            .0
            .entry(record::content(run))
            .or_insert_with(|| (run.run_id.clone(), now));
        *last = now;
        (*said_by != run.run_id).then(|| said_by.clone())
    }

    pub(super) fn forget(&mut self, run_id: &str) {
        self.0.retain(|_, (said_by, _)| said_by != run_id);
    }
}

/// Whether the run repaired, sealed and opened nothing.
fn is_in_vain(run: &Run) -> bool {
    run.status != Status::Clean
        && run
            .all_findings()
            .all(|finding| finding.result != Outcome::Applied)
        && run.drops.iter().all(|drop| !drop.sealed)
}

#[cfg(test)]
mod tests {
    use firstcome_shared::mysql::processes::Work;

    use super::*;
    use crate::pass::{Request, blank};
    use crate::report::{ActionKind, FailureCause, Finding, FindingCase, Kind, Trigger};

    fn run(id: &str, result: Outcome, cause: FailureCause, detail: &str) -> Run {
        let mut run = blank(
            &Request {
                work: Work::Reopening,
                ..Request::new(Trigger::Startup)
            },
            id,
        );
        run.status = Status::Failed;
        run.findings.push(Finding {
            result,
            case: FindingCase::RunFailed(cause),
            ..Finding::general(Kind::Stalled, ActionKind::Report, detail)
        });
        run
    }

    #[test]
    fn repeated_failures_are_one_run_until_a_run_changes_something() {
        let mut repeated = Repeated::default();
        let began = Instant::now();
        let mut said_by =
            |after: u64, run: &Run| repeated.said_by(run, began + Duration::from_secs(after));
        let earlier = |id: &str| Some(id.to_owned());
        let kafka = |id, words| {
            let cause = FailureCause::Kafka;
            run(id, Outcome::Skipped, cause, words)
        };
        let redis = |id| run(id, Outcome::Skipped, FailureCause::Redis, "timed out");
        let opened = |id| run(id, Outcome::Applied, FailureCause::Other, "opened");
        assert_eq!(said_by(0, &kafka("1", "refused")), None);
        assert_eq!(
            said_by(5, &kafka("2", "all 3 brokers are down")),
            earlier("1")
        );
        assert_eq!(said_by(10, &redis("3")), None, "another cause");
        assert_eq!(said_by(15, &kafka("4", "refused")), earlier("1"));
        assert_eq!(said_by(20, &redis("5")), earlier("3"));
        // A long outage: each failure occurs within the limit after the last one.
        assert_eq!(said_by(600, &kafka("6", "refused")), earlier("1"));
        assert_eq!(said_by(1_100, &kafka("7", "refused")), earlier("1"));
        assert_eq!(said_by(1_101, &redis("8")), None, "forgotten");
        assert_eq!(said_by(1_105, &opened("9")), None);
        assert_eq!(said_by(1_110, &opened("10")), None, "each is an event");
        assert_eq!(
            said_by(1_115, &kafka("11", "refused")),
            None,
            "another loss"
        );
        assert_eq!(said_by(1_120, &kafka("12", "refused")), earlier("11"));
    }
}
