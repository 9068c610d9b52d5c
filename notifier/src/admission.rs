//! Sends mails about closed admission. The pass that opens admission cannot send them, because it
//! mails its repairs only afterwards and sends nothing if no data was lost.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::mysql::DbError;

use super::clock::elapsed;
use super::record::StandaloneMail;
use super::webhooks::EventKind;
use super::{Notifier, render};

/// How long admission must be closed before a mail is sent. A restart of Redis closes it only for
/// seconds.
const PATIENCE: TimeDelta = TimeDelta::seconds(30);

/// How often a process checks whether another mail is due while admission stays closed, because the
/// cooldown has ended or the last mail reached nobody.
const ASK_EVERY: TimeDelta = TimeDelta::seconds(60);

/// How often a process records that it sees admission open. Must be well below [`PATIENCE`].
const NOTE_EVERY: TimeDelta = TimeDelta::seconds(5);

/// Key in `reconciler_state`. After a mail the value is `closed SINCE MAILED_AT` or
/// `unreachable SINCE MAILED_AT`; once admission is open again it is `open`.
const FACT: &str = "admission";

/// Key in `reconciler_state` of the last time at which a process recorded that it sees admission
/// open.
const SEEN_OPEN: &str = "admission_seen_open";

/// The state of the admission gate as a process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenGate {
    Open,
    Closed,
    /// This process cannot reach Redis, although the APIs may.
    Unreachable,
}

impl Notifier {
    /// Handles the state of the admission gate. Must be called once a second. Sends a mail if the
    /// gate has been closed, or unreachable for every daemon, for half a minute, and another one
    /// when it is open again.
    pub async fn admission(&self, gate: SeenGate, now: DateTime<Utc>) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        let is_open = gate == SeenGate::Open;
        {
            let mut seen = self.admission.0.lock();
            seen.is_reachable = gate != SeenGate::Unreachable;
            if !is_open {
                seen.closed_since.get_or_insert(now);
            } else if let Some(since) = seen.closed_since.take() {
                seen.before = Some((since, now));
            }
        }
        match gate {
            SeenGate::Open => self.note_open(now).await?,
            SeenGate::Closed => {}
            SeenGate::Unreachable => self.look_elsewhere(now).await?,
        }
        let (since, is_mailed, asked_at) = {
            let seen = self.admission.0.lock();
            (seen.closed_since, seen.is_mailed, seen.asked_at)
        };
        let asks =
            is_mailed != Some(true) || asked_at.is_none_or(|at| elapsed(at, now) >= ASK_EVERY);
        match since {
            Some(since) if asks && elapsed(since, now) >= PATIENCE => {
                self.mail_closed(gate, since, now).await?;
            }
            // Another process, or this one before a restart, may have mailed that admission is
            // closed.
            None if is_mailed != Some(false) => self.mail_open(now).await?,
            _ => return Ok(()),
        }
        {
            let mut seen = self.admission.0.lock();
            seen.is_mailed = Some(!is_open);
            seen.asked_at = Some(now);
        }
        Ok(())
    }

    /// Returns when a process last recorded that it sees admission open. A working daemon updates
    /// this every few seconds, independently of its passes.
    pub async fn last_note(&self) -> Result<Option<String>, DbError> {
        self.db.state(SEEN_OPEN).await
    }

    /// Records for processes without a connection to Redis that this one sees admission open.
    async fn note_open(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let noted = self.admission.0.lock().noted_at;
        if noted.is_none_or(|at| elapsed(at, now) >= NOTE_EVERY) {
            self.db.set_state(SEEN_OPEN, now.to_rfc3339()).await?;
            let mut seen = self.admission.0.lock();
            // Do not mistake this process's own record for the record of another process.
            seen.noted_at = Some(now);
            seen.elsewhere = None;
        }
        Ok(())
    }

    /// Checks whether another process still records that admission is open. In that case this
    /// process has only lost its own connection to Redis: its alert ends and its patience starts
    /// again. The clocks of two hosts may differ, so only a change of the record counts.
    async fn look_elsewhere(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let note = self.db.state(SEEN_OPEN).await?.unwrap_or_default();
        let mut seen = self.admission.0.lock();
        if seen
            .elsewhere
            .as_ref()
            .is_some_and(|before| *before != note)
        {
            seen.closed_since = Some(now);
            seen.is_mailed = None;
        }
        seen.elsewhere = Some(note);
        Ok(())
    }

    async fn mail_closed(
        &self,
        gate: SeenGate,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> anyhow::Result<()> {
        let is_closed = gate == SeenGate::Closed;
        self.mail_once(now, FACT, move |fact, settings| {
            let is_recent = fact
                .and_then(mailed)
                .is_some_and(|(.., mailed_at)| elapsed(mailed_at, now) < settings.policy.cooldown);
            if is_recent {
                return Ok(None);
            }
            let word = if is_closed { CLOSED } else { UNREACHABLE };
            let mail = StandaloneMail {
                mail: render::admission_closed(is_closed, since, now, &settings.links)?,
                fact: format!("{word} {} {}", since.to_rfc3339(), now.to_rfc3339()),
                event: None,
            };
            Ok(Some(mail.with_event(EventKind::Drift, EVENT, since, now)))
        })
        .await
    }

    async fn mail_open(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        self.mail_once(now, FACT, move |fact, settings| {
            let Some((was_closed, since, _)) = fact.and_then(mailed) else {
                return Ok(None);
            };
            let mail = StandaloneMail {
                mail: render::admission_open(was_closed, since, now, &settings.links)?,
                fact: "open".to_owned(),
                event: None,
            };
            Ok(Some(mail.with_event(
                EventKind::Resolved,
                EVENT,
                since,
                now,
            )))
        })
        .await
    }
}

/// The kind of the events for webhooks.
const EVENT: &str = "admission_closed";

const CLOSED: &str = "closed";
const UNREACHABLE: &str = "unreachable";

/// Parses the last mail, unless a mail has since reported that admission is open: whether admission
/// was closed (or Redis unreachable), since when, and when the mail was sent.
fn mailed(fact: &str) -> Option<(bool, DateTime<Utc>, DateTime<Utc>)> {
    let (word, times) = fact
        .split_once(' ')
        .filter(|(word, _)| [CLOSED, UNREACHABLE].contains(word))?;
    let (since, mailed_at) = times.split_once(' ')?;
    let instant = |text| {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|at| at.to_utc())
    };
    Some((word == CLOSED, instant(since)?, instant(mailed_at)?))
}
