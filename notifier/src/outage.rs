//! The outage notifier: the one mail that does not go through the outbox, since that is in MySQL,
//! which can't be used. Its state is in memory, so after a restart the mail may come again before
//! its cooldown.

use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use uuid::Uuid;

use super::alerts::is_repair;
use super::message::Envelope;
use super::render::{self, Rendered};
use super::send::Sender;
use super::{Notifier, record};
use crate::report::Run;

/// A restart of MySQL takes seconds: nobody is woken for it.
const PATIENCE: TimeDelta = TimeDelta::seconds(60);

/// Since when MySQL can't be used, and when that was last mailed.
#[derive(Debug, Default)]
pub(super) struct OutageNotifier(Mutex<Option<Outage>>);

#[derive(Debug, Clone, Copy)]
struct Outage {
    since: DateTime<Utc>,
    mailed: Option<DateTime<Utc>>,
}

impl OutageNotifier {
    /// Notes a failure. Whether it is to be mailed.
    fn note_failure(&self, now: DateTime<Utc>, cooldown: TimeDelta) -> bool {
        let mut state = self.0.lock();
        let outage = state.get_or_insert(Outage { since: now, mailed: None });
        let is_due = now - outage.since >= PATIENCE && outage.mailed.is_none_or(|at| now - at >= cooldown);
        if is_due {
            outage.mailed = Some(now);
        }
        is_due
    }

    /// Notes a success. Since when there was none, if that was mailed.
    fn note_success(&self) -> Option<DateTime<Utc>> {
        let state = self.0.lock().take();
        state.and_then(|outage| outage.mailed.map(|_| outage.since))
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

impl Notifier {
    pub(super) fn database_is_gone(&self, reason: &str, now: DateTime<Utc>) {
        if !self.outage.note_failure(now, self.settings.policy.cooldown) {
            return;
        }
        let mail = match render::database_gone(reason, now, &self.settings.links) {
            Ok(mail) => mail,
            Err(error) => return tracing::error!(%error, "the mail about MySQL could not be written"),
        };
        let Some(sender) = self.sender.clone() else { return };
        let settings = self.settings.clone();
        tokio::spawn(async move {
            for to in &settings.recipients {
                if let Err(error) = sender.send_directly(&mail, to, &settings.domain, now).await {
                    tracing::error!(
                        error = format!("{error:#}"),
                        to,
                        "the mail that MySQL can't be used could not be sent"
                    );
                }
            }
        });
    }

    pub(super) async fn database_is_back(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let Some(since) = self.outage.note_success() else { return Ok(()) };
        record::enqueue(&self.db, render::database_back(since, now)?, self.settings.clone(), now).await?;
        Ok(())
    }
}

impl Sender {
    async fn send_directly(&self, mail: &Rendered, to: &str, domain: &str, now: DateTime<Utc>) -> anyhow::Result<()> {
        let to = to.parse()?;
        let message_id = format!("{}@{domain}", Uuid::now_v7());
        let envelope = Envelope {
            from: &self.from,
            to: &to,
            subject: &mail.subject,
            message_id: &message_id,
            thread: None,
            date: now,
            text: &mail.text,
            html: &mail.html,
        };
        let raw = envelope.message()?.formatted();
        let server = &self.sending.server;
        server.deliver(self.sending.limit, &self.from.email, &to.email, &raw, &mut |_| {}).await?;
        metrics::counter!("firstcome_mails_total", "result" => "sent").increment(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_wakes_nobody_and_an_outage_does_once_a_cooldown() {
        let (outage, cooldown) = (OutageNotifier::default(), TimeDelta::hours(4));
        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let at = |seconds| start + TimeDelta::seconds(seconds);
        assert!(!outage.note_failure(at(0), cooldown) && !outage.note_failure(at(30), cooldown));
        assert_eq!(outage.note_success(), None);
        assert!(!outage.note_failure(at(100), cooldown));
        assert!(outage.note_failure(at(160), cooldown));
        assert!(!outage.note_failure(at(161), cooldown));
        assert!(outage.note_failure(at(160 + 4 * 3_600), cooldown));
        assert_eq!(outage.note_success(), Some(at(100)));
        assert_eq!(outage.note_success(), None);
    }
}
