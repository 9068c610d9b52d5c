//! Decides what to mail: new or changed problems, those that last (after 4 hours, doubling), and
//! those that are over.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;

use super::over::{is_left_out, is_over, is_owed, is_unproven};
use super::{ADMISSION, Alert, AlertMemory, AlertState, Cases, Problem, problems};
use crate::clock::elapsed;
use crate::report::{AlertKind, Finding, Kind, Run, Severity, Status};

/// Up to this number of cases, each further one is mailed. Beyond it, a problem that is not
/// critical is mailed again when its cases have doubled.
const FEW: u64 = 10;

/// Limits on how often mails are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailPolicy {
    /// Time after which a persistent problem is mailed again, the first time.
    pub cooldown: TimeDelta,
    /// How long an outage must last before it is mailed. Shorter ones come from restarts.
    pub patience: TimeDelta,
}

/// The reason for a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeReason {
    New,
    /// There are more or other cases than in the last mail.
    Changed,
    /// The problem lasts.
    Repeat,
}

/// A problem to mail now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub problem: Problem,
    pub reason: NoticeReason,
    /// When the alert began to fire, or when the outage began that has changed it since.
    pub since: DateTime<Utc>,
}

/// The alerts and notices that follow from a pass or from another observation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The alerts to store.
    pub alerts: Vec<Alert>,
    pub problems: Vec<Notice>,
    /// Alerts that were mailed before and are over.
    pub resolved: Vec<Alert>,
}

/// Decides what to mail about a pass. A dry run is not mailed, because its result goes to the
/// operator who requested it.
pub fn judge(run: &Run, memory: &AlertMemory, policy: MailPolicy, now: DateTime<Utc>) -> Verdict {
    let mut verdict = Verdict::default();
    if run.dry_run || run.status == Status::Running {
        return verdict;
    }
    let seen = problems(run, &memory.broken);
    let is_seen = |alert: &&Alert| seen.iter().any(|problem| problem.name == alert.name);
    let mut not_seen: Vec<&Alert> = memory.alerts.values().filter(|it| !is_seen(it)).collect();
    not_seen.sort_by(|a, b| (a.drop_id, &a.name).cmp(&(b.drop_id, &b.name)));
    for alert in not_seen {
        if !is_owed(alert, memory) && is_over(alert, run, memory, policy, now) {
            let mut ended = alert.clone();
            let is_left_out = alert.drop_id.is_some_and(|drop| is_left_out(drop, run));
            if is_left_out || is_unproven(alert, run) {
                ended.summary += " (not repaired, no longer compared)";
            }
            end(&ended, now, &mut verdict);
        }
    }
    for problem in seen {
        observe(problem, memory, policy, now, &mut verdict);
    }
    verdict
}

/// Records that a problem exists, and decides whether to mail it.
pub(crate) fn observe(
    problem: Problem,
    memory: &AlertMemory,
    policy: MailPolicy,
    now: DateTime<Utc>,
    verdict: &mut Verdict,
) {
    let known = memory.alerts.get(&problem.name);
    let mut alert = observed(&problem, known, policy, now);
    forget_repaired(&mut alert, &problem);
    let is_closure = problem.kind == AlertKind::AdmissionClosed;
    let follows_outage = is_closure && known.is_some_and(has_mailed_outage);
    if let Some(known) = known {
        take_over(&mut alert, known, &problem);
    }
    if let Some(reason) = reason(&alert, &problem, memory, policy, now) {
        alert.last_mailed_at = Some(now);
        alert.mails += 1;
        if reason == NoticeReason::Changed {
            // The operator has acknowledged other cases.
            alert.acknowledged_at = None;
            alert.acknowledged_by = None;
        }
        remember_cases(&mut alert, &problem);
        verdict.problems.push(Notice {
            problem,
            reason,
            since: alert.first_seen_at,
        });
    } else {
        if problem.size < alert.size || !alert.was_mailed() {
            // If some cases are repaired, or if nothing was mailed, compare the next pass with this
            // one instead of with the last mail.
            remember_cases(&mut alert, &problem);
        }
        if follows_outage {
            // The last mail remains one about an outage.
            alert.cases = None;
        }
    }
    verdict.alerts.push(alert);
}

fn remember_cases(alert: &mut Alert, problem: &Problem) {
    alert.size = problem.size;
    alert.content = problem.content;
    alert.cases = problem.cases.as_ref().map(Cases::to_text);
}

