//! Keeps the state of outages in memory while MySQL cannot be used or admission is closed. Because
//! it is not stored, a restart may repeat a mail before its cooldown ends, and each process sends
//! its own mails.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::alerts::{MailPolicy, is_repair};
use crate::clock::elapsed;
use crate::relay;
use crate::report::Run;
use crate::webhooks::{EventKind, WebhookEvent};
use crate::{Notifier, record, render};

/// The name of this kind of outage in docs/OPERATIONS.md.
const MYSQL: &str = "mysql_unreachable";

/// When the outage began, and who was notified.
#[derive(Debug, Default)]
pub(super) struct OutageNotifier(Mutex<Option<Outage>>);

#[derive(Debug, Clone)]
pub(super) struct Outage {
    pub(super) since: DateTime<Utc>,
    /// Whether MySQL failed to answer at least once during the outage.
    pub(super) was_away: bool,
    /// When the last notice was due.
    noticed: Option<DateTime<Utc>>,
    /// Mails of the last notice that no mail server has accepted yet.
    unsent: Vec<DirectMail>,
    /// Number of mails that were sent or are being sent.
    handed_out: usize,
    /// Whether a server has accepted a mail of the last notice for at least one recipient.
    is_taken: bool,
}

/// A mail to one recipient that bypasses the outbox. All attempts use the same message ID, because
/// a server may have accepted the mail without confirming it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirectMail {
    pub(super) to: String,
    pub(super) id: Uuid,
    /// Number of failed attempts so far.
    attempts: u32,
    due_at: DateTime<Utc>,
}

impl DirectMail {
    fn new(to: &str, due_at: DateTime<Utc>) -> Self {
        Self {
            to: to.to_owned(),
            id: Uuid::now_v7(),
            attempts: 0,
            due_at,
        }
    }

    fn is_due(&self, now: DateTime<Utc>) -> bool {
        // No backoff is longer than this. A later time means that the clock has been set back.
        self.due_at <= now || self.due_at > now + TimeDelta::minutes(75)
    }
}

/// The notice to send after a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DueNotice {
    pub(super) since: DateTime<Utc>,
    /// Whether a new notice is due, which is also sent to webhooks.
    pub(super) is_new: bool,
    /// Mails that are due, for this notice or as retries of an earlier one.
    pub(super) mails: Vec<DirectMail>,
}

impl OutageNotifier {
    /// Records a failure, and returns what to send now.
    pub(super) fn note_failure(
        &self,
        is_away: bool,
        now: DateTime<Utc>,
        policy: MailPolicy,
        recipients: &[String],
    ) -> Option<DueNotice> {
        let mut state = self.0.lock();
        let outage = state.get_or_insert_with(|| Outage::begun(now));
        outage.was_away |= is_away;
        let is_new = elapsed(outage.since, now) >= policy.patience
            && outage
                .noticed
                .is_none_or(|at| elapsed(at, now) >= policy.cooldown);
        if is_new {
            outage.noticed = Some(now);
            outage.is_taken = false;
            outage.unsent = recipients
                .iter()
                .map(|to| DirectMail::new(to, now))
                .collect();
        }
        let mails: Vec<DirectMail> = outage
            .unsent
            .extract_if(.., |mail| mail.is_due(now))
            .collect();
        outage.handed_out += mails.len();
        (is_new || !mails.is_empty()).then_some(DueNotice {
            since: outage.since,
            is_new,
            mails,
        })
    }

    /// Records that a server accepted a mail about the outage that began at `since`.
    pub(super) fn sent(&self, since: DateTime<Utc>) {
        if let Some(outage) = self
            .0
            .lock()
            .as_mut()
            .filter(|outage| outage.since == since)
        {
            outage.is_taken = true;
        }
    }

    /// Reschedules a mail that could not be sent, unless the outage is over. As in the outbox,
    /// gives up on an address that was rejected permanently once another recipient has the mail.
    pub(super) fn not_sent(
        &self,
        since: DateTime<Utc>,
        mail: DirectMail,
        is_final: bool,
        now: DateTime<Utc>,
    ) {
        let mut state = self.0.lock();
        let Some(outage) = state.as_mut().filter(|outage| outage.since == since) else {
            return;
        };
        outage.handed_out -= 1;
        // Do not retry if a newer notice has a mail for this recipient.
        if !(is_final && outage.is_taken) && outage.unsent.iter().all(|other| other.to != mail.to) {
            let due_at = now + relay::backoff(mail.attempts);
            outage.unsent.push(DirectMail {
                attempts: mail.attempts + 1,
                due_at,
                ..mail
            });
        }
    }

