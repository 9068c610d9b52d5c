//! Decides when an alert that a pass did not see is over. [`ends_when`] has a line for each kind.

use chrono::{DateTime, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::subject::Subject;

use super::{Alert, AlertMemory, MailPolicy, late_digest, number, part_of};
use crate::clock::elapsed;
use crate::report::{
    ActionKind, AlertKind, DropReport, Examined, Finding, Kind, Outcome, Run, Status,
};

/// What ends the alerts of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndsWhen {
    /// A pass that compared what the alert is about no longer sees it.
    Compared,
    /// A deep pass no longer sees it: other passes do not look for it.
    ComparedDeeply,
    /// No promise of the drop is open in the table of broken promises.
    PromisesResolved,
    /// The pass has opened every closed coupon that it saw, or the watch sees every coupon open.
    Opened,
    /// Nobody has seen it for a while: a process that has just begun to watch the stores may not
    /// see it yet, and another process may see what this one does not. A process that has itself
    /// lost Kafka ends that outage with its first whole pass: the next one may be hours away.
    Unseen,
    /// A run has ended. If a deep run or the digest was late, only the next one of these counts.
    RunEnded,
}

/// Returns what ends the alerts of a kind.
pub(crate) fn ends_when(kind: AlertKind) -> EndsWhen {
    match kind {
        AlertKind::RedisUnreachable | AlertKind::AdmissionClosed => EndsWhen::Opened,
        AlertKind::KafkaUnreachable
        | AlertKind::RedisRefuses
        | AlertKind::MysqlRefuses
        | AlertKind::KafkaRefuses
        | AlertKind::UnsafeSetting
        | AlertKind::Left(Kind::Stalled) => EndsWhen::Unseen,
        AlertKind::RunMissed => EndsWhen::RunEnded,
        AlertKind::Left(Kind::BrokenPromise) => EndsWhen::PromisesResolved,
        AlertKind::Left(Kind::BadUse) => EndsWhen::ComparedDeeply,
        AlertKind::MysqlUnreachable
        | AlertKind::AlertsNotRecorded
        | AlertKind::RunFailed
        | AlertKind::Braked
        | AlertKind::Forged
        | AlertKind::Doubtful
        | AlertKind::SecondRow
        | AlertKind::ConsumerStands
        | AlertKind::TheirsRedis
        | AlertKind::TheirsMysql
        | AlertKind::TheirsKafka
        | AlertKind::TheirsQueue
        | AlertKind::Repaired
        | AlertKind::Left(
            Kind::Unissued
            | Kind::FailedClaim
            | Kind::MissingAdmission
            | Kind::SlotConflict
            | Kind::OverAdmitted
            | Kind::CountMismatch
            | Kind::SettingsMismatch
            | Kind::RedisLost
            | Kind::Unfilled
            | Kind::OverIssued
            | Kind::DuplicateRow
            | Kind::Check
            | Kind::MissingDrop,
        ) => EndsWhen::Compared,
    }
}

/// Whether an alert that this pass did not see is over, because the pass would have seen it. A
/// failed pass may have ended too early for that. Alerts of a drop that the pass reports as sealed
/// are over, because sealing verifies a drop; later, only deep passes examine it.
pub(super) fn is_over(
    alert: &Alert,
    run: &Run,
    memory: &AlertMemory,
    policy: MailPolicy,
    now: DateTime<Utc>,
) -> bool {
    // A later version wrote it, and only that version sees what it is about.
    let Some(kind) = AlertKind::from_word(&alert.kind) else {
        return false;
    };
    let ends = ends_when(kind);
    if ends == EndsWhen::ComparedDeeply && !run.deep {
        return false;
    }
    if let Some(drop) = alert.drop_id {
        return is_drop_over(drop, ends, alert, run);
    }
    if run.status == Status::Failed || run.partial {
        return false;
    }
    match ends {
        EndsWhen::Compared | EndsWhen::ComparedDeeply | EndsWhen::PromisesResolved => true,
        EndsWhen::Opened => !run.findings.iter().any(may_be_closed),
        EndsWhen::Unseen => {
            let is_own = kind == AlertKind::KafkaUnreachable && memory.has_lost_kafka;
            is_own || elapsed(alert.last_seen_at, now) >= policy.patience * 2
        }
        // Only a digest ends the alert about a late digest, and only a deep pass that about a
        // missed deep one.
        EndsWhen::RunEnded if alert.name == late_digest() => false,
        EndsWhen::RunEnded => part_of(alert) != "DEEP_CRON" || run.deep,
    }
}

/// Whether the coupon of this finding may still be closed: the pass could not open it, or left it
/// to another process.
fn may_be_closed(finding: &Finding) -> bool {
    let opens = matches!(finding.action, ActionKind::Open | ActionKind::Project);
    finding.kind == Kind::RedisLost && opens && finding.result != Outcome::Applied
}

/// Whether a drop belongs to a campaign and is not in the pass: its day is over, or the campaign is
/// no longer in the file.
pub(super) fn is_left_out(drop: DropId, run: &Run) -> bool {
    match drop.subject() {
        Subject::Campaign => run.drops.iter().all(|it| it.drop_id != drop),
        Subject::Drop => false,
    }
}

