//! Reads the slot limits of a whole batch of rows.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::claim::Claim;
use super::schema::slot_limits;
use super::{Conn, Db, DbError};
use crate::domain::Slot;

/// The slot limits of some drops, in ascending order.
#[derive(Debug, Default)]
pub(super) struct SlotLimits(HashMap<i64, Vec<SlotLimit>>);

#[derive(Debug, Default, Clone, Copy, Queryable)]
pub(super) struct SlotLimit {
    pub(super) slot_limit: Slot,
    pub(super) person_scope: i64,
}

impl SlotLimits {
    /// Maximum number of drops in one query.
    const CHUNK: usize = 500;

    /// Reads the limits for these claims. Does not lock them, so that new drops do not wait. If a
    /// limit changes before the rows are inserted, the schema's foreign key refuses the rows.
    pub(super) async fn read(conn: &mut Conn, claims: &[Claim]) -> QueryResult<Self> {
        let mut limits = Self::default();
        let mut drops: Vec<i64> = claims.iter().map(|claim| claim.drop_id.0).collect();
        drops.sort_unstable();
        drops.dedup();
        for drops in drops.chunks(Self::CHUNK) {
            let found: Vec<(i64, SlotLimit)> = slot_limits::table
                .filter(slot_limits::drop_id.eq_any(drops))
                .order((slot_limits::drop_id, slot_limits::slot_limit))
                .select((
                    slot_limits::drop_id,
                    (slot_limits::slot_limit, slot_limits::person_scope),
                ))
                .load(conn)
                .await?;
            for (drop, limit) in found {
                limits.0.entry(drop).or_default().push(limit);
            }
        }
        Ok(limits)
    }

    /// Returns the limit that the claim's row names: the lowest one that is not below its slot.
    /// Otherwise returns one that makes MySQL refuse the row: the foreign key if the drop is
    /// unknown or belongs to another coupon, a CHECK if the drop has no such slot.
    pub(super) fn for_claim(&self, claim: &Claim) -> SlotLimit {
        let Some(limits) = self.0.get(&claim.drop_id.0) else {
            return SlotLimit {
                slot_limit: claim.slot,
                ..SlotLimit::default()
            };
        };
        limits[limits.partition_point(|limit| limit.slot_limit < claim.slot)..]
            .first()
            .filter(|_| claim.slot > 0)
            .copied()
            .unwrap_or_default()
    }
}

impl Db {
    /// Writes the limits of unsealed drops that have none: the table was lost or restored alone. No
    /// row of them could be inserted. Returns how many.
    pub async fn restore_slot_limits(&self) -> Result<usize, DbError> {
        let query = "INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) \
             SELECT d.id, d.quantity, d.coupon_id, 0 FROM drops d \
             LEFT JOIN slot_limits l ON l.drop_id = d.id \
             WHERE d.sealed_at IS NULL AND l.drop_id IS NULL";
        let restore = self.run("restore slot limits", async move |conn| {
            diesel::sql_query(query).execute(conn).await
        });
        restore.await
    }
}
