//! Reads the findings of passes.

use firstcome_reconciler::report::{Kind, Run, Status};

use crate::http::MadeCoupon;

/// Fails unless the run examined this drop, had no findings at all, and reports the drop as exact.
pub fn assert_clean(run: &Run, coupon: &MadeCoupon) {
    let found = (run.status, run.all_findings().count());
    assert_eq!(found, (Status::Clean, 0), "{run:#?}");
    let mut drops = run.drops.iter();
    let report = drops.find(|drop| drop.drop_id.0 == coupon.drop);
    let report = report.expect("the drop was examined");
    let is_read = report.examined.users > 0 && report.examined.rows > 0;
    assert!(report.exact && is_read, "{report:#?}");
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
