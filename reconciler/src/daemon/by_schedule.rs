//! Runs passes and digests when they are due, until each has ended well, and mails what is late.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use firstcome_shared::mysql::Db;
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::schedule::{self, Attempt, Event, Missed, Schedule};
use super::{PassResult, Passes};
use crate::notify::{MissedRun, Notifier};
use crate::pass::{Due, PassError, Request};
use crate::report::{Status, Trigger};

pub(super) struct BySchedule {
    db: Db,
    passes: Passes,
    notifier: Notifier,
    /// The deep one first: its pass does what the other would have done.
    schedules: Vec<Schedule>,
    /// A pass runs at the start, late or not.
    trigger: Trigger,
    under_way: Option<UnderWay>,
}

/// A pass that a schedule began.
struct UnderWay {
    event: Event,
    began: DateTime<Utc>,
    answer: oneshot::Receiver<PassResult>,
}

impl BySchedule {
    pub(super) fn new(db: Db, passes: Passes, notifier: Notifier, schedules: Vec<Schedule>) -> Self {
        Self { db, passes, notifier, schedules, trigger: Trigger::Startup, under_way: None }
    }

    pub(super) async fn run(mut self, crons: &[(Event, &str)], stop: CancellationToken) -> anyhow::Result<()> {
        let wake = Arc::new(Notify::new());
        let mut scheduler = schedule::start(crons, wake.clone()).await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.judge(Utc::now()).await;
            tokio::select! {
                () = stop.cancelled() => break,
                ended = ended(&mut self.under_way) => self.note(ended).await,
                () = wake.notified() => {}
                _ = ticks.tick() => {}
            }
        }
        scheduler.shutdown().await.context("the scheduler did not stop")
    }

    /// Mails what is late and begins what is due.
    async fn judge(&mut self, now: DateTime<Utc>) {
        crate::metrics::pass_age(self.passes.age());
        for at in 0..self.schedules.len() {
            self.schedules[at].note_clock(now);
            let is_late = self.schedules[at].missed_since(now).is_some();
            // Nobody else runs one beside a pass of this process, which tells itself how it ended.
            if self.under_way.is_none() && (is_late || self.schedules[at].due_since(now).is_some()) {
                self.schedules[at].recall(&self.db, now).await;
            }
            self.mail_missed(at, now).await;
            let is_first = self.trigger == Trigger::Startup && self.schedules[at].event == Event::Reconcile;
            match self.schedules[at].due_since(now) {
                Some(due) if self.schedules[at].event == Event::Digest => self.digest(at, due, now).await,
                due if due.is_some() || is_first => self.begin(at, due.is_some(), now),
                _ => {}
            }
        }
    }

    fn begin(&mut self, at: usize, is_due: bool, began: DateTime<Utc>) {
        if self.under_way.is_some() {
            return;
        }
        let event = self.schedules[at].event;
        let due = Due { last: is_due.then_some(self.schedules[at].last), counts_for: event.counts_for() };
        let request = Request { deep: event == Event::Deep, due: Some(due), ..Request::new(self.trigger) };
        match self.passes.start(request) {
            Ok((run_id, answer)) => {
                tracing::debug!(run_id, schedule = event.setting(), "pass begins");
                self.trigger = Trigger::Cron;
                self.under_way = Some(UnderWay { event, began, answer });
            }
            // It is due until it has run.
            Err(running) => tracing::trace!(running, schedule = event.setting(), "a pass is running already"),
        }
    }

    async fn note(&mut self, (event, began, result): (Event, DateTime<Utc>, Option<PassResult>)) {
        let now = Utc::now();
        let attempt = match result {
            Some(Ok(run)) if run.status == Status::Failed => Attempt::Failed(run.error.unwrap_or_default()),
            Some(Ok(_)) => Attempt::Ran,
            Some(Err(error @ PassError::NotFound(_))) => Attempt::Failed(error.to_string()),
            Some(Err(PassError::Made)) => return self.recall(event, now).await,
            Some(Err(PassError::Busy)) | None => Attempt::Busy,
        };
        if attempt == Attempt::Busy {
            self.note_holder(event).await;
        }
        let counted: &[_] = if attempt == Attempt::Ran { event.counts_for() } else { &[event.state_name()] };
        for schedule in self.schedules.iter_mut().filter(|schedule| counted.contains(&schedule.event.state_name())) {
            schedule.note(attempt.clone(), began, now);
        }
    }

    /// Another process has made the run.
    async fn recall(&mut self, event: Event, now: DateTime<Utc>) {
        for schedule in &mut self.schedules {
            if event.counts_for().contains(&schedule.event.state_name()) {
                schedule.recall(&self.db, now).await;
            }
        }
    }

    /// Who holds the pass lock, for the log and for the mail if it stays so.
    async fn note_holder(&mut self, event: Event) {
        let because = match self.db.pass_holder().await {
            Ok(Some(holder)) => holder.to_string(),
            // It has just been given back, or MySQL is away: the next attempt shows it.
            Ok(None) | Err(_) => return,
        };
        let Some(schedule) = self.schedules.iter_mut().find(|s| s.event == event) else { return };
        if schedule.because.as_ref() != Some(&because) {
            tracing::info!(schedule = event.setting(), "the pass must wait: {because}");
        }
        schedule.because = Some(because);
    }

    async fn mail_missed(&mut self, at: usize, now: DateTime<Utc>) {
        if self.schedules[at].untold(now).is_none() {
            return;
        }
        self.note_holder(self.schedules[at].event).await;
        let schedule = &mut self.schedules[at];
        let Some(Missed { due, because }) = schedule.untold(now) else { return };
        let setting = schedule.event.setting();
        let missed = MissedRun { schedule: setting.to_owned(), expected_at: due, noticed_at: now, because };
        match self.notifier.missed_run(missed.clone()).await {
            Ok(()) => {
                tracing::warn!(schedule = setting, due = %due.to_rfc3339(), because = missed.because, "a scheduled run is late");
                schedule.told(now);
            }
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "the mail about a late run is not in the outbox yet");
            }
        }
    }

    async fn digest(&mut self, at: usize, due: DateTime<Utc>, now: DateTime<Utc>) {
        let attempt = match self.notifier.daily_digest(due, now).await {
            Ok(()) => Attempt::Ran,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the daily digest could not be prepared yet");
                Attempt::Failed(error.to_string())
            }
        };
        self.schedules[at].note(attempt, now, now);
    }
}

/// How the pass under way ended; never, where none is. `None` when the process is stopping.
async fn ended(under_way: &mut Option<UnderWay>) -> (Event, DateTime<Utc>, Option<PassResult>) {
    let Some(UnderWay { event, began, answer }) = under_way else { return std::future::pending().await };
    let ended = (*event, *began, answer.await.ok());
    *under_way = None;
    ended
}
