//! The alert about Redis: no daemon reaches it, it refuses, or coupons stay closed. The watch sees
//! the problem earlier than a pass, and ends the alert when every coupon is open again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::Notifier;
use crate::alerts::{ADMISSION, Notice, NoticeReason, Problem};
use crate::clock::elapsed;
use crate::record::{Seen, record};
use crate::report::{AlertKind, COMMITS_HANG, Finding, Kind, StoreRefusal};

/// How long admission must not be open before that is mailed. A restart of Redis closes it for
/// seconds.
const PATIENCE: TimeDelta = TimeDelta::seconds(30);

/// How often an outage that lasts is recorded again. An outage that nobody has recorded for a while
/// counts as over.
const CHECK_EVERY: TimeDelta = TimeDelta::seconds(20);

/// How often a process notes that it reaches Redis. Must be well below [`PATIENCE`].
const NOTE_EVERY: TimeDelta = TimeDelta::seconds(5);

/// How often a process that cannot record reports this to the part that mails without MySQL.
const CANNOT_RECORD_EVERY: TimeDelta = TimeDelta::seconds(5);

/// Key in `reconciler_state` of the last time at which a process noted that it reaches Redis.
const REACHED: &str = "redis_reached";

/// The state of admission as a process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeenGate {
    Open,
    /// These coupons are closed.
    Closed(BTreeSet<CouponId>),
    /// This process cannot reach Redis. The APIs may reach it.
    Unreachable,
    /// Redis answers with a refusal, and this error text.
    Refuses(StoreRefusal, String),
}

/// What this process has seen.
#[derive(Debug, Default)]
pub(crate) struct AdmissionWatch(Mutex<SeenAdmission>);

#[derive(Debug, Clone, Default)]
struct SeenAdmission {
    /// What this process saw last.
    gate: Option<SeenGate>,
    /// Since when Redis does not answer or refuses.
    away_since: Option<DateTime<Utc>>,
    /// Since when each coupon is closed, as far as this process saw it. Kept while Redis is away.
    coupons: BTreeMap<CouponId, DateTime<Utc>>,
    /// Whether an alert fires, as of the last check of this process; `None` if that is unknown.
    /// Another process, or this one before a restart, may have begun the alert.
    fires: Option<bool>,
    /// Whether this process has recorded a refusal that is not over yet.
    has_recorded_refusal: bool,
    checked_at: Option<DateTime<Utc>>,
    noted_at: Option<DateTime<Utc>>,
    /// The last note of any process, if this one has lost Redis.
    note_of_others: Option<String>,
}

impl SeenGate {
    /// The problem if admission is not open.
    fn problem(&self) -> Problem {
        let coupons = match self {
            Self::Refuses(refusal, text) => return Problem::refusal(*refusal, text),
            Self::Unreachable => {
                return Problem::outage(AlertKind::RedisUnreachable, "Redis does not answer");
            }
            Self::Closed(coupons) => coupons.iter().copied().collect(),
            Self::Open => Vec::new(),
        };
        let closed = |coupon| Finding {
            coupon_id: Some(coupon),
            ..Finding::report(Kind::RedisLost, "it is closed")
        };
        Problem::closure(coupons.into_iter().map(closed).collect())
    }
}

impl SeenAdmission {
    /// Returns the problem that lasts, and since when. Coupons that closed a moment ago are no part
    /// of it: a restart of Redis closes all for seconds.
    fn lasting(&self, now: DateTime<Utc>) -> Option<(Problem, DateTime<Utc>)> {
        let lasts = |since: DateTime<Utc>| elapsed(since, now) >= PATIENCE;
        match self.gate.as_ref()? {
            SeenGate::Open => None,
            gate @ (SeenGate::Unreachable | SeenGate::Refuses(..)) => {
                let since = self.away_since.filter(|since| lasts(*since))?;
                Some((gate.problem(), since))
            }
            SeenGate::Closed(_) => {
                let mut closed = self.coupons.clone();
                closed.retain(|_, since| lasts(*since));
                let since = closed.values().min().copied()?;
                let gate = SeenGate::Closed(closed.into_keys().collect());
                Some((gate.problem(), since))
            }
        }
    }
}

impl AdmissionWatch {
    fn see(&self, gate: &SeenGate, now: DateTime<Utc>) {
        let mut seen = self.0.lock();
        seen.gate = Some(gate.clone());
        match gate {
            SeenGate::Open => {
                seen.away_since = None;
                seen.coupons.clear();
            }
            SeenGate::Closed(closed) => {
                // Closed coupons that are seen after an outage have been closed since it began.
                let since = seen.away_since.take().unwrap_or(now);
                seen.coupons.retain(|coupon, _| closed.contains(coupon));
                for coupon in closed {
                    seen.coupons.entry(*coupon).or_insert(since);
                }
            }
            SeenGate::Unreachable | SeenGate::Refuses(..) => {
                seen.away_since.get_or_insert(now);
            }
        }
    }

    /// Whether the watch of this process sees a problem itself. Then only the watch reports it: it
    /// knows when the outage began, and whether other processes reach Redis. In a Redis Cluster
    /// without one server, passes see an outage, and the watch sees closed coupons.
    pub(crate) fn reports_redis(&self) -> bool {
        match self.0.lock().gate {
            // Passes may read more than the watch does.
            None | Some(SeenGate::Open) => false,
            Some(SeenGate::Closed(_) | SeenGate::Unreachable | SeenGate::Refuses(..)) => true,
        }
    }

