//! Operators' actions outside passes: correct or discard dead letters, give up a promise,
//! erase a user.

use firstcome_shared::StoreError;
use firstcome_shared::allow_list::{Followed, Which, follow};
use firstcome_shared::domain::{CouponId, NamedDrop, UserId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::dead_letters::{Correction, DeadLetterQuery, Matching};
use firstcome_shared::mysql::erase::RowsByTable;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::allow_list::{ListFollowed, OnList};

use crate::seal::is_coupon_over;
use crate::stores::Stores;

/// Discards a dead letter with a reason, so that passes ignore it. Returns `false` if it is already
/// resolved.
pub(crate) async fn discard(
    stores: &Stores,
    id: i64,
    why: String,
    by: Operator,
) -> Result<bool, DbError> {
    stores.db.discard_dead_letter(id, why, by).await
}

/// Discards all unresolved dead letters that match an operator's filter. Returns their number.
pub(crate) async fn discard_all(
    stores: &Stores,
    wanted: DeadLetterQuery,
    seen: Matching,
    why: String,
    by: Operator,
) -> Result<usize, DbError> {
    stores.db.discard_dead_letters(wanted, seen, why, by).await
}

/// Corrects the claim of a dead letter. Returns `false` if it is already resolved.
pub(crate) async fn correct(
    stores: &Stores,
    id: i64,
    to: Correction,
    by: Operator,
) -> Result<bool, DbError> {
    stores.db.correct_dead_letter(id, to, by).await
}

/// Gives up a user's broken promises in a drop, after the user was informed. Returns their number.
pub(crate) async fn give_up(
    stores: &Stores,
    place: NamedDrop,
    user: &UserId,
    by: Operator,
) -> Result<usize, DbError> {
    stores.db.give_up_promises(place, user, by).await
}

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
    let coupons = stores.db.coupons_of_person(user).await?;
    let mut reasons = Vec::new();
    let open = stores.db.open_of_person(user).await?;
    if open > 0 {
        reasons.push(format!(
            "{open} dead letters or broken promises of theirs are open: resolve them first"
        ));
    }
    for coupon in &coupons {
        reasons.extend(needed(stores, *coupon).await?);
    }
    // The user may be on a waiting list, or just admitted.
    for (coupon, drops) in stores.db.catalogue().await? {
        let keys: Vec<_> = drops
            .iter()
            .map(|drop| stores.redis.keys(coupon.id, drop.id))
            .collect();
        if !coupons.contains(&coupon.id) && stores.redis.knows(&keys, user).await? {
            reasons.push(format!(
                "they hold a slot or wait in coupon {}, which is not over",
                coupon.id
            ));
        }
    }
    if !reasons.is_empty() {
        return Err(EraseError::StillNeeded(reasons));
    }
    let pseudonym = format!("erased-{:020x}", rand::random::<u128>() >> 48);
    let Some(mut rows) = stores
        .db
        .erase(user.clone(), coupons, pseudonym.clone(), by.clone())
        .await?
    else {
        let why = "something about this user has changed in the meantime: try again";
        return Err(EraseError::StillNeeded(vec![why.to_owned()]));
    };
    let lists = take_off_all(stores, user, &by).await?;
    rows.extend(
        stores
            .db
            .erase_records(user.clone(), pseudonym.clone())
            .await?,
    );
    Ok(Erased {
        pseudonym,
        rows,
        lists,
    })
}

/// Returns why a coupon still needs its users' IDs, if it does.
async fn needed(stores: &Stores, id: CouponId) -> Result<Option<String>, EraseError> {
    if !is_coupon_over(&stores.db, id).await? {
        return Ok(Some(format!(
            "coupon {id} is not over: all its drops must be sealed"
        )));
    }
    let drops = stores
        .db
        .coupon(id)
        .await?
        .map(|(_, drops)| drops)
        .unwrap_or_default();
    let keys: Vec<_> = drops
        .iter()
        .map(|drop| stores.redis.keys(id, drop.id))
        .collect();
    let remain = stores.redis.have_keys(&keys).await?.contains(&true);
    let why = || {
        format!("Redis keeps the people of coupon {id} for an hour after its last drop was sealed")
    };
    Ok(remain.then(why))
}

/// Removes a user from all lists. Returns the number of lists that contained the user.
async fn take_off_all(stores: &Stores, user: &UserId, by: &Operator) -> Result<usize, StoreError> {
    let mut lists = 0;
    let people = [user.clone()];
    for id in stores.db.allow_lists_of_person(user).await? {
        let seen = stores.redis.highest_revision(id).await?;
        let changed = stores
            .db
            .change_allow_list(id, seen, people.to_vec(), OnList::Remove, by.clone())
            .await?;
        let Some(changed) = changed.filter(|changed| changed.changed > 0) else {
            continue;
        };
        lists += 1;
        let before = changed.before;
        let now = changed.now;
        let followed = stores
            .redis
            .change_allow_list(id, before, now, OnList::Remove, &people)
            .await?;
        if followed != ListFollowed::Other {
            continue;
        }
        // Do not rewrite the list of a coupon that is over: it is not used, and the list in Redis
        // may differ. A torn list cannot be rewritten.
        if is_coupon_over(&stores.db, id).await?
            || matches!(
                follow(&stores.db, &stores.redis, id, Which::Different).await?,
                Followed::Torn(_)
            )
        {
            stores.redis.forget_allowed(id, user).await?;
        }
    }
    Ok(lists)
}
