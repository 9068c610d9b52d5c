//! Alert deduplication: a pure function from a run and the previous alerts to the mails to send
//! now.
//!
//! An alert stands for one drift that was *not repaired*, for example everything of one kind in one
//! drop. Its fingerprint identifies the drift. It stays the same while users join the drift or are
//! repaired, so that one user's repair never looks like the end of the whole, and one
//! acknowledgement covers it. The content hash covers the users: when it changes, the alert is
//! mailed again.
//!
//! The stored content hash is that of the last *mail*, not of the last pass. A change while mails
//! were silenced is mailed when the silence ends.

mod judge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use sha2::{Digest as _, Sha256};

use crate::report::{
    ActionKind, FailureCause, Finding, FindingCase, Kind, Outcome, Run, Severity, Status,
};
use crate::wording;

use firstcome_shared::mysql::alerts::REPAIRED;
pub use firstcome_shared::mysql::alerts::{Alert, AlertState, BrokenPromise};

pub(super) use judge::repair_fingerprints;
pub use judge::{AlertVerdict, EarlierRepairs, MailPolicy, Notice, NoticeReason, judge};

/// The subject of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// The pass itself failed.
    RunFailed,
    /// A component makes no progress, or is unavailable.
    Stalled,
    /// More repairs than the repair limit allows.
    Braked,
    /// Promises that could not be kept.
    BrokenPromise,
    /// Drift that this pass could not repair.
    Left(Kind),
    /// A drop closed below its quantity and no user waits. Mailed once, because no action is
    /// needed.
    ClosedBelowQuantity,
}

impl About {
    /// Returns the word that is used in the table, in mails, and as the heading of a section in
    /// docs/OPERATIONS.md.
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

    /// The inverse of [`Self::word`] for firing alerts, so `unfilled` is always
    /// `Left(Kind::Unfilled)`. `None` if a newer release wrote the word.
    pub fn of_word(word: &str) -> Option<Self> {
        let whole = [
            Self::RunFailed,
            Self::Stalled,
            Self::Braked,
            Self::BrokenPromise,
        ];
        let whole = whole.into_iter().find(|about| about.word() == word);
        whole.or_else(|| word.parse().ok().map(Self::Left))
    }

    /// Whether users lack what they were promised, or no user can claim.
    pub fn is_critical(self) -> bool {
        match self {
            Self::RunFailed => true,
            Self::BrokenPromise => Kind::BrokenPromise.facts().severity == Severity::Critical,
            Self::Left(kind) => kind.facts().severity == Severity::Critical,
            Self::Stalled | Self::Braked | Self::ClosedBelowQuantity => false,
        }
    }
}

/// The state that earlier passes left in the tables.
#[derive(Debug, Clone, Default)]
pub struct AlertMemory {
    /// Alerts by fingerprint: those that fire, that need a notice, or that this pass observes.
    pub alerts: HashMap<String, Alert>,
    /// When the silence of a drop's mails ends or ended.
    pub silenced_until: HashMap<DropId, DateTime<Utc>>,
    /// Broken promises of the drops that this pass examined.
    pub broken: Vec<BrokenPromise>,
    /// Drops of these alerts that are deleted, or whose coupon is deleted.
    pub gone: HashSet<DropId>,
}

/// One problem, or one piece of information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub about: About,
    /// The coupon concerned, if any.
    pub coupon_id: Option<CouponId>,
    /// The drop concerned, if any.
    pub drop_id: Option<DropId>,
    /// The identity of the drift: hexadecimal SHA-256.
    pub fingerprint: String,
    /// Hexadecimal SHA-256 of the mail's content, excluding values that change over time (ages,
    /// lags).
    pub content_hash: String,
    /// One line for an operator, without full user IDs.
    pub summary: String,
    /// The findings that the observation summarizes.
    pub findings: Vec<Finding>,
}

type Key = (About, Option<CouponId>, Option<DropId>, String);

