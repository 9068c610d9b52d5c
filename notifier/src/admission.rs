//! Mails about admission while it is closed: the pass that opens it mails what it repaired only
//! after the fact, and not at all where nothing was lost.

use std::sync::Arc;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};

use super::clock::elapsed;
use super::record::StandaloneMail;
use super::webhooks::{EventKind, WebhookEvent};
use super::{Notifier, record, render};

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
                let event = WebhookEvent::of_notice(EventKind::Drift, "admission_closed", since, now, &mail);
                Ok(StandaloneMail { mail, fact, event: Some(event) })
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
                let event = WebhookEvent::of_notice(EventKind::Resolved, "admission_closed", since, now, &mail);
                Ok(StandaloneMail { mail, fact: "open".to_owned(), event: Some(event) })
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
