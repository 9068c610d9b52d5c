//! Reads the data of the daily digest for a period.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::{count_star, max};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Text, Unsigned};
use diesel_async::RunQueryDsl;

use firstcome_shared::columns::{At, Datetime};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::views::ListedAlert;
use firstcome_shared::mysql::{Conn, Db, DbResult};
use firstcome_shared::report::AlertState;
use firstcome_shared::schema::{broken_promises, coupons, drops, outbox, reconcile_runs};
use firstcome_shared::subject::Subject;

use crate::queries::alerts;

/// Maximum number of sealed drops that the mail lists. It shows only the number of the others.
const LINES: u8 = 20;

/// Time limit of all queries. With a pass every second, a day has about 86,000 runs.
const LIMIT: Duration = Duration::from_secs(30);

/// A drop that was verified exact after it closed.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = drops)]
pub struct DigestDrop {
    pub coupon_id: CouponId,
    #[diesel(select_expression = coupons::name)]
    pub coupon_name: String,
    #[diesel(column_name = id)]
    pub drop_id: DropId,
    /// Number of coupons offered.
    pub quantity: u32,
    /// Number of coupons issued.
    #[diesel(select_expression = drops::sealed_rows.assume_not_null())]
    pub rows: u32,
}

/// Repairs of one kind.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct DigestRepairs {
    /// The campaign. 0 for Firstcome's own drops, which are too many to be listed.
    #[diesel(sql_type = BigInt)]
    pub drop_id: DropId,
    #[diesel(sql_type = Text)]
    pub kind: String,
    #[diesel(sql_type = Unsigned<BigInt>)]
    pub number: u64,
}

/// The daily digest of a period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DailyDigest {
    /// Start, inclusive.
    pub from: DateTime<Utc>,
    /// End, exclusive.
    pub to: DateTime<Utc>,
    /// The alerts that are open at the end, newest first, 500 at most.
    pub open: Vec<ListedAlert>,
    /// Broken promises that have not been resolved.
    pub broken: u64,
    /// Number of runs that started in the period and have ended, by status, without dry runs.
    pub runs: Vec<(String, u64)>,
    /// When the last clean or repaired run ended, in the period or before it, without dry runs.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Repairs by campaign and kind.
    pub repairs: Vec<DigestRepairs>,
    /// The drops that were sealed in the period, oldest first, at most `LINES`.
    pub sealed: Vec<DigestDrop>,
    /// Number of drops that were sealed in the period.
    pub sealed_total: u64,
    /// Messages sent in the period.
    pub sent: u64,
    /// Messages that wait to be sent.
    pub waiting: u64,
    /// Targets with messages that were given up in the period, each with the number of these
    /// messages.
    pub lost: Vec<(String, u64)>,
}

/// Reads the digest of a period.
pub async fn day(
    db: &Db,
    subject: Subject,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> DbResult<DailyDigest> {
    let open = alerts::list(db, Some(AlertState::Firing), None, 500).await?;
    db.within(LIMIT)
        .run("gather the day", async move |conn| {
            let runs = reconcile_runs::table
                .filter(reconcile_runs::started_at.ge(At(from)))
                .filter(reconcile_runs::started_at.lt(At(to)))
                .filter(reconcile_runs::finished_at.is_not_null())
                .filter(reconcile_runs::dry_run.eq(false))
                .group_by(reconcile_runs::status)
                .order(reconcile_runs::status)
                .select((reconcile_runs::status, count_star()))
                .load(conn)
                .await?;
            let last_success_at = reconcile_runs::table
                .filter(reconcile_runs::status.eq_any(["clean", "repaired"]))
                .filter(reconcile_runs::dry_run.eq(false))
                .select(max(reconcile_runs::finished_at))
                .get_result(conn)
                .await?;
            let repairs = sql_query(
                "SELECT IF(?, drop_id, 0) AS drop_id, kind, CAST(SUM(number) AS UNSIGNED) AS number \
                 FROM repairs WHERE repaired_at >= ? AND repaired_at < ? GROUP BY 1, kind \
                 ORDER BY 1, kind",
            )
            .bind::<Bool, _>(subject == Subject::Campaign)
            .bind::<Datetime, _>(At(from))
            .bind::<Datetime, _>(At(to))
            .load(conn)
            .await?;
            let sent: i64 = outbox::table
                .filter(outbox::sent_at.ge(Some(from)))
                .filter(outbox::sent_at.lt(Some(to)))
                .count()
                .get_result(conn)
                .await?;
            let waiting: i64 = outbox::table
                .filter(outbox::sent_at.is_null())
                .filter(outbox::given_up_at.is_null())
                .count()
                .get_result(conn)
                .await?;
            let lost = outbox::table
                .filter(outbox::given_up_at.ge(Some(from)))
                .filter(outbox::given_up_at.lt(Some(to)))
                .group_by(outbox::target)
                .order(outbox::target)
                .select((outbox::target, count_star()))
                .load(conn)
                .await?;
            let mut day = DailyDigest {
                from,
                to,
                open: open.alerts,
                runs: counted(runs),
                last_success_at,
                repairs,
                sent: sent.cast_unsigned(),
                waiting: waiting.cast_unsigned(),
                lost: counted(lost),
                ..DailyDigest::default()
            };
            match subject {
                Subject::Drop => day.read_drops(conn).await?,
                // Its database has no such tables.
                Subject::Campaign => {}
            }
            Ok(day)
        })
        .await
}

fn counted(rows: Vec<(String, i64)>) -> Vec<(String, u64)> {
    let rows = rows.into_iter();
    rows.map(|(word, number)| (word, number.cast_unsigned()))
        .collect()
}

impl DailyDigest {
    /// Reads what it says of Firstcome's own drops.
    async fn read_drops(&mut self, conn: &mut Conn) -> QueryResult<()> {
        let broken: i64 = broken_promises::table
            .filter(broken_promises::mended_at.is_null())
            .count()
            .get_result(conn)
            .await?;
        self.broken = broken.cast_unsigned();
        let sealed = drops::table
            .inner_join(coupons::table)
            .filter(drops::sealed_at.ge(Some(self.from)))
            .filter(drops::sealed_at.lt(Some(self.to)));
        let total: i64 = sealed.count().get_result(conn).await?;
        self.sealed_total = total.cast_unsigned();
        self.sealed = sealed
            .order(drops::sealed_at)
            .limit(LINES.into())
            .select(DigestDrop::as_select())
            .load(conn)
            .await?;
        Ok(())
    }
}
