//! Mails without the outbox, which is in MySQL: while MySQL is away or refuses what a pass records,
//! each target is notified at most once an hour, by direct attempts. A file keeps the state, so
//! that a daemon that is restarted again and again neither stays silent nor repeats itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::outbox::Outgoing;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::alerts::{Alert, AlertState, Notice, NoticeReason, Problem, begun};
use crate::clock::elapsed;
use crate::events;
use crate::mails::AlertMail;
use crate::record::{Seen, record, thread};
use crate::report::{AlertKind, FailureCause, Finding, Kind, StoreRefusal};
use crate::send::Sender;
use crate::{Notifier, wording};

/// The pause after a target was notified.
const PAUSE: TimeDelta = TimeDelta::hours(1);

/// The pause after an attempt that failed, because the mail server may be away for a moment, too,
/// or that ended with its process.
const RETRY: TimeDelta = TimeDelta::minutes(1);

/// A failure this long after the last one begins another outage. Passes may be the only ones that
/// record anything, so this is longer than a day, which a daily schedule has up to 25 hours. A
/// success ends an outage sooner: this limit matters only if no process ran in between.
const STALE: TimeDelta = TimeDelta::hours(26);

/// How much earlier than the last report another one may have begun: several watches report, each
/// with the time at which its attempt to write began.
const OVERLAP: TimeDelta = TimeDelta::seconds(60);