/// Returns everything that was not repaired, most urgent first.
pub fn observe(run: &Run, broken: &[BrokenPromise]) -> Vec<Observation> {
    let broken_people = people(broken);
    let mut groups: BTreeMap<Key, Vec<Finding>> = BTreeMap::new();
    // Do not mail a pass that was stopped with its process, because the next pass does all of its
    // work.
    if run.status == Status::Failed && !run.stopped {
        // Include the cause in the key. If two processes have each lost a different store, there
        // are two alerts, each mailed once, instead of one that changes back and forth.
        let cause = run.cause().map_or("", FailureCause::as_str).to_owned();
        groups.insert((About::RunFailed, None, None, cause), vec![failed_run(run)]);
    }
    for (coupon, drop, finding) in placed(run) {
        if is_broken(finding, drop, &broken_people) {
            continue;
        }
        if let Some(about) = about(finding) {
            let reason = match about {
                About::Stalled => finding.case.identity().to_owned(),
                _ => String::new(),
            };
            groups
                .entry((about, coupon, drop, reason))
                .or_default()
                .push(finding.clone());
        }
    }
    for promise in broken
        .iter()
        .filter(|promise| run.drops.iter().any(|d| d.drop_id == promise.drop_id))
    {
        let key = (
            About::BrokenPromise,
            Some(promise.coupon_id),
            Some(promise.drop_id),
            String::new(),
        );
        groups.entry(key).or_default().push(as_finding(promise));
    }
    groups
        .into_iter()
        .map(|(key, findings)| observation(key, findings))
        .collect()
}

/// Returns the number of repairs by drop (`None` for no drop). Opening the admission gate is not a
/// repair: [`crate::Notifier::admission`] mails a gate that stays closed.
pub(super) fn repaired(
    run: &Run,
    broken: &[BrokenPromise],
) -> BTreeMap<(Option<CouponId>, Option<DropId>), u32> {
    let broken = people(broken);
    let mut places = BTreeMap::new();
    for (coupon, drop, finding) in placed(run) {
        if is_repair(finding)
            && finding.action != ActionKind::Open
            && !is_broken(finding, drop, &broken)
        {
            let repairs: &mut u32 = places.entry((coupon, drop)).or_default();
            let more = u32::try_from(finding.case.number()).unwrap_or(u32::MAX);
            *repairs = repairs.saturating_add(more);
        }
    }
    places
}

/// Returns the fingerprint that all repairs in one drop share.
pub(super) fn repair_fingerprint(drop: Option<DropId>) -> String {
    hash([format!("repaired/{:?}", drop.map(|d| d.0))])
}

/// Whether the finding was repaired and no part of it needs an operator.
pub(crate) fn is_repair(finding: &Finding) -> bool {
    finding.result == Outcome::Applied && !finding.needs_person
}

/// Returns every finding with its coupon and drop. A finding outside the drops' reports belongs to
/// no drop, even if it names one: no pass would report on that drop, so the alert would never end.
fn placed(run: &Run) -> impl Iterator<Item = (Option<CouponId>, Option<DropId>, &Finding)> {
    // A failed pass also has its error as a finding.
    let is_error = |finding: &Finding| matches!(finding.case, FindingCase::RunFailed(_));
    let loose = run
        .findings
        .iter()
        .filter(move |finding| !is_error(finding))
        .map(|finding| (None, None, finding));
    let of_drops = run.drops.iter().flat_map(|drop| {
        drop.findings
            .iter()
            .map(|finding| (Some(drop.coupon_id), Some(drop.drop_id), finding))
    });
    loose.chain(of_drops)
}

fn about(finding: &Finding) -> Option<About> {
    match (finding.kind, finding.result) {
        (Kind::Stalled, Outcome::Applied) if !finding.needs_person => None,
        (Kind::Stalled, _) => Some(About::Stalled),
        // This was not a dry run, so the repair limit held it back. One confirmation releases all
        // repairs of a drop.
        (_, Outcome::Planned) => Some(About::Braked),
        (Kind::BrokenPromise, _) if finding.needs_person => Some(About::BrokenPromise),
        (kind, _) if finding.needs_person => Some(About::Left(kind)),
        (kind, Outcome::Failed) => Some(About::Left(kind)),
        (Kind::Unfilled, Outcome::Skipped) if finding.action == ActionKind::Report => {
            Some(About::ClosedBelowQuantity)
        }
        _ => None,
    }
}

fn observation(key: Key, mut findings: Vec<Finding>) -> Observation {
    let (about, coupon_id, drop_id, reason) = key;
    findings.sort_by(|a, b| {
        (a.kind, a.slot, &a.user_id, &a.detail).cmp(&(b.kind, b.slot, &b.user_id, &b.detail))
    });
    let class = match about {
        About::Left(_) => "left",
        About::ClosedBelowQuantity => "information",
        _ => "",
    };
    let place = (coupon_id.map(|c| c.0), drop_id.map(|d| d.0));
    Observation {
        fingerprint: hash([format!("{class}/{}/{place:?}/{reason}", about.word())]),
        content_hash: content(about, &findings),
        summary: summary(about, drop_id, &findings),
        about,
        coupon_id,
        drop_id,
        findings,
    }
}

