//! Decides what to tell now. Pure: from what is wrong, what is not known, and what was told.
//!
//! 1. A condition that is present, known and unexplained for its patience is told as *new*.
//! 2. Cases that were not told are told as *changed*, after an interval that doubles.
//! 3. A condition that lasts is told again (*repeat*) after 4 h, then after 8 h, and so on, if it
//!    was observed since.
//! 4. A condition that stays gone is *over*. Each return lengthens the time that it must stay away,
//!    and restarts its patience.
//! 5. What nobody knows neither begins nor ends, and still explains what it causes.
//! 6. An explanation (`explain`) stops the first three, never the end.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::report::{AlertKind, Severity};

pub use crate::alert::Alerts;
use crate::alert::{set_told_cases, told_cases};
use crate::condition::{Cases, Condition, Seen};
use crate::explain::Causes;
use crate::queries::alerts::ToldRow;
use crate::times::{Policy, Source, says_over, source};

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

/// What becomes of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Why it is told now, if it is. One mail tells all of them.
    pub reason: Option<Reason>,
    /// The alert afterwards.
    pub alert: ToldRow,
    /// What is wrong; `None` if it is not present.
    pub condition: Option<Condition>,
}

impl Decision {
    /// Whether it is told, or begins to be listed.
    pub(crate) fn is_shown(&self) -> bool {
        self.reason.is_some() || self.alert.id == 0
    }
}

/// The times of the last mails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget(pub Vec<DateTime<Utc>>);

impl Budget {
    /// Whether only the mail about a new outage goes now.
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
}

/// Decides what changes, and what to tell now. The same call with the alerts of its decisions
/// decides nothing.
pub fn decide(
    now: DateTime<Utc>,
    seen: &[Condition],
    unknown: &BTreeSet<Source>,
    known: &Alerts,
    policy: &Policy,
    is_full: bool,
) -> Vec<Decision> {
    let is_unknown = |kind| unknown.contains(&source(kind));
    let seen: Vec<&Condition> = seen.iter().filter(|it| !is_unknown(it.kind)).collect();
    let causes = Causes::new(&seen, known, &is_unknown, policy, now);
    let is_changed = |alert: &ToldRow| known.open(&alert.name) != Some(alert);
    let mut decisions = Vec::new();
    for condition in &seen {
        let alert = observed(condition, known, &causes, now);
        let reason = due_reason(&alert, condition, &causes, known, policy, now);
        // Most conditions change nothing, and a condition may have many cases.
        if reason.is_some() || is_changed(&alert) {
            decisions.push(Decision {
                reason,
                alert,
                condition: Some((*condition).clone()),
            });
        }
    }
    let names: HashSet<&str> = seen.iter().map(|it| it.name.as_str()).collect();
    let mut absent: Vec<&ToldRow> = known
        .all_open()
        .filter(|alert| !names.contains(alert.name.as_str()))
        .collect();
    absent.sort_by(|a, b| (a.began_at, &a.name).cmp(&(b.began_at, &b.name)));
    for alert in absent {
        let kind = AlertKind::from_word(&alert.kind).filter(|kind| !is_unknown(*kind));
        decisions.push(missed(alert.clone(), kind, policy, now));
    }
    // A new outage does not wait, and takes along what is due. That it lasts, changes or is over can
    // wait for some minutes.
    let mut told = decisions.iter();
    let is_urgent = told.any(|it| it.reason == Some(Reason::New) && is_about_store(&it.alert));
    let may_tell = !is_full || is_urgent;
    for decision in &mut decisions {
        decision.reason = decision.reason.filter(|_| may_tell);
        if let Some(reason) = decision.reason {
            tell(decision, reason, &causes, now);
        }
    }
    decisions.retain(|decision| is_changed(&decision.alert));
    decisions
}

/// Returns the alert of a condition that is present.
fn observed(condition: &Condition, known: &Alerts, causes: &Causes, now: DateTime<Utc>) -> ToldRow {
    let open = known.open(&condition.name).cloned();
    let mut alert = open.unwrap_or_else(|| begun(condition, known, now));
    if alert.gone_at.take().is_some() {
        alert.returns = (alert.returns + 1).min(RETURNS);
    }
    // A store that was told as away is over as that, even if it was refusing for a moment since.
    if alert.told_at.is_none() {
        condition.kind.word().clone_into(&mut alert.kind);
    }
    let told = told_cases(&alert).and(&condition.cases);
    set_told_cases(&mut alert, &told);
    let cause = causes.explaining(condition);
    alert.explained_by = cause.map(|kind| kind.word().to_owned());
    if alert.explained_by.is_some() {
        alert.waits_from = None;
    } else {
        alert.waits_from.get_or_insert(now);
    }
    alert
}