    /// Records a success. Returns the outage that ends with it, if a notice about it was due.
    pub(super) fn note_success(&self) -> Option<Outage> {
        self.0
            .lock()
            .take()
            .filter(|outage| outage.noticed.is_some())
    }

    /// Restores an outage whose final notice could not be enqueued, and merges it with one that has
    /// begun since.
    pub(super) fn put_back(&self, outage: Outage) {
        let mut state = self.0.lock();
        let was_away = outage.was_away || state.as_ref().is_some_and(|newer| newer.was_away);
        *state = Some(Outage { was_away, ..outage });
    }
}

impl Outage {
    fn begun(since: DateTime<Utc>) -> Self {
        Self {
            since,
            was_away: false,
            noticed: None,
            unsent: Vec::new(),
            handed_out: 0,
            is_taken: false,
        }
    }

    /// Whether a recipient has received a mail about the outage, or may receive one soon.
    pub(super) fn is_mailed(&self) -> bool {
        self.handed_out > 0
    }
}

impl Notifier {
    /// Notifies recipients that MySQL is unavailable or rejects what a pass records. These mails
    /// bypass the outbox, because it is in MySQL.
    pub(super) fn cannot_record(&self, is_away: bool, reason: &str, now: DateTime<Utc>) {
        // Without a mail server there are no recipients.
        let recipients = self
            .sender
            .as_ref()
            .map_or(&[][..], |_| &self.settings.recipients);
        let Some(notice) = self
            .outage
            .note_failure(is_away, now, self.settings.policy, recipients)
        else {
            return;
        };
        let links = &self.settings.links;
        let mail = if is_away {
            render::database_gone(reason, now, links)
        } else {
            render::cannot_record(reason, now, links)
        };
        let mail = match mail {
            Ok(mail) => mail,
            Err(error) => {
                return tracing::error!(%error, "the mail about MySQL could not be written");
            }
        };
        if notice.is_new {
            let event = WebhookEvent::of_notice(EventKind::Drift, MYSQL, notice.since, now, &mail);
            let relays = self.relays.clone();
            tokio::spawn(async move {
                join_all(relays.iter().map(|relay| relay.post_directly(&event, now))).await;
            });
            self.wake();
        }
        let Some(sender) = self.sender.clone() else {
            return;
        };
        let outage = self.outage.clone();
        let domain = self.settings.domain.clone();
        tokio::spawn(async move {
            let sender = &sender;
            let mail = &mail;
            let outage = &outage;
            let sends = notice.mails.into_iter().map(|one| {
                let id = format!("{}@{domain}", one.id);
                async move {
                    match sender.send_directly(&one.to, mail, &id, now).await {
                        Ok(()) => outage.sent(notice.since),
                        Err(failure) => {
                            let error = failure.reason;
                            let to = &one.to;
                            tracing::error!(
                                error,
                                to,
                                "the mail that nothing can be recorded could not be sent"
                            );
                            outage.not_sent(
                                notice.since,
                                one,
                                failure.is_final,
                                sender.clock.now(),
                            );
                        }
                    }
                }
            });
            join_all(sends).await;
        });
    }

    pub(super) async fn can_record(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let Some(outage) = self.outage.note_success() else {
            return Ok(());
        };
        let mail = render::can_record(outage.was_away, outage.since, now, &self.settings.links)?;
        let event = WebhookEvent::of_notice(EventKind::Resolved, MYSQL, outage.since, now, &mail);
        let mail = outage.is_mailed().then_some(mail);
        let enqueued = record::enqueue(&self.db, mail, event, self.settings.clone(), now).await;
        if enqueued.is_err() {
            self.outage.put_back(outage);
        }
        Ok(enqueued?)
    }
}

/// Queue of runs that repaired or sealed something but could not be recorded, oldest first. Other
/// runs need no queue, because the next pass finds their findings again.
#[derive(Debug, Default)]
pub(super) struct UnsentRuns(Mutex<VecDeque<(Run, DateTime<Utc>)>>);

/// Maximum number of runs in the queue.
const UNSENT: usize = 20;