/// Summarizes a problem in one line. Details contain no user IDs.
fn summary(about: About, drop: Option<DropId>, findings: &[Finding]) -> String {
    let n = number(findings);
    let seen = || {
        let Some(first) = findings.first() else {
            return String::new();
        };
        // The summary of a problem in a drop is always shown together with that drop.
        let place = place(first)
            .filter(|_| drop.is_none())
            .map(|place| format!("{place}: "))
            .unwrap_or_default();
        wording::line(&format!("{place}{}", first.detail), wording::LONGEST)
    };
    match about {
        About::RunFailed => {
            let cause = findings.first().and_then(Finding::cause);
            format!("a pass failed: {}", wording::plainly(cause, &seen()))
        }
        About::Braked => format!(
            "{} for a confirmation",
            wording::count(n, "repair waits", "repairs wait")
        ),
        About::BrokenPromise => wording::count(n, "broken promise", "broken promises"),
        About::Left(kind) => match findings {
            // A single finding without a user is already the best summary.
            [one] if one.is_whole() => seen(),
            _ => wording::things(kind, n).replacen(' ', " unrepaired ", 1),
        },
        About::Stalled | About::ClosedBelowQuantity => seen(),
    }
}

/// Names the coupon or drop of a finding that is in no drop's report. Returns `None` if it concerns
/// neither.
pub(crate) fn place(finding: &Finding) -> Option<String> {
    match (finding.drop_id, finding.coupon_id) {
        (Some(drop), Some(coupon)) => Some(format!("drop {drop} of coupon {coupon}")),
        (Some(drop), None) => Some(format!("drop {drop}")),
        (None, Some(coupon)) => Some(format!("coupon {coupon}")),
        (None, None) => None,
    }
}

/// Returns the number of cases that these findings represent.
pub(crate) fn number<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> usize {
    let number = findings.into_iter().map(|finding| finding.case.number());
    usize::try_from(number.sum::<u64>()).unwrap_or(usize::MAX)
}

/// The content whose change requires a new mail: structured data, never a string. Strings contain
/// ages and lags, and two processes word the same problem differently.
fn content(about: About, findings: &[Finding]) -> String {
    if about == About::RunFailed {
        // The cause is in the fingerprint.
        return hash(None);
    }
    if about == About::Braked {
        // The number of held-back repairs changes while users claim, so send a mail only when it
        // has doubled.
        let mut kinds: HashMap<Kind, u64> = HashMap::new();
        for finding in findings {
            *kinds.entry(finding.kind).or_default() += finding.case.number();
        }
        let mut kinds: Vec<_> = kinds
            .into_iter()
            .map(|(kind, n)| format!("{} {}", kind.as_str(), n.max(1).ilog2()))
            .collect();
        kinds.sort();
        return hash(kinds);
    }
    hash(findings.iter().map(|f| {
        let what = if f.is_whole() {
            let place = (
                f.coupon_id.map(|coupon| coupon.0),
                f.drop_id.map(|drop| drop.0),
                f.dead_letter,
            );
            format!("{} {place:?} {}", f.action.as_str(), f.case.identity())
        } else {
            String::new()
        };
        format!(
            "{} {:?} {:?} {} {what}",
            f.kind.as_str(),
            f.slot,
            f.user_id,
            f.result.as_str()
        )
    }))
}

pub(super) fn hash(lines: impl IntoIterator<Item = String>) -> String {
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line.as_bytes());
        hash.update(b"\n");
    }
    format!("{:x}", hash.finalize())
}

fn failed_run(run: &Run) -> Finding {
    let why = run
        .error
        .clone()
        .unwrap_or_else(|| "the log has the reason".to_owned());
    Finding {
        result: Outcome::Failed,
        case: FindingCase::RunFailed(run.cause().unwrap_or(FailureCause::Other)),
        ..Finding::report(Kind::Stalled, why)
    }
}

fn as_finding(promise: &BrokenPromise) -> Finding {
    Finding {
        coupon_id: Some(promise.coupon_id),
        drop_id: Some(promise.drop_id),
        slot: promise.slot,
        user_id: Some(promise.user_id.clone()),
        ..Finding::report(Kind::BrokenPromise, promise.reason.clone())
    }
}

type People<'a> = HashSet<(DropId, &'a str)>;

fn people(broken: &[BrokenPromise]) -> People<'_> {
    broken
        .iter()
        .map(|promise| (promise.drop_id, promise.user_id.as_str()))
        .collect()
}

/// Whether the user of the finding is in the list of broken promises, which is mailed as a separate
/// problem.
fn is_broken(finding: &Finding, drop: Option<DropId>, broken: &People<'_>) -> bool {
    drop.zip(finding.user_id.as_deref())
        .is_some_and(|person| broken.contains(&person))
}
