//! Compares a drop's revocations with Redis and with the rows.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::UserId;
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::keys::DropKeys;

use super::error::CollectError;
use super::snapshot::{DropFacts, DropRevocations, HalfRevoked};
use crate::stores::Stores;

/// Grace period: an API that has just started a revocation completes the other steps itself.
const UNDER_WAY_MS: i64 = 500;

/// Maximum number of revocations that one round of a pass completes. The next round continues.
const MOST_HALF: usize = 10_000;

/// Returns the revocations with a missing step, and the number of those that are too recent to
/// judge. Reads rows before Redis. This way, a claim in Redis that MySQL shows as revoked is the
/// revoked claim and not a later one.
pub(super) async fn half(
    stores: &Stores,
    facts: &DropFacts,
    keys: &DropKeys,
) -> Result<DropRevocations, CollectError> {
    let coupon = facts.coupon.id;
    let drop = facts.drop.id;
    let once_per = facts.once_per();
    let mut found = DropRevocations::default();
    let mut after = 0;
    loop {
        let page = stores
            .db
            .revocations_after(coupon, Some(drop), after)
            .await?;
        let Some((last, _)) = page.last() else {
            return Ok(found);
        };
        after = last.id;
        let read = page.len();
        found.number += read as u64;
        let all: Vec<Revocation> = page
            .into_iter()
            .filter(|(_, age_ms)| facts.gate_closed || *age_ms >= UNDER_WAY_MS)
            .map(|(revocation, _)| revocation)
            .collect();
        found.young += (read - all.len()) as u64;
        let people: Vec<UserId> = all
            .iter()
            .map(|one| UserId::from_store(one.user_id.clone()))
            .collect();
        let mut rows: HashMap<String, Vec<DateTime<Utc>>> = HashMap::new();
        for row in stores
            .db
            .rows_of_people(coupon, &people)
            .await?
            .into_iter()
            .filter(|row| row.drop_id == drop.0)
        {
            rows.entry(row.user_id)
                .or_default()
                .push(row.claimed_at.and_utc());
        }
        let banned = stores.redis.banned(keys, once_per, &all).await?;
        for ((revocation, user), banned) in all.into_iter().zip(people).zip(banned) {
            let void = |at: &DateTime<Utc>| revocation.voids(Some(at.timestamp_millis()));
            let rows = rows.get(user.as_str());
            let has_row = rows.is_some_and(|rows| rows.iter().any(void));
            // A valid row proves more than a time in Redis, which may be wrong.
            let has_valid_row = rows.is_some_and(|rows| !rows.iter().all(void));
            let admitted = banned
                .slot
                .filter(|(_, at)| !has_valid_row && revocation.voids(*at))
                .map(|(slot, _)| slot);
            let waits = banned.waits && revocation.again_from.is_none();
            let is_left = has_row || admitted.is_some() || waits || banned.is_named;
            let is_half = is_left || !banned.is_known || revocation.is_to_be_ended();
            if is_half && found.half.len() < MOST_HALF {
                found.half.push(HalfRevoked {
                    revocation,
                    user,
                    admitted,
                    has_row,
                    is_named: banned.is_named,
                });
            }
        }
    }
}
