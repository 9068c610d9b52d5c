//! Runs of the reconciler, a row each, with their findings; and small facts that outlive a restart.

use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::Datetime;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde::Serialize;

use super::schema::{reconcile_findings, reconcile_runs, reconciler_state};
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, UserId};

/// Name of the instant (RFC 3339) at which a pass of the reconciler last ended well.
pub const LAST_SUCCESS_AT: &str = "last_success_at";

/// The status of a run that has not ended.
pub const RUNNING: &str = "running";

#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = reconcile_runs, treat_none_as_null = true)]
pub struct RunRow {
    pub id: String,
    pub triggered_by: String,
    pub dry_run: bool,
    pub deep: bool,
    pub confirmed: bool,
    pub status: String,
    pub owner: String,
    pub started_at: NaiveDateTime,
    pub heartbeat_at: NaiveDateTime,
    pub finished_at: Option<NaiveDateTime>,
    pub drops_examined: u32,
    pub users_examined: i64,
    pub rows_examined: i64,
    pub failed_claims_examined: i64,
    pub attempted: u32,
    pub applied: u32,
    pub skipped: u32,
    pub failed: u32,
    pub error: Option<String>,
    pub drops: Option<String>,
}

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
}

const FINDINGS_AT_ONCE: usize = 500;

/// Runs deleted in one statement: short locks, and thousands of runs are caught up with in a few
/// passes.
const DELETED_AT_ONCE: u32 = 500;

/// Runs that found something are the memory of `explain` and stay for this long.
const RUNS_WITH_FINDINGS_KEPT: Duration = Duration::from_secs(366 * 86_400);

impl Db {
    /// Records that a run begins. The caller holds the pass lock, so any other run that is still
    /// "running" died.
    pub async fn begin_run(&self, run: RunRow) -> Result<(), DbError> {
        self.run("begin run", async move |conn| {
            conn.transaction(async |conn| {
                diesel::update(reconcile_runs::table.filter(reconcile_runs::status.eq(RUNNING)))
                    .set((
                        reconcile_runs::status.eq("failed"),
                        reconcile_runs::finished_at.eq(Utc::now().naive_utc()),
                        reconcile_runs::error.eq("the process that ran it ended in the middle"),
                    ))
                    .execute(conn)
                    .await?;
                diesel::insert_into(reconcile_runs::table).values(&run).execute(conn).await
            })
            .await
            .map(|_| ())
        })
        .await
    }

    /// Records how a run ended, with its findings; also where its beginning could not be recorded.
    /// `succeeded` is the instant that counts as the last success.
    ///
    /// # Errors
    /// [`DbError`]; nothing was recorded.
    pub async fn finish_run(
        &self,
        run: RunRow,
        findings: Vec<FindingRow>,
        succeeded: Option<String>,
    ) -> Result<(), DbError> {
        self.run_within(Duration::from_secs(60), "finish run", async move |conn| {
            conn.transaction(async |conn| {
                let known: i64 = reconcile_runs::table.find(&run.id).count().get_result(conn).await?;
                if known == 0 {
                    diesel::insert_into(reconcile_runs::table).values(&run).execute(conn).await?;
                } else {
                    diesel::update(reconcile_runs::table.find(&run.id)).set(&run).execute(conn).await?;
                }
                for chunk in findings.chunks(FINDINGS_AT_ONCE) {
                    diesel::insert_into(reconcile_findings::table).values(chunk).execute(conn).await?;
                }
                match &succeeded {
                    Some(at) => set_state(conn, LAST_SUCCESS_AT, at).await,
                    None => Ok(()),
                }
            })
            .await
        })
        .await
    }

    /// Deletes runs that began longer ago: `kept` for those that found nothing, a year for the
    /// others (with their findings).
    pub async fn delete_old_runs(&self, kept: Duration) -> Result<(), DbError> {
        self.run("delete old runs", async move |conn| {
            for (of, kept) in
                [("status = 'clean'", kept), ("status NOT IN ('clean', 'running')", RUNS_WITH_FINDINGS_KEPT)]
            {
                let sql = format!(
                    "DELETE FROM reconcile_runs WHERE {of} AND started_at < ? ORDER BY started_at LIMIT {DELETED_AT_ONCE}"
                );
                // Longer than time itself: nothing is old.
                let before = TimeDelta::from_std(kept).ok().and_then(|kept| Utc::now().checked_sub_signed(kept));
                let Some(before) = before else { continue };
                diesel::sql_query(sql).bind::<Datetime, _>(before.naive_utc()).execute(conn).await?;
            }
            Ok(())
        })
        .await
    }

