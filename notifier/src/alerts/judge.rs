//! Decides what to mail: a pure function from observations and previous alerts to new alerts and
//! the notices to mail now.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use super::{About, Alert, AlertMemory, AlertState, BrokenPromise, Observation, REPAIRED, observe};
use crate::clock::elapsed;
use crate::report::{DropReport, Kind, Outcome, Run, Status};

/// Limits on how often mails are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailPolicy {
    /// Time after which a persistent problem is mailed again.
    pub cooldown: TimeDelta,
    /// How long whole passes must have failed before that is mailed. Shorter failures come from
    /// restarts of stores.
    pub patience: TimeDelta,
}

/// The reason for a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeReason {
    /// The alert is new.
    New,
    /// The alert differs from the last mail.
    Changed,
    /// The alert persists after the cooldown.
    Repeat,
}

/// A notice to mail now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub observation: Observation,
    pub reason: NoticeReason,
    /// When the alert began to fire.
    pub since: DateTime<Utc>,
}

/// Repairs of earlier passes that the rate limit has delayed until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarlierRepairs {
    /// The drop, or `None` for repairs that concern no drop.
    pub drop_id: Option<DropId>,
    pub repairs: u32,
    /// When the last mail about that drop's repairs was sent.
    pub since: DateTime<Utc>,
}

/// The mails and alerts that follow from a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertVerdict {
    /// The alerts to store.
    pub alerts: Vec<Alert>,
    /// Problems that need an operator.
    pub problems: Vec<Notice>,
    /// Information, which is mailed once.
    pub information: Vec<Notice>,
    /// Alerts that were mailed before and are over.
    pub resolved: Vec<Alert>,
    /// Drops whose repairs in this pass are mailed, or `None` for repairs that concern no drop.
    pub repaired: Vec<Option<DropId>>,
    /// Repairs of earlier passes.
    pub earlier: Vec<EarlierRepairs>,
}

impl AlertVerdict {
    /// Whether there is anything to mail.
    pub fn says_something(&self) -> bool {
        !(self.problems.is_empty()
            && self.information.is_empty()
            && self.resolved.is_empty()
            && self.repaired.is_empty()
            && self.earlier.is_empty())
    }
}

/// Decides what to mail about a pass. A dry run is not mailed, because its result goes to the
/// operator who requested it.
pub fn judge(
    run: &Run,
    memory: &AlertMemory,
    policy: MailPolicy,
    now: DateTime<Utc>,
) -> AlertVerdict {
    let mut verdict = AlertVerdict::default();
    if run.dry_run || run.status == Status::Running {
        return verdict;
    }
    let judge = Judge {
        run,
        memory,
        policy,
        now,
    };
    let observations = observe(run, &memory.broken);
    let seen: HashSet<String> = observations.iter().map(|o| o.fingerprint.clone()).collect();
    for observation in observations {
        judge.seen(observation, &mut verdict);
    }
    let mut not_seen: Vec<&Alert> = memory
        .alerts
        .values()
        .filter(|alert| !seen.contains(&alert.fingerprint))
        .collect();
    not_seen.sort_by(|a, b| {
        (a.drop_id, &a.kind, &a.fingerprint).cmp(&(b.drop_id, &b.kind, &b.fingerprint))
    });
    let repaired = super::repaired(run, &memory.broken);
    for alert in not_seen {
        if alert.kind != REPAIRED {
            judge.not_seen(alert, &mut verdict);
        } else if alert.unmailed_repairs > 0
            && !repaired.keys().any(|(_, drop)| *drop == alert.drop_id)
        {
            judge.repairs(alert.clone(), 0, &mut verdict);
        }
    }
    for ((coupon, drop), repairs) in repaired {
        if !judge.is_silenced(drop) {
            judge.repairs(judge.repair_alert(coupon, drop), repairs, &mut verdict);
        }
    }
    verdict
}

/// Returns the fingerprints of a run's repairs.
pub(crate) fn repair_fingerprints(run: &Run, broken: &[BrokenPromise]) -> Vec<String> {
    super::repaired(run, broken)
        .into_keys()
        .map(|(_, drop)| super::repair_fingerprint(drop))
        .collect()
}

struct Judge<'a> {
    run: &'a Run,
    memory: &'a AlertMemory,
    policy: MailPolicy,
    now: DateTime<Utc>,
}

