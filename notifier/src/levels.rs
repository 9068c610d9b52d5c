//! Levels: what is wrong as looks see it. [`fold`] replaces, for each drop and kind, what a look
//! judged, and nothing else. So no look ends what it could not see, and none that was not made shows
//! that something lasts.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{
    Absence, ActionKind, AlertKind, Cause, FailureCause, Finding, Kind, Outcome, Run, Trigger,
    wording,
};
use firstcome_shared::subject::Subject;

use crate::condition::Cases;
use crate::queries::alerts::RepairsRow;
use crate::queries::levels::LevelRow;
use crate::times::{Source, source};

/// What is wrong, by name.
pub type Levels = BTreeMap<String, LevelRow>;

/// Returns what is wrong after a run: the kinds that it judged are as it found them, the others as
/// before.
pub fn fold(old: &Levels, run: &Run, subject: Subject, now: DateTime<Utc>) -> Levels {
    if run.dry_run {
        return old.clone();
    }
    let mut levels = found(run, subject, now);
    for (name, known) in old {
        let judged = run.judged_about(known.coupon_id, known.drop_id);
        if let Some(found) = levels.get_mut(name) {
            if judged.is_repeated {
                found.clone_from(known);
            } else if !known.given_up {
                found.first_at = known.first_at;
            }
            continue;
        }
        // A later version wrote one of an unknown kind, and only that version sees it.
        let kind = AlertKind::from_word(&known.kind);
        let says = kind.map(|kind| judged.says(kind));
        let given_up = match says {
            Some(Absence::Gone) => continue,
            Some(Absence::GivenUp) => true,
            Some(Absence::Open) | None => known.given_up,
        };
        let level = LevelRow {
            given_up,
            ..known.clone()
        };
        levels.insert(name.clone(), level);
    }
    levels
}

/// Returns what a run found and did not repair.
pub(crate) fn found(run: &Run, subject: Subject, now: DateTime<Utc>) -> Levels {
    let mut groups: BTreeMap<LevelKey, Vec<&Finding>> = BTreeMap::new();
    for (key, finding) in keyed(run) {
        groups.entry(key).or_default().push(finding);
    }
    let levels = groups.into_iter().map(|(key, findings)| {
        let name = key.name();
        let cases = cases(&findings);
        let level = LevelRow {
            name: name.clone(),
            subject: subject.word().to_owned(),
            kind: key.kind.word().to_owned(),
            coupon_id: key.coupon,
            drop_id: key.drop,
            number: cases.number(),
            cases: cases.to_bytes(),
            facts: serde_json::json!(failure(&findings)).to_string(),
            run_id: run.run_id.clone(),
            first_at: now,
            last_at: now,
            given_up: false,
        };
        (name, level)
    });
    levels.collect()
}

/// Returns the findings of a run that a level or its alert is about.
pub fn findings_of(name: &str, run: &Run) -> Vec<Finding> {
    let own = keyed(run).filter(|(key, _)| key.name() == name);
    own.map(|(_, finding)| finding.clone()).collect()
}

/// What a finding counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LevelKey {
    kind: AlertKind,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
}

impl LevelKey {
    fn name(&self) -> String {
        let mut parts = vec![self.kind.word().to_owned()];
        parts.extend(self.coupon.map(|coupon| coupon.to_string()));
        parts.extend(self.drop.map(|drop| drop.to_string()));
        parts.join(".")
    }
}

/// Returns all findings with the coupon and the drop that they are about. One outside the reports of
/// drops belongs to no drop, even if it names one: no look would judge it there.
fn placed(run: &Run) -> impl Iterator<Item = (Option<CouponId>, Option<DropId>, &Finding)> {
    let loose = run
        .findings
        .iter()
        .map(|finding| (finding.coupon_id, None, finding));
    let of_drops = run.drops.iter().flat_map(|report| {
        let findings = report.findings.iter();
        findings.map(|finding| (Some(report.coupon_id), Some(report.drop_id), finding))
    });
    loose.chain(of_drops)
}

/// Returns the findings that are left, with what they count for.
fn keyed(run: &Run) -> impl Iterator<Item = (LevelKey, &Finding)> {
    let tells_of_failure = tells_of_failure(run);
    placed(run).filter_map(move |(coupon, drop, finding)| {
        let kind = alert_kind(finding)?;
        if source(kind) != Source::Looks || kind == AlertKind::RunFailed && !tells_of_failure {
            return None;
        }
        let key = LevelKey {
            kind,
            coupon: coupon.filter(|_| kind != AlertKind::RunFailed),
            drop,
        };
        Some((key, finding))
    })
}

