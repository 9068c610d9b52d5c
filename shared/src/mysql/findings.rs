//! Findings of runs. They belong to the run that found them first: a later run with the same result
//! refers to it (`same_as`), so the table grows with events and not with passes.

use std::time::Duration;

use super::sql::{Row as _, stored_as, values};
use super::{Columns as _, Db, DbResult, insert_all};
use crate::domain::{CouponId, DropId};
use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};
use crate::sql;

stored_as!(Finding {
    coupon_id: Option<CouponId>,
    drop_id: Option<DropId>,
    kind: Kind,
    slot: Option<i64>,
    user_id: Option<String>,
    action: ActionKind,
    result: Outcome,
    detail: String,
    needs_person: bool,
    dead_letter: Option<i64>,
} with case: FindingCase::Plain);

/// Time limit for writing all findings of a run.
const LONG: Duration = Duration::from_secs(60);

/// Findings deleted per statement.
const DELETED_AT_ONCE: u32 = 5_000;

impl Db {
    /// Writes the findings of a run that has no row yet or is in progress, in small statements.
    /// Safe to repeat after an error.
    pub(super) async fn write_findings(
        &self,
        run_id: &str,
        findings: Vec<Finding>,
    ) -> DbResult<()> {
        // Those that an attempt wrote before it failed.
        let delete = sql!(
            "DELETE FROM reconcile_findings WHERE run_id = ? LIMIT ?",
            run_id,
            DELETED_AT_ONCE
        );
        let what = "delete findings of a run";
        while self.execute(what, delete.clone()).await? > 0 {}
        let into = Finding::NAMES.join(", ");
        let into = format!("reconcile_findings (run_id, {into})");
        let rows = findings
            .into_iter()
            .map(|finding: Finding| [values![run_id], finding.values()].concat())
            .collect();
        let db = self.within(LONG);
        db.run("write findings", async move |conn| {
            insert_all(conn, &into, rows, "").await
        })
        .await
    }
}
