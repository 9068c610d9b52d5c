//! Reads the findings of passes.

use firstcome_reconciler::report::{Kind, Run, Status};

use crate::http::MadeCoupon;

/// Fails unless the run examined this drop, had no findings at all, and reports the drop as exact.
pub fn assert_clean(run: &Run, coupon: &MadeCoupon) {
    assert_eq!(
        (run.status, run.all_findings().count()),
        (Status::Clean, 0),
        "{run:#?}"
    );
    let report = run
        .drops
        .iter()
        .find(|drop| drop.drop_id.0 == coupon.drop)
        .expect("the drop was examined");
    assert!(
        report.exact && report.examined.users > 0 && report.examined.rows > 0,
        "{report:#?}"
    );
}

/// Fails unless the run found nothing but the promises that are listed as broken.
pub fn assert_nothing_found(run: &Run) {
    let is_listed = |kind: Kind| kind == Kind::BrokenPromise;
    let mut found = run.all_findings().map(|finding| finding.kind);
    let status = if found.next().is_some() {
        Status::Drift
    } else {
        Status::Clean
    };
    let only_listed = run.all_findings().all(|finding| is_listed(finding.kind));
    assert!(run.status == status && only_listed, "{run:#?}");
}
