//! Reads the slot limits of a whole batch of rows.

use std::collections::{BTreeSet, HashMap};

use diesel::QueryResult;

use super::claim::Claim;
use super::{Conn, Db, DbResult, list};
use crate::domain::Slot;
use crate::sql;

/// The slot limits of some drops in ascending order, each with its `person_scope`.
#[derive(Debug, Default)]
pub(super) struct SlotLimits(HashMap<i64, Vec<(Slot, i64)>>);

impl SlotLimits {
    /// Reads the limits for these claims. Does not lock them, so that new drops do not wait. If a
    /// limit changes before the rows are inserted, the schema's foreign key refuses the rows.
    pub(super) async fn read(conn: &mut Conn, claims: &[Claim]) -> QueryResult<Self> {
        let drops: BTreeSet<i64> = claims.iter().map(|claim| claim.drop_id.0).collect();
        let query = "SELECT drop_id, slot_limit, person_scope FROM slot_limits \
                     WHERE drop_id IN (?) ORDER BY drop_id, slot_limit";
        let found: Vec<(i64, Slot, i64)> = sql!(query, list(drops)).all(conn).await?;
        let mut limits = Self::default();
        for (drop, limit, scope) in found {
            limits.0.entry(drop).or_default().push((limit, scope));
        }
        Ok(limits)
    }

    /// Returns the limit that the claim's row names, with its scope: the lowest one that is not
    /// below its slot. Otherwise returns one that makes MySQL refuse the row: the foreign key if
    /// the drop is unknown or belongs to another coupon, a CHECK if the drop has no such slot.
    pub(super) fn for_claim(&self, claim: &Claim) -> (Slot, i64) {
        let Some(limits) = self.0.get(&claim.drop_id.0) else {
            return (claim.slot, 0);
        };
        let fits = |(limit, _): &&(Slot, i64)| claim.slot > 0 && *limit >= claim.slot;
        limits.iter().find(fits).copied().unwrap_or_default()
    }
}

impl Db {
    /// Writes the limits of unsealed drops that have none: the table was lost or restored alone. No
    /// row of them could be inserted. Returns how many.
    pub async fn restore_slot_limits(&self) -> DbResult<usize> {
        let restore = "INSERT INTO slot_limits (drop_id, slot_limit, coupon_id, person_scope) \
                       SELECT d.id, d.quantity, d.coupon_id, 0 FROM drops d \
                       LEFT JOIN slot_limits l ON l.drop_id = d.id \
                       WHERE d.sealed_at IS NULL AND l.drop_id IS NULL";
        self.execute("restore slot limits", sql!(restore)).await
    }
}
