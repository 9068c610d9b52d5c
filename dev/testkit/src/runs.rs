//! Reads the findings of passes, and their runs in the table.

use std::collections::BTreeMap;

use firstcome_reconciler::report::{Kind, Run, Status};

use crate::http::MadeCoupon;
use crate::world::World;

/// Counts the findings by kind.
pub fn kinds(run: &Run) -> BTreeMap<Kind, usize> {
    let mut kinds = BTreeMap::new();
    for finding in run.all_findings() {
        *kinds.entry(finding.kind).or_default() += 1;
    }
    kinds
}

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

/// Returns the status of a run in its table.
pub async fn status_of(world: &World, run: &str) -> Option<String> {
    let rows = world
        .sql
        .query(&format!(
            "SELECT status FROM reconcile_runs WHERE id = '{run}'"
        ))
        .await;
    rows.into_iter().next().map(|row| row[0].clone())
}