    /// The run that has not ended, in any process.
    pub async fn running_run(&self) -> Result<Option<String>, DbError> {
        self.run("running run", async move |conn| {
            reconcile_runs::table
                .filter(reconcile_runs::status.eq(RUNNING))
                .order(reconcile_runs::started_at.desc())
                .select(reconcile_runs::id)
                .first(conn)
                .await
                .optional()
        })
        .await
    }

    /// Runs, newest first; only those older than `before`.
    pub async fn runs(&self, limit: u32, before: Option<String>) -> Result<Vec<RunRow>, DbError> {
        self.run("list runs", async move |conn| {
            let mut query = reconcile_runs::table.order(reconcile_runs::id.desc()).limit(i64::from(limit)).into_boxed();
            if let Some(before) = before {
                query = query.filter(reconcile_runs::id.lt(before));
            }
            query.select(RunRow::as_select()).load(conn).await
        })
        .await
    }

    /// A run with at most `limit` findings after the finding `after`, each with its number.
    pub async fn run_with_findings(
        &self,
        id: String,
        limit: u32,
        after: i64,
    ) -> Result<Option<(RunRow, Vec<(i64, FindingRow)>)>, DbError> {
        self.run("read run", async move |conn| {
            let row: Option<RunRow> =
                reconcile_runs::table.find(&id).select(RunRow::as_select()).first(conn).await.optional()?;
            let Some(row) = row else { return Ok(None) };
            let findings = reconcile_findings::table
                .filter(reconcile_findings::run_id.eq(&id).and(reconcile_findings::id.gt(after)))
                .order(reconcile_findings::id)
                .limit(i64::from(limit))
                .select((reconcile_findings::id, FindingRow::as_select()))
                .load(conn)
                .await?;
            Ok(Some((row, findings)))
        })
        .await
    }

    /// The first thousand findings about a person and a coupon, each with the instant when it was
    /// recorded.
    pub async fn findings_about(
        &self,
        coupon: CouponId,
        user: &UserId,
    ) -> Result<Vec<(FindingRow, NaiveDateTime)>, DbError> {
        let user = user.as_str().to_owned();
        self.run("findings about a person", async move |conn| {
            reconcile_findings::table
                .filter(reconcile_findings::coupon_id.eq(coupon.0).and(reconcile_findings::user_id.eq(user)))
                .order(reconcile_findings::id)
                .limit(1_000)
                .select((FindingRow::as_select(), reconcile_findings::created_at))
                .load(conn)
                .await
        })
        .await
    }

    /// The fact of this name, where there is one.
    pub async fn state(&self, name: &'static str) -> Result<Option<String>, DbError> {
        self.run("read state", async move |conn| {
            reconciler_state::table.find(name).select(reconciler_state::value).first(conn).await.optional()
        })
        .await
    }

    pub async fn set_state(&self, name: &'static str, value: String) -> Result<(), DbError> {
        self.run("write state", async move |conn| set_state(conn, name, &value).await).await
    }
}

/// A value as the JSON that a column holds.
pub fn to_json(value: &impl Serialize) -> Result<String, DbError> {
    let what = "write JSON";
    serde_json::to_string(value)
        .map_err(|error| DbError::Query { what, source: diesel::result::Error::SerializationError(Box::new(error)) })
}

pub async fn set_state(conn: &mut Conn, name: &str, value: &str) -> QueryResult<()> {
    diesel::insert_into(reconciler_state::table)
        .values((reconciler_state::name.eq(name), reconciler_state::value.eq(value)))
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set((reconciler_state::value.eq(value), reconciler_state::updated_at.eq(Utc::now().naive_utc())))
        .execute(conn)
        .await
        .map(|_| ())
}
