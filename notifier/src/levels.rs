//! Levels: what is wrong as looks see it. [`fold`] replaces, for each drop and kind, what a look
//! judged, and nothing else. So no look ends what it could not see.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::levels::LevelRow;
use firstcome_shared::report::{
    ActionKind, AlertKind, Cause, FailureCause, Finding, Judgement, Kind, Outcome, Run, Trigger,
    wording,
};
use firstcome_shared::subject::Subject;
use serde::{Deserialize, Serialize};

use crate::condition::Cases;
use crate::times::{Source, source};

/// What deciding needs of a level.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LevelFacts {
    /// The findings say everything.
    Found,
    /// Passes fail by this.
    Failing { cause: FailureCause, error: String },
}

/// What a look changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing but that a look saw it again.
    Seen(String),
    Put(LevelRow),
    Gone(String),
    GiveUp(String),
}

/// Returns what a run changes: the kinds that it judged are as it found them, the others as before.
pub fn fold(
    old: &BTreeMap<String, LevelRow>,
    run: &Run,
    subject: Subject,
    now: DateTime<Utc>,
) -> Vec<Change> {
    if run.dry_run {
        return Vec::new();
    }
    let found = found(run, subject, now);
    let put = found.values().map(|level| {
        let known = old.get(&level.name).filter(|known| !known.given_up);
        match known {
            Some(known) if is_same(known, level) => Change::Seen(level.name.clone()),
            Some(known) => Change::Put(LevelRow {
                first_at: known.first_at,
                ..level.clone()
            }),
            None => Change::Put(level.clone()),
        }
    });
    let missing = old
        .values()
        .filter(|level| !found.contains_key(&level.name));
    let gone = missing.filter_map(|level| {
        // A later version wrote it, and only that version sees it.
        let kind = AlertKind::from_word(&level.kind)?;
        match run.says(level.coupon_id, level.drop_id, kind) {
            Judgement::Gone => Some(Change::Gone(level.name.clone())),
            Judgement::GivenUp if level.given_up => None,
            Judgement::GivenUp => Some(Change::GiveUp(level.name.clone())),
            Judgement::Open => None,
        }
    });
    put.chain(gone).collect()
}

/// Whether a look found the same again.
fn is_same(known: &LevelRow, found: &LevelRow) -> bool {
    known.kind == found.kind
        && known.number == found.number
        && known.cases == found.cases
        && known.facts == found.facts
}

/// Returns what a run found and did not repair, by name.
pub(crate) fn found(run: &Run, subject: Subject, now: DateTime<Utc>) -> BTreeMap<String, LevelRow> {
    let mut groups: BTreeMap<String, (LevelKey, Vec<&Finding>)> = BTreeMap::new();
    for (key, finding) in keyed(run) {
        let group = groups.entry(key.name()).or_insert((key, Vec::new()));
        group.1.push(finding);
    }
    let levels = groups.into_iter().map(|(name, (key, findings))| {
        let cases = cases(&findings);
        let level = LevelRow {
            name: name.clone(),
            subject: subject.word().to_owned(),
            kind: key.kind.word().to_owned(),
            coupon_id: key.coupon,
            drop_id: key.drop,
            number: cases.number(),
            cases: cases.to_bytes(),
            facts: serde_json::json!(facts(&findings)).to_string(),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LevelKey {
    kind: AlertKind,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
    part: &'static str,
}

impl LevelKey {
    fn name(&self) -> String {
        let Self {
            kind,
            coupon,
            drop,
            part,
        } = self;
        let mut parts = vec![kind.word().to_owned()];
        parts.extend(coupon.map(|coupon| coupon.to_string()));
        parts.extend(drop.map(|drop| drop.to_string()));
        parts.extend((!part.is_empty()).then(|| (*part).to_owned()));
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
            part: finding.cause.part(),
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
        (_, _, Cause::ConsumerStands) => Some(match finding.coupon_id.map(CouponId::subject) {
            Some(Subject::Campaign) => AlertKind::TheirsQueue,
            Some(Subject::Drop) | None => AlertKind::ConsumerStands,
        }),
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
        FailureCause::Mysql => AlertKind::TheirsMysql,
        FailureCause::Kafka => AlertKind::TheirsKafka,
        FailureCause::Other => AlertKind::Left(Kind::Stalled),
    }
}

/// Counts the repairs by drop and kind.
pub fn repairs(run: &Run) -> BTreeMap<(Option<DropId>, Kind), u64> {
    let mut counts = BTreeMap::new();
    for (drop, finding) in mailed_repairs(run) {
        *counts.entry((drop, finding.kind)).or_default() += finding.cause.number();
    }
    counts
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

fn facts(findings: &[&Finding]) -> LevelFacts {
    let failing = findings.iter().rev().find_map(|finding| {
        let cause = finding.failure()?;
        let error = wording::line(&finding.detail, wording::LONGEST);
        Some(LevelFacts::Failing { cause, error })
    });
    failing.unwrap_or(LevelFacts::Found)
}
