//! Builds runs as passes report them.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{
    ActionKind, AlertKind, Cause, DropReport, Examined, Finding, Judged, Kind, Kinds, Numbers,
    Outcome, Run, Status, Trigger,
};

/// Returns 1 December 2026, 06:00 UTC, plus `seconds`.
pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_796_104_800 + seconds, 0).unwrap()
}

pub(crate) fn finding(kind: Kind, slot: i64, action: ActionKind, result: Outcome) -> Finding {
    Finding {
        slot: Some(slot),
        user_id: Some(format!("customer-{slot:05}")),
        ..Finding::new(kind, action, result, "")
    }
}

pub(crate) fn applied(kind: Kind, slot: i64, action: ActionKind, detail: &str) -> Finding {
    Finding {
        detail: detail.to_owned(),
        ..finding(kind, slot, action, Outcome::Applied)
    }
}

pub(crate) fn left(kind: Kind, slot: i64, detail: &str) -> Finding {
    Finding {
        detail: detail.to_owned(),
        needs_person: true,
        ..finding(kind, slot, ActionKind::Report, Outcome::Skipped)
    }
}

pub(crate) fn cased(cause: Cause, finding: Finding) -> Finding {
    Finding { cause, ..finding }
}

/// Returns a finding without a user and a slot.
pub(crate) fn general(kind: Kind, action: ActionKind, result: Outcome, detail: &str) -> Finding {
    Finding::new(kind, action, result, detail)
}

pub(crate) fn drop_report(
    coupon: i64,
    name: &str,
    drop: i64,
    findings: Vec<Finding>,
) -> DropReport {
    let after = Numbers {
        count: 100,
        users: 100,
        rows: 100,
        ..Numbers::default()
    };
    let count = |is_so: fn(&&Finding) -> bool| findings.iter().filter(is_so).count() as u64;
    let lost = count(|f| f.action == ActionKind::Issue);
    let failed_claims = count(|f| f.kind == Kind::FailedClaim);
    let still = count(|f| f.kind == Kind::FailedClaim && f.needs_person);
    DropReport {
        coupon_name: name.to_owned(),
        exact: still == 0,
        before: Numbers {
            rows: 100 - lost.min(100) - still.min(100 - lost.min(100)),
            failed_claims,
            ..after
        },
        after: Numbers {
            rows: 100 - still.min(100),
            failed_claims: still,
            ..after
        },
        examined: Examined {
            users: 100,
            rows: 100 - lost.min(100),
            failed_claims,
        },
        findings,
        ..DropReport::begun(CouponId(coupon), DropId(drop), 100)
    }
}

pub(crate) fn run(id: &str, status: Status, drops: Vec<DropReport>) -> Run {
    let finished_at = Some(at(0) + TimeDelta::milliseconds(340));
    Run {
        status,
        finished_at,
        drops,
        ..Run::begun(id, Trigger::Cron, at(0))
    }
}

/// Returns the run with everything judged that it has looked at, unless it failed.
pub(crate) fn judged(run: &Run) -> Run {
    let mut run = run.clone();
    if run.status == Status::Failed || run.partial {
        return run;
    }
    let all = Judged::of(Kinds::All);
    let not_deep = Judged::of(Kinds::all_but([AlertKind::Left(Kind::BadUse)]));
    run.judged.whole = if run.deep { all.clone() } else { not_deep };
    run.judged.others.whole = run.judged.whole.clone();
    for drop in &mut run.drops {
        let is_held = drop.has_planned();
        drop.judged = if is_held {
            Judged::of(Kinds::only([AlertKind::Braked]))
        } else {
            all.clone()
        };
    }
    run
}
