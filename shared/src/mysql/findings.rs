//! Findings of runs. A run with the same result as the one before it stores none, but refers to the
//! run that stores them (`same_as`), so the table grows with events and not with passes.

use std::time::Duration;

use super::sql::{Row as _, row, values};
use super::{Columns as _, Db, DbResult, insert_all};
use crate::domain::{CouponId, DropId};
use crate::report::{ActionKind, Cause, Finding, Kind, Outcome, Stored};
use crate::sql;

row! {
    /// A finding as it is stored.
    pub struct FindingRow {
        pub coupon_id: Option<CouponId>,
        pub drop_id: Option<DropId>,
        pub kind: Stored<Kind>,
        pub slot: Option<i64>,
        pub user_id: Option<String>,
        pub action: Stored<ActionKind>,
        pub result: Stored<Outcome>,
        pub detail: String,
        pub needs_person: bool,
        pub dead_letter: Option<i64>,
        /// See [`Cause::to_stored`].
        pub cause: String,
    }
}

impl From<Finding> for FindingRow {
    fn from(finding: Finding) -> Self {
        Self {
            coupon_id: finding.coupon_id,
            drop_id: finding.drop_id,
            kind: Stored::Known(finding.kind),
            slot: finding.slot,
            user_id: finding.user_id,
            action: Stored::Known(finding.action),
            result: Stored::Known(finding.result),
            detail: finding.detail,
            needs_person: finding.needs_person,
            dead_letter: finding.dead_letter,
            cause: finding.cause.to_stored(),
        }
    }
}

impl FindingRow {
    /// Returns the finding, or a word of it that this version does not know.
    pub fn known(self) -> Result<Finding, String> {
        Ok(Finding {
            kind: self.kind.known()?,
            coupon_id: self.coupon_id,
            drop_id: self.drop_id,
            slot: self.slot,
            user_id: self.user_id,
            action: self.action.known()?,
            result: self.result.known()?,
            detail: self.detail,
            needs_person: self.needs_person,
            dead_letter: self.dead_letter,
            cause: Cause::from_stored(&self.cause)?,
        })
    }
}

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
        // Delete the findings that an earlier attempt wrote before it failed.
        let delete = sql!(
            "DELETE FROM reconcile_findings WHERE run_id = ? LIMIT ?",
            run_id,
            DELETED_AT_ONCE
        );
        let what = "delete findings of a run";
        while self.execute(what, delete.clone()).await? > 0 {}
        let into = FindingRow::NAMES.join(", ");
        let into = format!("reconcile_findings (run_id, {into})");
        let rows = findings
            .into_iter()
            .map(|finding| [values![run_id], FindingRow::from(finding).values()].concat())
            .collect();
        let db = self.within(LONG);
        db.run("write findings", async move |conn| {
            insert_all(conn, &into, rows, "").await
        })
        .await
    }
}
