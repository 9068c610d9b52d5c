//! Reads the data of the daily digest for a period.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::dsl::{count_star, max, sql};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use super::outbox::UNTRIED;
use super::schema::{alerts, broken_promises, coupons, drops, outbox, reconcile_runs, repairs};
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, DropId};
use crate::report::AlertKind;

/// Maximum number of lines per list. The mail shows only the number of the others.
const LINES: i64 = 20;

/// Time limit of all queries. With a pass every second, a day has about 86,000 rows.
const LIMIT: Duration = Duration::from_secs(30);

/// An alert that is open at the end of the period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAlert {
    pub id: i64,
    /// One line about it.
    pub summary: String,
    /// The coupon's name, if it concerns one.
    pub coupon_name: Option<String>,
    /// The drop concerned, if any.
    pub drop_id: Option<DropId>,
    /// When it began to fire.
    pub since: DateTime<Utc>,
    /// The operator who acknowledged it.
    pub acknowledged_by: Option<String>,
}

/// A drop that was verified exact after it closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestDrop {
    pub coupon_id: CouponId,
    pub coupon_name: String,
    pub drop_id: DropId,
    /// Number of coupons offered.
    pub quantity: u32,
    /// Number of coupons issued.
    pub rows: u32,
}

/// A target for which messages were given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostMessages {
    /// A mail address as written in a header, or the name of a webhook's address.
    pub target: String,
    pub given_up: u64,
    /// Messages that the target accepted.
    pub sent: u64,
}

/// The daily digest of a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyDigest {
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive.
    pub to: DateTime<Utc>,
    /// The first alerts that need an operator, oldest first.
    pub open: Vec<OpenAlert>,
    pub open_total: u64,
    /// Broken promises that have not been resolved.
    pub broken: u64,
    /// Number of runs that ended, by status.
    pub runs: Vec<(String, u64)>,
    /// When the last clean or repaired run ended.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Repairs by kind.
    pub repairs: Vec<(String, u64)>,
    /// The first drops that were verified exact.
    pub sealed: Vec<DigestDrop>,
    pub sealed_total: u64,
    /// Messages sent, waiting, and given up because nothing was set that sends them.
    pub messages: [u64; 3],
    /// Other messages given up, by target.
    pub lost: Vec<LostMessages>,
    /// The operator asserts that Redis is durable (`REDIS_DURABILITY=managed`), and nothing checks
    /// it.
    pub redis_is_managed: bool,
}