/// The last outage of MySQL, kept in memory and in a file. If it is over, it only limits how soon
/// each target is notified of another one.
#[derive(Debug)]
pub(crate) struct MysqlOutage {
    file: PathBuf,
    state: Mutex<Option<Lasting>>,
    /// Held while a failure is reported, because passes and watches report at the same time.
    reporting: Mutex<()>,
    /// Held while the end is recorded, so that two passes and watches do not both mail it.
    ending: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Lasting {
    since: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    /// Whether MySQL has failed to answer once or more.
    was_away: bool,
    /// The last error.
    #[serde(default)]
    error: String,
    /// Whether Redis was away, too, or coupons were closed.
    #[serde(default)]
    has_redis: bool,
    /// Whether it has ended. Then it only says which targets need no other mail within the hour.
    #[serde(default)]
    is_over: bool,
    /// The last attempt to reach each target.
    attempts: BTreeMap<String, DateTime<Utc>>,
    /// The targets whose last attempt has not succeeded, or not yet.
    #[serde(default)]
    not_reached: BTreeSet<String>,
    /// Those of them whose attempt this process has not finished.
    #[serde(skip)]
    under_way: BTreeSet<String>,
}

impl MysqlOutage {
    /// `identity` distinguishes this installation from others on the host. It must contain no
    /// secret: the file's name is a digest of it, and everybody on the host can read the name.
    pub(crate) fn new(identity: &str) -> Self {
        let name = format!("firstcome-outage-{:.16x}.json", Sha256::digest(identity));
        Self {
            file: std::env::temp_dir().join(name),
            state: Mutex::default(),
            reporting: Mutex::default(),
            ending: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the outage with this failure, or a new one. The caller passes it to [`Self::keep`].
    fn failed(&self, is_away: bool, error: &str, now: DateTime<Utc>) -> Lasting {
        let last = self.known();
        let seen_at = last.as_ref().map(|outage| outage.seen_at);
        let now = seen_at
            .filter(|at| *at > now && *at - now < OVERLAP)
            .unwrap_or(now);
        let mut lasting = match last {
            Some(same) if !same.is_over && elapsed(same.seen_at, now) < STALE => same,
            other => Lasting {
                since: now,
                was_away: false,
                is_over: false,
                has_redis: false,
                ..other.filter(|it| it.is_over).unwrap_or_default()
            },
        };
        lasting.seen_at = now;
        lasting.was_away |= is_away;
        error.clone_into(&mut lasting.error);
        lasting
    }

    /// Returns the outage whose end is not recorded, even if it ended while the daemon was down.
    fn lasting(&self) -> Option<Lasting> {
        self.known().filter(|outage| !outage.is_over)
    }

    /// Returns the last outage, even if its end is recorded.
    fn known(&self) -> Option<Lasting> {
        self.state.lock().clone().or_else(|| self.read())
    }

    /// Notes that the outage is over. Its end must be recorded first: a process that is killed in
    /// between finds it again, and notifies the targets that know of it.
    fn end(&self) {
        let _reporting = self.reporting.lock();
        if let Some(outage) = self.lasting() {
            let is_over = true;
            self.keep(Lasting { is_over, ..outage });
        }
    }

    /// Notes how the attempt that began at this time ended, unless another one has begun.
    fn attempt_ended(&self, target: &str, began: DateTime<Utc>, has_reached: bool) {
        let _reporting = self.reporting.lock();
        let known = self.state.lock().clone();
        if let Some(mut outage) = known
            && outage.attempts.get(target) == Some(&began)
        {
            outage.under_way.remove(target);
            if has_reached {
                outage.not_reached.remove(target);
            }
            self.keep(outage);
        }
    }

    fn read(&self) -> Option<Lasting> {
        serde_json::from_slice(&std::fs::read(&self.file).ok()?).ok()
    }

    /// Keeps the outage in the file or, if that fails, only for as long as the process runs.
    fn keep(&self, lasting: Lasting) {
        let text = serde_json::to_vec(&lasting).unwrap_or_default();
        if let Err(error) = std::fs::write(&self.file, text) {
            tracing::warn!(
                %error, file = %self.file.display(),
                "not written: a daemon that restarts mails about MySQL again, or not at all"
            );
        }
        *self.state.lock() = Some(lasting);
    }
}

impl Lasting {
    /// Whether to notify a target now.
    fn is_due(&self, target: &str, patience: TimeDelta, now: DateTime<Utc>) -> bool {
        let last = self.attempts.get(target);
        let pause = if self.not_reached.contains(target) {
            RETRY
        } else {
            PAUSE
        };
        !self.under_way.contains(target)
            && elapsed(self.since, now) >= patience
            && last.is_none_or(|at| elapsed(*at, now) >= pause)
    }

    /// Notes an attempt before it begins: a process that is killed during it leaves the target to
    /// the next one.
    fn note_attempt(&mut self, target: &str, now: DateTime<Utc>) {
        self.not_reached.insert(target.to_owned());
        self.under_way.insert(target.to_owned());
        self.attempts.insert(target.to_owned(), now);
    }

    /// Whether a mail or an event about this outage was attempted. Older attempts belong to another
    /// outage.
    fn was_told(&self) -> bool {
        self.attempts.values().any(|at| *at >= self.since)
    }

    /// Returns the problem that mails and events are about.
    fn problem(&self) -> Problem {
        let error = &self.error;
        let mut problem =
            if let Some(refusal) = StoreRefusal::from_error(FailureCause::Mysql, error) {
                Problem::refusal(refusal, error)
            } else if self.was_away {
                let away = wording::unavailable(FailureCause::Mysql, error)
                    .unwrap_or_else(|| "MySQL cannot be used".to_owned());
                Problem::outage(AlertKind::MysqlUnreachable, away)
            } else {
                let unrecorded = "MySQL answers, but alerts cannot be recorded";
                let mut problem = Problem::outage(AlertKind::AlertsNotRecorded, unrecorded);
                let why = wording::line(error, wording::LONGEST);
                problem.findings = vec![Finding::report(Kind::Stalled, why)];
                problem
            };
        "mysql".clone_into(&mut problem.name);
        problem
    }
}

impl Notifier {
    /// Once the outage lasts, notifies each target whose pause is over that MySQL is unavailable or
    /// refuses what is to be recorded.
    pub(crate) fn cannot_record(&self, is_away: bool, error: &str, now: DateTime<Utc>) {
        let _reporting = self.outage.reporting.lock();
        let mut outage = self.outage.failed(is_away, error, now);
        let patience = self.settings.policy.patience;
        let now = outage.seen_at;
        let mut notices = vec![Notice {
            problem: outage.problem(),
            reason: NoticeReason::New,
            since: outage.since,
        }];
        notices.extend(self.admission.lasting(now));
        if notices.len() > 1 && !outage.has_redis {
            // Notify the targets that know only of MySQL once more.
            outage.has_redis = true;
            outage.attempts.clear();
            outage.under_way.clear();
        }
        let mail = AlertMail {
            problems: &notices,
            ..AlertMail::empty(&self.settings.links, now)
        };
        let written = match mail.render() {
            Ok(written) => written,
            Err(error) => return tracing::error!(%error, "the mail about MySQL is not written"),
        };
        let thread = thread(
            &notices[0].problem.name,
            outage.since,
            &self.settings.domain,
        );
        let mut messages = self.settings.posts(&events::about_alerts(&mail), now);
        if self.sender.mailer.is_some() {
            messages.extend(self.settings.mails(&written, &[thread], now));
        }
        let mut due: BTreeSet<String> = messages.iter().map(|it| it.target.clone()).collect();
        due.retain(|target| outage.is_due(target, patience, now));
        for target in &due {
            outage.note_attempt(target, now);
        }
        self.outage.keep(outage);
        for target in due {
            let own = messages.iter().filter(|it| it.target == target);
            tokio::spawn(attempt(
                self.sender.clone(),
                self.outage.clone(),
                own.cloned().collect(),
                now,
            ));
        }
    }

    /// Notifies every target that MySQL can be used again, if any was notified that it could not.
    pub(crate) async fn can_record(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let _ending = self.outage.ending.lock().await;
        let Some(outage) = self.outage.lasting() else {
            return Ok(());
        };
        if outage.was_told() {
            let ended = Alert {
                state: AlertState::Resolved,
                resolved_at: Some(outage.seen_at),
                last_seen_at: outage.seen_at,
                last_mailed_at: outage.attempts.values().max().copied(),
                mails: 1,
                ..begun(&outage.problem(), outage.since)
            };
            let seen = Seen::OverUnrecorded(Box::new(ended));
            record(&self.db, seen, self.settings.clone(), now).await?;
        }
        self.outage.end();
        Ok(())
    }
}

/// Delivers all messages to one target, and notes whether every one has arrived.
async fn attempt(
    sender: Sender,
    outage: Arc<MysqlOutage>,
    messages: Vec<Outgoing>,
    began: DateTime<Utc>,
) {
    let mut has_reached = true;
    for message in &messages {
        if let Err(error) = sender.deliver(message).await {
            let target = &message.target;
            tracing::error!(%error, target, "nobody is told there that MySQL cannot be used");
            has_reached = false;
        }
    }
    if let Some(message) = messages.first() {
        outage.attempt_ended(&message.target, began, has_reached);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// Attempts what is due, and reaches every target.
    fn due_mails(outage: &MysqlOutage, seconds: i64) -> usize {
        let due = attempts(outage, seconds);
        for target in &due {
            outage.attempt_ended(target, at(seconds), true);
        }
        due.len()
    }

    fn attempts(outage: &MysqlOutage, seconds: i64) -> Vec<&'static str> {
        let now = at(seconds);
        let mut lasting = outage.failed(true, "", now);
        let now = lasting.seen_at;
        let mut due = vec!["a", "b"];
        due.retain(|target| lasting.is_due(target, TimeDelta::seconds(30), now));
        for target in &due {
            lasting.note_attempt(target, now);
        }
        outage.keep(lasting);
        due
    }

    /// Ends the outage. Returns it if any target was notified.
    fn end(outage: &MysqlOutage) -> Option<Lasting> {
        let ended = outage.lasting();
        outage.end();
        ended.filter(Lasting::was_told)
    }

    fn outage(test: &str) -> impl Fn() -> MysqlOutage {
        // The file of an earlier process with the same id may exist.
        let identity = format!("{test} {}", rand::random::<u64>());
        move || MysqlOutage::new(&identity)
    }

    #[test]
    fn each_target_is_notified_once_an_hour_if_the_outage_lasts() {
        let outage = outage("hour")();
        assert_eq!(due_mails(&outage, 0), 0);
        assert!(end(&outage).is_none(), "a restart of MySQL");
        assert_eq!((due_mails(&outage, 20), due_mails(&outage, 50)), (0, 2));
        assert!(
            (51..3_650)
                .step_by(500)
                .all(|at| due_mails(&outage, at) == 0)
        );
        assert_eq!(due_mails(&outage, 3_650), 2);
        assert_eq!(end(&outage).unwrap().since, at(20));
        assert!(end(&outage).is_none());
    }

    #[test]
    fn mysql_that_comes_and_goes_is_reported_once_an_hour() {
        let start = outage("flaps");
        let outage = start();
        assert_eq!((due_mails(&outage, 0), due_mails(&outage, 30)), (0, 2));
        assert!(end(&outage).is_some());
        for began in (300..3_600).step_by(300) {
            // The process also restarts before each outage.
            let outage = start();
            assert_eq!(due_mails(&outage, began), 0);
            assert_eq!(due_mails(&outage, began + 40), 0, "{began}");
            assert!(end(&outage).is_none(), "nobody knows of it");
        }
        assert_eq!(
            (due_mails(&outage, 3_640), due_mails(&outage, 3_670)),
            (0, 2)
        );
        assert_eq!(end(&outage).unwrap().since, at(3_640));
    }

    #[test]
    fn daemon_that_restarts_again_and_again_reports_an_outage_once() {
        let start = outage("restarts");
        let tells: Vec<usize> = (0..13).map(|n| due_mails(&start(), n * 20)).collect();
        assert_eq!(tells, [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let ended = end(&start()).unwrap();
        assert_eq!((ended.since, ended.attempts.len()), (at(0), 2));
        assert!(end(&start()).is_none());
    }

    #[test]
    fn report_that_began_before_the_last_one_begins_no_other_outage() {
        let outage = outage("overlap")();
        let told: Vec<usize> = [0, 20, 15, 31, 29]
            .map(|at| due_mails(&outage, at))
            .to_vec();
        assert_eq!(told, [0, 0, 0, 2, 0]);
        // The clock was set back.
        assert_eq!(due_mails(&outage, -3_600), 0);
        assert!(end(&outage).is_none());
    }

    #[test]
    fn failure_days_after_the_last_begins_another_outage() {
        let start = outage("stale");
        let later = 2 * 86_400;
        assert_eq!((due_mails(&start(), 0), due_mails(&start(), later)), (0, 0));
        assert_eq!(due_mails(&start(), later + 30), 2);
        assert_eq!(end(&start()).unwrap().since, at(later));
    }

    #[test]
    fn outage_is_mailed_even_if_passes_are_a_day_apart() {
        let outage = outage("rare")();
        let next_day = 25 * 3_600 + 60;
        assert_eq!(
            (due_mails(&outage, 0), due_mails(&outage, next_day)),
            (0, 2)
        );
    }

    #[test]
    fn target_that_was_not_reached_is_tried_again_after_a_minute() {
        let start = outage("unreached");
        let first = start();
        assert_eq!(due_mails(&first, 0), 0);
        assert_eq!(attempts(&first, 30), ["a", "b"]);
        first.attempt_ended("b", at(30), true);
        assert_eq!(due_mails(&first, 120), 0, "the other is under way");
        // The process is killed meanwhile.
        let next = start();
        assert_eq!(attempts(&next, 130), ["a"]);
        next.attempt_ended("a", at(130), false);
        assert_eq!(due_mails(&next, 189), 0);
        assert_eq!(due_mails(&next, 190), 1);
        assert_eq!(due_mails(&next, 250), 0, "it was reached");
        end(&next);
        next.attempt_ended("a", at(190), true);
        assert!(start().lasting().is_none(), "it has ended");
    }

    #[test]
    fn outage_whose_end_is_not_recorded_yet_is_known_to_the_next_process() {
        let start = outage("killed");
        let first = start();
        assert_eq!((due_mails(&first, 0), due_mails(&first, 30)), (0, 2));
        assert_eq!(first.lasting().unwrap().since, at(0));
        drop(first);
        assert_eq!(end(&start()).unwrap().since, at(0));
        assert!(start().lasting().is_none());
    }
}
