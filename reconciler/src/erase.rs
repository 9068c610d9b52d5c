//! Erases a user: a pseudonym replaces their ID in every table.

use firstcome_shared::StoreError;
use firstcome_shared::allow_list::{Followed, follow};
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::ErasedPerson;
use firstcome_shared::mysql::allow_list::{ListChange, ListChanged};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::redis::keys::DropKeys;

use crate::context::Stores;
use crate::seal::is_coupon_over;

/// Replaces a user's ID by a pseudonym. Fails while one of their coupons is not over or Redis still
/// has its keys, because a pass would report the renamed row as drift.
pub(crate) async fn erase(
    stores: &Stores,
    user: &UserId,
    by: Operator,
) -> Result<ErasedPerson, Problem> {
    let db = &stores.db;
    let refused =
        |why: String| Problem::new(Code::StillNeeded, format!("nothing was erased: {why}"));
    let coupons = db.coupons_of_person(user).await?;
    let reasons = still_needed(stores, user, &coupons).await?;
    if !reasons.is_empty() {
        return Err(refused(reasons.join("; ")));
    }
    let pseudonym = format!("erased-{:020x}", rand::random::<u128>() >> 48);
    let name = pseudonym.clone();
    let erased = db.erase(user.clone(), coupons, name.clone(), by.clone());
    let Some(mut rows) = erased.await? else {
        let why = "something about this user has changed in the meantime: try again";
        return Err(refused(why.to_owned()));
    };
    let lists = take_off_all(stores, user, &by).await.map_err(|error| {
        tracing::warn!(%error, "a user may still be on an allow list");
        Problem::unavailable(
            "a store did not answer, and the user may still be on an allow list: erase them once more",
        )
    })?;
    rows.extend(db.erase_records(user.clone(), name).await?);
    Ok(ErasedPerson {
        pseudonym,
        rows: rows.iter().map(|(_, rows)| *rows as u64).sum(),
        allow_lists: lists as u64,
    })
}

/// Returns why the user's ID is still needed.
async fn still_needed(
    stores: &Stores,
    user: &UserId,
    coupons: &[CouponId],
) -> Result<Vec<String>, Problem> {
    let Stores { db, redis, .. } = stores;
    let keys = |drops: &[Drop]| -> Vec<DropKeys> {
        let keys = drops.iter().map(|it| redis.keys(it.coupon_id, it.id));
        keys.collect()
    };
    let mut reasons = Vec::new();
    let open = db.open_of_person(user).await?;
    if open > 0 {
        reasons.push(format!(
            "{open} dead letters or broken promises of theirs are open: resolve them first"
        ));
    }
    for id in coupons {
        let found = db.coupon(*id).await?;
        let keys = found.map(|(_, drops)| keys(&drops)).unwrap_or_default();
        if !is_coupon_over(db, *id).await? {
            let why = format!("coupon {id} is not over: all its drops must be sealed");
            reasons.push(why);
        } else if redis.have_keys(&keys).await?.contains(&true) {
            reasons.push(format!(
                "Redis keeps the people of coupon {id} for an hour after its last drop was sealed"
            ));
        }
    }
    // The user may be on a waiting list, or just admitted.
    for (coupon, drops) in db.catalogue().await? {
        let id = coupon.id;
        if !coupons.contains(&id) && redis.knows(&keys(&drops), user).await? {
            let why = format!("they hold a slot or wait in coupon {id}, which is not over");
            reasons.push(why);
        }
    }
    Ok(reasons)
}

/// Removes a user from all lists. Returns the number of lists that contained the user.
async fn take_off_all(stores: &Stores, user: &UserId, by: &Operator) -> Result<usize, StoreError> {
    let Stores { db, redis, .. } = stores;
    let mut lists = 0;
    let change = ListChange::Remove(vec![user.clone()]);
    for id in db.allow_lists_of_person(user).await? {
        let seen = redis.highest_revision(id).await?;
        let changed = db
            .change_allow_list(id, seen, change.clone(), by.clone())
            .await?;
        if !matches!(changed, ListChanged::Yes { changed: 1.., .. }) {
            continue;
        }
        lists += 1;
        // Do not rewrite the list of a coupon that is over: it is not used, and the list in Redis
        // may differ. A torn list cannot be rewritten.
        let is_over = is_coupon_over(db, id).await?;
        if is_over || matches!(follow(db, redis, id).await?, Followed::Kept(_)) {
            redis.forget_allowed(id, user).await?;
        }
    }
    Ok(lists)
}