/// Compares an outage with the mail about another kind of outage under the same name. An outage of
/// Redis that begins while coupons are closed is news: the size 0 stays until it is mailed, or until
/// the same coupons are closed as before. Coupons that stay closed after an outage belong to it, but
/// if it was not mailed, they are news themselves.
fn take_over(alert: &mut Alert, known: &Alert, problem: &Problem) {
    if known.state != AlertState::Firing {
        return;
    }
    let is_other_kind = known.kind != problem.kind.word();
    if problem.kind == AlertKind::AdmissionClosed {
        let was_mailed = is_other_kind && known.size > 0;
        if was_mailed || problem.content == alert.content {
            remember_cases(alert, problem);
        }
    } else if is_other_kind && known.kind == AlertKind::AdmissionClosed.word() {
        alert.size = 0;
    }
}

/// Whether the last mail about this firing alert was about an outage. An outage has no cases, and
/// closed coupons that follow it are remembered without theirs.
fn has_mailed_outage(known: &Alert) -> bool {
    known.state == AlertState::Firing && known.was_mailed() && known.cases.is_none()
}

/// Forgets the cases that are no longer seen. Otherwise, fewer cases with new ones among them would
/// look like a part of those that were mailed and acknowledged.
fn forget_repaired(alert: &mut Alert, problem: &Problem) {
    let mailed = alert.cases.as_deref().and_then(Cases::from_text);
    if let (Some(mailed), Some(seen)) = (mailed, &problem.cases) {
        let left = mailed.and(seen);
        alert.size = left.number();
        alert.content = left.content();
        alert.cases = Some(left.to_text());
    }
}

/// Returns an alert as a process without recipients and webhooks stores it: without a mail of its
/// own, so that another process may still mail it. The mails of other processes stay, and their
/// end, which has a mail too, is left to them, unless none of them may run anymore, or the drop
/// `is_sealed`: normal passes of other processes do not examine it again.
pub(crate) fn unread(
    alert: &Alert,
    is_sealed: bool,
    memory: &AlertMemory,
    now: DateTime<Utc>,
) -> Alert {
    let known = memory.alerts.get(&alert.name);
    let mailed = known.filter(|it: &&Alert| it.state == AlertState::Firing && it.mails > 0);
    match (alert.state, mailed) {
        (AlertState::Firing, Some(mailed)) => Alert {
            last_seen_at: alert.last_seen_at,
            ..mailed.clone()
        },
        (AlertState::Resolved, Some(mailed))
            if !is_sealed
                && mailed.was_mailed()
                && elapsed(mailed.last_seen_at, now) < LEFT_TO_OTHERS =>
        {
            mailed.clone()
        }
        (AlertState::Firing | AlertState::Resolved, _) => Alert {
            mails: 0,
            ..alert.clone()
        },
    }
}

/// How long after an alert was last seen a process without recipients leaves its end to others.
/// Deep passes, which alone see some problems, are a day apart.
const LEFT_TO_OTHERS: TimeDelta = TimeDelta::days(2);

/// Ends a firing alert.
pub(crate) fn end(alert: &Alert, now: DateTime<Utc>, verdict: &mut Verdict) {
    if alert.state != AlertState::Firing {
        return;
    }
    let mut alert = Alert {
        state: AlertState::Resolved,
        resolved_at: Some(now),
        ..alert.clone()
    };
    if alert.was_mailed() {
        alert.last_mailed_at = Some(now);
        alert.mails += 1;
        verdict.resolved.push(alert.clone());
    }
    verdict.alerts.push(alert);
}

/// The alert of a problem that begins.
pub(crate) fn begun(problem: &Problem, now: DateTime<Utc>) -> Alert {
    Alert {
        name: problem.name.clone(),
        kind: problem.kind.word().to_owned(),
        coupon_id: problem.coupon_id,
        drop_id: problem.drop_id,
        summary: problem.summary.clone(),
        first_seen_at: now,
        last_seen_at: now,
        ..Alert::default()
    }
}

/// The alert of a problem, before it is mailed.
fn observed(
    problem: &Problem,
    known: Option<&Alert>,
    policy: MailPolicy,
    now: DateTime<Utc>,
) -> Alert {
    let seen = begun(problem, now);
    match known {
        None => seen,
        Some(known) if known.state == AlertState::Firing => Alert {
            // Avoid a time in the future. Otherwise, the alert would look as if it had not been
            // mailed since it began.
            first_seen_at: known.first_seen_at.min(now),
            kind: seen.kind,
            summary: seen.summary,
            last_seen_at: now,
            ..known.clone()
        },
        Some(known) => {
            let ended = known.resolved_at.map(|at| elapsed(at, now));
            let ended_within = |limit| ended.is_some_and(|ago| ago < limit);
            // If it ended recently, its mails still count. If it was too short to be mailed, it
            // goes on as if it had not ended.
            let counts = ended_within(policy.cooldown);
            let goes_on = !known.was_mailed() && ended_within(policy.patience);
            Alert {
                last_mailed_at: known.last_mailed_at.filter(|_| counts),
                mails: if counts { known.mails } else { 0 },
                first_seen_at: if goes_on { known.first_seen_at } else { now },
                ..seen
            }
        }
    }
}

