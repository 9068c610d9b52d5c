//! Mails while admission is closed: the passes that open it again mail what they repaired, but only
//! after the fact, and not at all where nothing was lost.

use std::sync::Arc;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use parking_lot::Mutex;

use crate::record::{self, Notice};
use crate::report::Run;
use crate::{Notifier, elapsed, render};

/// A restart of Redis closes admission for seconds: nobody is woken for it.
const PATIENCE: TimeDelta = TimeDelta::seconds(30);

/// Name in `reconciler_state`: `closed SINCE MAILED_AT` from the mail on, then `open`.
const FACT: &str = "admission";

/// Since when admission is closed, as this process saw it.
#[derive(Debug, Default)]
pub(super) struct AdmissionWatch(Mutex<Seen>);

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    closed_since: Option<DateTime<Utc>>,
    /// The last time that it was closed and opened again.
    before: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// What the tables say of it, as far as this process knows.
    is_mailed: Option<bool>,
}

impl AdmissionWatch {
    /// For how long admission was closed until this run ended, or until it was opened during it.
    pub(super) fn closed_for(&self, run: &Run) -> Option<TimeDelta> {
        let (seen, end) = (*self.0.lock(), run.finished_at?);
        let closed = seen.closed_since.map(|since| (since, end));
        let closed = closed.or(seen.before.filter(|(_, until)| *until >= run.started_at));
        closed.map(|(since, until)| until - since).filter(|lasted| *lasted > TimeDelta::zero())
    }
}

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
            let notice = || Ok(Notice { mail: render::admission_closed(since, now, &links)?, fact });
            (!mailed).then(notice).transpose()
        };
        Ok(record::enqueue_once(&self.db, Arc::clone(&self.settings), now, FACT.to_owned(), decide).await?)
    }

    async fn mail_open(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let decide = move |fact: Option<&str>| {
            let notice = |(since, _)| Ok(Notice { mail: render::admission_open(since, now)?, fact: "open".to_owned() });
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
