//! Looks for drops with slots that are left while users wait or are owed one.

use std::collections::HashSet;

use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::{Redis, RedisError};

use super::Live;
use super::gates::WatchedDrop;
use crate::promote::DropWithSlots;

/// Returns the drops in which the first user of the waiting list may get a slot, by the catalogue
/// and by the counters of this look. `promote.lua` checks it again.
pub(super) async fn with_slots(
    redis: &Redis,
    live: &Live,
    watched: &[WatchedDrop<'_>],
) -> Result<Vec<DropWithSlots>, RedisError> {
    let may_give: Vec<(&WatchedDrop<'_>, DropKeys, bool)> = watched
        .iter()
        .filter(|seen| !seen.coupon.paused)
        .map(|seen| {
            let keys = redis.keys(seen.coupon.id, seen.drop.id);
            (seen, keys, live.owed.contains(&seen.drop.id))
        })
        .filter(|(seen, _, is_owed)| *is_owed || !seen.drop.closed_early)
        .collect();
    let waiting: Vec<&str> = may_give.iter().map(|(_, keys, _)| &*keys.waiting).collect();
    let waiting = redis.existing(&waiting).await?;
    let has_users = |keys: &DropKeys, is_owed| is_owed || waiting.contains(&*keys.waiting);
    // A drop below its quantity has slots that nobody has had; others may have returned ones.
    let is_below = |seen: &WatchedDrop<'_>| {
        seen.count
            .is_some_and(|count| count < seen.drop.quantity.into())
    };
    let full: Vec<&str> = may_give
        .iter()
        .filter(|(seen, keys, is_owed)| has_users(keys, *is_owed) && !is_below(seen))
        .map(|(_, keys, _)| &*keys.free)
        .collect();
    let free: HashSet<&str> = redis.existing(&full).await?;
    Ok(may_give
        .iter()
        .filter(|(_, keys, is_owed)| has_users(keys, *is_owed))
        .filter(|(seen, keys, _)| is_below(seen) || free.contains(&*keys.free))
        .map(|(seen, _, is_owed)| DropWithSlots {
            coupon: seen.coupon.clone(),
            drop: seen.drop.clone(),
            is_owed: *is_owed,
        })
        .collect())
}
