//! Reads the data of the daily digest for a period.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::dsl::{count_star, max, sql};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use super::alerts::{self, AlertState, ListedAlert};
use super::schema::{broken_promises, coupons, drops, outbox, reconcile_runs, repairs};
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, DropId};

/// Maximum number of finished drops. The mail shows only the number of the others.
const LINES: i64 = 20;

/// Time limit of all queries. With a pass every second, a day has about 86,000 rows.
const LIMIT: Duration = Duration::from_secs(30);

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

/// The daily digest of a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyDigest {
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive.
    pub to: DateTime<Utc>,
    /// The alerts that are open at the end, newest first, 500 at most.
    pub open: Vec<ListedAlert>,
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
    /// Messages sent, and those that wait.
    pub sent: u64,
    pub waiting: u64,
    /// Targets with messages that were given up, and how many.
    pub lost: Vec<(String, u64)>,
}

/// Reads the digest of a period.
pub async fn day(db: &Db, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<DailyDigest, DbError> {
    let open = alerts::list(db, Some(AlertState::Firing), None, 500).await?;
    db.within(LIMIT)
        .run("gather the day", async move |conn| {
            let [since, until] = [from, to].map(|at| at.naive_utc());
            let runs = reconcile_runs::table
                .filter(reconcile_runs::started_at.ge(since))
                .filter(reconcile_runs::started_at.lt(until))
                .filter(reconcile_runs::finished_at.is_not_null())
                .filter(reconcile_runs::dry_run.eq(false))
                .group_by(reconcile_runs::status)
                .order(reconcile_runs::status)
                .select((reconcile_runs::status, count_star()));
            let runs: Vec<(String, i64)> = runs.load(conn).await?;
            let good = reconcile_runs::status.eq_any(["clean", "repaired"]);
            let last = reconcile_runs::table
                .filter(good.and(reconcile_runs::dry_run.eq(false)))
                .select(max(reconcile_runs::finished_at));
            let last: Option<NaiveDateTime> = last.first(conn).await?;
            let repaired = repairs::table
                .filter(repairs::repaired_at.ge(since))
                .filter(repairs::repaired_at.lt(until))
                .group_by(repairs::kind)
                .order(repairs::kind)
                .select((repairs::kind, sql::<BigInt>("CAST(SUM(number) AS SIGNED)")));
            let repaired: Vec<(String, i64)> = repaired.load(conn).await?;
            let broken = broken_promises::table.filter(broken_promises::mended_at.is_null());
            let broken: i64 = broken.count().get_result(conn).await?;
            let (sealed, sealed_total) = sealed(conn, since, until).await?;
            let sent = outbox::sent_at.ge(since).and(outbox::sent_at.lt(until));
            let sent = outbox::table.filter(sent).count().get_result(conn).await?;
            let open_messages = outbox::sent_at.is_null().and(outbox::given_up_at.is_null());
            let waiting = outbox::table.filter(open_messages).count();
            let waiting: i64 = waiting.get_result(conn).await?;
            let lost = outbox::table
                .filter(outbox::given_up_at.ge(since))
                .filter(outbox::given_up_at.lt(until))
                .group_by(outbox::target)
                .order(outbox::target)
                .limit(LINES)
                .select((outbox::target, count_star()));
            let lost: Vec<(String, i64)> = lost.load(conn).await?;
            let counted = |all: Vec<(String, i64)>| {
                let counted = all.into_iter().map(|(word, n)| (word, unsigned(n)));
                counted.collect()
            };
            Ok(DailyDigest {
                from,
                to,
                open: open.alerts,
                broken: unsigned(broken),
                runs: counted(runs),
                last_success_at: last.map(|at| at.and_utc()),
                repairs: counted(repaired),
                sealed,
                sealed_total,
                sent: unsigned(sent),
                waiting: unsigned(waiting),
                lost: counted(lost),
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
    let rows = drops::table
        .inner_join(coupons::table.on(coupons::id.eq(drops::coupon_id)))
        .filter(in_time())
        .order(drops::sealed_at)
        .limit(LINES)
        .select((
            (coupons::id, coupons::name),
            (drops::id, drops::quantity, drops::sealed_rows),
        ));
    let rows = rows.load::<((i64, String), (i64, u32, Option<u32>))>(conn);
    let drop = |((coupon, coupon_name), (drop, quantity, rows))| DigestDrop {
        coupon_id: CouponId(coupon),
        coupon_name,
        drop_id: DropId(drop),
        quantity,
        rows: Option::unwrap_or(rows, 0),
    };
    let rows = rows.await?.into_iter();
    Ok((rows.map(drop).collect(), unsigned(total)))
}
