//! Mails that are about no pass. The outage notifier's is the one mail that does not go through the
//! outbox, since that is in MySQL, which can't be used, or refuses what a pass would record. Its
//! state is in memory: after a restart the mail may come again before its cooldown, and each
//! process sends its own. The other is about admission while it is closed: the pass that opens it
//! mails what it repaired only after the fact, and not at all where nothing was lost.

use std::sync::Arc;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use futures_util::future::join_all;
use uuid::Uuid;

use super::clock::elapsed;
use super::record::Notice;
use super::render::{self, Rendered};
use super::send::{Envelope, Sender};
use super::webhooks::{Event, EventKind};
use super::{Notifier, record};

/// The word of an outage in docs/OPERATIONS.md.
const MYSQL: &str = "mysql_unreachable";

impl Notifier {
    pub(super) fn cannot_record(&self, is_away: bool, reason: &str, now: DateTime<Utc>) {
        if !self.outage.note_failure(is_away, now, self.settings.policy) {
            return;
        }
        let links = &self.settings.links;
        let mail =
            if is_away { render::database_gone(reason, now, links) } else { render::cannot_record(reason, now, links) };
        let mail = match mail {
            Ok(mail) => mail,
            Err(error) => return tracing::error!(%error, "the mail about MySQL could not be written"),
        };
        let since = self.outage.mailed_since().unwrap_or(now);
        let event = Event::of_notice(EventKind::Drift, MYSQL, since, now, &mail);
        let relays = self.relays.clone();
        tokio::spawn(async move {
            join_all(relays.iter().map(|relay| relay.post_directly(&event, now))).await;
        });
        self.wake();
        let Some(sender) = self.sender.clone() else { return };
        let settings = self.settings.clone();
        tokio::spawn(async move {
            for to in &settings.recipients {
                if let Err(error) = sender.send_directly(&mail, to, &settings.domain, now).await {
                    tracing::error!(
                        error = format!("{error:#}"),
                        to,
                        "the mail that nothing can be recorded could not be sent"
                    );
                }
            }
        });
    }

    pub(super) async fn can_record(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let Some(outage) = self.outage.note_success() else { return Ok(()) };
        let mail = render::can_record(outage.was_away, outage.since, now, &self.settings.links)?;
        let event = Event::of_notice(EventKind::Resolved, MYSQL, outage.since, now, &mail);
        Ok(record::enqueue(&self.db, mail, event, self.settings.clone(), now).await?)
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

/// A restart of Redis closes admission for seconds: nobody is woken for it.
const PATIENCE: TimeDelta = TimeDelta::seconds(30);

/// Name in `reconciler_state`: `closed SINCE MAILED_AT` from the mail on, then `open`.
const FACT: &str = "admission";

impl Notifier {
    /// Takes note once a second whether admission is open. Mails when it has been closed for half a
    /// minute, and then when it is open again.
    pub async fn admission(&self, is_open: bool, now: DateTime<Utc>) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        let (since, is_mailed) = {
            let mut seen = self.admission.0.lock();
            let since = if is_open { seen.closed_since.take() } else { Some(*seen.closed_since.get_or_insert(now)) };
            if is_open && let Some(since) = since {
                seen.before = Some((since, now));
            }
            (since, seen.is_mailed)
        };
        match since.filter(|_| !is_open) {
            Some(since) if is_mailed != Some(true) && elapsed(since, now) >= PATIENCE => {
                self.mail_closed(since, now).await?;
            }
            // Another process, or this one before its restart, may have mailed that it is closed.
            None if is_mailed != Some(false) => self.mail_open(now).await?,
            _ => return Ok(()),
        }
        self.admission.0.lock().is_mailed = Some(!is_open);
        self.wake();
        Ok(())
    }

    async fn mail_closed(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> anyhow::Result<()> {
        let (links, cooldown) = (self.settings.links.clone(), self.settings.policy.cooldown);
        let decide = move |fact: Option<&str>| {
            let mailed = fact.and_then(closed).is_some_and(|(_, mailed_at)| elapsed(mailed_at, now) < cooldown);
            let fact = format!("closed {} {}", since.to_rfc3339(), now.to_rfc3339());
            let notice = || {
                let mail = render::admission_closed(since, now, &links)?;
                let event = Event::of_notice(EventKind::Drift, "admission_closed", since, now, &mail);
                Ok(Notice { mail, fact, event: Some(event) })
            };
            (!mailed).then(notice).transpose()
        };
        Ok(record::enqueue_once(&self.db, Arc::clone(&self.settings), now, FACT.to_owned(), decide).await?)
    }

    async fn mail_open(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let links = self.settings.links.clone();
        let decide = move |fact: Option<&str>| {
            let notice = |(since, _)| {
                let mail = render::admission_open(since, now, &links)?;
                let event = Event::of_notice(EventKind::Resolved, "admission_closed", since, now, &mail);
                Ok(Notice { mail, fact: "open".to_owned(), event: Some(event) })
            };
            fact.and_then(closed).map(notice).transpose()
        };
        Ok(record::enqueue_once(&self.db, Arc::clone(&self.settings), now, FACT.to_owned(), decide).await?)
    }
}

/// Since when it is closed and when that was mailed, where the fact says so.
fn closed(fact: &str) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    let (since, mailed_at) = fact.strip_prefix("closed ")?.split_once(' ')?;
    let instant = |text| DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
    Some((instant(since)?, instant(mailed_at)?))
}
