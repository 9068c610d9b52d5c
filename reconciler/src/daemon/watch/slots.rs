//! Looks for lost keys, and for slots that are left while users wait or are owed one.

use std::collections::HashSet;

use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::reads::DropState;
use firstcome_shared::redis::{Redis, RedisError};

use super::{Live, Wants};

/// Returns the coupons in which users wait or are owed a slot although slots are left, and those
/// that lack `claimants` or `revoked`.
pub(super) async fn with_slots_or_losses(
    redis: &Redis,
    live: &Live,
    mut keys: Vec<DropKeys>,
) -> Result<Wants, RedisError> {
    let found = redis.attention(&keys).await?;
    let mut lost = HashSet::new();
    let mut waits = HashSet::new();
    for (keys, (waiting, has_keys)) in keys.iter().zip(found) {
        if !has_keys {
            lost.insert(keys.coupon);
        }
        if waiting > 0 || live.owed.contains(&keys.drop) {
            waits.insert(keys.drop);
        }
    }
    keys.retain(|keys| waits.contains(&keys.drop) || lost.contains(&keys.coupon));
    let states = redis.drop_states(&keys).await?;
    let mut wants = Wants::default();
    for (keys, state) in keys.iter().zip(states) {
        if lost.contains(&keys.coupon) {
            // The urgent lane closes it if it is open and still has this gate.
            wants.closed.insert(keys.coupon, Some(state.gate));
        } else if has_slot_to_give(&state, live.owed.contains(&keys.drop)) {
            wants.with_slots.insert(keys.coupon);
        }
    }
    Ok(wants)
}

/// Whether the first user of the waiting list may get a slot.
fn has_slot_to_give(state: &DropState, is_owed: bool) -> bool {
    let Some(meta) = &state.meta else {
        return false;
    };
    let is_left = state.free > 0
        || state
            .count
            .is_some_and(|count| count < meta.quantity.into());
    let may_be_served = !meta.closed_early || state.owed > 0 || is_owed;
    is_left && may_be_served && !meta.paused
}
