//! Findings of runs. A run with the same result as the one before it stores none, but refers to the
//! run that stores them (`same_as`), so the table grows with events and not with passes.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

use super::{Db, DbResult, ROWS_AT_ONCE};
use crate::domain::{CouponId, DropId};
use crate::report::{ActionKind, Cause, Finding, Kind, Outcome, Stored};
use crate::schema::reconcile_findings;

/// A finding as it is stored.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = reconcile_findings, treat_none_as_default_value = false)]
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

/// A finding with its id.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = reconcile_findings)]
pub struct ListedFinding {
    pub id: i64,
    #[diesel(embed)]
    pub finding: FindingRow,
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

impl Db {
    /// Writes the findings of a run that has no row yet or is in progress, in small statements.
    /// Safe to repeat after an error.
    pub(super) async fn write_findings(
        &self,
        run_id: &str,
        findings: Vec<Finding>,
    ) -> DbResult<()> {
        // Delete the findings that an earlier attempt wrote before it failed.
        let run_id = run_id.to_owned();
        let db = self.within(LONG);
        db.run("write findings", async move |conn| {
            let earlier = sql_query("DELETE FROM reconcile_findings WHERE run_id = ? LIMIT 5000")
                .bind::<Text, _>(&run_id);
            while earlier.clone().execute(conn).await? > 0 {}
            for some in findings.chunks(ROWS_AT_ONCE) {
                let rows: Vec<_> = some
                    .iter()
                    .map(|finding| {
                        let row = FindingRow::from(finding.clone());
                        (row, reconcile_findings::run_id.eq(&run_id))
                    })
                    .collect();
                diesel::insert_into(reconcile_findings::table)
                    .values(rows)
                    .execute(conn)
                    .await?;
            }
            Ok(())
        })
        .await
    }
}
