//! Prevents MySQL from reusing ids of coupons and drops whose rows it has lost
//! ([`crate::redis::given`]).

use std::ops::RangeInclusive;

use diesel::prelude::*;
use diesel::result::Error::RollbackTransaction;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::runs::set_state;
use super::schema::{code_key, coupons, reconciler_state};
use super::{Conn, Db, DbError};
use crate::domain::CouponId;
use crate::redis::given::GivenNumbers;

/// Name in `reconciler_state` of the range of ids that may belong to lost coupons: `FIRST-LAST`.
const LOST_COUPONS: &str = "lost_coupons";

/// Maximum number of ids examined at each end of the range. Lost coupons have the highest ids, or
/// the ones directly after the remaining coupons.
const AT_MOST: usize = 10_000;

/// Number of ids to skip if the assigned ones are unknown: more than a replica can lag behind.
const LEFT_OUT: i64 = 1_000;

#[derive(QueryableByName)]
struct Highest {
    #[diesel(sql_type = BigInt)]
    coupon: i64,
    #[diesel(sql_type = BigInt)]
    drop_id: i64,
}

/// Assigned ids that were unknown to MySQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumbersInDoubt {
    kept: String,
    /// The ids that have no coupon in MySQL.
    pub without_coupon: Vec<CouponId>,
}

impl Db {
    /// Makes MySQL assign only ids above these. `None` means that the assigned ids are unknown.
    /// Stores the coupon ids for which MySQL has no rows. Returns MySQL's highest ids.
    pub async fn skip_numbers(&self, given: Option<GivenNumbers>) -> Result<GivenNumbers, DbError> {
        self.run("skip numbers", async move |conn| {
            let highest = diesel::sql_query(
                "SELECT (SELECT COALESCE(MAX(id), 0) FROM coupons) AS coupon, \
                 (SELECT COALESCE(MAX(id), 0) FROM drops) AS drop_id",
            );
            let Highest { coupon, drop_id } = highest.get_result(conn).await?;
            let given = given.unwrap_or(GivenNumbers {
                coupon: coupon + LEFT_OUT,
                drop: drop_id + LEFT_OUT,
            });
            let highest = GivenNumbers {
                coupon,
                drop: drop_id,
            };
            if coupon >= given.coupon && drop_id >= given.drop {
                return Ok(highest);
            }
            let behind = GivenNumbers {
                coupon: coupon.max(given.coupon),
                drop: given.drop,
            };
            // An insert consumes its id even if it is rolled back.
            match conn
                .transaction(async |conn| insert(conn, behind).await)
                .await
            {
                Ok(()) | Err(RollbackTransaction) => {}
                Err(error) => return Err(error),
            }
            // If no higher coupon id was assigned, an operator may simply have deleted the last
            // drops.
            if coupon < given.coupon {
                keep_in_mind(conn, coupon + 1..=given.coupon).await?;
            }
            Ok(highest)
        })
        .await
    }

    /// Reads the stored ids.
    pub async fn numbers_in_doubt(&self) -> Result<Option<NumbersInDoubt>, DbError> {
        self.run("numbers in doubt", async |conn| {
            let Some(numbers) = in_mind(conn).await? else {
                return Ok(None);
            };
            let first = *numbers.start();
            let last = *numbers.end();
            let known = coupons::table
                .filter(coupons::id.between(first, last))
                .select(coupons::id);
            let known: Vec<i64> = known.order(coupons::id).load(conn).await?;
            let unknown = || {
                numbers
                    .clone()
                    .filter(|number| known.binary_search(number).is_err())
            };
            let mut without_coupon: Vec<CouponId> = unknown()
                .take(AT_MOST)
                .chain(unknown().rev().take(AT_MOST))
                .map(CouponId)
                .collect();
            without_coupon.sort_unstable();
            without_coupon.dedup();
            Ok(Some(NumbersInDoubt {
                kept: text_of(&numbers),
                without_coupon,
            }))
        })
        .await
    }

    /// Ends the doubt about ids: only `lost`, in ascending order, belong to lost coupons and remain
    /// stored.
    pub async fn settle_numbers(
        &self,
        seen: NumbersInDoubt,
        lost: &[CouponId],
    ) -> Result<(), DbError> {
        let left = lost
            .first()
            .zip(lost.last())
            .map(|(first, last)| text_of(&(first.0..=last.0)));
        if left.as_ref() == Some(&seen.kept) {
            return Ok(());
        }
        self.run("settle numbers", async move |conn| {
            // If ids were added in the meantime, the next pass settles them.
            let kept = reconciler_state::table
                .find(LOST_COUPONS)
                .filter(reconciler_state::value.eq(seen.kept));
            match left {
                Some(left) => {
                    diesel::update(kept)
                        .set(reconciler_state::value.eq(left))
                        .execute(conn)
                        .await?
                }
                None => diesel::delete(kept).execute(conn).await?,
            };
            Ok(())
        })
        .await
    }
}

async fn insert(conn: &mut Conn, GivenNumbers { coupon, drop }: GivenNumbers) -> QueryResult<()> {
    // Serialize inserts with a lock on a row that always exists. Transactions that wait for a row
    // that is then rolled back, or that lock the end of an empty table, would deadlock.
    code_key::table
        .select(code_key::id)
        .for_update()
        .load::<i8>(conn)
        .await?;
    diesel::sql_query(
        "INSERT INTO coupons (id, name, quantity, once_per) VALUES (?, '', 1, 'coupon') ON DUPLICATE KEY UPDATE id = id",
    )
    .bind::<BigInt, _>(coupon)
    .execute(conn)
    .await?;
    diesel::sql_query(
        "INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES (?, ?, UTC_TIMESTAMP(3), 1) \
         ON DUPLICATE KEY UPDATE id = id",
    )
    // MySQL would take 0 as the next id.
    .bind::<BigInt, _>(drop.max(1))
    .bind::<BigInt, _>(coupon)
    .execute(conn)
    .await?;
    Err(RollbackTransaction)
}

fn text_of(numbers: &RangeInclusive<i64>) -> String {
    format!("{}-{}", numbers.start(), numbers.end())
}

async fn in_mind(conn: &mut Conn) -> QueryResult<Option<RangeInclusive<i64>>> {
    let kept = reconciler_state::table
        .find(LOST_COUPONS)
        .select(reconciler_state::value);
    let kept: Option<String> = kept.first(conn).await.optional()?;
    let range = |text: String| {
        let (first, last) = text.split_once('-')?;
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    Ok(kept.and_then(range))
}

async fn keep_in_mind(conn: &mut Conn, numbers: RangeInclusive<i64>) -> QueryResult<()> {
    let before = in_mind(conn).await?;
    let first = before
        .as_ref()
        .map_or(*numbers.start(), |kept| *kept.start().min(numbers.start()));
    let last = before
        .as_ref()
        .map_or(*numbers.end(), |kept| *kept.end().max(numbers.end()));
    if before == Some(first..=last) {
        return Ok(());
    }
    tracing::warn!(
        first,
        last,
        "MySQL may have lost coupons: their IDs will not be reused"
    );
    set_state(conn, LOST_COUPONS, &text_of(&(first..=last))).await
}
