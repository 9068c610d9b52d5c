//! Finds drops whose row in `drops` or whose limits are missing although other tables refer to
//! them, because a table was restored alone or a row was deleted manually.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Unsigned};
use diesel_async::RunQueryDsl;

use super::catalogue::LISTED;
use super::schema::{drops, slot_limits};
use super::{Conn, Db, DbError, Refusal, json, refusal};
use crate::coupon::Drop;
use crate::domain::{CouponId, DropId, NamedDrop, Slot};

#[derive(QueryableByName)]
struct NamedRow {
    #[diesel(sql_type = BigInt)]
    coupon_id: i64,
    #[diesel(sql_type = BigInt)]
    drop_id: i64,
}

impl From<NamedRow> for NamedDrop {
    fn from(row: NamedRow) -> Self {
        Self {
            coupon: CouponId(row.coupon_id),
            drop: DropId(row.drop_id),
        }
    }
}

#[derive(QueryableByName)]
struct LimitRow {
    #[diesel(embed)]
    named: NamedRow,
    #[diesel(sql_type = Unsigned<Integer>)]
    highest: Slot,
}

/// Selects limits without a drop. Costs one lookup per drop.
const BY_LIMITS: &str = "SELECT DISTINCT l.coupon_id, l.drop_id FROM slot_limits l \
     LEFT JOIN drops d ON d.id = l.drop_id WHERE d.id IS NULL LIMIT 1000";

/// Selects rows of drops with ids above the highest in `drops`.
const BY_LATER_ROWS: &str = "SELECT DISTINCT i.coupon_id, i.drop_id FROM issued_coupons i \
     WHERE i.drop_id > (SELECT COALESCE(MAX(id), 0) FROM drops) LIMIT 1000";

/// Selects rows of any missing drop. Reads each drop id once, from the index.
const BY_ROWS: &str = "SELECT (SELECT i.coupon_id FROM issued_coupons i WHERE i.drop_id = n.drop_id LIMIT 1) AS coupon_id, \
     n.drop_id FROM (SELECT DISTINCT drop_id FROM issued_coupons) n \
     LEFT JOIN drops d ON d.id = n.drop_id WHERE d.id IS NULL LIMIT 1000";

/// Selects drops without a limit equal to their quantity. Without such a limit, their rows cannot
/// be written.
const WITHOUT_LIMIT: &str = "SELECT d.coupon_id, d.id AS drop_id FROM drops d WHERE NOT EXISTS \
     (SELECT 1 FROM slot_limits l WHERE l.drop_id = d.id AND l.slot_limit = d.quantity)";

impl Db {
    /// Finds drops without a row in `drops` that other tables refer to. With `everywhere`, includes
    /// old drops that have also lost their limits.
    pub async fn lost_drops(&self, everywhere: bool) -> Result<Vec<NamedDrop>, DbError> {
        self.run("drops that are lost", async move |conn| {
            let mut lost = named(conn, BY_LIMITS).await?;
            let by_rows = if everywhere { BY_ROWS } else { BY_LATER_ROWS };
            lost.extend(named(conn, by_rows).await?);
            lost.sort_unstable();
            lost.dedup();
            Ok(lost)
        })
        .await
    }

    /// Finds coupons without a row in `coupons` that have drops: unsealed ones or, if `deep`, any.
    pub async fn lost_coupons(&self, deep: bool) -> Result<Vec<CouponId>, DbError> {
        self.run("coupons that are lost", async move |conn| {
            let only = if deep { "" } else { " AND d.sealed_at IS NULL" };
            let query = format!("SELECT d.coupon_id, MIN(d.id) AS drop_id FROM drops d LEFT JOIN coupons c ON c.id = d.coupon_id \
                 WHERE c.id IS NULL{only} GROUP BY d.coupon_id LIMIT 1000");
            let lost = named(conn, &query).await?;
            Ok(lost.into_iter().map(|one| one.coupon).collect())
        })
        .await
    }

    /// Finds unsealed drops with a limit above their quantity. Triggers prevent this, so `drops` or
    /// `slot_limits` was restored alone.
    pub async fn drops_below_their_limit(&self) -> Result<Vec<(NamedDrop, Slot)>, DbError> {
        self.run("drops below their limit", async |conn| {
            let found: Vec<LimitRow> = diesel::sql_query(
                "SELECT d.coupon_id, d.id AS drop_id, MAX(l.slot_limit) AS highest FROM drops d \
                 JOIN slot_limits l ON l.drop_id = d.id AND l.slot_limit > d.quantity \
                 WHERE d.sealed_at IS NULL GROUP BY d.coupon_id, d.id LIMIT 1000",
            )
            .load(conn)
            .await?;
            Ok(found
                .into_iter()
                .map(|row| (row.named.into(), row.highest))
                .collect())
        })
        .await
    }

