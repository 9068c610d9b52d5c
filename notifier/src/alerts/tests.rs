//! Tests alerts over histories of passes: the content of mails (`content`) and how often they are
//! sent (`timing`).

mod content;
mod timing;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use super::*;
use crate::report::{
    ActionKind, DropReport, FailureCause, Finding, FindingCase, Kind, Outcome, Run, Status,
    Trigger, UnsafePart,
};

const COOLDOWN: TimeDelta = TimeDelta::hours(4);

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_796_104_800 + minutes * 60, 0).unwrap()
}

fn finding(kind: Kind, slot: i64, result: Outcome) -> Finding {
    Finding {
        coupon_id: Some(CouponId(1)),
        drop_id: Some(DropId(7)),
        slot: Some(slot),
        user_id: Some(format!("u-{slot}")),
        ..Finding::new(
            kind,
            ActionKind::Issue,
            result,
            format!("admitted {slot} s ago"),
        )
    }
}

fn left(kind: Kind, slot: i64) -> Finding {
    Finding {
        needs_person: true,
        action: ActionKind::Report,
        ..finding(kind, slot, Outcome::Skipped)
    }
}

fn stalled(detail: &str) -> Finding {
    Finding::report(Kind::Stalled, detail)
}

fn run(status: Status, findings: Vec<Finding>) -> Run {
    let drop = DropReport {
        coupon_name: "Winter coupon".to_owned(),
        exact: status == Status::Clean,
        findings,
        ..DropReport::begun(CouponId(1), DropId(7), 100)
    };
    Run {
        status,
        finished_at: Some(at(0)),
        drops: vec![drop],
        ..Run::begun("run", Trigger::Cron, at(0))
    }
}

fn general(status: Status, findings: Vec<Finding>) -> Run {
    Run {
        findings,
        ..run(status, Vec::new())
    }
}

fn failed(cause: FailureCause, error: &str) -> Run {
    Run {
        error: Some(error.to_owned()),
        findings: vec![Finding {
            case: FindingCase::RunFailed(cause),
            ..stalled(error)
        }],
        drops: Vec::new(),
        ..run(Status::Failed, Vec::new())
    }
}

/// The alerts as earlier passes stored them, and the number of passes.
#[derive(Default)]
struct Duty {
    memory: AlertMemory,
    patience: TimeDelta,
    runs: u32,
}

impl Duty {
    /// Judges a run and returns a summary of the mails.
    fn sees(&mut self, minutes: i64, run: &Run) -> String {
        let policy = MailPolicy {
            cooldown: COOLDOWN,
            patience: self.patience,
        };
        self.runs += 1;
        let run = Run {
            run_id: format!("run {}", self.runs),
            ..run.clone()
        };
        let verdict = judge(&run, &self.memory, policy, at(minutes));
        for alert in &verdict.alerts {
            self.memory
                .alerts
                .insert(alert.fingerprint.clone(), alert.clone());
        }
        let told = verdict.problems.iter().chain(&verdict.information);
        let told = told.map(|told| format!("{} {:?}", told.observation.about.word(), told.reason));
        let resolved = verdict.resolved.iter();
        let resolved = resolved.map(|alert| format!("{} resolved", alert.kind));
        let repaired = verdict.repaired.iter();
        let repaired = repaired.map(|drop| format!("repaired {:?}", drop.map(|d| d.0)));
        let earlier = verdict.earlier.iter();
        let earlier = earlier.map(|earlier| format!("{} earlier", earlier.repairs));
        let said: Vec<String> = told
            .chain(resolved)
            .chain(repaired)
            .chain(earlier)
            .collect();
        assert_eq!(verdict.says_something(), !said.is_empty());
        said.join(", ")
    }

    fn silence(&mut self, until_minutes: i64) {
        self.memory
            .silenced_until
            .insert(DropId(7), at(until_minutes));
    }

    fn acknowledge(&mut self, minutes: i64) {
        for alert in self.memory.alerts.values_mut() {
            alert.acknowledged_at = Some(at(minutes));
            alert.acknowledged_by = Some("kim".to_owned());
        }
    }

    fn only(&self) -> &Alert {
        assert_eq!(self.memory.alerts.len(), 1);
        self.memory.alerts.values().next().unwrap()
    }
}

fn clean() -> Run {
    run(Status::Clean, Vec::new())
}

fn one_left() -> Run {
    left_on([3])
}

/// Returns a pass that left failed claims of these slots.
fn left_on(slots: impl IntoIterator<Item = i64>) -> Run {
    let left = |slot| left(Kind::FailedClaim, slot);
    run(Status::Drift, slots.into_iter().map(left).collect())
}

fn repaired(kind: Kind, slot: i64) -> Run {
    run(
        Status::Repaired,
        vec![finding(kind, slot, Outcome::Applied)],
    )
}