/// Whether the pass could no longer see what the alert is about, and did not repair it: if keys of
/// a campaign are gone, or nothing of it is found, only rows and failed events are compared.
pub(super) fn is_unproven(alert: &Alert, run: &Run) -> bool {
    let mut reports = run
        .drops
        .iter()
        .filter(|it| Some(it.drop_id) == alert.drop_id);
    // Some alerts do not keep the kinds of their cases. For these, no repair is a proof.
    let is_case = |kind| AlertKind::from_word(&alert.kind) == Some(AlertKind::Left(kind));
    let is_repaired = |report: &DropReport| {
        let cases = report
            .findings
            .iter()
            .filter(|it| it.result == Outcome::Applied && is_case(it.kind));
        number(cases) >= alert.size.max(1)
    };
    let needs_no_key = matches!(
        AlertKind::from_word(&alert.kind),
        Some(AlertKind::Left(
            Kind::FailedClaim | Kind::OverIssued | Kind::DuplicateRow | Kind::Stalled
        ))
    );
    !needs_no_key && reports.any(|it| it.unproven.is_some() && !is_repaired(it))
}

/// Whether the alert is about a drop's broken promises, and one of them is still open.
pub(super) fn is_owed(alert: &Alert, memory: &AlertMemory) -> bool {
    alert.kind == Kind::BrokenPromise.as_str()
        && (memory.broken.iter()).any(|it| Some(it.drop_id) == alert.drop_id)
}

/// Whether an alert of a drop is over: the pass has compared what the alert is about and did not
/// fail as a whole, or the drop is sealed.
fn is_drop_over(drop: DropId, ends: EndsWhen, alert: &Alert, run: &Run) -> bool {
    let has_failed = run.status == Status::Failed;
    // The table has the promises of every drop, whatever the pass compared.
    if ends == EndsWhen::PromisesResolved && drop.subject() == Subject::Drop {
        return true;
    }
    let is_compared = |it: &&DropReport| it.drop_id == drop && !names_only_promises(it);
    let mut reports = run.drops.iter().filter(is_compared).peekable();
    if reports.peek().is_none() {
        let would_be_reported = match drop.subject() {
            // A deep pass reports a sealed drop only if it lacks rows.
            Subject::Drop => run.deep,
            // A pass compares only two days of a daily campaign, so an older drop is over, unless
            // something prevented the comparison: a finding about this campaign, or one without a
            // campaign, which concerns all.
            Subject::Campaign => run
                .findings
                .iter()
                .all(|it| it.coupon_id.is_some() && it.coupon_id != alert.coupon_id),
        };
        return would_be_reported && !has_failed && !run.partial;
    }
    reports.any(|report| report.sealed || !has_failed && was_compared(report, alert))
}

/// Whether the drop was sealed before, and the pass read nothing of it but its broken promises.
pub(crate) fn names_only_promises(report: &DropReport) -> bool {
    let is_promise = |found: &Finding| found.kind == Kind::BrokenPromise;
    report.sealed
        && report.examined == Examined::default()
        && report.findings.iter().any(is_promise)
}

/// Whether what the alert is about would be in this report.
fn was_compared(report: &DropReport, alert: &Alert) -> bool {
    // A counter that is too high, among others, is no finding while coupons are sold.
    if report.counts_unclear && may_be_case(Kind::CountMismatch, alert) {
        return false;
    }
    !report.findings.iter().any(|it: &Finding| {
        let is_held = it.result == Outcome::Planned;
        match report.drop_id.subject() {
            // While the limit holds repairs back, or if the drop failed as a whole, the rest of it
            // was not compared.
            Subject::Drop => is_held || it.result == Outcome::Failed && it.is_whole(),
            // A campaign is compared as a whole before anything is repaired. But a case of the
            // alert may be among the repairs that wait now, or among what cannot be judged during a
            // sale.
            Subject::Campaign => {
                let waits = it.result == Outcome::Skipped && !it.needs_person;
                is_held && it.kind.as_str() == alert.kind || waits && may_be_case(it.kind, alert)
            }
        }
    })
}

/// Whether a difference of a campaign that waits for a later pass may be a case of the alert. While
/// it waits, it has neither the doubt nor the kind that it has after the sale.
fn may_be_case(waiting: Kind, alert: &Alert) -> bool {
    match AlertKind::from_word(&alert.kind) {
        // Their cases are of several kinds, and an alert does not keep the kinds. A failed event
        // says nothing: it also waits without a sale, if another event of its user comes first, and
        // would keep the alert forever.
        Some(AlertKind::Braked | AlertKind::Doubtful) => waiting != Kind::FailedClaim,
        // During a sale, users who are one too many are found as users without a row.
        Some(AlertKind::SecondRow | AlertKind::Left(Kind::OverAdmitted)) => {
            matches!(waiting, Kind::OverAdmitted | Kind::Unissued)
        }
        // A counter that moves is seen as either of them.
        Some(AlertKind::Left(Kind::CountMismatch | Kind::Unfilled)) => {
            matches!(waiting, Kind::CountMismatch | Kind::Unfilled)
        }
        kind => kind == Some(AlertKind::Left(waiting)),
    }
}
