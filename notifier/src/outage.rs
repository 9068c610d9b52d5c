//! Mails past the outbox, which is in MySQL: while MySQL is away or refuses what a pass records,
//! one direct attempt per target and hour. A file keeps the state, so that a daemon that is
//! restarted again and again neither stays silent nor repeats itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::alerts::{Alert, AlertState, Notice, NoticeReason, Problem, begun};
use crate::clock::elapsed;
use crate::mails::{AlertMail, Rendered};
use crate::report::{AlertKind, FailureCause, Finding, Kind};
use crate::send::mail::Envelope;
use crate::send::webhook::{self, Event};
use crate::{Notifier, record, wording};

/// The pause between two attempts to reach one target.
const PAUSE: TimeDelta = TimeDelta::hours(1);

/// A file that nobody has written for this long tells of an earlier outage.
const STALE: TimeDelta = TimeDelta::minutes(10);

/// What is known about the outage that lasts, if there is one.
#[derive(Debug)]
pub(crate) struct MysqlOutage {
    file: PathBuf,
    state: Mutex<Option<Lasting>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lasting {
    since: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    /// Whether MySQL did not answer at least once.
    was_away: bool,
    /// The last attempt to reach each target.
    attempts: BTreeMap<String, DateTime<Utc>>,
}

impl MysqlOutage {
    /// `identity` distinguishes this installation from others on the host.
    pub(crate) fn new(identity: &str) -> Self {
        let name = format!("firstcome-outage-{:.16x}.json", Sha256::digest(identity));
        Self {
            file: std::env::temp_dir().join(name),
            state: Mutex::default(),
        }
    }

    /// Records a failure. Returns the outage and the targets to tell now.
    fn failed(
        &self,
        is_away: bool,
        now: DateTime<Utc>,
        patience: TimeDelta,
        targets: &[String],
    ) -> (Lasting, Vec<String>) {
        let mut state = self.state.lock();
        let mut lasting = state.take().or_else(|| self.read(now)).unwrap_or(Lasting {
            since: now,
            seen_at: now,
            was_away: false,
            attempts: BTreeMap::new(),
        });
        lasting.seen_at = now;
        lasting.was_away |= is_away;
        let is_late = elapsed(lasting.since, now) >= patience;
        let is_due = |target: &&String| {
            let last = lasting.attempts.get(*target);
            is_late && last.is_none_or(|at| elapsed(*at, now) >= PAUSE)
        };
        let due: Vec<String> = targets.iter().filter(is_due).cloned().collect();
        lasting
            .attempts
            .extend(due.iter().map(|target| (target.clone(), now)));
        self.write(&lasting);
        *state = Some(lasting.clone());
        (lasting, due)
    }

    /// Records a success. Returns the outage that ends with it, if anybody was told.
    fn ended(&self, now: DateTime<Utc>) -> Option<Lasting> {
        let ended = self.state.lock().take().or_else(|| self.read(now))?;
        if let Err(error) = std::fs::remove_file(&self.file) {
            tracing::debug!(%error, "there is no file of the outage");
        }
        Some(ended).filter(|outage| !outage.attempts.is_empty())
    }

    fn read(&self, now: DateTime<Utc>) -> Option<Lasting> {
        let text = std::fs::read(&self.file).ok()?;
        let lasting: Lasting = serde_json::from_slice(&text).ok()?;
        Some(lasting).filter(|it| elapsed(it.seen_at, now) < STALE)
    }

    /// Without the file, the state lasts as long as the process.
    fn write(&self, lasting: &Lasting) {
        let text = serde_json::to_vec(lasting).unwrap_or_default();
        if let Err(error) = std::fs::write(&self.file, text) {
            tracing::debug!(%error, "the state of the outage is not written");
        }
    }
}

impl Lasting {
    /// Returns the problem as everybody is told.
    fn notice(&self, error: &str) -> Notice {
        let away = wording::unavailable(FailureCause::Mysql, error);
        let away = away.unwrap_or_else(|| "MySQL cannot be used".to_owned());
        let mut problem = if self.was_away {
            Problem::outage(AlertKind::MysqlUnreachable, away)
        } else {
            let unrecorded = "MySQL answers, but alerts cannot be recorded";
            let mut problem = Problem::outage(AlertKind::AlertsNotRecorded, unrecorded);
            let why = wording::line(error, wording::LONGEST);
            problem.findings = vec![Finding::report(Kind::Stalled, why)];
            problem
        };
        "mysql".clone_into(&mut problem.name);
        Notice {
            problem,
            reason: NoticeReason::New,
            since: self.since,
        }
    }

