//! Runs of the reconciler, one row each, with their findings; and values that must survive a
//! restart.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Conn, Db, DbResult};
use crate::columns::At;
use crate::report::{Status, Stored, Trigger};
use crate::schema::{reconcile_runs, reconciler_state};

/// Name in `reconciler_state` of the time (RFC 3339) of the last successful pass.
pub const LAST_SUCCESS_AT: &str = "last_success_at";

/// The status of a run that has not ended.
pub const RUNNING: &str = "running";

/// A run, as recorded and listed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, Queryable, Selectable, Insertable)]
#[diesel(table_name = reconcile_runs, treat_none_as_default_value = false)]
#[schema(as = RunSummary)]
pub struct RunRow {
    #[schema(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
    #[diesel(column_name = id)]
    pub run_id: String,
    #[schema(value_type = Trigger)]
    #[diesel(column_name = triggered_by)]
    pub trigger: Stored<Trigger>,
    pub dry_run: bool,
    pub deep: bool,
    pub confirmed: bool,
    #[schema(value_type = Status)]
    pub status: Stored<Status>,
    #[serde(skip)]
    pub owner: String,
    #[diesel(serialize_as = At)]
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    pub drops_examined: u32,
    pub users_examined: i64,
    pub rows_examined: i64,
    pub failed_claims_examined: i64,
    pub applied: u32,
    pub skipped: u32,
    pub failed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "MySQL did not answer")]
    pub error: Option<String>,
    /// A hash of findings and drop reports. `None` for dry runs, and for runs that did not
    /// compare everything.
    #[serde(skip)]
    pub content: Option<i64>,
    /// The earlier run that stores the same findings and drop reports.
    #[serde(skip)]
    pub same_as: Option<String>,
    /// The operator who asked for it, if a name was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Kim")]
    pub asked_by: Option<String>,
}

impl Db {
    /// Reads the value with this name.
    pub async fn state(&self, name: &'static str) -> DbResult<Option<String>> {
        self.run("read state", async move |conn| state(conn, name).await)
            .await
    }

    /// Checks that MySQL accepts writes.
    pub async fn check_writes(&self) -> DbResult<()> {
        let now = chrono::Utc::now().to_rfc3339();
        self.of_primary().set_state("writes_checked_at", now).await
    }

    /// Whether commits hang, as far as this user's connections show. While the disk of the binary
    /// log is full, MySQL answers reads and lets every commit wait, without an error; each attempt
    /// to write would keep a connection until the disk has space.
    pub async fn commits_hang(&self) -> DbResult<bool> {
        let hanging = sql_query(
            "SELECT COUNT(*) AS number FROM performance_schema.processlist \
             WHERE state = 'waiting for handler commit' AND time >= ?",
        )
        .bind::<BigInt, _>(HANGS_SECONDS);
        let found: Option<HangingCommits> = self.row("look for commits that hang", hanging).await?;
        Ok(found.is_some_and(|found| found.number > 0))
    }

    pub async fn set_state(&self, name: &'static str, value: String) -> DbResult<()> {
        self.run("write state", async move |conn| {
            set_state(conn, name, &value).await
        })
        .await
    }
}

/// Reads the value with this name.
pub async fn state(conn: &mut Conn, name: &str) -> QueryResult<Option<String>> {
    reconciler_state::table
        .find(name)
        .select(reconciler_state::value)
        .get_result(conn)
        .await
        .optional()
}

/// Returns the earlier run with the same result, if there is one.
pub async fn same_as(conn: &mut Conn, run_id: &str) -> QueryResult<Option<String>> {
    let same: Option<Option<String>> = reconcile_runs::table
        .find(run_id)
        .select(reconcile_runs::same_as)
        .get_result(conn)
        .await
        .optional()?;
    Ok(same.flatten())
}

pub async fn set_state(conn: &mut Conn, name: &str, value: &str) -> QueryResult<()> {
    diesel::replace_into(reconciler_state::table)
        .values((
            reconciler_state::name.eq(name),
            reconciler_state::value.eq(value),
        ))
        .execute(conn)
        .await
        .map(|_| ())
}

/// How many commits hang.
#[derive(QueryableByName)]
struct HangingCommits {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

/// A commit that has lasted this long counts as one that hangs.
const HANGS_SECONDS: i64 = 3;