impl Judge<'_> {
    fn silence(&self, drop: Option<DropId>) -> Option<DateTime<Utc>> {
        self.memory.silenced_until.get(&drop?).copied()
    }

    fn is_silenced(&self, drop: Option<DropId>) -> bool {
        self.silence(drop).is_some_and(|until| until > self.now)
    }

    /// Whether the alert is silenced with its drop.
    fn is_silent(&self, alert: &Alert) -> bool {
        self.is_silenced(alert.drop_id) && may_be_silent(alert)
    }

    fn since(&self, at: DateTime<Utc>) -> TimeDelta {
        elapsed(at, self.now)
    }

    /// Whether the rate limit allows a mail. It prevents an alert that flaps or changes with every
    /// pass from causing a mail each time. The first three mails are sent at once. Then the pause
    /// doubles from a minute up to the cooldown.
    fn may_mail(&self, alert: &Alert) -> bool {
        let pause = match alert.mails {
            0..=2 => TimeDelta::zero(),
            mails => TimeDelta::minutes(1 << (mails - 3).min(16)).min(self.policy.cooldown),
        };
        !self.is_silent(alert)
            && alert
                .last_mailed_at
                .is_none_or(|at| self.since(at) >= pause)
    }

    /// Builds the alert as this pass sees it, before mailing.
    fn alert(&self, seen: &Observation) -> Alert {
        let known = self.memory.alerts.get(&seen.fingerprint);
        if let Some(known) = known.filter(|known| known.state != AlertState::Resolved) {
            // Avoid a time in the future. Otherwise, the alert would look as if it had not been
            // mailed since it began.
            let first_seen_at = known.first_seen_at.min(self.now);
            return Alert {
                first_seen_at,
                last_seen_at: self.now,
                summary: seen.summary.clone(),
                ..known.clone()
            };
        }
        // The alert is new or has returned. If it was resolved recently, keep counting its mails.
        let recent = known.filter(|known| {
            known
                .resolved_at
                .is_some_and(|at| self.now - at < self.policy.cooldown)
        });
        // An alert that returns within the patience counts as continuous.
        let unmailed = known.filter(|known| {
            !known.was_mailed() && known.resolved_at.is_some_and(|at| self.is_brief(at))
        });
        // Only one run observes this information, so this run must report it.
        let is_information = seen.about == About::ClosedBelowQuantity;
        Alert {
            kind: seen.about.word().to_owned(),
            coupon_id: seen.coupon_id,
            drop_id: seen.drop_id,
            state: if is_information {
                AlertState::Information
            } else {
                AlertState::Firing
            },
            summary: seen.summary.clone(),
            content_hash: seen.content_hash.clone(),
            first_seen_at: unmailed.map_or(self.now, |known| known.first_seen_at),
            thread: known.map_or_else(|| thread(&seen.fingerprint), |known| known.thread.clone()),
            ..self.counted(&seen.fingerprint, recent)
        }
    }

    /// Creates an alert without content that continues the mail count of a recent one.
    fn counted(&self, fingerprint: &str, recent: Option<&Alert>) -> Alert {
        Alert {
            fingerprint: fingerprint.to_owned(),
            kind: REPAIRED.to_owned(),
            coupon_id: None,
            drop_id: None,
            state: AlertState::Resolved,
            summary: "repairs".to_owned(),
            content_hash: String::new(),
            first_seen_at: self.now,
            last_seen_at: self.now,
            last_mailed_at: recent.and_then(|known| known.last_mailed_at),
            mails: recent.map_or(0, |known| known.mails),
            thread: thread(fingerprint),
            resolved_at: None,
            acknowledged_at: None,
            acknowledged_by: None,
            unmailed_repairs: 0,
        }
    }

    /// Whether the time is so recent that a store may just have restarted.
    fn is_brief(&self, since: DateTime<Utc>) -> bool {
        self.since(since) < self.policy.patience
    }

    fn reason(&self, alert: &Alert, seen: &Observation) -> Option<NoticeReason> {
        if !self.may_mail(alert) {
            return None;
        }
        if !alert.was_mailed() {
            let of_stores = match seen.about {
                About::RunFailed | About::Left(Kind::RedisLost) => seen.drop_id.is_none(),
                _ => false,
            };
            return (!of_stores || !self.is_brief(alert.first_seen_at))
                .then_some(NoticeReason::New);
        }
        if seen.about == About::ClosedBelowQuantity {
            return None;
        }
        if alert.content_hash != seen.content_hash {
            return Some(NoticeReason::Changed);
        }
        let silence = self.silence(alert.drop_id).filter(|_| may_be_silent(alert));
        let silence_ended = silence.is_some_and(|until| alert.last_mailed_at < Some(until));
        let due = alert
            .last_mailed_at
            .is_some_and(|at| self.since(at) >= self.policy.cooldown);
        (alert.acknowledged_at.is_none() && (due || silence_ended)).then_some(NoticeReason::Repeat)
    }

    fn seen(&self, seen: Observation, verdict: &mut AlertVerdict) {
        let mut alert = self.alert(&seen);
        let reason = self.reason(&alert, &seen);
        if let Some(reason) = reason {
            alert.last_mailed_at = Some(self.now);
            alert.mails += 1;
            if reason == NoticeReason::Changed {
                // The operator has acknowledged different content.
                alert.content_hash.clone_from(&seen.content_hash);
                alert.acknowledged_at = None;
                alert.acknowledged_by = None;
            }
            let since = alert.first_seen_at;
            let is_information = seen.about == About::ClosedBelowQuantity;
            let list = if is_information {
                &mut verdict.information
            } else {
                &mut verdict.problems
            };
            list.push(Notice {
                observation: seen,
                reason,
                since,
            });
        }
        verdict.alerts.push(alert);
    }

    fn not_seen(&self, known: &Alert, verdict: &mut AlertVerdict) {
        let mut alert = known.clone();
        match known.state {
            AlertState::Firing if self.is_over(known) => {
                alert.state = AlertState::Resolved;
                alert.resolved_at = Some(self.now);
            }
            AlertState::Resolved if known.owes_notice() => {}
            _ => return,
        }
        if alert.was_mailed() && !self.is_silent(&alert) {
            alert.last_mailed_at = Some(self.now);
            alert.mails += 1;
            verdict.resolved.push(alert.clone());
        }
        if alert != *known {
            verdict.alerts.push(alert);
        }
    }

    /// Returns the alert that counts the repairs of a drop.
    fn repair_alert(&self, coupon_id: Option<CouponId>, drop_id: Option<DropId>) -> Alert {
        let fingerprint = super::repair_fingerprint(drop_id);
        let known = self.memory.alerts.get(&fingerprint);
        let recent = known.filter(|known| self.now - known.last_seen_at < self.policy.cooldown);
        Alert {
            coupon_id,
            drop_id,
            content_hash: known.map_or_else(String::new, |known| known.content_hash.clone()),
            first_seen_at: recent.map_or(self.now, |known| known.first_seen_at),
            resolved_at: Some(self.now),
            unmailed_repairs: known.map_or(0, |known| known.unmailed_repairs),
            ..self.counted(&fingerprint, recent)
        }
    }

    /// Decides when to mail repairs: at once, unless every pass repairs something. In that case,
    /// repairs are batched into fewer and fewer mails.
    fn repairs(&self, mut alert: Alert, in_this_pass: u32, verdict: &mut AlertVerdict) {
        // The run is already counted if it is judged again after a timeout.
        let run = super::hash([self.run.run_id.clone()]);
        let is_counted = alert.content_hash == run;
        alert.content_hash = run;
        if self.may_mail(&alert) {
            if let Some(since) = alert.last_mailed_at.filter(|_| alert.unmailed_repairs > 0) {
                verdict.earlier.push(EarlierRepairs {
                    drop_id: alert.drop_id,
                    repairs: alert.unmailed_repairs,
                    since,
                });
            }
            if in_this_pass > 0 {
                verdict.repaired.push(alert.drop_id);
            }
            alert.last_mailed_at = Some(self.now);
            alert.mails += 1;
            alert.unmailed_repairs = 0;
        } else if !is_counted {
            alert.unmailed_repairs = alert.unmailed_repairs.saturating_add(in_this_pass);
        }
        verdict.alerts.push(alert);
    }

    /// Whether the alert is over because this pass would have seen the drift if it still existed. A
    /// failed pass may have ended too early for that, and a process that has just begun to watch
    /// the consumers may not see it yet. Alerts of drops that were sealed or deleted are over,
    /// because sealing verifies a drop and no later pass examines it.
    fn is_over(&self, alert: &Alert) -> bool {
        let has_failed = self.run.status == Status::Failed;
        let is_past = |report: &DropReport| report.sealed || !has_failed && was_compared(report);
        match alert.drop_id {
            Some(drop) if self.memory.gone.contains(&drop) => true,
            Some(drop) => {
                let of_drop = |report: &&DropReport| report.drop_id == drop;
                let mut reports = self.run.drops.iter().filter(of_drop).peekable();
                // A deep pass reports a sealed drop only if it lacks rows.
                let is_counted = self.run.deep && !has_failed && !self.run.partial;
                reports.peek().is_none() && is_counted || reports.any(is_past)
            }
            None if has_failed || self.run.partial => false,
            None => {
                alert.kind != About::Stalled.word()
                    || self.since(alert.last_seen_at) >= self.policy.patience * 2
            }
        }
    }
}

/// Whether a silence may apply to the alert. Critical alerts are always mailed, because the
/// operator who silenced the drop did not know of them.
fn may_be_silent(alert: &Alert) -> bool {
    !About::of_word(&alert.kind).is_some_and(About::is_critical)
}

/// Whether the drop was compared: its repairs were not held back by the limit, and it did not fail
/// as a whole.
fn was_compared(report: &DropReport) -> bool {
    !report
        .findings
        .iter()
        .any(|f| f.result == Outcome::Planned || f.result == Outcome::Failed && f.is_whole())
}

/// Returns the message ID that every mail about the same drift refers to. No mail has this ID
/// itself, but mail programs group mails that refer to the same ID.
fn thread(fingerprint: &str) -> String {
    format!("drift.{}", fingerprint.get(..40).unwrap_or(fingerprint))
}
