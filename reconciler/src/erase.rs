//! Erases a user: a pseudonym replaces their ID in every table.

use firstcome_shared::StoreError;
use firstcome_shared::allow_list::{Followed, follow};
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::allow_list::{ListChange, ListChanged};
use firstcome_shared::mysql::erase::RowsByTable;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::keys::DropKeys;

use crate::seal::is_coupon_over;
use crate::stores::Stores;

/// Why an erasure failed or is incomplete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EraseError {
    /// The reasons, each as a readable message.
    #[error("nothing was erased: {}", .0.join("; "))]
    StillNeeded(Vec<String>),
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("Redis cannot be asked: {0}")]
    Redis(#[from] RedisError),
    /// The user is erased from the other tables. Run the erasure again to complete it.
    #[error("the person may still be on an allow list, erase them again: {0}")]
    OnList(#[from] StoreError),
}

/// The result of an erasure.
#[derive(Debug)]
pub(crate) struct Erased {
    /// Replaces the user ID in all tables.
    pub(crate) pseudonym: String,
    pub(crate) rows: RowsByTable,
    /// Number of allow lists from which the user was removed.
    pub(crate) lists: usize,
}

/// Replaces a user's ID by a pseudonym. Fails while one of their coupons is not over or Redis still
/// has its keys, because a pass would report the renamed row as drift.
pub(crate) async fn erase(
    stores: &Stores,
    user: &UserId,
    by: Operator,
) -> Result<Erased, EraseError> {
    let db = &stores.db;
    let coupons = db.coupons_of_person(user).await?;
    let reasons = still_needed(stores, user, &coupons).await?;
    if !reasons.is_empty() {
        return Err(EraseError::StillNeeded(reasons));
    }
    let pseudonym = format!("erased-{:020x}", rand::random::<u128>() >> 48);
    let name = pseudonym.clone();
    let erased = db.erase(user.clone(), coupons, name.clone(), by.clone());
    let Some(mut rows) = erased.await? else {
        let why = "something about this user has changed in the meantime: try again";
        return Err(EraseError::StillNeeded(vec![why.to_owned()]));
    };
    let lists = take_off_all(stores, user, &by).await?;
    rows.extend(db.erase_records(user.clone(), name).await?);
    Ok(Erased {
        pseudonym,
        rows,
        lists,
    })
}

/// Returns why the user's ID is still needed.
async fn still_needed(
    stores: &Stores,
    user: &UserId,
    coupons: &[CouponId],
) -> Result<Vec<String>, EraseError> {
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