/// Returns why to tell about a condition now.
fn due_reason(
    alert: &ToldRow,
    condition: &Condition,
    causes: &Causes,
    known: &Alerts,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Option<Reason> {
    let lasted = condition.seen.lasted(alert.waits_from?, now);
    let is_waited_for = !policy.is_last || condition.seen != Seen::Now;
    if is_waited_for && lasted < policy.patience(condition.kind) {
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
    let may_repeat = alert.acknowledged_at.is_none()
        && !known.is_unsent(alert)
        && condition.seen.is_after(told_at);
    // What has no end is not repeated either: each repair is in one mail.
    (says_over(condition.kind) && may_repeat && since >= pause).then_some(Reason::Repeat)
}

/// Decides about an alert whose condition is not present. Of an unknown `kind` nobody can say so.
fn missed(
    mut alert: ToldRow,
    kind: Option<AlertKind>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Decision {
    let mut reason = None;
    if let Some(kind) = kind {
        alert.explained_by = None;
        let gone = now - *alert.gone_at.get_or_insert(now);
        if gone >= policy.gone_for(kind) {
            // What comes back has not lasted meanwhile.
            alert.waits_from = None;
        }
        if gone >= quiet(kind, alert.returns, policy) {
            if alert.told_at.is_some() && says_over(kind) {
                reason = Some(Reason::Over);
            } else {
                alert.ended_at = Some(now);
            }
        }
    } else {
        alert.gone_at = None;
    }
    Decision {
        reason,
        alert,
        condition: None,
    }
}

/// Whether cases were not told yet.
fn is_news(cases: &Cases, alert: &ToldRow, kind: AlertKind) -> bool {
    let told = told_cases(alert);
    let (Cases::Each(now), Cases::Each(told)) = (cases, &told) else {
        return cases.number() > 0 && cases.number() >= 2 * alert.told_number;
    };
    let more = now.difference(told).count();
    let counts_each = is_critical(kind) || cases.number() <= FEW;
    more > 0 && (counts_each || more >= told.len().max(1))
}

fn is_critical(kind: AlertKind) -> bool {
    kind.facts().severity == Severity::Critical
}

/// The least time between the last mail about an alert and one about new cases.
fn interval(alert: &ToldRow, kind: AlertKind, policy: &Policy) -> TimeDelta {
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
    let least = policy.gone_for(kind);
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

/// Begins an episode. One that follows another within four hours counts as a return.
fn begun(condition: &Condition, known: &Alerts, now: DateTime<Utc>) -> ToldRow {
    let last = known.ended(&condition.name);
    let returns = last
        .filter(|it| it.ended_at.is_some_and(|at| elapsed(at, now) < HOUR * 4))
        .map_or(0, |last| (last.returns + 1).min(RETURNS));
    let began_at = match condition.seen {
        Seen::Now => now,
        Seen::Looks { first, .. } => first.min(now),
    };
    ToldRow {
        name: condition.name.clone(),
        kind: condition.kind.word().to_owned(),
        coupon_id: condition.coupon,
        drop_id: condition.drop,
        began_at,
        waits_from: Some(began_at),
        returns,
        ..ToldRow::default()
    }
}

fn is_about_store(alert: &ToldRow) -> bool {
    AlertKind::from_word(&alert.kind).is_some_and(|kind| source(kind).is_store())
}

/// Notes that an alert is told.
fn tell(decision: &mut Decision, reason: Reason, causes: &Causes, now: DateTime<Utc>) {
    let alert = &mut decision.alert;
    let Some(condition) = &decision.condition else {
        alert.ended_at = Some(now);
        return;
    };
    if reason == Reason::Changed && alert.acknowledged_at.take().is_some() {
        // An operator works on it: further news come hourly at most.
        alert.acknowledged_by = None;
        alert.tells = alert.tells.max(HOURLY);
    }
    alert.told_at = Some(now);
    alert.tells += 1;
    condition.kind.word().clone_into(&mut alert.kind);
    set_told_cases(alert, &causes.unexplained(condition));
}

#[cfg(test)]
mod tests;
