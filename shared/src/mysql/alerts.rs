//! The table `alerts`: problems, whether mailed yet or not, kept across restarts; and `repairs`:
//! how many repairs passes made, for the next mail about repairs and for the daily digest.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ops_actions::{Operator, OperatorAct};
use super::runs::set_state;
use super::sql::{insert_rows, row};
use super::{Columns as _, Conn, Db, DbResult, json, list as values_of};
use crate::domain::{CouponId, DropId};
use crate::report::AlertState;
use crate::sql;

row! {
    /// An alert. User ids in it are masked.
    #[derive(Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
    pub struct Alert {
        /// The identity of the problem: its kind, and its coupon, drop or cause.
        #[serde(skip)]
        pub name: String,
        /// Its kind: a section of docs/OPERATIONS.md.
        #[schema(example = "unissued")]
        pub kind: String,
        pub coupon_id: Option<CouponId>,
        pub drop_id: Option<DropId>,
        #[serde(rename = "status")]
        pub state as status: AlertState,
        /// One human-readable line.
        #[schema(example = "3 people hold a slot and have no row")]
        pub summary: String,
        /// The number of cases in its last mail that have not ended since. Before the first mail,
        /// the number of cases that the last pass saw.
        #[serde(skip)]
        pub size: u64,
        /// A checksum of these cases.
        #[serde(skip)]
        pub content: i64,
        /// A hash of each of these cases; `None` if some are only counted, or if they are too many.
        #[serde(skip)]
        pub cases: Option<String>,
        /// Since when it has been firing.
        pub first_seen_at: DateTime<Utc>,
        /// When a pass last saw it.
        pub last_seen_at: DateTime<Utc>,
        /// When its last mail was queued, or, if `mails` is 0, would have been queued if anybody
        /// could get it; null before.
        pub last_mailed_at: Option<DateTime<Utc>>,
        /// Number of mails since it was last quiet for a whole cooldown.
        pub mails: u32,
        /// When a pass saw that it was over.
        pub resolved_at: Option<DateTime<Utc>>,
        /// When it was acknowledged.
        pub acknowledged_at: Option<DateTime<Utc>>,
        #[schema(example = "Kim")]
        pub acknowledged_by: Option<String>,
    }
}

impl Alert {
    /// Whether a mail about it was due since it last started firing.
    pub fn was_mailed(&self) -> bool {
        self.last_mailed_at
            .is_some_and(|at| at >= self.first_seen_at)
    }
}

row! {
    /// A promise that could not be kept and is unresolved.
    #[derive(PartialEq, Eq)]
    pub struct BrokenPromise {
        pub coupon_id: CouponId,
        pub drop_id: DropId,
        /// The user id in full.
        pub user_id: String,
        /// The user's slot, if known.
        pub slot: Option<i64>,
        /// Why the promise could not be kept.
        pub reason: String,
    }
}

/// An alert as shown to operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedAlert {
    pub id: i64,
    #[serde(flatten)]
    pub alert: Alert,
    /// The name of its coupon; null if it has none.
    #[schema(example = "Winter coupon")]
    pub coupon_name: Option<String>,
}

/// Alerts, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertPage {
    pub alerts: Vec<ListedAlert>,
    /// `before` of the next page; null on the last page.
    pub next_before: Option<i64>,
}

/// Takes a lock until the end of the transaction, so that two processes do not make decisions from
/// the same rows.
pub async fn lock(conn: &mut Conn) -> QueryResult<()> {
    // INSERT IGNORE would take a shared lock, which two transactions could hold and then deadlock.
    set_state("notify", "").run(conn).await.map(|_| ())
}

/// Inserts an alert, or replaces the one with the same name. An earlier alert of that name that was
/// mailed and is over is renamed instead, and keeps the id to which its mails link.
pub async fn keep(conn: &mut Conn, alert: &Alert) -> QueryResult<()> {
    let earlier = "UPDATE alerts SET name = CONCAT(name, '#', id) WHERE name = ? \
        AND status = 'resolved' AND last_mailed_at >= first_seen_at AND first_seen_at < ?";
    sql!(earlier, &alert.name, alert.first_seen_at)
        .run(conn)
        .await?;
    let set = Alert::NAMES
        .iter()
        .map(|it| format!("{it} = new.{it}"))
        .collect::<Vec<_>>()
        .join(", ");
    let replace = format!(" AS new ON DUPLICATE KEY UPDATE {set}");
    insert_rows(conn, "alerts", vec![alert.clone()], &replace).await
}