/// Whether a failure of this run is a problem of the installation. A stopped run is none; one that
/// somebody asked for tells that person; lanes fail with what the watch sees itself.
fn tells_of_failure(run: &Run) -> bool {
    !run.stopped
        && match run.trigger {
            Trigger::Cron | Trigger::Cli | Trigger::Startup => true,
            Trigger::Endpoint | Trigger::Watch => false,
        }
}

/// Returns the kind of alert that a finding is a case of, if it is left for somebody.
fn alert_kind(finding: &Finding) -> Option<AlertKind> {
    match (finding.kind, finding.result, &finding.cause) {
        (_, _, Cause::RunFailed(_)) => Some(AlertKind::RunFailed),
        (_, _, Cause::ConsumerStands) => Some(AlertKind::TheirsQueue),
        (Kind::Stalled, _, Cause::Unsafe(_)) => Some(AlertKind::UnsafeSetting),
        (Kind::FailedClaim, _, Cause::Forged) => Some(AlertKind::Forged),
        (Kind::Stalled, _, Cause::Away(store)) => Some(theirs(*store)),
        (Kind::Stalled, Outcome::Applied, _) if !finding.needs_person => None,
        (Kind::Stalled, _, _) => Some(AlertKind::Left(Kind::Stalled)),
        // This was not a dry run, so the repair waits for a confirmation. One confirmation releases
        // all repairs of a drop.
        (_, Outcome::Planned, _) => Some(AlertKind::Braked),
        (kind, Outcome::Failed, _) => Some(AlertKind::Left(kind)),
        (kind, Outcome::Applied | Outcome::Skipped, _) => {
            finding.needs_person.then_some(AlertKind::Left(kind))
        }
    }
}

const fn theirs(store: FailureCause) -> AlertKind {
    match store {
        FailureCause::Redis => AlertKind::TheirsRedis,
        FailureCause::Mysql => AlertKind::TheirsDatabase,
        FailureCause::Kafka => AlertKind::TheirsKafka,
        FailureCause::Other => AlertKind::Left(Kind::Stalled),
    }
}

/// Counts the repairs by drop and kind.
pub fn repairs(run: &Run, now: DateTime<Utc>) -> Vec<RepairsRow> {
    let mut counts: BTreeMap<(Option<DropId>, Kind), u64> = BTreeMap::new();
    for (drop, finding) in mailed_repairs(run) {
        *counts.entry((drop, finding.kind)).or_default() += finding.cause.number();
    }
    let rows = counts.into_iter().map(|((drop, kind), number)| RepairsRow {
        run_id: run.run_id.clone(),
        drop_id: drop.map_or(0, |drop| drop.0),
        kind: kind.as_str().to_owned(),
        number: u32::try_from(number).unwrap_or(u32::MAX),
        repaired_at: now,
        told: false,
    });
    rows.collect()
}

/// Returns the repairs that a mail lists, with their drops.
pub(crate) fn mailed_repairs(run: &Run) -> impl Iterator<Item = (Option<DropId>, &Finding)> {
    // Other alerts say that a coupon opens, and which users are owed a slot.
    let is_reported = |action| matches!(action, ActionKind::Open | ActionKind::Owe);
    placed(run)
        .map(|(_, drop, finding)| (drop, finding))
        .filter(|(_, it)| it.result == Outcome::Applied && !it.needs_person)
        .filter(move |(_, it)| !is_reported(it.action))
}

/// Returns the cases of a level: hashes, unless some are only counted.
fn cases(findings: &[&Finding]) -> Cases {
    let number = findings.iter().map(|finding| finding.cause.number()).sum();
    if number > findings.len() as u64 {
        return Cases::Number(number);
    }
    Cases::from_hashes(findings.iter().map(|finding| finding.identity()))
}

/// Why passes fail, if they do: what deciding needs beyond the cases.
fn failure(findings: &[&Finding]) -> Option<(FailureCause, String)> {
    findings.iter().rev().find_map(|finding| {
        let error = wording::line(&finding.detail, wording::LONGEST);
        Some((finding.failure()?, error))
    })
}
