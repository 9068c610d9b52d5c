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
        let rows = stores.db.rows_of_people(coupon.id, &people).await?;
        // If the coupon allows one per user in total, a row in another drop also fulfils the
        // promise.
        let counts = |in_drop: i64| coupon.once_per == OncePer::Coupon || in_drop == drop.id.0;
        let held: HashSet<&str> = rows
            .iter()
            .filter(|r| counts(r.drop_id))
            .map(|r| r.user_id.as_str())
            .collect();
        // A revocation resolves the user's promises, but a pass may list one concurrently, so check
        // for revocations here as well.
        let revoked = stores.db.revocations_of_people(coupon.id, &people).await?;
        let revoked = Revocations::new(revoked, coupon.once_per, drop.id);
        let out = stores
            .redis
            .out_of_line(&keys, coupon.once_per, &people)
            .await?;
        for ((user, slot), out) in page.into_iter().zip(out) {
            if held.contains(user.as_str()) || revoked.voids(&user, None) {
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
    if !lost.is_empty() {
        let people: Vec<UserId> = lost.iter().map(|(user, _)| user.clone()).collect();
        let known = stores.db.people_with_promises(drop.id, &people).await?;
        lost.retain(|(user, _)| !known.contains(user));
        promises.open += lost.len() as u64;
        promises.out_of_line.extend(lost);
    }
    Ok(promises)
}
