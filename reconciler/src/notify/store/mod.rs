//! What is kept in MySQL: the alerts, and the mails to send. A pass changes both in one transaction, so that no restart makes
//! a mail come twice or not at all.

mod day;
mod operators;
pub(super) mod outbox;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::schema::{alerts, broken_promises, drops, mail_outbox, reconciler_state};
use firstcome_shared::mysql::{Conn, Db, DbError};

use super::alerts::{Alert, BrokenPromise, Memory, Policy, State, Verdict, judge, observe};
use super::render::{self, Links, Rendered};
use crate::report::Run;

pub(super) use day::{day, tidy};
pub use operators::{AlertError, AlertPage, AlertView, acknowledge, alert, list, silence};

/// Longest that recording a pass may take; one with ten thousand findings has much to hash.
const LIMIT: Duration = Duration::from_secs(30);

/// What mails need to know of the settings.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// Who gets mails, as they stand in a header.
    pub(super) recipients: Vec<String>,
    /// What comes after the `@` of ids.
    pub(super) domain: String,
    pub(super) links: Links,
    pub(super) policy: Policy,
}

/// Keeps what a pass means for the alerts and enqueues its mail, if it has one. Gives the number of mails enqueued. A run
/// that was told already is not told again, so this may be tried again after a timeout.
pub(super) async fn record_pass(db: &Db, run: Run, post: Arc<Post>, now: DateTime<Utc>) -> Result<usize, DbError> {
    db.run_within(LIMIT, "record alerts", async move |conn| {
        conn.transaction(async |conn| {
            one_at_a_time(conn).await?;
            let memory = remember(conn, &run).await?;
            let verdict = judge(&run, &memory, post.policy, now);
            for alert in &verdict.alerts {
                keep(conn, alert).await?;
            }
            // Judged anew after a timeout, only repairs would be told twice: all else is remembered as told.
            if !verdict.says_something() || is_told(conn, &run.run_id).await? {
                return Ok(0);
            }
            let ids = ids(conn, &verdict).await?;
            let pass = render::Pass { run: &run, verdict: &verdict, ids: &ids, links: &post.links, now };
            let mail = render::pass(&pass).map_err(unrendered)?;
            let threads = threads(&verdict, &post.domain);
            outbox::enqueue(conn, &mail, Some(&run.run_id), threads.as_deref(), &post, now).await
        })
        .await
    })
    .await
}

/// Enqueues a mail that belongs to no pass.
pub(super) async fn enqueue(db: &Db, mail: Rendered, post: Arc<Post>, now: DateTime<Utc>) -> Result<usize, DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| outbox::enqueue(conn, &mail, None, None, &post, now).await).await
    })
    .await
}

fn unrendered(error: anyhow::Error) -> diesel::result::Error {
    diesel::result::Error::SerializationError(error.into())
}

/// Holds a row's lock to the end of the transaction: two processes must not judge by the same memory.
async fn one_at_a_time(conn: &mut Conn) -> QueryResult<()> {
    // Not INSERT IGNORE, whose shared lock would let two in and then block both.
    diesel::insert_into(reconciler_state::table)
        .values((reconciler_state::name.eq("notify"), reconciler_state::value.eq("")))
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set(reconciler_state::value.eq(""))
        .execute(conn)
        .await
        .map(|_| ())
}

async fn is_told(conn: &mut Conn, run_id: &str) -> QueryResult<bool> {
    let rows: i64 = mail_outbox::table.filter(mail_outbox::run_id.eq(run_id)).count().get_result(conn).await?;
    Ok(rows > 0)
}

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
            state: match row.status.as_str() {
                "firing" => State::Firing,
                "told" => State::Told,
                _ => State::Resolved,
            },
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

async fn keep(conn: &mut Conn, alert: &Alert) -> QueryResult<()> {
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
async fn remember(conn: &mut Conn, run: &Run) -> QueryResult<Memory> {
    let examined: Vec<i64> = run.drops.iter().map(|drop| drop.drop_id.0).collect();
    let broken = broken(conn, &examined).await?;
    let seen: Vec<String> = observe(run, &broken).into_iter().map(|o| o.fingerprint).collect();
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
    Ok(Memory {
        alerts: rows.into_iter().map(|row| (row.fingerprint.clone(), Alert::from(row))).collect(),
        silenced_until: silences.into_iter().filter_map(|(id, at)| Some((DropId(id), at?.and_utc()))).collect(),
        broken,
    })
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

async fn ids(conn: &mut Conn, verdict: &Verdict) -> QueryResult<HashMap<String, i64>> {
    let told: Vec<&str> = verdict.problems.iter().map(|told| told.observation.fingerprint.as_str()).collect();
    let rows: Vec<(String, i64)> = alerts::table
        .filter(alerts::fingerprint.eq_any(told))
        .select((alerts::fingerprint, alerts::id))
        .load(conn)
        .await?;
    Ok(rows.into_iter().collect())
}

/// Most threads that one mail belongs to.
const THREADS: usize = 10;

/// The threads of the drifts a mail tells of, the most pressing first; none for what is told once.
fn threads(verdict: &Verdict, domain: &str) -> Option<String> {
    let told = verdict.problems.iter().map(|told| told.observation.fingerprint.as_str());
    let told = told.chain(verdict.resolved.iter().map(|alert| alert.fingerprint.as_str()));
    let thread_of = |fingerprint: &str| {
        verdict
            .alerts
            .iter()
            .find(|alert| alert.fingerprint == fingerprint)
            .map(|alert| format!("{}@{domain}", alert.thread))
    };
    let threads: Vec<String> = told.filter_map(thread_of).take(THREADS).collect();
    (!threads.is_empty()).then(|| threads.join(" "))
}
