//! Copies a coupon's allow list from MySQL to Redis (docs/decisions/0012-revisions.md): the API
//! after each change, the reconciler if a pass finds a difference.

use std::fmt;

use crate::StoreError;
use crate::coupon::AllowList;
use crate::domain::CouponId;
use crate::mysql::Db;
use crate::redis::Redis;
use crate::redis::allow_list::ListReplaced;

/// The outcome of [`follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Redis already had the list, judged by its revision and size, or a later one.
    Same,
    /// The list was written, with this many users.
    Written(u32),
    /// Redis lost the list while it was being written.
    Interrupted,
    /// MySQL's list is not the one that was uploaded, so Redis keeps its own.
    Torn(TornList),
    NoCoupon,
}

/// A list with another number of rows than recorded: its table was changed manually, lost rows, or
/// was restored alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornList {
    pub rows: usize,
    pub recorded: u32,
}

impl fmt::Display for TornList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, recorded } = self;
        write!(
            f,
            "MySQL recorded {recorded} people on the allow list, and `coupon_allow_list` has {rows}: rows were lost or written by hand"
        )
    }
}

/// Writes a coupon's list to Redis if its revision or size differs.
///
/// # Errors
/// [`StoreError`]; Redis still has the old list.
pub async fn follow(db: &Db, redis: &Redis, id: CouponId) -> Result<Followed, StoreError> {
    let seen = redis.allow_lists(&[id]).await?.pop().unwrap_or_default();
    let recorded = db.allow_lists(vec![id]).await?;
    match recorded.first() {
        Some((_, list, _)) if seen.is(*list) => return Ok(Followed::Same),
        // Redis refuses a list with a lower revision than its own, which MySQL's list can have
        // after a restore from a backup.
        Some((_, list, _)) if seen.revision() > list.revision => {
            let above = redis.highest_revision(id).await?;
            db.renew_allow_list(id, above).await?;
        }
        _ => {}
    }
    let Some((list, users)) = db.listed_users(id).await? else {
        return Ok(Followed::NoCoupon);
    };
    let AllowList { revision, people } = list;
    if usize::try_from(people) != Ok(users.len()) {
        return Ok(Followed::Torn(TornList {
            rows: users.len(),
            recorded: people,
        }));
    }
    Ok(match redis.write_allow_list(id, list, &users).await? {
        ListReplaced::Yes => {
            tracing::info!(coupon_id = %id, people, revision, "an allow list was written to Redis");
            Followed::Written(people)
        }
        // Lists are written in the order of their revisions: the later one includes this change.
        ListReplaced::Outdated => Followed::Same,
        ListReplaced::Incomplete => Followed::Interrupted,
    })
}
