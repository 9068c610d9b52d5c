//! What the people on duty are told: a pure mapping from a run, and from what they were told before, to what is said now.
//!
//! An alert stands for one drift that is *left*: everything of one kind that is left in one drop, say. Its fingerprint says
//! what the drift is and stays the same while people are added to it or mended, so that one person's repair never reads as
//! the end of the whole, and so that one acknowledgement covers it. Who is concerned is in the content hash: when that
//! changes, the alert is told again.
//!
//! The kept content hash is that of the last *mail*, not of the last pass. A change that came while mails were silenced is
//! told when they are not any more.

mod observe;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use crate::report::{Kind, Run, Status};

pub(super) use observe::is_repair;
pub use observe::{Observation, observe};

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// The pass itself failed.
    RunFailed,
    /// Something does not move or can't be reached.
    Stalled,
    /// So much was to be repaired that a person must confirm.
    Braked,
    /// Promises that could not be kept.
    BrokenPromise,
    /// Drift that this pass could not mend.
    Left(Kind),
    /// A drop closed below its quantity and nobody waits: told once, nothing is to be done.
    ClosedBelowQuantity,
}

impl About {
    /// The word in the table, in mails, and the heading of its section in docs/OPERATIONS.md.
    pub fn word(self) -> &'static str {
        match self {
            Self::RunFailed => "run_failed",
            Self::Stalled => "stalled",
            Self::Braked => "braked",
            Self::BrokenPromise => "broken_promise",
            Self::Left(kind) => kind.as_str(),
            Self::ClosedBelowQuantity => "unfilled",
        }
    }
}

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The drift was there when last looked at.
    Firing,
    /// It is gone.
    Resolved,
    /// Information that is told once.
    Told,
}

impl State {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
            Self::Told => "told",
        }
    }
}

/// An alert as it is kept, without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What the drift is: hexadecimal SHA-256.
    pub fingerprint: String,
    /// [`About::word`].
    pub kind: String,
    /// The coupon, where it concerns one.
    pub coupon_id: Option<CouponId>,
    /// The drop, where it concerns one.
    pub drop_id: Option<DropId>,
    /// Where it stands.
    pub state: State,
    /// One line for a person.
    pub summary: String,
    /// What the last mail said, hashed.
    pub content_hash: String,
    /// Since when it fires, this time.
    pub first_seen_at: DateTime<Utc>,
    /// When a pass last saw it.
    pub last_seen_at: DateTime<Utc>,
    /// When it was last mailed.
    pub last_mailed_at: Option<DateTime<Utc>>,
    /// Mails since it was last quiet for a whole cooldown.
    pub mails: u32,
    /// What its mails refer to, so that they form one thread.
    pub thread: String,
    /// When it was seen to be gone.
    pub resolved_at: Option<DateTime<Utc>>,
    /// When a person took it on.
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Who.
    pub acknowledged_by: Option<String>,
}

impl Alert {
    /// Whether a mail has told this time's drift.
    fn was_mailed(&self) -> bool {
        self.last_mailed_at.is_some_and(|at| at >= self.first_seen_at)
    }

    /// Resolved while mails were silenced: people still believe that it fires.
    fn owes_notice(&self) -> bool {
        self.state == State::Resolved && self.was_mailed() && self.last_mailed_at < self.resolved_at
    }
}

/// A promise that could not be kept and was not mended since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenPromise {
    /// The coupon.
    pub coupon_id: CouponId,
    /// The drop.
    pub drop_id: DropId,
    /// Who was promised, in full.
    pub user_id: String,
    /// Which slot, where it is known.
    pub slot: Option<i64>,
    /// Why it could not be kept.
    pub reason: String,
}

/// What was told before, and what must not be told now.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Every alert that fires, that owes a notice, or that this pass sees, by fingerprint.
    pub alerts: HashMap<String, Alert>,
    /// Until when a drop's mails are silenced, also where that is over.
    pub silenced_until: HashMap<DropId, DateTime<Utc>>,
    /// Broken promises of the drops this pass looked at.
    pub broken: Vec<BrokenPromise>,
}

/// How often a person is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What is still there is told again after this.
    pub cooldown: TimeDelta,
}

/// Why something is told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It was not there before.
    New,
    /// It is not what the last mail said.
    Changed,
    /// It is still there.
    Repeat,
}

/// Something that is told now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What.
    pub observation: Observation,
    /// Why now.
    pub say: Say,
    /// Since when it fires.
    pub since: DateTime<Utc>,
}

/// What follows from a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Alerts as they are to be kept.
    pub alerts: Vec<Alert>,
    /// What a person must look at.
    pub problems: Vec<Told>,
    /// What a person should know, once.
    pub information: Vec<Told>,
    /// What was told before and is over.
    pub resolved: Vec<Alert>,
    /// Drops whose repairs are told; `None` for those of no drop.
    pub repaired: Vec<Option<DropId>>,
}

impl Verdict {
    /// Whether there is anything to mail.
    pub fn says_something(&self) -> bool {
        !(self.problems.is_empty()
            && self.information.is_empty()
            && self.resolved.is_empty()
            && self.repaired.is_empty())
    }
}

