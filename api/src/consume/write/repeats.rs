//! Repeats: claims that were published again, as when a user clicks at two APIs. One repeat makes
//! MySQL refuse the statement of its whole batch, so repeats of recent claims are left out.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use crate::bounded_cache::BoundedCache;
use crate::consume::read::record::Record;

/// Number of claims in each of the two generations of the memory.
const REMEMBERED: usize = 100_000;

/// Claims whose rows this process has committed, as keyed hashes of 64 bits: with 200,000 of them,
/// a new claim is taken for a repeat once in 10^14 claims.
pub(crate) struct RecentClaims {
    claims: BoundedCache<u64, ()>,
    /// The number of assignments when this was last empty.
    assignments: u64,
    hashing: RandomState,
}

impl RecentClaims {
    pub(crate) fn new() -> Self {
        Self {
            claims: BoundedCache::new(REMEMBERED),
            assignments: 0,
            hashing: RandomState::new(),
        }
    }

    /// Returns the records that are not repeats of others in the batch or of recent claims.
    ///
    /// Forgets all recent claims if a partition has begun again since, which changes the number of
    /// `assignments`: MySQL may have been restored, and then it has lost the rows of these claims.
    pub(crate) fn without_repeats(
        &mut self,
        batch: &[Arc<Record>],
        assignments: u64,
    ) -> Vec<Arc<Record>> {
        if self.assignments != assignments {
            self.assignments = assignments;
            self.claims.clear();
        }
        let mut in_batch = HashSet::with_capacity(batch.len());
        let mut is_first = |record: &&Arc<Record>| {
            self.hash(record)
                .is_none_or(|claim| in_batch.insert(claim) && self.claims.get(&claim).is_none())
        };
        batch
            .iter()
            .filter(|record| is_first(record))
            .cloned()
            .collect()
    }

    /// Remembers the claims of a batch that all have rows.
    pub(crate) fn committed(&mut self, batch: &[Arc<Record>]) {
        for record in batch {
            if let Some(claim) = self.hash(record) {
                self.claims.insert(claim, ());
            }
        }
    }

    /// Hashes a claim, or returns `None` for a record without one. A user who returns a coupon and
    /// gets the same slot again has another time of admission.
    fn hash(&self, record: &Record) -> Option<u64> {
        let claim = record.claim.as_ref().ok()?;
        let claimed_at_ms = claim.claimed_at?.timestamp_millis();
        Some(self.hashing.hash_one((
            claim.coupon_id,
            claim.drop_id,
            claim.slot,
            claim.user_id.as_str(),
            claimed_at_ms,
        )))
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::Slot;

    use super::*;
    use crate::consume::read::source::tests::record;

    fn claim(slot: Slot, user: &str, second: u8) -> Arc<Record> {
        let event = format!(
            r#"{{"v":2,"coupon_id":1,"drop_id":2,"claims":[{{"slot":{slot},"user_id":"{user}","claimed_at":"2026-12-01T06:00:{second:02}.000Z"}}]}}"#
        );
        Arc::new(record(0, i64::from(slot), 1, &event))
    }

    fn written(claims: &mut RecentClaims, batch: &[Arc<Record>], assignments: u64) -> usize {
        let new = claims.without_repeats(batch, assignments);
        claims.committed(&new);
        new.len()
    }

    #[test]
    fn repeats_within_a_batch_and_of_recent_batches_are_left_out() {
        let mut claims = RecentClaims::new();
        let batch = [claim(1, "u-1", 0), claim(1, "u-1", 0), claim(2, "u-2", 0)];
        assert_eq!(written(&mut claims, &batch, 1), 2);
        assert_eq!(written(&mut claims, &batch, 1), 0);
        let others = [claim(1, "u-1", 1), claim(1, "u-2", 0), claim(3, "u-1", 0)];
        assert_eq!(written(&mut claims, &others, 1), 3);
        let unreadable = Arc::new(record(0, 9, 1, "{}"));
        let twice = [unreadable.clone(), unreadable];
        assert_eq!(
            written(&mut claims, &twice, 1),
            2,
            "each gets a dead letter"
        );
    }

    #[test]
    fn uncommitted_claims_are_not_repeats_and_a_new_assignment_forgets_all() {
        let mut claims = RecentClaims::new();
        let batch = [claim(1, "u-1", 0)];
        assert_eq!(claims.without_repeats(&batch, 1).len(), 1);
        assert_eq!(written(&mut claims, &batch, 1), 1, "the first write failed");
        assert_eq!(written(&mut claims, &batch, 1), 0);
        assert_eq!(
            written(&mut claims, &batch, 2),
            1,
            "MySQL may have been restored"
        );
    }
}
