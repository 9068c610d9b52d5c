//! Reads the data of the daily digest for a period from all tables of the reconciler.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::dsl::{count_star, max};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::outbox::{UNTRIED, count_waiting};
use super::schema::{
    alerts, broken_promises, coupons, drops, mail_outbox, reconcile_findings, reconcile_runs,
};
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, DropId};

/// Maximum number of lines per list. The mail shows only the number of the others.
const LINES: i64 = 20;

/// Time limit of each query. With a pass every second, a day has about 86,000 rows.
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

/// An address for which mails were given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostMails {
    /// The address as written in a header.
    pub recipient: String,
    pub given_up: u64,
    /// Mails to the same address that a server accepted.
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
    /// Findings by kind: total and repaired.
    pub findings: Vec<(String, u64, u64)>,
    /// The first drops that were verified exact.
    pub sealed: Vec<DigestDrop>,
    pub sealed_total: u64,
    /// Users, rows and failed claims that runs examined.
    pub examined: [u64; 3],
    /// Mails sent, mails waiting, mails given up, and mails given up because no mail server was
    /// configured for days.
    pub mails: [u64; 4],
    /// Mails given up by address, except those given up for lack of a mail server.
    pub lost_mails: Vec<LostMails>,
    /// The operator asserts that Redis is durable (`REDIS_DURABILITY=managed`), and nothing checks
    /// it.
    pub redis_is_managed: bool,
}

