//! Maintains the allow lists of coupons: writes them to Redis if they differ, deletes them long
//! after their coupon is over, and removes erased users.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::allow_list::{Followed, Which, follow};
use firstcome_shared::coupon::Coupon;
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::allow_list::{ListFollowed, OnList};

use super::sealing::is_over;
use super::{ExecuteError, Executor, RepairAttempt};
use crate::collect::allow_lists::has_list;
use crate::stores::Stores;

impl Executor<'_> {
    pub(super) async fn write_allow_list(&self) -> Result<RepairAttempt, ExecuteError> {
        Ok(
            match one(self.db, self.redis, self.facts.coupon.id).await? {
                Ok(Followed::Same) => RepairAttempt::Done(None),
                Ok(Followed::Written(people)) => {
                    RepairAttempt::Done(Some(format!("{people} people are on it")))
                }
                Ok(Followed::Changing) => RepairAttempt::Changed(CHANGING.into()),
                Ok(Followed::Torn(torn)) => RepairAttempt::Changed(torn.to_string()),
                Ok(Followed::NoCoupon) => RepairAttempt::Changed("the coupon is gone".into()),
                Err(why) => RepairAttempt::Changed(why),
            },
        )
    }
}

const CHANGING: &str = "others keep changing the allow list; the next pass looks again";

/// Writes these coupons' lists to Redis before admission needs them. Returns the coupons that must
/// not open yet, each with the reason: its list kept changing, or could not be written. This is a
/// bulkhead: one list does not keep other coupons closed.
pub(super) async fn restore<'c>(
    db: &Db,
    redis: &Redis,
    coupons: impl Iterator<Item = &'c Coupon>,
) -> Result<HashMap<CouponId, String>, ExecuteError> {
    let mut closed = HashMap::new();
    for coupon in coupons.filter(|coupon| has_list(coupon)) {
        match one(db, redis, coupon.id).await? {
            Ok(Followed::Changing) => closed.insert(coupon.id, CHANGING.to_owned()),
            Ok(Followed::Torn(torn)) => closed.insert(coupon.id, torn.to_string()),
            Err(why) => closed.insert(coupon.id, why),
            Ok(Followed::Same | Followed::Written(_) | Followed::NoCoupon) => None,
        };
    }
    Ok(closed)
}

/// Writes one list if it differs. The inner error concerns only this list.
async fn one(
    db: &Db,
    redis: &Redis,
    id: CouponId,
) -> Result<Result<Followed, String>, ExecuteError> {
    match follow(db, redis, id, Which::Different).await {
        Ok(followed) => Ok(Ok(followed)),
        Err(error) => {
            let why = format!("the allow list could not be written: {error}");
            let error = ExecuteError::from(error);
            if !error.is_of_one_coupon() {
                return Err(error);
            }
            tracing::error!(coupon = %id, why, "an allow list could not be written to Redis");
            Ok(Err(why))
        }
    }
}

/// Rewrites a list whose users differ although its revision and size agree.
pub(crate) async fn rewrite_allow_list(
    stores: &Stores,
    coupon: CouponId,
) -> Result<(), ExecuteError> {
    follow(&stores.db, &stores.redis, coupon, Which::Any).await?;
    Ok(())
}

/// Deletes the lists of coupons whose last drop was sealed longer than `kept` ago.
pub(crate) async fn delete_old_allow_lists(
    stores: &Stores,
    kept: Duration,
) -> Result<(), ExecuteError> {
    for (coupon, mut revision) in stores.db.old_allow_lists(kept).await? {
        // A coupon with a schedule may get more drops.
        if !is_over(&stores.db, coupon).await? {
            continue;
        }
        while let Some((now, has_more)) = stores
            .db
            .delete_some_of_allow_list(coupon, revision)
            .await?
        {
            revision = now;
            if !has_more {
                tracing::info!(%coupon, "the allow list of a coupon that is over is deleted");
                break;
            }
        }
    }
    Ok(())
}

/// Removes a user from all lists. Returns the number of lists that contained the user.
pub(super) async fn take_off_all(
    stores: &Stores,
    user: &UserId,
    by: &Operator,
) -> Result<usize, ExecuteError> {
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
        if is_over(&stores.db, id).await?
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
