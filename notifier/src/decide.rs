//! Decides what to tell now. Pure: from what is wrong, what is not known, and what was told.
//!
//! 1. A condition that is present, known and unexplained for its patience is told as *new*.
//! 2. Cases that were not told are told as *changed*, after an interval that doubles.
//! 3. A condition that lasts is told again (*repeat*) after 4 h, then after 8 h, and so on, if it was
//!    observed since.
//! 4. A condition that stays gone is *over*. Each return makes the time that it must stay away
//!    longer.
//! 5. What nobody knows neither begins nor ends, and still explains what it causes.
//! 6. An explanation (`explain`) stops the first three, never the end.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

pub use crate::alert::{Alert, Alerts};
use crate::condition::{Cases, Condition, Seen};
use crate::explain::Causes;
use crate::report::{AlertKind, Severity};
use crate::times::{Policy, Source};

/// Up to this number of cases, each further one is news. Beyond it, cases of a problem that is not
/// critical are news when they have doubled.
const FEW: u64 = 10;

/// The most returns that are counted.
const RETURNS: u32 = 8;

/// The pause between the first two mails about one problem; later ones double it.
const INTERVAL: TimeDelta = TimeDelta::minutes(5);

/// The most mails in an hour; then one in [`PAUSE`].
const MAILS_AN_HOUR: usize = 10;
const PAUSE: TimeDelta = TimeDelta::minutes(10);

const HOUR: TimeDelta = TimeDelta::hours(1);

/// After more than this number of mails about one problem, the next pause is an hour at least.
const HOURLY: u32 = 4;

/// The reason for telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    New,
    /// There are cases that were not told.
    Changed,
    /// It lasts.
    Repeat,
    Over,
}

/// What to tell now about one alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub reason: Reason,
    /// The alert after it was told.
    pub alert: Alert,
    /// What is wrong; `None` if it is over.
    pub condition: Option<Condition>,
}

/// What follows from a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The alerts that have changed, in the order of `notices` and then of the conditions.
    pub alerts: Vec<Alert>,
    /// One mail tells all of them.
    pub notices: Vec<Notice>,
}

/// The times of the last mails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget(Vec<DateTime<Utc>>);

impl Budget {
    pub fn new(mails: impl IntoIterator<Item = DateTime<Utc>>) -> Self {
        let mut mails: Vec<_> = mails.into_iter().collect();
        mails.sort_unstable();
        Self(mails)
    }

    /// Whether only a store's mail goes now.
    pub fn is_full(&self, now: DateTime<Utc>) -> bool {
        let in_hour = self.0.iter().filter(|at| elapsed(**at, now) < HOUR).count();
        let last = self.0.last();
        in_hour >= MAILS_AN_HOUR && last.is_some_and(|at| elapsed(*at, now) < PAUSE)
    }

    /// Counts a mail.
    pub fn count(&mut self, now: DateTime<Utc>) {
        self.0.push(now);
        let too_many = self.0.len().saturating_sub(MAILS_AN_HOUR);
        self.0.drain(..too_many);
    }

    pub fn mails(&self) -> &[DateTime<Utc>] {
        &self.0
    }
}

impl Verdict {
    /// Adds alerts that were told elsewhere, unless the verdict changes them.
    pub(crate) fn adopt(&mut self, alerts: Vec<Alert>) {
        for alert in alerts {
            if self.alerts.iter().all(|own| own.name != alert.name) {
                self.alerts.push(alert);
            }
        }
    }
}

/// Decides what to tell now. The same call with the alerts of its verdict decides nothing.
pub fn decide(
    now: DateTime<Utc>,
    seen: &[Condition],
    unknown: &BTreeSet<Source>,
    known: &Alerts,
    policy: &Policy,
    is_full: bool,
) -> Verdict {
    let mut due = Vec::new();
    let is_unknown = |kind| unknown.contains(&policy.times(kind).source);
    let seen: Vec<&Condition> = seen.iter().filter(|it| !is_unknown(it.kind)).collect();
    let causes = Causes::new(&seen, known, &is_unknown, policy, now);
    for condition in &seen {
        let alert = observed(condition, known, &causes, now);
        let reason = due_reason(&alert, condition, &causes, policy, now);
        due.push((alert, reason, Some(*condition)));
    }
    let names: HashSet<&str> = seen.iter().map(|it| it.name.as_str()).collect();
    let mut absent: Vec<&Alert> = known
        .all_open()
        .filter(|alert| !names.contains(alert.name.as_str()))
        .collect();
    absent.sort_by(|a, b| (a.began_at, &a.name).cmp(&(b.began_at, &b.name)));
    for alert in absent {
        let kind = AlertKind::from_word(&alert.kind).filter(|kind| !is_unknown(*kind));
        let (alert, reason) = missed(alert.clone(), kind, policy, now);
        due.push((alert, reason, None));
    }
    let is_told = |(alert, reason, _): &(Alert, Option<Reason>, Option<&Condition>)| {
        reason.is_some() && alert.is_about_store(policy)
    };
    let may_tell = !is_full || due.iter().any(is_told);
    let mut verdict = Verdict::default();
    for (mut alert, reason, condition) in due {
        if let Some(reason) = reason.filter(|_| may_tell) {
            alert.tell(reason, now);
            if let Some(condition) = condition {
                alert.told = causes.unexplained(condition);
                condition.kind.word().clone_into(&mut alert.kind);
            }
            verdict.notices.push(Notice {
                reason,
                alert: alert.clone(),
                condition: condition.cloned(),
            });
        }
        if known.open(&alert.name) != Some(&alert) {
            verdict.alerts.push(alert);
        }
    }
    verdict
}