fn reason(
    alert: &Alert,
    problem: &Problem,
    memory: &AlertMemory,
    policy: MailPolicy,
    now: DateTime<Utc>,
) -> Option<NoticeReason> {
    let since_mail = alert.last_mailed_at.map(|at| elapsed(at, now));
    let is_next_outage = has_mailed_outage(alert) && alert.size == 0;
    let least = if is_next_outage {
        OUTAGES_APART.min(policy.cooldown)
    } else {
        TimeDelta::zero()
    };
    // The last mail of an outage that is over says that nothing is to be done: the first mail about
    // the next outage must not wait for longer than this.
    let begins = problem.kind.is_outage() && !alert.was_mailed();
    let most = if begins {
        OUTAGE_PAUSE
    } else {
        policy.cooldown
    };
    if since_mail.is_some_and(|since| since < pause(alert.mails, policy).min(most).max(least)) {
        return None;
    }
    let Some(mailed_at) = alert.last_mailed_at.filter(|_| alert.was_mailed()) else {
        return is_due(alert, problem, memory, policy, now).then_some(NoticeReason::New);
    };
    let is_critical = problem.kind.facts().severity == Severity::Critical;
    let has_grown = is_critical || problem.size <= FEW || problem.size >= 2 * alert.size;
    if problem.content != alert.content && problem.size >= alert.size && has_grown {
        return Some(NoticeReason::Changed);
    }
    // With a cooldown of 4 hours, mail again 4, 8, 16 hours and so on after it began.
    let pause = policy.cooldown.max(mailed_at - alert.first_seen_at);
    // The clock of the process that mailed it may be ahead of this one.
    let is_ahead = mailed_at > now && mailed_at - now < policy.cooldown;
    let is_taken = alert.acknowledged_at.is_some();
    (!is_taken && !is_ahead && elapsed(mailed_at, now) >= pause).then_some(NoticeReason::Repeat)
}

/// Whether to mail a problem that was not mailed yet: an outage once it lasts, because stores
/// restart; closed coupons if they stay closed and no other alert gives the reason; every other
/// problem at once.
fn is_due(
    alert: &Alert,
    problem: &Problem,
    memory: &AlertMemory,
    policy: MailPolicy,
    now: DateTime<Utc>,
) -> bool {
    let lasts = elapsed(alert.first_seen_at, now);
    if problem.kind.is_outage() {
        return lasts >= policy.patience;
    }
    if problem.kind == AlertKind::Left(Kind::RedisLost) && problem.drop_id.is_none() {
        let admission = memory.alerts.get(ADMISSION);
        let is_reported = admission.is_some_and(|it| it.state == AlertState::Firing)
            || are_held_back(&problem.findings, memory);
        return !is_reported && lasts >= policy.patience * 2;
    }
    true
}

/// Whether the alerts about repairs that wait for a confirmation explain why each of these coupons
/// is closed.
pub(crate) fn are_held_back(closed: &[Finding], memory: &AlertMemory) -> bool {
    let held: HashSet<CouponId> = firing(memory, AlertKind::Braked)
        .filter_map(|alert: &Alert| alert.coupon_id)
        .collect();
    !closed.is_empty()
        && closed.iter().all(|found: &Finding| {
            let coupon = found.coupon_id;
            coupon.is_some_and(|coupon| held.contains(&coupon))
        })
}

/// Returns the firing alerts of a kind.
pub(crate) fn firing(memory: &AlertMemory, kind: AlertKind) -> impl Iterator<Item = &Alert> {
    memory
        .alerts
        .values()
        .filter(move |it: &&Alert| it.state == AlertState::Firing && it.kind == kind.word())
}

/// The longest pause before the first mail about an outage, or about data that Redis has lost.
pub(crate) const OUTAGE_PAUSE: TimeDelta = TimeDelta::minutes(2);

/// The shortest time from the mail about an outage of Redis to that about the next one, or about
/// what it has closed, while coupons have stayed closed in between. Otherwise, a Redis that answers
/// now and then would cause a mail each time.
const OUTAGES_APART: TimeDelta = TimeDelta::hours(1);

/// The pause after this number of mails. It prevents a problem that comes and goes, or changes with
/// every pass, from causing a mail each time: three are sent at once, then the pause doubles from a
/// minute up to the cooldown.
pub fn pause(mails: u32, policy: MailPolicy) -> TimeDelta {
    match mails {
        0..=2 => TimeDelta::zero(),
        mails => TimeDelta::minutes(1 << (mails - 3).min(16)).min(policy.cooldown),
    }
}