impl UnsentRuns {
    pub(super) fn keep(&self, run: &Run, at: DateTime<Utc>) {
        let mut runs = self.0.lock();
        let says_more =
            run.all_findings().any(is_repair) || run.drops.iter().any(|drop| drop.sealed);
        if runs.len() < UNSENT && !run.dry_run && says_more {
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

/// When admission closed, as observed by this process.
#[derive(Debug, Default)]
pub(super) struct AdmissionWatch(pub(super) Mutex<AdmissionSeen>);

#[derive(Debug, Default)]
pub(super) struct AdmissionSeen {
    /// When admission closed. If no other process has recorded that it is open, this may instead be
    /// when Redis became unreachable.
    pub(super) closed_since: Option<DateTime<Utc>>,
    /// The last period in which admission was closed.
    pub(super) before: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Whether the closed admission was already mailed, according to the tables when this process
    /// last read them.
    pub(super) is_mailed: Option<bool>,
    /// When this process last read the tables.
    pub(super) asked_at: Option<DateTime<Utc>>,
    pub(super) is_reachable: bool,
    /// When this process last recorded that admission is open.
    pub(super) noted_at: Option<DateTime<Utc>>,
    /// The last record of any process that admission is open, if this one has read it since it lost
    /// its connection to Redis.
    pub(super) elsewhere: Option<String>,
}

impl AdmissionWatch {
    /// Returns how long admission was closed until it opened during the run or the run ended.
    pub(super) fn closed_for(&self, run: &Run) -> Option<TimeDelta> {
        let seen = self.0.lock();
        let end = run.finished_at?;
        let closed = seen.closed_since.map(|since| (since, end));
        let closed = closed.or(seen.before.filter(|(_, until)| *until >= run.started_at));
        closed
            .map(|(since, until)| until - since)
            .filter(|lasted| *lasted > TimeDelta::zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: i64 = 4 * 3_600;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn failed(outage: &OutageNotifier, seconds: i64) -> Option<DueNotice> {
        let policy = MailPolicy {
            cooldown: TimeDelta::seconds(COOLDOWN),
            patience: TimeDelta::seconds(60),
        };
        outage.note_failure(true, at(seconds), policy, &["a".to_owned(), "b".to_owned()])
    }

    #[test]
    fn restart_sends_no_mail_and_outage_sends_one_per_cooldown() {
        let outage = OutageNotifier::default();
        let failed =
            |seconds| failed(&outage, seconds).map(|notice| (notice.is_new, notice.mails.len()));
        let over = || {
            outage
                .note_success()
                .map(|outage| (outage.since, outage.is_mailed()))
        };
        assert_eq!((failed(0), failed(30)), (None, None));
        assert_eq!(over(), None);
        assert_eq!(failed(100), None);
        assert_eq!(failed(160), Some((true, 2)));
        assert_eq!(failed(161), None);
        assert_eq!(failed(160 + COOLDOWN), Some((true, 2)));
        assert_eq!(over(), Some((at(100), true)));
        assert_eq!(over(), None);
    }

    #[test]
    fn outage_mail_is_retried_for_missed_recipients_under_the_same_id() {
        let outage = OutageNotifier::default();
        failed(&outage, 0);
        let first = failed(&outage, 60).unwrap();
        assert_eq!(failed(&outage, 70), None, "it is being sent");
        outage.not_sent(first.since, first.mails[1].clone(), false, at(70));
        assert_eq!(failed(&outage, 80), None, "not before its pause is over");
        let second = failed(&outage, 110).unwrap();
        let [mail] = &second.mails[..] else {
            panic!("{second:?}")
        };
        assert_eq!(
            (second.is_new, &mail.to, mail.id),
            (false, &first.mails[1].to, first.mails[1].id)
        );
        outage.sent(first.since);
        outage.not_sent(first.since, mail.clone(), true, at(110));
        assert_eq!(
            failed(&outage, 1_000),
            None,
            "the other has it, so the refusal is about the address"
        );
        assert!(outage.note_success().unwrap().is_mailed());
    }

    #[test]
    fn mail_rejected_for_all_recipients_is_retried() {
        let outage = OutageNotifier::default();
        failed(&outage, 0);
        let notice = failed(&outage, 60).unwrap();
        notice
            .mails
            .into_iter()
            .for_each(|mail| outage.not_sent(notice.since, mail, true, at(60)));
        assert_eq!(
            failed(&outage, 100).map(|again| (again.is_new, again.mails.len())),
            Some((false, 2))
        );
    }

    #[test]
    fn end_of_an_outage_is_mailed_only_if_its_start_was() {
        let outage = OutageNotifier::default();
        failed(&outage, 0);
        let notice = failed(&outage, 60).unwrap();
        notice
            .mails
            .into_iter()
            .for_each(|mail| outage.not_sent(notice.since, mail, false, at(60)));
        assert!(!outage.note_success().unwrap().is_mailed());
    }

    #[test]
    fn mail_about_an_outage_that_has_ended_is_not_retried() {
        let outage = OutageNotifier::default();
        failed(&outage, 0);
        let notice = failed(&outage, 60).unwrap();
        assert!(
            outage.note_success().unwrap().is_mailed(),
            "they may get it yet"
        );
        assert_eq!(failed(&outage, 100), None);
        notice
            .mails
            .into_iter()
            .for_each(|mail| outage.not_sent(notice.since, mail, false, at(60)));
        assert_eq!(failed(&outage, 110), None);
    }
}
