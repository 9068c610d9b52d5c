//! Reads the slot limits that the rows of a whole batch name.

use std::collections::HashMap;

use diesel::QueryResult;

use super::{Conn, json};
use crate::claim::Claim;
use crate::domain::Slot;
use crate::sql;

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
pub(super) struct SlotLimits(HashMap<i64, Vec<(Slot, i64)>>);

impl SlotLimits {
    /// Reads the limits for these claims: of each drop, those from its lowest claimed slot to the
    /// first that is not below the highest one, or its last one. Does not lock them, so that new
    /// drops do not wait. If a limit is deleted before the rows are inserted, the schema's foreign
    /// key refuses the rows.
    pub(super) async fn read(conn: &mut Conn, claims: &[Claim]) -> QueryResult<Self> {
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
        let found: Vec<(i64, Slot, i64)> = sql!(OF_RANGES, json(&ranges)).all(conn).await?;
        let mut limits = Self::default();
        for (drop, limit, scope) in found {
            limits.0.entry(drop).or_default().push((limit, scope));
        }
        Ok(limits)
    }

    /// Returns the limit that the claim's row names, with its scope: the lowest one that is not
    /// below its slot. If there is none, returns one with which MySQL refuses the row: because of
    /// the foreign key if the drop has no limits, because of a CHECK if it has no such slot.
    pub(super) fn for_claim(&self, claim: &Claim) -> (Slot, i64) {
        let Some(limits) = self.0.get(&claim.drop_id.0) else {
            return (claim.slot, 0);
        };
        limits
            .iter()
            .find(|(limit, _): &&(Slot, i64)| claim.slot > 0 && *limit >= claim.slot)
            .copied()
            .unwrap_or_default()
    }
}
