//! Collects the broken promises of a drop and compares them with its rows, revocations and waiting
//! list, page by page.

use std::collections::HashSet;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::mysql::revoked::Revocations;

use super::error::CollectError;
use super::snapshot::Promises;
use crate::stores::Stores;

/// Collects the promises of a drop that need a change, and counts the others. Reads Redis after
/// MySQL, so that a user who is promoted in between is found on a slot.
pub(super) async fn of_drop(
    stores: &Stores,
    coupon: &Coupon,
    drop: &Drop,
) -> Result<Promises, CollectError> {
    let mut promises = Promises::default();
    let mut listed = HashSet::new();
    let keys = stores.redis.keys(coupon.id, drop.id);
    let mut after = String::new();
    loop {
        let page = stores.db.open_promises(drop.id, after).await?;
        let Some((last, _)) = page.last() else {
            break;
        };
        after = last.to_string();
        let people: Vec<UserId> = page.iter().map(|(user, _)| user.clone()).collect();
        listed.extend(people.iter().cloned());
        let resolved = resolved(stores, coupon, drop, &people).await?;
        let out = stores
            .redis
            .out_of_line(&keys, coupon.once_per, &people)
            .await?;
        for ((user, slot), out) in page.into_iter().zip(out) {
            if resolved.contains(&user) {
                promises.kept.push(user);
                continue;
            }
            promises.open += 1;
            // A name that is not a valid user ID cannot be on the waiting list.
            if out && UserId::has_form(user.as_str()) {
                promises.out_of_line.push((user, slot));
            }
        }
    }
    // MySQL has lost the promises of users whom the waiting list still has at its head.
    let mut lost = stores.redis.promised_waiting(&keys).await?;
    lost.retain(|(user, _)| !listed.contains(user) && UserId::has_form(user.as_str()));
    if lost.is_empty() {
        return Ok(promises);
    }
    let people: Vec<UserId> = lost.iter().map(|(user, _)| user.clone()).collect();
    let known = stores.db.people_with_promises(drop.id, &people).await?;
    let resolved = resolved(stores, coupon, drop, &people).await?;
    lost.retain(|(user, _)| !known.contains(user) && !resolved.contains(user));
    promises.open += lost.len() as u64;
    promises.out_of_line.extend(lost);
    Ok(promises)
}

/// Returns those of these users who have a row, or whose claim is revoked.
async fn resolved(
    stores: &Stores,
    coupon: &Coupon,
    drop: &Drop,
    people: &[UserId],
) -> Result<HashSet<UserId>, CollectError> {
    let rows = stores.db.rows_of_people(coupon.id, people).await?;
    // If the coupon allows one per user in total, a row in another drop also fulfils the promise.
    let counts = |in_drop: i64| coupon.once_per == OncePer::Coupon || in_drop == drop.id.0;
    let rows = rows.into_iter().filter(|row| counts(row.drop_id));
    let mut resolved: HashSet<UserId> = rows.map(|row| UserId::from_store(row.user_id)).collect();
    // A revocation resolves the user's promises, but a pass may list one concurrently, so check
    // for revocations here as well.
    let revoked = stores.db.revocations_of_people(coupon.id, people).await?;
    let revoked = Revocations::new(revoked, coupon.once_per, drop.id);
    let voided = people.iter().filter(|user| revoked.voids(user, None));
    resolved.extend(voided.cloned());
    Ok(resolved)
}
