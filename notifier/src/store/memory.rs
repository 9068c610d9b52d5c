//! The alerts as they are kept, and what a decision needs to know of before.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::Conn;
use firstcome_shared::mysql::schema::{alerts, broken_promises, drops, reconcile_findings, reconcile_runs};

use crate::alerts::{Alert, BrokenPromise, Memory, State, observe, repair_fingerprints};
use crate::report::Run;

/// One row of `alerts`.
#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = alerts, treat_none_as_null = true)]
struct AlertRow {
    fingerprint: String,
    kind: String,
    coupon_id: Option<i64>,
    drop_id: Option<i64>,
    status: String,
    summary: String,
    content_hash: String,
    first_seen_at: NaiveDateTime,
    last_seen_at: NaiveDateTime,
    last_mailed_at: Option<NaiveDateTime>,
    mails: u32,
    thread_id: Option<String>,
    resolved_at: Option<NaiveDateTime>,
    acknowledged_at: Option<NaiveDateTime>,
    acknowledged_by: Option<String>,
}

impl From<AlertRow> for Alert {
    fn from(row: AlertRow) -> Self {
        Self {
            state: row.status.parse().unwrap_or(State::Resolved),
            fingerprint: row.fingerprint,
            kind: row.kind,
            coupon_id: row.coupon_id.map(CouponId),
            drop_id: row.drop_id.map(DropId),
            summary: row.summary,
            content_hash: row.content_hash,
            first_seen_at: row.first_seen_at.and_utc(),
            last_seen_at: row.last_seen_at.and_utc(),
            last_mailed_at: row.last_mailed_at.map(|at| at.and_utc()),
            mails: row.mails,
            thread: row.thread_id.unwrap_or_default(),
            resolved_at: row.resolved_at.map(|at| at.and_utc()),
            acknowledged_at: row.acknowledged_at.map(|at| at.and_utc()),
            acknowledged_by: row.acknowledged_by,
        }
    }
}

impl From<&Alert> for AlertRow {
    fn from(alert: &Alert) -> Self {
        Self {
            fingerprint: alert.fingerprint.clone(),
            kind: alert.kind.clone(),
            coupon_id: alert.coupon_id.map(|id| id.0),
            drop_id: alert.drop_id.map(|id| id.0),
            status: alert.state.as_str().to_owned(),
            summary: alert.summary.clone(),
            content_hash: alert.content_hash.clone(),
            first_seen_at: alert.first_seen_at.naive_utc(),
            last_seen_at: alert.last_seen_at.naive_utc(),
            last_mailed_at: alert.last_mailed_at.map(|at| at.naive_utc()),
            mails: alert.mails,
            thread_id: Some(alert.thread.clone()),
            resolved_at: alert.resolved_at.map(|at| at.naive_utc()),
            acknowledged_at: alert.acknowledged_at.map(|at| at.naive_utc()),
            acknowledged_by: alert.acknowledged_by.clone(),
        }
    }
}

pub(super) async fn keep(conn: &mut Conn, alert: &Alert) -> QueryResult<()> {
    let row = AlertRow::from(alert);
    diesel::insert_into(alerts::table)
        .values(&row)
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set(&row)
        .execute(conn)
        .await
        .map(|_| ())
}

/// What the decision needs to know of before.
pub(super) async fn remember(conn: &mut Conn, run: &Run) -> QueryResult<Memory> {
    let examined: Vec<i64> = run.drops.iter().map(|drop| drop.drop_id.0).collect();
    let broken = broken(conn, &examined).await?;
    let mut seen = repair_fingerprints(run, &broken);
    seen.extend(observe(run, &broken).into_iter().map(|o| o.fingerprint));
    let open = alerts::status.eq("firing").or(alerts::status
        .eq("resolved")
        .and(alerts::last_mailed_at.lt(alerts::resolved_at))
        .and(alerts::last_mailed_at.ge(alerts::first_seen_at.nullable())));
    let rows: Vec<AlertRow> = alerts::table
        .filter(open.or(alerts::fingerprint.eq_any(seen)))
        .select(AlertRow::as_select())
        .load(conn)
        .await?;
    let concerned: Vec<i64> = rows.iter().filter_map(|row| row.drop_id).chain(examined).collect();
    let silences: Vec<(i64, Option<NaiveDateTime>)> = drops::table
        .filter(drops::id.eq_any(concerned).and(drops::silenced_until.is_not_null()))
        .select((drops::id, drops::silenced_until))
        .load(conn)
        .await?;
    let alerts: HashMap<String, Alert> =
        rows.into_iter().map(|row| (row.fingerprint.clone(), Alert::from(row))).collect();
    Ok(Memory {
        silenced_until: silences.into_iter().filter_map(|(id, at)| Some((DropId(id), at?.and_utc()))).collect(),
        untold_repairs: untold_repairs(conn, run, &alerts).await?,
        alerts,
        broken,
    })
}

/// What was repaired in earlier passes since the last mail that told so.
async fn untold_repairs(
    conn: &mut Conn,
    run: &Run,
    alerts: &HashMap<String, Alert>,
) -> QueryResult<HashMap<Option<DropId>, u64>> {
    let mut untold = HashMap::new();
    for alert in alerts.values() {
        let Some(since) = alert.untold_since() else { continue };
        let since = reconcile_runs::started_at.gt(since.naive_utc()).and(reconcile_runs::id.ne(&run.run_id));
        let applied = reconcile_findings::table
            .inner_join(reconcile_runs::table.on(reconcile_runs::id.eq(reconcile_findings::run_id)))
            .filter(since.and(reconcile_findings::result.eq("applied")))
            .into_boxed();
        let in_place = match alert.drop_id {
            Some(drop) => applied.filter(reconcile_findings::drop_id.eq(drop.0)),
            None => applied.filter(reconcile_findings::drop_id.is_null()),
        };
        let repairs: i64 = in_place.count().get_result(conn).await?;
        untold.insert(alert.drop_id, u64::try_from(repairs).unwrap_or(0));
    }
    Ok(untold)
}

async fn broken(conn: &mut Conn, examined: &[i64]) -> QueryResult<Vec<BrokenPromise>> {
    let rows: Vec<(i64, i64, String, Option<i64>, String)> = broken_promises::table
        .filter(broken_promises::drop_id.eq_any(examined).and(broken_promises::mended_at.is_null()))
        .order((broken_promises::drop_id, broken_promises::user_id))
        .select((
            broken_promises::coupon_id,
            broken_promises::drop_id,
            broken_promises::user_id,
            broken_promises::slot,
            broken_promises::reason,
        ))
        .load(conn)
        .await?;
    let promise = |(coupon, drop, user_id, slot, reason)| BrokenPromise {
        coupon_id: CouponId(coupon),
        drop_id: DropId(drop),
        user_id,
        slot,
        reason,
    };
    Ok(rows.into_iter().map(promise).collect())
}