/// Decides what a pass is to be told as. A dry run tells nothing: whoever asked for it has its answer.
pub fn judge(run: &Run, memory: &Memory, policy: Policy, now: DateTime<Utc>) -> Verdict {
    let mut verdict = Verdict::default();
    if run.dry_run || run.status == Status::Running {
        return verdict;
    }
    let judge = Judge { run, memory, policy, now };
    let observations = observe(run, &memory.broken);
    let seen: HashSet<String> = observations.iter().map(|o| o.fingerprint.clone()).collect();
    for observation in observations {
        judge.seen(observation, &mut verdict);
    }
    let mut gone: Vec<&Alert> = memory.alerts.values().filter(|alert| !seen.contains(&alert.fingerprint)).collect();
    gone.sort_by(|a, b| (a.drop_id, &a.kind, &a.fingerprint).cmp(&(b.drop_id, &b.kind, &b.fingerprint)));
    for alert in gone {
        judge.gone(alert, &mut verdict);
    }
    verdict.repaired = observe::repaired(run, &memory.broken);
    verdict.repaired.retain(|drop| !judge.is_silenced(*drop));
    verdict
}

struct Judge<'a> {
    run: &'a Run,
    memory: &'a Memory,
    policy: Policy,
    now: DateTime<Utc>,
}

impl Judge<'_> {
    fn silence(&self, drop: Option<DropId>) -> Option<DateTime<Utc>> {
        self.memory.silenced_until.get(&drop?).copied()
    }

    fn is_silenced(&self, drop: Option<DropId>) -> bool {
        self.silence(drop).is_some_and(|until| until > self.now)
    }

    /// What flaps or changes with every pass must not become a mail with every pass: the first three are sent at once, then
    /// the pause doubles from a minute up to the cooldown.
    fn may_mail(&self, alert: &Alert) -> bool {
        let pause = match alert.mails {
            0..=2 => TimeDelta::zero(),
            mails => TimeDelta::minutes(1 << (mails - 3).min(16)).min(self.policy.cooldown),
        };
        !self.is_silenced(alert.drop_id) && alert.last_mailed_at.is_none_or(|at| self.now - at >= pause)
    }

    /// The alert as this pass sees it, before anything is said.
    fn alert(&self, seen: &Observation) -> Alert {
        let known = self.memory.alerts.get(&seen.fingerprint);
        if let Some(known) = known.filter(|known| known.state != State::Resolved) {
            return Alert { last_seen_at: self.now, summary: seen.summary.clone(), ..known.clone() };
        }
        // It comes for the first time, or again. One that has just been resolved goes on counting its mails.
        let recent = known.filter(|known| known.resolved_at.is_some_and(|at| self.now - at < self.policy.cooldown));
        let thread = known.map_or_else(|| thread(&seen.fingerprint), |known| known.thread.clone());
        Alert {
            fingerprint: seen.fingerprint.clone(),
            kind: seen.about.word().to_owned(),
            coupon_id: seen.coupon_id,
            drop_id: seen.drop_id,
            state: if seen.about == About::ClosedBelowQuantity { State::Told } else { State::Firing },
            summary: seen.summary.clone(),
            content_hash: seen.content_hash.clone(),
            first_seen_at: self.now,
            last_seen_at: self.now,
            last_mailed_at: recent.and_then(|known| known.last_mailed_at),
            mails: recent.map_or(0, |known| known.mails),
            thread,
            resolved_at: None,
            acknowledged_at: None,
            acknowledged_by: None,
        }
    }

    fn say(&self, alert: &Alert, seen: &Observation) -> Option<Say> {
        if !self.may_mail(alert) {
            return None;
        }
        if !alert.was_mailed() {
            return Some(Say::New);
        }
        if alert.state == State::Told {
            return None;
        }
        if alert.content_hash != seen.content_hash {
            return Some(Say::Changed);
        }
        let silence_ended = self.silence(alert.drop_id).is_some_and(|until| alert.last_mailed_at < Some(until));
        let due = alert.last_mailed_at.is_some_and(|at| self.now - at >= self.policy.cooldown);
        (alert.acknowledged_at.is_none() && (due || silence_ended)).then_some(Say::Repeat)
    }

    fn seen(&self, seen: Observation, verdict: &mut Verdict) {
        let mut alert = self.alert(&seen);
        let say = self.say(&alert, &seen);
        if let Some(say) = say {
            alert.last_mailed_at = Some(self.now);
            alert.mails += 1;
            if say == Say::Changed {
                // Whoever took it on took on something else.
                alert.content_hash.clone_from(&seen.content_hash);
                alert.acknowledged_at = None;
                alert.acknowledged_by = None;
            }
            let since = alert.first_seen_at;
            let list = if alert.state == State::Told { &mut verdict.information } else { &mut verdict.problems };
            list.push(Told { observation: seen, say, since });
        }
        verdict.alerts.push(alert);
    }

    fn gone(&self, known: &Alert, verdict: &mut Verdict) {
        let mut alert = known.clone();
        match known.state {
            State::Firing if self.looked_at(known) => {
                alert.state = State::Resolved;
                alert.resolved_at = Some(self.now);
            }
            State::Resolved if known.owes_notice() => {}
            _ => return,
        }
        if alert.was_mailed() && !self.is_silenced(alert.drop_id) {
            alert.last_mailed_at = Some(self.now);
            alert.mails += 1;
            verdict.resolved.push(alert.clone());
        }
        if alert != *known {
            verdict.alerts.push(alert);
        }
    }

    /// Whether this pass would have seen the drift, were it still there. One that failed may not have come so far.
    fn looked_at(&self, alert: &Alert) -> bool {
        let is_general = alert.kind == About::RunFailed.word() || alert.kind == About::Stalled.word();
        self.run.status != Status::Failed
            && match alert.drop_id {
                Some(drop) => self.run.drops.iter().any(|report| report.drop_id == drop),
                None => is_general || !self.run.partial,
            }
    }
}

/// The id that every mail of one drift refers to. No mail has it; that is fine, clients join what refers to the same.
fn thread(fingerprint: &str) -> String {
    format!("drift.{}", fingerprint.get(..40).unwrap_or(fingerprint))
}
