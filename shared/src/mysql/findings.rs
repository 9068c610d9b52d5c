//! Findings of runs. They belong to the run that found them first: a later run with the same result
//! refers to it (`same_as`), so the table grows with events and not with passes.

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable};
use diesel_async::RunQueryDsl;

use super::schema::reconcile_findings;
use super::{Db, DbError};
use crate::domain::{CouponId, UserId};

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = reconcile_findings)]
pub struct FindingRow {
    pub run_id: String,
    pub coupon_id: Option<i64>,
    pub drop_id: Option<i64>,
    pub kind: String,
    pub slot: Option<i64>,
    pub user_id: Option<String>,
    pub action: String,
    pub result: String,
    pub detail: Option<String>,
    pub needs_person: bool,
    pub dead_letter: Option<i64>,
}

/// Findings written per statement.
const AT_ONCE: usize = 500;

/// Findings deleted per statement.
const DELETED_AT_ONCE: usize = 5_000;

impl Db {
    /// Writes the findings of a run that has no row yet or is in progress, in small statements.
    /// Safe to repeat after an error.
    pub(super) async fn write_findings(
        &self,
        run_id: &str,
        findings: Vec<FindingRow>,
    ) -> Result<(), DbError> {
        let run_id = run_id.to_owned();
        // Those that an attempt wrote before it failed.
        self.run("delete findings of a run", async move |conn| {
            let sql =
                format!("DELETE FROM reconcile_findings WHERE run_id = ? LIMIT {DELETED_AT_ONCE}");
            loop {
                let some = diesel::sql_query(&sql).bind::<diesel::sql_types::Text, _>(&run_id);
                if some.execute(conn).await? == 0 {
                    return Ok(());
                }
            }
        })
        .await?;
        for some in findings.chunks(AT_ONCE) {
            let some = some.to_vec();
            self.run("write findings", async move |conn| {
                let insert = diesel::insert_into(reconcile_findings::table).values(some);
                insert.execute(conn).await
            })
            .await?;
        }
        Ok(())
    }

    /// Reads at most `limit` findings of a run with ids above `after`.
    pub(super) async fn findings_of(
        &self,
        run_id: String,
        limit: u32,
        after: i64,
    ) -> Result<Vec<(i64, FindingRow)>, DbError> {
        self.run("findings of a run", async move |conn| {
            reconcile_findings::table
                .filter(reconcile_findings::run_id.eq(run_id))
                .filter(reconcile_findings::id.gt(after))
                .order(reconcile_findings::id)
                .limit(i64::from(limit))
                .select((reconcile_findings::id, FindingRow::as_select()))
                .load(conn)
                .await
        })
        .await
    }

    /// Reads why the last pass left a dead letter unresolved, and when.
    pub async fn why_left(
        &self,
        letter: i64,
        drop: Option<i64>,
    ) -> Result<Option<(String, NaiveDateTime)>, DbError> {
        self.run("why a dead letter stays", async move |conn| {
            // The condition matches the index on drop and result.
            let of_drop =
                diesel::dsl::sql::<Bool>("drop_id <=> ").bind::<Nullable<BigInt>, _>(drop);
            let left = reconcile_findings::result.eq("skipped");
            reconcile_findings::table
                .filter(of_drop)
                .filter(left.and(reconcile_findings::dead_letter.eq(letter)))
                .order(reconcile_findings::created_at.desc())
                .select((
                    reconcile_findings::detail.assume_not_null(),
                    reconcile_findings::created_at,
                ))
                .first(conn)
                .await
                .optional()
        })
        .await
    }

    /// Reads the first thousand findings about a user and a coupon, each with the time of its
    /// record.
    pub async fn findings_about(
        &self,
        coupon: CouponId,
        user: &UserId,
    ) -> Result<Vec<(FindingRow, NaiveDateTime)>, DbError> {
        let user = user.as_str().to_owned();
        self.run("findings about a person", async move |conn| {
            reconcile_findings::table
                .filter(
                    reconcile_findings::coupon_id
                        .eq(coupon.0)
                        .and(reconcile_findings::user_id.eq(user)),
                )
                .order(reconcile_findings::id)
                .limit(1_000)
                .select((FindingRow::as_select(), reconcile_findings::created_at))
                .load(conn)
                .await
        })
        .await
    }
}