    /// Returns the end of the outage, as of an alert.
    fn ended_at(&self, now: DateTime<Utc>) -> Alert {
        Alert {
            state: AlertState::Resolved,
            resolved_at: Some(now),
            ..begun(&self.notice("").problem, self.since)
        }
    }
}

impl Notifier {
    /// Tells everybody that MySQL is unavailable, or refuses what a pass records.
    pub(crate) fn cannot_record(&self, is_away: bool, error: &str, now: DateTime<Utc>) {
        let recipients = self
            .sender
            .mailer
            .as_ref()
            .map(|_| &self.settings.recipients);
        let mut targets = recipients.cloned().unwrap_or_default();
        targets.extend(self.sender.webhooks.iter().map(|it| it.name.clone()));
        let patience = self.settings.policy.patience;
        let (outage, due) = self.outage.failed(is_away, now, patience, &targets);
        if due.is_empty() {
            return;
        }
        let notice = outage.notice(error);
        let mail = AlertMail {
            problems: std::slice::from_ref(&notice),
            ..AlertMail::empty(&self.settings.links, now)
        };
        let mail = match mail.render() {
            Ok(mail) => mail,
            Err(error) => return tracing::error!(%error, "the mail about MySQL is not written"),
        };
        let event = webhook::of_problem(&notice, None, None, &self.settings.links, now);
        let thread = record::thread(&notice.problem.name, outage.since, &self.settings.domain);
        let notifier = self.clone();
        tokio::spawn(async move {
            let tell = |target| notifier.tell_directly(target, &mail, &event, &thread, now);
            join_all(due.into_iter().map(tell)).await;
        });
    }

    async fn tell_directly(
        &self,
        target: String,
        mail: &Rendered,
        event: &Event,
        thread: &str,
        now: DateTime<Utc>,
    ) {
        let mut webhooks = self.sender.webhooks.iter();
        let told = if let Some(webhook) = webhooks.find(|it| it.name == target) {
            let posted = webhook
                .post(&event.id, &event.body(webhook.format), now)
                .await;
            posted.map_err(|error| error.to_string())
        } else if let Some(mailer) = &self.sender.mailer {
            let id = format!(
                "{:.16x}.{}",
                Sha256::digest(&target),
                now.timestamp_millis()
            );
            let envelope = Envelope {
                to: &target,
                subject: &mail.subject,
                id: &id,
                thread: Some(thread),
                date: now,
                text: &mail.text,
                html: &mail.html,
            };
            mailer
                .deliver(&envelope)
                .await
                .map_err(|error| error.to_string())
        } else {
            Ok(())
        };
        if let Err(error) = told {
            tracing::error!(
                error,
                target,
                "nobody is told there that MySQL cannot be used"
            );
        }
    }

    /// Tells everybody that MySQL can be used again, if anybody was told that it cannot.
    pub(crate) async fn can_record(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let Some(outage) = self.outage.ended(now) else {
            return Ok(());
        };
        let ended = outage.ended_at(now);
        let enqueued = record::enqueue_end(&self.db, ended, self.settings.clone(), now).await;
        if enqueued.is_err() {
            self.outage.write(&outage);
            *self.outage.state.lock() = Some(outage);
        }
        Ok(enqueued?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn told(outage: &MysqlOutage, seconds: i64) -> usize {
        let targets = ["a".to_owned(), "b".to_owned()];
        let patience = TimeDelta::seconds(30);
        outage.failed(true, at(seconds), patience, &targets).1.len()
    }

    fn outage(test: &str) -> impl Fn() -> MysqlOutage {
        let identity = format!("{test} {}", std::process::id());
        move || MysqlOutage::new(&identity)
    }

    #[test]
    fn each_target_is_tried_once_an_hour_after_a_moment() {
        let outage = outage("hour")();
        assert_eq!(told(&outage, 0), 0);
        assert!(outage.ended(at(10)).is_none(), "a restart of MySQL");
        assert_eq!((told(&outage, 20), told(&outage, 50)), (0, 2));
        assert_eq!((told(&outage, 51), told(&outage, 3_649)), (0, 0));
        assert_eq!(told(&outage, 3_650), 2);
        assert_eq!(outage.ended(at(4_000)).unwrap().since, at(20));
        assert!(outage.ended(at(4_001)).is_none());
    }

    #[test]
    fn daemon_that_restarts_again_and_again_tells_once_an_hour() {
        let start = outage("restarts");
        let tells: Vec<usize> = (0..13).map(|n| told(&start(), n * 20)).collect();
        assert_eq!(tells, [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let ended = start().ended(at(300)).unwrap();
        assert_eq!((ended.since, ended.attempts.len()), (at(0), 2));
        assert!(start().ended(at(301)).is_none());
    }
}