/// Lists names as a table `j`; takes them as a JSON array.
const NAMES: &str = "JSON_TABLE(?, '$[*]' COLUMNS (name VARCHAR(100) CHARACTER SET ascii COLLATE \
    ascii_bin PATH '$')) j";

/// Reads the alerts that are firing or that have one of these names, by name.
pub async fn firing_or_named(
    conn: &mut Conn,
    names: &[String],
) -> QueryResult<HashMap<String, Alert>> {
    let query = format!(
        "SELECT {{a.columns}} FROM alerts a WHERE a.status = 'firing' \
        OR a.name IN (SELECT j.name FROM {NAMES})"
    );
    let found: Vec<Alert> = sql!(query, json(&names)).all(conn).await?;
    Ok(found
        .into_iter()
        .map(|alert: Alert| (alert.name.clone(), alert))
        .collect())
}

/// Returns when the passes that made these repairs first opened coupons that had been closed
/// because Redis lost data, or may have lost data. Returns `None` if they opened none.
pub async fn reopened_since(
    conn: &mut Conn,
    repairs: &[RepairsRow],
) -> QueryResult<Option<DateTime<Utc>>> {
    let runs: BTreeSet<&str> = repairs.iter().map(|row| row.run_id.as_str()).collect();
    if runs.is_empty() {
        return Ok(None);
    }
    let first = "SELECT MIN(created_at) FROM reconcile_findings WHERE run_id IN (?) \
        AND kind = 'redis_lost' AND action = 'open' AND result = 'applied'";
    sql!(first, values_of(runs)).one(conn).await
}

/// Reads the ids of alerts by name.
pub async fn ids(conn: &mut Conn, names: &[&str]) -> QueryResult<HashMap<String, i64>> {
    let query =
        format!("SELECT a.name, a.id FROM {NAMES} STRAIGHT_JOIN alerts a ON a.name = j.name");
    sql!(query, json(&names)).all(conn).await
}

/// Counts the users whose broken promises in a drop ended since this time. Returns how many of them
/// have a row that counts for the drop, and how many do not: an operator informed them, or they were
/// revoked.
pub async fn mended(conn: &mut Conn, drop: DropId, since: DateTime<Utc>) -> QueryResult<[i64; 2]> {
    let query = "SELECT COUNT(*), CAST(COALESCE(SUM(EXISTS (SELECT 1 FROM issued_coupons i \
        WHERE i.coupon_id = b.coupon_id AND i.user_id = b.user_id \
        AND (i.drop_id = b.drop_id OR c.once_per = 'coupon'))), 0) AS SIGNED) \
        FROM broken_promises b JOIN coupons c ON c.id = b.coupon_id WHERE b.drop_id = ? AND b.mended_at >= ?";
    let (all, kept): (i64, i64) = sql!(query, drop, since).one(conn).await?;
    Ok([kept, all - kept])
}

row! {
    /// The repairs of one kind that a pass made in one drop.
    #[derive(PartialEq, Eq)]
    pub struct RepairsRow {
        pub run_id: String,
        /// 0 if no drop is concerned.
        pub drop_id: i64,
        pub kind: String,
        pub number: u32,
        pub repaired_at: DateTime<Utc>,
    }
}

/// Stores repairs. A run that was stored before keeps its rows.
pub async fn keep_repairs(conn: &mut Conn, rows: Vec<RepairsRow>) -> QueryResult<()> {
    let unchanged = " ON DUPLICATE KEY UPDATE run_id = repairs.run_id";
    insert_rows(conn, "repairs", rows, unchanged).await
}

/// Reads the repairs that are not mailed yet, oldest first, and the times of the mails about
/// repairs from `since` on, newest first.
pub async fn unmailed_repairs(
    conn: &mut Conn,
    since: DateTime<Utc>,
) -> QueryResult<(Vec<RepairsRow>, Vec<DateTime<Utc>>)> {
    let unmailed =
        "SELECT {columns} FROM repairs WHERE mailed_at IS NULL ORDER BY repaired_at, run_id, kind";
    let unmailed = sql!(unmailed).all(conn).await?;
    let mails =
        "SELECT DISTINCT mailed_at FROM repairs WHERE mailed_at >= ? ORDER BY mailed_at DESC";
    Ok((unmailed, sql!(mails, since).all(conn).await?))
}

