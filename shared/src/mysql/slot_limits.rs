//! Reads the slot limits of a whole batch of rows.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Conn;
use super::claim::Claim;
use super::schema::slot_limits;
use crate::domain::Slot;

/// Minimum number of rows at which one query for their limits costs less than the schema's query
/// per row.
const LIMITS_FROM: usize = 4;

/// The slot limits of some drops (docs/decisions/0011-slot-limits.md). If a drop's limits
/// are not loaded, the schema finds each row's limit. If limits have changed since they were read,
/// the schema's foreign key refuses the row.
#[derive(Debug, Default)]
pub struct SlotLimits(HashMap<i64, Vec<SlotLimit>>);

#[derive(Debug, Clone, Copy, Queryable)]
pub(super) struct SlotLimit {
    pub(super) slot_limit: Slot,
    coupon_id: i64,
    pub(super) person_scope: i64,
}

impl SlotLimits {
    /// Maximum number of drops in one query.
    const CHUNK: usize = 500;

    /// Reads the limits for these claims. Call it outside the transaction that inserts the rows: a
    /// plain read would start the transaction's snapshot too early, and a locking read would make
    /// new drops wait.
    pub async fn read(conn: &mut Conn, claims: &[&Claim]) -> QueryResult<Self> {
        let mut limits = Self::default();
        if claims.len() < LIMITS_FROM {
            return Ok(limits);
        }
        let mut drops: Vec<i64> = claims.iter().map(|claim| claim.drop_id.0).collect();
        drops.sort_unstable();
        drops.dedup();
        for drops in drops.chunks(Self::CHUNK) {
            let found: Vec<(i64, SlotLimit)> = slot_limits::table
                .filter(slot_limits::drop_id.eq_any(drops))
                .order((slot_limits::drop_id, slot_limits::slot_limit))
                .select((
                    slot_limits::drop_id,
                    (
                        slot_limits::slot_limit,
                        slot_limits::coupon_id,
                        slot_limits::person_scope,
                    ),
                ))
                .load(conn)
                .await?;
            for (drop, limit) in found {
                limits.0.entry(drop).or_default().push(limit);
            }
        }
        Ok(limits)
    }

    /// Returns the lowest limit that is not below the slot; `None` lets the schema report the
    /// fault.
    pub(super) fn of(&self, claim: &Claim) -> Option<&SlotLimit> {
        let limits = self.0.get(&claim.drop_id.0)?;
        limits[limits.partition_point(|limit| limit.slot_limit < claim.slot)..]
            .first()
            .filter(|limit| limit.coupon_id == claim.coupon_id.0 && claim.slot > 0)
    }
}