    /// Returns the drops among `named` that have no row in `drops`.
    pub async fn unknown_drops(&self, named: Vec<NamedDrop>) -> Result<Vec<NamedDrop>, DbError> {
        self.run("unknown drops", async move |conn| {
            let ids: Vec<i64> = named.iter().map(|one| one.drop.0).collect();
            let known = format!("SELECT d.coupon_id, d.id AS drop_id FROM ({LISTED}) w STRAIGHT_JOIN drops d ON d.id = w.id");
            let known: Vec<NamedRow> = diesel::sql_query(known)
                .bind::<Text, _>(json(&ids)?)
                .load(conn)
                .await?;
            let known: HashSet<i64> =
                known.into_iter().map(|row| row.drop_id).collect();
            let mut unknown = named;
            unknown.retain(|one| !known.contains(&one.drop.0));
            Ok(unknown)
        })
        .await
    }

    /// Reads the highest id of a drop. Returns 0 if there is none.
    pub async fn highest_drop(&self) -> Result<i64, DbError> {
        self.run("highest drop", async |conn| {
            let highest: Option<i64> = drops::table
                .select(diesel::dsl::max(drops::id))
                .first(conn)
                .await?;
            Ok(highest.unwrap_or(0))
        })
        .await
    }

    /// Reads the highest slot limit of a drop, which is its quantity. Returns 0 if there is none.
    pub async fn highest_limit(&self, drop: DropId) -> Result<Slot, DbError> {
        self.run("highest slot limit", async move |conn| {
            let highest: Option<Slot> = slot_limits::table
                .filter(slot_limits::drop_id.eq(drop.0))
                .select(diesel::dsl::max(slot_limits::slot_limit))
                .first(conn)
                .await?;
            Ok(highest.unwrap_or(0))
        })
        .await
    }

    /// Restores the row of a lost drop. Returns `false` if the schema refuses it because its coupon
    /// is lost too, or because another drop has the same date.
    pub async fn restore_drop(&self, drop: Drop) -> Result<bool, DbError> {
        self.run("restore drop", async move |conn| {
            let inserted = diesel::insert_into(drops::table)
                .values((
                    drops::id.eq(drop.id.0),
                    drops::coupon_id.eq(drop.coupon_id.0),
                    drops::local_date.eq(drop.local_date),
                    drops::opens_at.eq(drop.opens_at.naive_utc()),
                    drops::closes_at.eq(drop.closes_at.map(|at| at.naive_utc())),
                    drops::quantity.eq(drop.quantity),
                    drops::closed_early.eq(drop.closed_early),
                ))
                .execute(conn)
                .await;
            match inserted {
                Ok(_) => Ok(true),
                Err(error) => match refusal(&error) {
                    Some(Refusal::Duplicate | Refusal::UnknownDrop) => Ok(false),
                    _ => Err(error),
                },
            }
        })
        .await
    }

    /// Finds drops without a limit equal to their quantity. Includes sealed drops if `everywhere`
    /// is set.
    pub async fn drops_without_limit(&self, everywhere: bool) -> Result<Vec<NamedDrop>, DbError> {
        self.run("drops without a limit", async move |conn| {
            let unsealed = if everywhere {
                ""
            } else {
                " AND d.sealed_at IS NULL"
            };
            named(conn, &format!("{WITHOUT_LIMIT}{unsealed} LIMIT 1000")).await
        })
        .await
    }

    /// Whether a drop has limits in `slot_limits`, so that it exists or was lost.
    pub async fn has_limits(&self, drop: DropId) -> Result<bool, DbError> {
        self.run("limits of a drop", async move |conn| {
            let any = slot_limits::table.filter(slot_limits::drop_id.eq(drop.0));
            diesel::select(diesel::dsl::exists(any))
                .get_result(conn)
                .await
        })
        .await
    }

    /// Restores the missing limits of a drop.
    pub async fn restore_limits(&self, drop: DropId) -> Result<(), DbError> {
        self.run("restore limits", async move |conn| {
            let quantity: Option<Slot> = drops::table
                .find(drop.0)
                .select(drops::quantity)
                .first(conn)
                .await
                .optional()?;
            let Some(quantity) = quantity else {
                return Ok(());
            };
            // Existing limits stay. The trigger finds the scope, and refuses a limit above the current
            // quantity.
            diesel::sql_query(
                "INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) \
                 SELECT d.id, ?, d.coupon_id, 0 FROM drops d WHERE d.id = ? AND NOT EXISTS \
                 (SELECT 1 FROM slot_limits l WHERE l.drop_id = d.id AND l.slot_limit = ?)",
            )
            .bind::<Unsigned<Integer>, _>(quantity)
            .bind::<BigInt, _>(drop.0)
            .bind::<Unsigned<Integer>, _>(quantity)
            .execute(conn)
            .await
            .map(|_| ())
        })
        .await
    }
}

async fn named(conn: &mut Conn, query: &str) -> QueryResult<Vec<NamedDrop>> {
    let rows: Vec<NamedRow> = diesel::sql_query(query).load(conn).await?;
    Ok(rows.into_iter().map(NamedDrop::from).collect())
}