/// Marks all repairs that are not mailed yet as mailed.
pub async fn mark_repairs_mailed(conn: &mut Conn, now: DateTime<Utc>) -> QueryResult<()> {
    let mark = "UPDATE repairs SET mailed_at = ? WHERE mailed_at IS NULL";
    sql!(mark, now).run(conn).await.map(|_| ())
}

/// Reads the unresolved broken promises of these drops.
pub async fn broken_promises(conn: &mut Conn, of: &[i64]) -> QueryResult<Vec<BrokenPromise>> {
    let query = "SELECT {columns} FROM broken_promises \
                 WHERE drop_id IN (?) AND mended_at IS NULL ORDER BY drop_id, user_id";
    sql!(query, values_of(of.iter().copied())).all(conn).await
}

/// Lists alerts, newest first: at most `limit`, with an id below `before`, in the given state.
pub async fn list(
    db: &Db,
    state: Option<AlertState>,
    before: Option<i64>,
    limit: u32,
) -> DbResult<AlertPage> {
    let query = "SELECT a.id, c.name, {a.columns} FROM alerts a \
        LEFT JOIN coupons c ON c.id = a.coupon_id WHERE a.status LIKE ? AND a.id < ? \
        ORDER BY a.id DESC LIMIT ?";
    let state = state.map_or("%", <&str>::from);
    let before = before.unwrap_or(i64::MAX);
    let query = sql!(query, state, before, i64::from(limit) + 1);
    let rows: Vec<(i64, Option<String>, Alert)> = db.all("list alerts", query).await?;
    let mut alerts: Vec<ListedAlert> = rows
        .into_iter()
        .map(|(id, coupon_name, alert)| ListedAlert {
            id,
            alert,
            coupon_name,
        })
        .collect();
    let has_more = alerts.len() > limit as usize;
    alerts.truncate(limit as usize);
    let next_before = alerts.last().filter(|_| has_more).map(|alert| alert.id);
    Ok(AlertPage {
        alerts,
        next_before,
    })
}

pub async fn find(db: &Db, id: i64) -> DbResult<Option<ListedAlert>> {
    let newest = list(db, None, id.checked_add(1), 1).await?;
    Ok(newest.alerts.into_iter().find(|alert| alert.id == id))
}

impl Db {
    /// Counts firing alerts by kind. Only those count about which a mail was due, even if nobody
    /// could get it.
    pub async fn firing_by_kind(&self) -> DbResult<Vec<(String, i64)>> {
        let firing = "SELECT kind, COUNT(*) FROM alerts WHERE status = 'firing' \
            AND last_mailed_at >= first_seen_at GROUP BY kind";
        self.all("count firing alerts", sql!(firing)).await
    }
}

impl Db {
    /// Whether the alert with this name fires, has another kind than `other_than`, and was last seen
    /// before `seen_before`.
    pub async fn fires(
        &self,
        name: &str,
        other_than: &str,
        seen_before: DateTime<Utc>,
    ) -> DbResult<bool> {
        let fires = "SELECT id FROM alerts \
                     WHERE name = ? AND status = 'firing' AND kind <> ? AND last_seen_at < ?";
        let fires = sql!(fires, name, other_than, seen_before);
        Ok(self.first::<i64>("find an alert", fires).await?.is_some())
    }
}

/// Acknowledges an alert that is firing, so that it is not mailed again until it changes or is
/// over. Changes nothing if it is not firing. Returns the alert afterwards, or `None` if there is
/// no such alert.
pub async fn acknowledge(
    db: &Db,
    id: i64,
    by: String,
    now: DateTime<Utc>,
    operator: Operator,
) -> DbResult<Option<ListedAlert>> {
    db.transaction("acknowledge an alert", async move |conn| {
        // Otherwise, a process that records alerts at this moment could overwrite the change with
        // what it read before.
        lock(conn).await?;
        let set = "UPDATE alerts SET acknowledged_at = ?, acknowledged_by = ? WHERE id = ? \
            AND status = 'firing'";
        if sql!(set, now, &by, id).run(conn).await? == 0 {
            return Ok(());
        }
        let detail = serde_json::json!({"alert_id": id, "by": by});
        let act = OperatorAct::new("acknowledge", None, None, detail);
        operator.did(conn, act).await
    })
    .await?;
    find(db, id).await
}
