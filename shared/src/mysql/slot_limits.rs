//! The slot limits of drops (docs/decisions/0011-slot-limits.md): written with each drop and each
//! change of its quantity, and read for the rows of a whole batch.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;

use super::{Conn, Db, DbResult, Prepared, json};
use crate::claim::Claim;
use crate::domain::{DropId, Slot};
use crate::schema::{drops, issued_coupons, slot_limits};

/// The limits that refer to an earlier quantity of the drop and are not above its quantity now.
const REFER: &str = "UPDATE slot_limits l JOIN drops d ON d.id = l.drop_id \
    SET l.quantity = d.quantity \
    WHERE l.drop_id = ? AND l.slot_limit <= d.quantity AND l.quantity <> d.quantity";

/// The limits that the drop's quantity requires and that are missing: the quantity, and below it
/// every 10,000th slot, or every five-hundredth part of the quantity if that is larger.
const ADD: &str = "INSERT INTO slot_limits \
    (drop_id, slot_limit, coupon_id, person_scope, quantity, once_per) \
    WITH RECURSIVE parts (slot_limit, step, quantity) AS (\
        SELECT LEAST(GREATEST(10000, quantity DIV 500), quantity), \
            GREATEST(10000, quantity DIV 500), quantity FROM drops WHERE id = ? \
        UNION ALL SELECT LEAST(slot_limit + step, quantity), step, quantity FROM parts \
            WHERE slot_limit < quantity) \
    SELECT d.id, p.slot_limit, d.coupon_id, IF(c.once_per = 'coupon', 0, d.id), d.quantity, \
        c.once_per \
    FROM parts p JOIN drops d ON d.id = ? JOIN coupons c ON c.id = d.coupon_id \
    WHERE NOT EXISTS (SELECT 1 FROM slot_limits l \
        WHERE l.drop_id = d.id AND l.slot_limit = p.slot_limit)";

/// Lets the limits of a drop follow its quantity. Must run in the transaction that inserted the drop
/// or changed its quantity. If the quantity is lower, the rows that name a higher limit, at most
/// those of one part, get the new one, and the higher limits are deleted; the schema refuses this if
/// such a row has a higher slot.
pub(super) async fn follow_quantity(conn: &mut Conn, drop: DropId) -> QueryResult<()> {
    let refer = sql_query(REFER).bind::<BigInt, _>(drop);
    refer.execute(conn).await?;
    let add = sql_query(ADD)
        .bind::<BigInt, _>(drop)
        .bind::<BigInt, _>(drop);
    add.execute(conn).await?;
    let own = drops::table.find(drop).select(drops::quantity);
    let quantity: Slot = own.get_result(conn).await?;
    // Locked before the rows change: a transaction that inserts a row with one of them waits, and
    // the foreign key then refuses it.
    let higher = slot_limits::table
        .filter(slot_limits::drop_id.eq(drop))
        .filter(slot_limits::slot_limit.gt(quantity));
    let locked: Vec<Slot> = higher
        .select(slot_limits::slot_limit)
        .for_update()
        .load(conn)
        .await?;
    if locked.is_empty() {
        return Ok(());
    }
    let rows = issued_coupons::table
        .filter(issued_coupons::drop_id.eq(drop))
        .filter(issued_coupons::slot_limit.gt(quantity));
    diesel::update(rows)
        .set(issued_coupons::slot_limit.eq(quantity))
        .execute(conn)
        .await?;
    diesel::delete(higher).execute(conn).await.map(|_| ())
}

