//! Copies a coupon's allow list from MySQL to Redis (docs/decisions/0012-revisions.md): the API
//! after each change, the reconciler if a pass finds a difference.

use crate::StoreError;
use crate::coupon::AllowList;
use crate::domain::CouponId;
use crate::mysql::Db;
use crate::redis::Redis;
use crate::redis::settings::Written;

/// The outcome of [`follow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// Redis already had the list, judged by its revision and size, or a later one.
    Same,
    /// The list was written, with this many users.
    Written(u32),
    /// The list was not written, for this reason.
    Kept(String),
}

/// Writes a coupon's list to Redis if its revision or size differs.
///
/// # Errors
/// [`StoreError`]; Redis has the old list, or perhaps the new one if its answer was lost.
pub async fn follow(db: &Db, redis: &Redis, id: CouponId) -> Result<Followed, StoreError> {
    let seen = redis.coupon_state(id).await?.list;
    match db.allow_lists(vec![id]).await?.first() {
        Some(now) if seen.is(now.list) => return Ok(Followed::Same),
        // Redis refuses a list with a lower revision than its own, which MySQL's list can have
        // after a restore from a backup.
        Some(now) if seen.revision() > now.list.revision => {
            let above = redis.highest_revision(id).await?;
            db.renew_allow_list(id, above).await?;
        }
        _ => {}
    }
    let Some((list, users)) = db.listed_users(id).await? else {
        return Ok(Followed::Kept("the coupon does not exist".to_owned()));
    };
    let AllowList { revision, people } = list;
    // The table `coupon_allow_list` was changed manually, lost rows, or was restored alone.
    if usize::try_from(people) != Ok(users.len()) {
        return Ok(Followed::Kept(format!(
            "MySQL recorded {people} people on the allow list, and `coupon_allow_list` has {}: \
            rows were lost or written by hand",
            users.len()
        )));
    }
    Ok(match redis.write_allow_list(id, list, &users).await? {
        Written::Yes => {
            tracing::info!(coupon_id = %id, people, revision, "an allow list was written to Redis");
            Followed::Written(people)
        }
        // Lists are written in the order of their revisions: the later one includes this change.
        Written::Outdated => Followed::Same,
        _ => Followed::Kept("Redis lost it meanwhile".to_owned()),
    })
}
