//! What passes and lanes judged about coupons as a whole. What a look judged about a drop stands in
//! its report.

use std::collections::BTreeMap;

use firstcome_shared::domain::CouponId;

use crate::context::{Ask, PassRequest};
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

/// Returns what a pass judged that has ended without an error.
pub(crate) fn by_pass(request: &PassRequest, looks: &BTreeMap<CouponId, CouponLook>) -> RunJudged {
    let mut not = Vec::new();
    not.extend((!request.deep).then_some(USES));
    // Of one drop, only its own letters are read.
    not.extend(request.scope.drop.map(|_| LETTERS));
    // `once` runs the other jobs first.
    not.extend(matches!(request.ask, Ask::Cli { .. }).then_some(READY));
    if !request.scope.is_everything() {
        not.extend([MISSING, READY]);
    }
    let whole = Judged::of(Kinds::all_but(not.iter().copied()));
    if !request.scope.is_everything() {
        return RunJudged {
            coupons: coupons(looks, &not, &Judged::default()),
            ..RunJudged::default()
        };
    }
    // Drops without a report are sealed, and then only a deep pass counts their rows, or deleted.
    let other_drops = Judged {
        kinds: if request.deep {
            Kinds::only([COUNT])
        } else {
            Kinds::None
        },
        given_up: Kinds::all_but([COUNT]),
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
    let judged = looks.iter().map(|(id, look)| {
        // Another process works on it.
        let is_left = look.findings.iter().any(is_left_to_others);
        let kinds = not.iter().copied().chain(is_left.then_some(LOST));
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