/// Returns the alert of a condition that is present.
fn observed(condition: &Condition, known: &Alerts, causes: &Causes, now: DateTime<Utc>) -> Alert {
    let open = known.open(&condition.name).cloned();
    let mut alert = open.unwrap_or_else(|| Alert::begun(condition, known, now));
    if alert.gone_at.take().is_some() {
        alert.returns = (alert.returns + 1).min(RETURNS);
    }
    // A store that was told as away is over as that, even if it was refusing for a moment since.
    if alert.told_at.is_none() {
        condition.kind.word().clone_into(&mut alert.kind);
    }
    alert.told = alert.told.and(&condition.cases);
    alert.explained_by = causes.explaining(condition);
    if alert.explained_by.is_some() {
        alert.waits_from = None;
    } else {
        alert.waits_from.get_or_insert(now);
    }
    alert
}

/// Returns why to tell about a condition now.
fn due_reason(
    alert: &Alert,
    condition: &Condition,
    causes: &Causes,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Option<Reason> {
    let times = policy.times(condition.kind);
    let lasted = condition.seen.lasted(alert.waits_from?, now);
    if lasted < times.patience {
        return None;
    }
    let Some(told_at) = alert.told_at else {
        return Some(Reason::New);
    };
    let since = now - told_at;
    let cases = causes.unexplained(condition);
    if is_news(&cases, alert, condition.kind) && since >= interval(alert, condition.kind, policy) {
        return Some(Reason::Changed);
    }
    let pause = policy.repeat.max(told_at - alert.began_at);
    let may_repeat =
        alert.acknowledged_at.is_none() && !alert.is_unsent && condition.seen.is_after(told_at);
    // What has no end is not repeated either: each repair is in one mail.
    (times.says_over && may_repeat && since >= pause).then_some(Reason::Repeat)
}

/// Returns an alert whose condition is not present, and whether that is told. Of an unknown `kind`
/// nobody can say so.
fn missed(
    mut alert: Alert,
    kind: Option<AlertKind>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> (Alert, Option<Reason>) {
    let Some(kind) = kind else {
        alert.gone_at = None;
        return (alert, None);
    };
    alert.explained_by = None;
    let gone_at = *alert.gone_at.get_or_insert(now);
    if now - gone_at < quiet(kind, alert.returns, policy) {
        return (alert, None);
    }
    if alert.told_at.is_some() && policy.times(kind).says_over {
        return (alert, Some(Reason::Over));
    }
    alert.ended_at = Some(now);
    (alert, None)
}

/// Whether cases were not told yet.
fn is_news(cases: &Cases, alert: &Alert, kind: AlertKind) -> bool {
    let (Cases::Each(now), Cases::Each(told)) = (cases, &alert.told) else {
        return cases.number() > 0 && cases.number() >= 2 * alert.told.number();
    };
    let more = now.difference(told).count();
    let counts_each = is_critical(kind) || cases.number() <= FEW;
    more > 0 && (counts_each || more >= told.len().max(1))
}

fn is_critical(kind: AlertKind) -> bool {
    kind.facts().severity == Severity::Critical
}

/// The least time between the last mail about an alert and one about new cases.
fn interval(alert: &Alert, kind: AlertKind, policy: &Policy) -> TimeDelta {
    let most = if is_critical(kind) {
        HOUR.min(policy.repeat)
    } else {
        policy.repeat
    };
    let least = if kind == AlertKind::Repaired {
        HOUR
    } else {
        INTERVAL
    };
    let pause = doubled(least, alert.tells.saturating_sub(1)).min(most);
    if alert.acknowledged_at.is_some() {
        pause.max(HOUR.min(policy.repeat))
    } else {
        pause
    }
}

/// How long a condition must be gone until it is over. A look proves the end; what comes and goes
/// must stay away longer each time.
fn quiet(kind: AlertKind, returns: u32, policy: &Policy) -> TimeDelta {
    let least = policy.times(kind).gone_for;
    if returns == 0 {
        return least;
    }
    doubled(least.max(policy.settle()), returns + 1).min(policy.repeat.max(least))
}

fn doubled(time: TimeDelta, times: u32) -> TimeDelta {
    time * (1 << times.min(RETURNS + 2))
}

/// Times ahead of `now` count as now.
fn elapsed(at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    (now - at).max(TimeDelta::zero())
}

impl Alert {
    /// Begins an episode. One that follows another within four hours counts as a return.
    fn begun(condition: &Condition, known: &Alerts, now: DateTime<Utc>) -> Self {
        let last = known.ended(&condition.name);
        let returns = last
            .filter(|it| it.ended_at.is_some_and(|at| elapsed(at, now) < HOUR * 4))
            .map_or(0, |last| (last.returns + 1).min(RETURNS));
        let began_at = match condition.seen {
            Seen::Now => now,
            Seen::Looks { first, .. } => first.min(now),
        };
        Self {
            name: condition.name.clone(),
            kind: condition.kind.word().to_owned(),
            coupon: condition.coupon,
            drop: condition.drop,
            began_at,
            waits_from: Some(began_at),
            returns,
            ..Self::default()
        }
    }

    fn is_about_store(&self, policy: &Policy) -> bool {
        AlertKind::from_word(&self.kind).is_some_and(|kind| policy.times(kind).is_store)
    }

    /// Notes that it is told.
    fn tell(&mut self, reason: Reason, now: DateTime<Utc>) {
        if reason == Reason::Over {
            self.ended_at = Some(now);
            return;
        }
        if reason == Reason::Changed && self.acknowledged_at.take().is_some() {
            // An operator works on it: further news come hourly at most.
            self.tells = self.tells.max(HOURLY);
        }
        self.told_at = Some(now);
        self.tells += 1;
        self.is_unsent = true;
    }
}

#[cfg(test)]
mod tests;
