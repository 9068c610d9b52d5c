//! What passes and lanes judged about coupons as a whole. What a look judged about a drop stands in
//! its report.

use std::collections::BTreeMap;

use firstcome_shared::domain::CouponId;

use crate::context::PassRequest;
use crate::jobs::{Answers, Job};
use crate::ledger::CouponLook;
use crate::report::{
    ActionKind, AlertKind, CouponJudged, Finding, Judged, Kind, Kinds, Outcome, RunJudged,
};

const LOST: AlertKind = AlertKind::Left(Kind::RedisLost);
const LETTERS: AlertKind = AlertKind::Left(Kind::FailedClaim);
const USES: AlertKind = AlertKind::Left(Kind::BadUse);
const COUNT: AlertKind = AlertKind::Left(Kind::CountMismatch);
/// Of the daemon's jobs, whose findings only passes over everything include.
const MISSING: AlertKind = AlertKind::Left(Kind::MissingDrop);
const READY: AlertKind = AlertKind::Left(Kind::NotReady);

/// Returns what a lane judged: it reads neither uses nor dead letters of sealed drops, and runs no
/// jobs.
pub(crate) fn by_lane(looks: &BTreeMap<CouponId, CouponLook>) -> BTreeMap<CouponId, CouponJudged> {
    coupons(looks, &[USES, LETTERS, MISSING, READY], &Judged::default())
}

/// The jobs that look for an alert's kind. Without their answer, nobody knows that it is over.
const LOOK_FOR: [(Job, AlertKind); 4] = [
    (Job::LostCoupons, LOST),
    (Job::DropsAhead, MISSING),
    (Job::LostDrops, MISSING),
    (Job::Openings, READY),
];

/// Returns what a pass judged that has ended without an error, and includes these answers if it is
/// over everything.
pub(crate) fn by_pass(
    request: &PassRequest,
    looks: &BTreeMap<CouponId, CouponLook>,
    answers: &Answers,
) -> RunJudged {
    let mut not = Vec::new();
    not.extend((!request.deep).then_some(USES));
    // Of one drop, only its own letters are read.
    not.extend(request.scope.drop.map(|_| LETTERS));
    if !request.scope.is_everything() {
        not.extend([MISSING, READY]);
        return RunJudged {
            coupons: coupons(looks, &not, &Judged::default()),
            ..RunJudged::default()
        };
    }
    let unanswered = LOOK_FOR
        .iter()
        .filter(|(job, _)| !answers.contains_key(job));
    not.extend(unanswered.map(|(_, kind)| *kind));
    let whole = Judged::of(Kinds::all_but(not.iter().copied()));
    // Drops without a report are sealed, and then only a deep pass counts their rows, or deleted.
    let other_drops = Judged {
        kinds: if request.deep {
            Kinds::only([COUNT])
        } else {
            Kinds::None
        },
        given_up: Kinds::all_but([COUNT]),
        ..Judged::default()
    };
    RunJudged {
        coupons: coupons(looks, &not, &other_drops),
        others: CouponJudged {
            whole: whole.clone(),
            other_drops,
        },
        whole,
    }
}

fn coupons(
    looks: &BTreeMap<CouponId, CouponLook>,
    not: &[AlertKind],
    other_drops: &Judged,
) -> BTreeMap<CouponId, CouponJudged> {
    let whole = looks.iter().filter(|(_, look)| !look.is_interrupted);
    let judged = whole.map(|(id, look)| {
        // Another process works on it.
        let is_left = look.findings.iter().any(is_left_to_others);
        // The job looks for lost coupons, which have no look.
        let not = not.iter().copied().filter(|kind| *kind != LOST);
        let kinds = not.chain(is_left.then_some(LOST));
        let judged = CouponJudged {
            whole: Judged::of(Kinds::all_but(kinds)),
            other_drops: other_drops.clone(),
        };
        (*id, judged)
    });
    judged.collect()
}

fn is_left_to_others(found: &Finding) -> bool {
    found.action == ActionKind::Open && found.result == Outcome::Skipped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::context::Ask;
    use crate::report::{Absence, Run, Trigger};

    #[test]
    fn interrupted_look_judges_nothing_and_leaves_its_coupon_to_another() {
        for is_interrupted in [false, true] {
            let whole = CouponLook::new(CouponId(1));
            let last = CouponLook {
                is_interrupted,
                ..CouponLook::new(CouponId(1))
            };
            let looks = crate::ledger::sum(vec![whole, last], false);
            assert_eq!(by_lane(&looks).is_empty(), is_interrupted);
            assert_eq!(looks[&CouponId(1)].is_left_closed(), is_interrupted);
        }
    }

    #[test]
    fn pass_ends_no_alert_of_a_job_that_has_not_answered() {
        let patience = Duration::ZERO;
        let request = PassRequest::new(Ask::Cli { patience });
        let seen = CouponId(1);
        let looks = BTreeMap::from([(seen, CouponLook::new(seen))]);
        let mut run = crate::record::blank(Trigger::Cli);
        let absence = |run: &mut Run, answers: &Answers, coupon, kind| {
            run.judged = by_pass(&request, &looks, answers);
            run.judged_about(Some(coupon), None).says(kind)
        };
        let all = Answers::from(LOOK_FOR.map(|(job, _)| (job, Vec::new())));
        for (job, kind) in LOOK_FOR {
            let mut others = all.clone();
            others.remove(&job);
            let coupon = CouponId(2);
            assert_eq!(absence(&mut run, &others, coupon, kind), Absence::Open);
            assert_eq!(absence(&mut run, &all, coupon, kind), Absence::Gone);
        }
        let found = absence(&mut run, &Answers::new(), seen, LOST);
        assert_eq!(found, Absence::Gone, "its look judged it");
    }
}