/// Reads the digest of a period.
pub async fn day(db: &Db, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<DailyDigest, DbError> {
    db.within(LIMIT)
        .run("gather the day", async move |conn| {
            let since = from.naive_utc();
            let until = to.naive_utc();
            let started = reconcile_runs::started_at
                .ge(since)
                .and(reconcile_runs::started_at.lt(until));
            let ended = reconcile_runs::finished_at
                .is_not_null()
                .and(reconcile_runs::dry_run.eq(false));
            let runs: Vec<(String, i64)> = reconcile_runs::table
                .filter(started.and(ended))
                .group_by(reconcile_runs::status)
                .order(reconcile_runs::status)
                .select((reconcile_runs::status, count_star()))
                .load(conn)
                .await?;
            let good = reconcile_runs::status.eq_any(["clean", "repaired"]);
            let last: Option<NaiveDateTime> = reconcile_runs::table
                .filter(good.and(reconcile_runs::dry_run.eq(false)))
                .select(max(reconcile_runs::finished_at))
                .first(conn)
                .await?;
            let repaired = repairs::repaired_at
                .ge(since)
                .and(repairs::repaired_at.lt(until));
            let repaired: Vec<(String, i64)> = repairs::table
                .filter(repaired)
                .group_by(repairs::kind)
                .order(repairs::kind)
                .select((repairs::kind, sql::<BigInt>("CAST(SUM(number) AS SIGNED)")))
                .load(conn)
                .await?;
            let broken = broken_promises::table.filter(broken_promises::mended_at.is_null());
            let broken: i64 = broken.count().get_result(conn).await?;
            let (open, open_total) = open(conn).await?;
            let (sealed, sealed_total) = sealed(conn, since, until).await?;
            let (messages, lost) = messages(conn, since, until).await?;
            let counted = |(word, n): (String, i64)| (word, unsigned(n));
            Ok(DailyDigest {
                from,
                to,
                open,
                open_total,
                broken: unsigned(broken),
                runs: runs.into_iter().map(counted).collect(),
                last_success_at: last.map(|at| at.and_utc()),
                repairs: repaired.into_iter().map(counted).collect(),
                sealed,
                sealed_total,
                messages,
                lost,
                redis_is_managed: false,
            })
        })
        .await
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

async fn sealed(
    conn: &mut Conn,
    since: NaiveDateTime,
    until: NaiveDateTime,
) -> QueryResult<(Vec<DigestDrop>, u64)> {
    let in_time = || drops::sealed_at.ge(since).and(drops::sealed_at.lt(until));
    let total = drops::table.filter(in_time()).count();
    let total: i64 = total.get_result(conn).await?;
    let rows: Vec<(i64, String, i64, u32, Option<u32>)> = drops::table
        .inner_join(coupons::table.on(coupons::id.eq(drops::coupon_id)))
        .filter(in_time())
        .order(drops::sealed_at)
        .limit(LINES)
        .select((
            coupons::id,
            coupons::name,
            drops::id,
            drops::quantity,
            drops::sealed_rows,
        ))
        .load(conn)
        .await?;
    let drop = |(coupon, coupon_name, drop, quantity, rows)| DigestDrop {
        coupon_id: CouponId(coupon),
        coupon_name,
        drop_id: DropId(drop),
        quantity,
        rows: Option::unwrap_or(rows, 0),
    };
    Ok((rows.into_iter().map(drop).collect(), unsigned(total)))
}

/// Number, summary, coupon's name, drop, time it began to fire, operator who acknowledged it.
type OpenRow = (
    i64,
    String,
    Option<String>,
    Option<i64>,
    NaiveDateTime,
    Option<String>,
);

async fn open(conn: &mut Conn) -> QueryResult<(Vec<OpenAlert>, u64)> {
    // The digest itself says whether passes run, and it may be late itself.
    let late = AlertKind::RunMissed.facts().word;
    let is_open = || alerts::status.eq("firing").and(alerts::kind.ne(late));
    let total = alerts::table.filter(is_open()).count();
    let total: i64 = total.get_result(conn).await?;
    let rows: Vec<OpenRow> = alerts::table
        .left_join(coupons::table.on(coupons::id.nullable().eq(alerts::coupon_id)))
        .filter(is_open())
        .order(alerts::first_seen_at)
        .limit(LINES)
        .select((
            alerts::id,
            alerts::summary,
            coupons::name.nullable(),
            alerts::drop_id,
            alerts::first_seen_at,
            alerts::acknowledged_by,
        ))
        .load(conn)
        .await?;
    let alert = |(id, summary, coupon_name, drop, since, acknowledged_by): OpenRow| OpenAlert {
        id,
        summary,
        coupon_name,
        drop_id: drop.map(DropId),
        since: since.and_utc(),
        acknowledged_by,
    };
    Ok((rows.into_iter().map(alert).collect(), unsigned(total)))
}

/// Counts the messages sent, waiting and never tried, and those given up by target.
async fn messages(
    conn: &mut Conn,
    since: NaiveDateTime,
    until: NaiveDateTime,
) -> QueryResult<([u64; 3], Vec<LostMessages>)> {
    let sent = || outbox::sent_at.ge(since).and(outbox::sent_at.lt(until));
    let given_up = outbox::given_up_at
        .ge(since)
        .and(outbox::given_up_at.lt(until));
    let given_up = || outbox::table.filter(outbox::sent_at.is_null().and(given_up));
    let all_sent: i64 = outbox::table
        .filter(sent())
        .count()
        .get_result(conn)
        .await?;
    let open = outbox::sent_at.is_null().and(outbox::given_up_at.is_null());
    let waiting: i64 = outbox::table.filter(open).count().get_result(conn).await?;
    let untried = given_up().filter(outbox::last_error.eq(UNTRIED)).count();
    let untried: i64 = untried.get_result(conn).await?;
    let lost: Vec<(String, i64)> = given_up()
        .filter(
            outbox::last_error
                .is_null()
                .or(outbox::last_error.ne(UNTRIED)),
        )
        .group_by(outbox::target)
        .order(outbox::target)
        .limit(LINES)
        .select((outbox::target, count_star()))
        .load(conn)
        .await?;
    let mut all = Vec::with_capacity(lost.len());
    for (target, given_up) in lost {
        let sent = outbox::table.filter(sent().and(outbox::target.eq(&target)));
        let sent: i64 = sent.count().get_result(conn).await?;
        all.push(LostMessages {
            target,
            given_up: unsigned(given_up),
            sent: unsigned(sent),
        });
    }
    Ok(([all_sent, waiting, untried].map(unsigned), all))
}