    /// Forgets that Redis was away or refused, until it is seen again.
    pub(crate) fn forget_outage(&self) {
        let mut seen = self.0.lock();
        seen.gate = None;
        seen.away_since = None;
    }

    /// Returns the problem that lasts, as far as this process knows without MySQL.
    pub(crate) fn lasting(&self, now: DateTime<Utc>) -> Option<Notice> {
        let (problem, since) = self.0.lock().lasting(now)?;
        Some(Notice {
            problem,
            reason: NoticeReason::New,
            since,
        })
    }
}

fn is_due(last: Option<DateTime<Utc>>, every: TimeDelta, now: DateTime<Utc>) -> bool {
    last.is_none_or(|at| elapsed(at, now) >= every)
}

impl Notifier {
    /// Handles the state of admission once a second, until `stop`. `None`: it is not known yet.
    pub async fn watch_admission(
        self,
        gate: watch::Receiver<Option<SeenGate>>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        let mut is_refused = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let Some(gate) = gate.borrow().clone() else {
                continue;
            };
            let now = Utc::now();
            // While commits hang, each attempt to write would leave another session that waits for
            // its commit.
            let hangs = is_refused && self.db.commits_hang().await.unwrap_or(false);
            let recorded = if hangs {
                self.admission.see(&gate, now.trunc_subsecs(3));
                Err(anyhow::anyhow!(COMMITS_HANG))
            } else {
                self.admission(gate, now).await
            };
            match recorded {
                Ok(()) if !is_refused => {}
                Ok(()) => {
                    is_refused = self.can_record(now).await.is_err();
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::debug!(error, "the mail about admission is not in the outbox yet");
                    is_refused = true;
                    if is_due(told, CANNOT_RECORD_EVERY, now) {
                        told = Some(now);
                        self.cannot_write(&error, now).await;
                    }
                }
            }
        }
    }

    /// Handles the state of admission. Must be called once a second. Mails if it has not been open
    /// for half a minute, unless only this process has lost Redis, and when it is open again.
    pub async fn admission(&self, gate: SeenGate, now: DateTime<Utc>) -> anyhow::Result<()> {
        let now = now.trunc_subsecs(3);
        self.admission.see(&gate, now);
        match &gate {
            SeenGate::Open | SeenGate::Closed(_) => self.note_reached(now).await?,
            SeenGate::Refuses(..) => {}
            SeenGate::Unreachable => self.look_elsewhere(now).await?,
        }
        let seen = self.admission.0.lock().clone();
        let is_open = seen.gate == Some(SeenGate::Open);
        let checks = seen.fires != Some(true) || is_due(seen.checked_at, CHECK_EVERY, now);
        let news = match seen.lasting(now) {
            Some((problem, since)) if checks => Seen::Outage(problem, since),
            None if is_open && seen.fires != Some(false) => Seen::Over {
                name: ADMISSION.to_owned(),
                kinds: self.seen_over(&seen),
            },
            _ => return Ok(()),
        };
        record(&self.db, news, self.settings.clone(), now).await?;
        self.wake();
        let mut now_seen = self.admission.0.lock();
        now_seen.fires = Some(!is_open);
        now_seen.has_recorded_refusal = matches!(seen.gate, Some(SeenGate::Refuses(..)));
        now_seen.checked_at = Some(now);
        Ok(())
    }

    /// Returns the kinds of alerts that are over when this process sees every coupon open. Redis may
    /// still refuse the logins or connections of APIs. So a refusal that this process has not met
    /// itself ends when its reports end, or when nobody has seen it for a while.
    fn seen_over(&self, seen: &SeenAdmission) -> Vec<AlertKind> {
        let mut kinds = vec![AlertKind::RedisUnreachable, AlertKind::AdmissionClosed];
        if seen.has_recorded_refusal && !self.refusals.lasts(ADMISSION) {
            kinds.push(AlertKind::RedisRefuses);
        }
        kinds
    }

    /// Notes that this process reaches Redis. Processes that have lost Redis read the note.
    async fn note_reached(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let noted_at = self.admission.0.lock().noted_at;
        if is_due(noted_at, NOTE_EVERY, now) {
            self.db.set_state(REACHED, now.to_rfc3339()).await?;
            // Another process may have begun the alert and have ended since. A process that still
            // sees the problem has recorded it again within this time, and the alert stays.
            let refused = AlertKind::RedisRefuses.word();
            let forgotten = now - CHECK_EVERY * 3;
            let fires = self.db.fires(ADMISSION, refused, forgotten).await?;
            let mut seen = self.admission.0.lock();
            // Do not mistake this process's own note for that of another process.
            seen.noted_at = Some(now);
            seen.note_of_others = None;
            if fires {
                seen.fires = None;
            }
        }
        Ok(())
    }

    /// Checks whether another process still notes that it reaches Redis. Then this process has only
    /// lost its own connection, and its patience starts again. The clocks of two hosts may differ,
    /// so only a change of the note counts.
    async fn look_elsewhere(&self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let note = self.db.state(REACHED).await?.unwrap_or_default();
        let mut seen = self.admission.0.lock();
        let before = seen.note_of_others.replace(note.clone());
        if before.is_some_and(|before| before != note) {
            seen.away_since = Some(now);
            seen.fires = None;
        }
        Ok(())
    }
}
