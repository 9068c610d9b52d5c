//! What a process remembers while MySQL can't be used, or admission is closed. It is in memory:
//! after a restart a mail may come again before its cooldown, and each process sends its own.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::alerts::{MailPolicy, is_repair};
use crate::clock::elapsed;
use crate::report::Run;

/// Since when nothing can be recorded, and when that was last mailed.
#[derive(Debug, Default)]
pub(super) struct OutageNotifier(Mutex<Option<Outage>>);

#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    pub(super) since: DateTime<Utc>,
    mailed: Option<DateTime<Utc>>,
    /// MySQL did not answer, at least once.
    pub(super) was_away: bool,
}

impl OutageNotifier {
    /// Notes a failure. Whether it is to be mailed.
    pub(super) fn note_failure(&self, is_away: bool, now: DateTime<Utc>, policy: MailPolicy) -> bool {
        let mut state = self.0.lock();
        let outage = state.get_or_insert(Outage { since: now, mailed: None, was_away: false });
        outage.was_away |= is_away;
        let is_due = elapsed(outage.since, now) >= policy.patience
            && outage.mailed.is_none_or(|at| elapsed(at, now) >= policy.cooldown);
        if is_due {
            outage.mailed = Some(now);
        }
        is_due
    }

    /// Since when nothing can be recorded, if that was mailed.
    pub(super) fn mailed_since(&self) -> Option<DateTime<Utc>> {
        self.0.lock().as_ref().filter(|outage| outage.mailed.is_some()).map(|outage| outage.since)
    }

    /// Notes a success. The outage that it ends, if that was mailed.
    pub(super) fn note_success(&self) -> Option<Outage> {
        self.0.lock().take().filter(|outage| outage.mailed.is_some())
    }
}

/// The unsent queue: runs that repaired something and could not be recorded, oldest first. Runs
/// that left something are not in it: the next pass sees that too.
#[derive(Debug, Default)]
pub(super) struct UnsentRuns(Mutex<VecDeque<(Run, DateTime<Utc>)>>);

/// Most runs in the queue.
const UNSENT: usize = 20;

impl UnsentRuns {
    pub(super) fn keep(&self, run: &Run, at: DateTime<Utc>) {
        let mut runs = self.0.lock();
        if runs.len() < UNSENT && !run.dry_run && run.all_findings().any(is_repair) {
            runs.push_back((run.clone(), at));
        }
    }

    pub(super) fn take(&self) -> Option<(Run, DateTime<Utc>)> {
        self.0.lock().pop_front()
    }

    pub(super) fn put_back(&self, run: Run, at: DateTime<Utc>) {
        self.0.lock().push_front((run, at));
    }
}

/// Since when admission is closed, as this process saw it.
#[derive(Debug, Default)]
pub(super) struct AdmissionWatch(pub(super) Mutex<AdmissionSeen>);

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct AdmissionSeen {
    pub(super) closed_since: Option<DateTime<Utc>>,
    /// The last time that it was closed and opened again.
    pub(super) before: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// What the tables say of it, as far as this process knows.
    pub(super) is_mailed: Option<bool>,
}

impl AdmissionWatch {
    /// Since when admission is closed, if that was mailed.
    pub(super) fn mailed_since(&self) -> Option<DateTime<Utc>> {
        let seen = *self.0.lock();
        seen.closed_since.filter(|_| seen.is_mailed == Some(true))
    }

    /// For how long admission was closed until this run ended, or until it was opened during it.
    pub(super) fn closed_for(&self, run: &Run) -> Option<TimeDelta> {
        let (seen, end) = (*self.0.lock(), run.finished_at?);
        let closed = seen.closed_since.map(|since| (since, end));
        let closed = closed.or(seen.before.filter(|(_, until)| *until >= run.started_at));
        closed.map(|(since, until)| until - since).filter(|lasted| *lasted > TimeDelta::zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_wakes_nobody_and_an_outage_does_once_a_cooldown() {
        let policy = MailPolicy { cooldown: TimeDelta::hours(4), patience: TimeDelta::seconds(60) };
        let outage = OutageNotifier::default();
        let failed = |at| outage.note_failure(true, at, policy);
        let over = || outage.note_success().map(|outage| outage.since);
        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |seconds| start + TimeDelta::seconds(seconds);
        assert!(!failed(at(0)) && !failed(at(30)));
        assert_eq!(over(), None);
        assert!(!failed(at(100)));
        assert!(failed(at(160)));
        assert!(!failed(at(161)));
        assert!(failed(at(160 + 4 * 3_600)));
        assert_eq!(over(), Some(at(100)));
        assert_eq!(over(), None);
    }
}
