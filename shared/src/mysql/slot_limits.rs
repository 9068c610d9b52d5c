//! The limits that rows keep to, read for a batch of them.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Conn;
use super::claim::Claim;
use super::schema::slot_limits;
use crate::domain::Slot;

/// From so many rows on, one query for their limits costs less than the schema's query for each
/// row.
const LIMITS_FROM: usize = 4;

/// The limits that rows of some drops may keep to (`migrations/2026-11-21-000005_slot_limits`). By
/// default none is known, and the schema finds each row's. SlotLimits that have changed since they
/// were read are refused by the schema's foreign key.
#[derive(Debug, Default)]
pub struct SlotLimits(HashMap<i64, Vec<SlotLimit>>);

#[derive(Debug, Clone, Copy, Queryable)]
pub(super) struct SlotLimit {
    pub(super) slot_limit: Slot,
    coupon_id: i64,
    pub(super) person_scope: i64,
}

impl SlotLimits {
    /// Most drops in one query's list.
    const CHUNK: usize = 500;

    /// Reads those of these claims. Not in the transaction of their rows: a plain read would begin
    /// its snapshot, in which rows written meanwhile are missing, and a locking one would make new
    /// drops wait for it.
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

    /// The lowest that is not below the slot. `None`: the schema says what is wrong with it.
    pub(super) fn of(&self, claim: &Claim) -> Option<&SlotLimit> {
        let limits = self.0.get(&claim.drop_id.0)?;
        limits[limits.partition_point(|limit| limit.slot_limit < claim.slot)..]
            .first()
            .filter(|limit| limit.coupon_id == claim.coupon_id.0 && claim.slot > 0)
    }
}