impl Db {
    /// Writes the limits of unsealed drops that do not have their quantity as a limit: the table was
    /// lost or restored alone, or a drop was inserted by hand. Without it, no row of the drop's last
    /// part can be inserted. Returns the number of these drops.
    pub async fn restore_slot_limits(&self) -> DbResult<usize> {
        let what = "restore slot limits";
        let its_last = slot_limits::drop_id
            .eq(drops::id)
            .and(slot_limits::slot_limit.eq(drops::quantity));
        let lacking = drops::table
            .left_join(slot_limits::table.on(its_last))
            .filter(drops::sealed_at.is_null())
            .filter(slot_limits::drop_id.nullable().is_null())
            .select(drops::id);
        let lacking: Vec<DropId> = self.rows(what, lacking).await?;
        for drop in &lacking {
            let drop = *drop;
            self.transaction(what, async move |conn| follow_quantity(conn, drop).await)
                .await?;
        }
        Ok(lacking.len())
    }
}

/// The limits of ranges of slots. One scan of the limits of each drop finds the last one that is
/// needed: a subquery in the condition would be evaluated for each limit.
const OF_RANGES: &str = "SELECT l.drop_id, l.slot_limit, l.person_scope \
    FROM JSON_TABLE(?, '$[*]' COLUMNS (drop_id BIGINT PATH '$[0]', lowest INT UNSIGNED PATH '$[1]', \
        highest INT UNSIGNED PATH '$[2]')) j \
    STRAIGHT_JOIN LATERAL (SELECT COALESCE(MIN(IF(m.slot_limit >= j.highest, m.slot_limit, NULL)), \
        MAX(m.slot_limit)) AS last FROM slot_limits m WHERE m.drop_id = j.drop_id) u \
    STRAIGHT_JOIN slot_limits l ON l.drop_id = j.drop_id \
        AND l.slot_limit BETWEEN LEAST(j.lowest, u.last) AND u.last \
    ORDER BY l.drop_id, l.slot_limit";

/// Slot limits of some drops in ascending order, each with its `person_scope`.
#[derive(Debug, Default)]
pub(super) struct SlotLimits(HashMap<i64, Vec<SlotLimit>>);

/// A limit with the scope of its rows.
#[derive(Debug, Clone, Copy, Default, QueryableByName)]
#[diesel(table_name = slot_limits)]
pub(super) struct SlotLimit {
    drop_id: i64,
    pub(super) slot_limit: Slot,
    pub(super) person_scope: i64,
}

impl SlotLimits {
    /// Reads the limits for these claims: of each drop, those from its lowest claimed slot to the
    /// first that is not below the highest one, or its last one. Does not lock them, so that new
    /// drops do not wait. If a limit is deleted before the rows are inserted, the schema's foreign
    /// key refuses the rows.
    pub(super) async fn read(conn: &mut Conn, claims: &[&Claim]) -> QueryResult<Self> {
        let mut claimed: HashMap<i64, (Slot, Slot)> = HashMap::new();
        for Claim { drop_id, slot, .. } in claims {
            let (lowest, highest) = claimed.entry(drop_id.0).or_insert((*slot, *slot));
            *lowest = (*lowest).min(*slot);
            *highest = (*highest).max(*slot);
        }
        let ranges: Vec<(i64, Slot, Slot)> = claimed
            .into_iter()
            .map(|(drop, (lowest, highest))| (drop, lowest, highest))
            .collect();
        let found = sql_query(OF_RANGES).bind::<Text, _>(json(&ranges));
        let found: Vec<SlotLimit> = Prepared(found).load(conn).await?;
        let mut limits = Self::default();
        for limit in found {
            limits.0.entry(limit.drop_id).or_default().push(limit);
        }
        Ok(limits)
    }

    /// Returns the limit that the claim's row names, with its scope: the lowest one that is not
    /// below its slot. If there is none, returns one with which MySQL refuses the row: because of
    /// the foreign key if the drop has no limits, because of a CHECK if it has no such slot.
    pub(super) fn for_claim(&self, claim: &Claim) -> SlotLimit {
        let Some(limits) = self.0.get(&claim.drop_id.0) else {
            return SlotLimit {
                slot_limit: claim.slot,
                ..SlotLimit::default()
            };
        };
        limits
            .iter()
            .find(|limit| claim.slot > 0 && limit.slot_limit >= claim.slot)
            .copied()
            .unwrap_or_default()
    }
}