/// Reads the digest of a period.
pub async fn day(db: &Db, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<DailyDigest, DbError> {
    db.run_within(LIMIT, "gather the day", async move |conn| {
        let since = from.naive_utc();
        let until = to.naive_utc();
        let (runs, examined) = runs(conn, since, until).await?;
        let (sealed, sealed_total) = sealed(conn, since, until).await?;
        let (open, open_total) = open(conn).await?;
        let broken = broken_promises::table.filter(broken_promises::mended_at.is_null());
        let broken: i64 = broken.count().get_result(conn).await?;
        let good = reconcile_runs::status
            .eq_any(["clean", "repaired"])
            .and(reconcile_runs::dry_run.eq(false));
        let last: Option<NaiveDateTime> = reconcile_runs::table
            .filter(good)
            .select(max(reconcile_runs::finished_at))
            .first(conn)
            .await?;
        Ok(DailyDigest {
            from,
            to,
            open,
            open_total,
            broken: unsigned(broken),
            runs,
            last_success_at: last.map(|at| at.and_utc()),
            findings: findings(conn, since, until).await?,
            sealed,
            sealed_total,
            examined,
            mails: mails(conn, since, until).await?,
            lost_mails: lost_mails(conn, since, until).await?,
            redis_is_managed: false,
        })
    })
    .await
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

async fn runs(
    conn: &mut Conn,
    since: NaiveDateTime,
    until: NaiveDateTime,
) -> QueryResult<(Vec<(String, u64)>, [u64; 3])> {
    let ended = reconcile_runs::started_at
        .ge(since)
        .and(reconcile_runs::started_at.lt(until));
    let ended = ended
        .and(reconcile_runs::finished_at.is_not_null())
        .and(reconcile_runs::dry_run.eq(false));
    let by_status: Vec<(String, i64)> = reconcile_runs::table
        .filter(ended)
        .group_by(reconcile_runs::status)
        .order(reconcile_runs::status)
        .select((reconcile_runs::status, count_star()))
        .load(conn)
        .await?;
    let all: Vec<(i64, i64, i64)> = reconcile_runs::table
        .filter(ended)
        .select((
            reconcile_runs::users_examined,
            reconcile_runs::rows_examined,
            reconcile_runs::failed_claims_examined,
        ))
        .load(conn)
        .await?;
    let examined = all.iter().fold([0; 3], |[users, rows, failed], run| {
        [
            users + unsigned(run.0),
            rows + unsigned(run.1),
            failed + unsigned(run.2),
        ]
    });
    Ok((
        by_status
            .into_iter()
            .map(|(status, n)| (status, unsigned(n)))
            .collect(),
        examined,
    ))
}

async fn findings(
    conn: &mut Conn,
    since: NaiveDateTime,
    until: NaiveDateTime,
) -> QueryResult<Vec<(String, u64, u64)>> {
    let real = reconcile_runs::started_at
        .ge(since)
        .and(reconcile_runs::started_at.lt(until));
    let rows: Vec<(String, String, i64)> = reconcile_findings::table
        .inner_join(reconcile_runs::table.on(reconcile_runs::id.eq(reconcile_findings::run_id)))
        .filter(real.and(reconcile_runs::dry_run.eq(false)))
        .group_by((reconcile_findings::kind, reconcile_findings::result))
        .order(reconcile_findings::kind)
        .select((
            reconcile_findings::kind,
            reconcile_findings::result,
            count_star(),
        ))
        .load(conn)
        .await?;
    let mut kinds: Vec<(String, u64, u64)> = Vec::new();
    for (kind, result, n) in rows {
        if kinds.last().is_none_or(|last| last.0 != kind) {
            kinds.push((kind, 0, 0));
        }
        if let Some(last) = kinds.last_mut() {
            last.1 += unsigned(n);
            last.2 += if result == "applied" { unsigned(n) } else { 0 };
        }
    }
    Ok(kinds)
}

async fn sealed(
    conn: &mut Conn,
    since: NaiveDateTime,
    until: NaiveDateTime,
) -> QueryResult<(Vec<DigestDrop>, u64)> {
    let in_time = || drops::sealed_at.ge(since).and(drops::sealed_at.lt(until));
    let total: i64 = drops::table
        .filter(in_time())
        .count()
        .get_result(conn)
        .await?;
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
    let total: i64 = alerts::table
        .filter(alerts::status.eq("firing"))
        .count()
        .get_result(conn)
        .await?;
    let rows: Vec<OpenRow> = alerts::table
        .left_join(coupons::table.on(coupons::id.nullable().eq(alerts::coupon_id)))
        .filter(alerts::status.eq("firing"))
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

async fn mails(
    conn: &mut Conn,
    since: NaiveDateTime,
    until: NaiveDateTime,
) -> QueryResult<[u64; 4]> {
    let sent = mail_outbox::table.filter(
        mail_outbox::sent_at
            .ge(since)
            .and(mail_outbox::sent_at.lt(until)),
    );
    let sent: i64 = sent.count().get_result(conn).await?;
    let waiting = count_waiting(conn).await?;
    let given_up = mail_outbox::table.filter(
        mail_outbox::given_up_at
            .ge(since)
            .and(mail_outbox::given_up_at.lt(until)),
    );
    let untried: i64 = given_up
        .filter(mail_outbox::last_error.eq(UNTRIED))
        .count()
        .get_result(conn)
        .await?;
    let given_up: i64 = given_up.count().get_result(conn).await?;
    Ok([sent, waiting, given_up, untried].map(unsigned))
}

async fn lost_mails(
    conn: &mut Conn,
    since: NaiveDateTime,
    until: NaiveDateTime,
) -> QueryResult<Vec<LostMails>> {
    let given_up = mail_outbox::given_up_at
        .ge(since)
        .and(mail_outbox::given_up_at.lt(until));
    let was_tried = mail_outbox::last_error
        .is_null()
        .or(mail_outbox::last_error.ne(UNTRIED));
    let lost: Vec<(String, i64)> = mail_outbox::table
        .filter(mail_outbox::sent_at.is_null().and(given_up).and(was_tried))
        .group_by(mail_outbox::recipient)
        .order(mail_outbox::recipient)
        .limit(LINES)
        .select((mail_outbox::recipient, count_star()))
        .load(conn)
        .await?;
    let mut all = Vec::with_capacity(lost.len());
    for (recipient, given_up) in lost {
        let sent = mail_outbox::sent_at
            .ge(since)
            .and(mail_outbox::sent_at.lt(until));
        let sent = mail_outbox::table.filter(sent.and(mail_outbox::recipient.eq(&recipient)));
        let sent: i64 = sent.count().get_result(conn).await?;
        all.push(LostMails {
            given_up: unsigned(given_up),
            sent: unsigned(sent),
            recipient,
        });
    }
    Ok(all)
}
