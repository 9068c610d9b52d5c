//! Copies a coupon's allow list from MySQL to Redis (docs/decisions/0019-allow-list.md). The API
//! does this if an earlier change did not reach Redis, and the reconciler does it if a pass finds a
//! difference, for example after data loss or a manual change.

use std::fmt;

use crate::StoreError;
use crate::coupon::AllowList;
use crate::domain::CouponId;
use crate::mysql::Db;
use crate::redis::Redis;
use crate::redis::allow_list::{Gathering, ListReplaced};

/// Users read per statement.
const PAGE: i64 = 5_000;

/// Maximum number of attempts to write a list while others change it.
const ATTEMPTS: usize = 5;

/// The outcome of [`follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Redis already had the list, judged by its revision and size.
    Same,
    /// The list was written, with this many users.
    Written(u32),
    /// Another change interrupted every attempt. The process that made it writes the list.
    Changing,
    /// MySQL's list is not the one that was uploaded, so Redis keeps its own.
    Torn(TornList),
    NoCoupon,
}

/// A list with another number of rows than recorded: its table was changed manually, lost rows, or
/// was restored alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornList {
    pub rows: u64,
    pub recorded: u32,
}

impl TornList {
    fn of(rows: u64, list: AllowList) -> Option<Self> {
        let recorded = list.people;
        (rows != u64::from(recorded)).then_some(Self { rows, recorded })
    }
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

/// Writes a coupon's list to Redis if its revision or size differs. The list is gathered page by
/// page under a temporary key, which then replaces the old list in one step, so that Redis never
/// has an incomplete list. All pages must belong to one revision: if MySQL has another revision at
/// the end, gathering begins again.
///
/// # Errors
/// [`StoreError`]; Redis still has the old list.
pub async fn follow(db: &Db, redis: &Redis, id: CouponId) -> Result<Followed, StoreError> {
    for _ in 0..ATTEMPTS {
        let seen = redis.allow_lists(&[id]).await?.pop().unwrap_or_default();
        let Some(mut list) = db.allow_list(id).await? else {
            return Ok(Followed::NoCoupon);
        };
        if seen.is(list) {
            return Ok(Followed::Same);
        }
        // Redis refuses a list with a lower revision than its own, which MySQL's list can have
        // after a restore from a backup.
        if seen.revision() > list.revision {
            let above = redis.highest_revision(id).await?;
            let Some(renewed) = db.renew_allow_list(id, above).await? else {
                return Ok(Followed::NoCoupon);
            };
            list = renewed;
        }
        let new = redis.gather_allow_list(id);
        let written = gather(db, redis, id, list, &new).await;
        if matches!(written, Ok(Gathered::Written)) {
            tracing::info!(coupon = %id, people = list.people, revision = list.revision, "an allow list was written to Redis");
            return Ok(Followed::Written(list.people));
        }
        // An unfinished list would use memory until it expires.
        if let Err(error) = redis.drop_gathered(&new).await {
            tracing::debug!(%error, coupon = %id, "an unfinished allow list could not be deleted and will expire");
        }
        if let Gathered::Torn(torn) = written? {
            return Ok(Followed::Torn(torn));
        }
    }
    Ok(Followed::Changing)
}

enum Gathered {
    Written,
    /// MySQL's or Redis's list changed in the meantime.
    Changed,
    Torn(TornList),
}

/// Gathers a list and replaces the one in Redis.
async fn gather(
    db: &Db,
    redis: &Redis,
    id: CouponId,
    list: AllowList,
    new: &Gathering,
) -> Result<Gathered, StoreError> {
    let mut after = String::new();
    let mut rows = 0_u64;
    loop {
        let page = db.allowed_after(id, after, PAGE).await?;
        redis.add_gathered(new, &page).await?;
        rows += page.len() as u64;
        if db.allow_list(id).await? != Some(list) {
            return Ok(Gathered::Changed);
        }
        let is_full = i64::try_from(page.len()) == Ok(PAGE);
        let Some(last) = page.last().filter(|_| is_full) else {
            break;
        };
        after = last.to_string();
    }
    if let Some(torn) = TornList::of(rows, list) {
        return Ok(Gathered::Torn(torn));
    }
    Ok(match redis.replace_allow_list(new, list).await? {
        ListReplaced::Yes => Gathered::Written,
        _ => Gathered::Changed,
    })
}
