//! Makes Redis have the allow list of a coupon that MySQL has (docs/decisions/0019-allow-list.md):
//! after a change that did not reach it, a loss, or a change by hand. The API does so where a
//! change finds another list than the one before it, the reconciler where a pass finds one.

use crate::coupon::AllowList;
use crate::domain::{CouponId, UserId};
use crate::mysql::{Db, DbError};
use crate::redis::allow_list::{Gathering, ListReplaced};
use crate::redis::{Redis, RedisError};

/// People read in one statement, and compared in one command.
const PAGE: i64 = 5_000;

/// Attempts until a list is written that nobody changes meanwhile.
const ATTEMPTS: usize = 5;

/// Why a list could not be compared or written.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
}

/// What became of [`follow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Redis had the list already, as far as its revision and size tell.
    Same,
    /// It was written, with so many people.
    Written(u32),
    /// Others kept changing it; what they write is as good.
    Changing,
    /// There is no such coupon.
    NoCoupon,
}

/// Which lists are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One that differs by its revision or size.
    Different,
    /// Also one that does not: its people differ.
    Any,
}

/// Writes a coupon's list to Redis where it differs. It is gathered page by page under a name of
/// its own, and takes the place of the other in one step: at no moment is it half there. What is
/// written is the list of one revision: if MySQL's has another at the end, it begins anew.
///
/// # Errors
/// [`ListError`]; Redis has the list that it had.
pub async fn follow(
    db: &Db,
    redis: &Redis,
    id: CouponId,
    which: Which,
) -> Result<Followed, ListError> {
    for _ in 0..ATTEMPTS {
        let seen = redis.allow_lists(&[id]).await?.pop().unwrap_or_default();
        let Some(mut list) = db.allow_list(id).await? else {
            return Ok(Followed::NoCoupon);
        };
        if which == Which::Different && seen.is(list) {
            return Ok(Followed::Same);
        }
        // Redis refuses an older list than it has. MySQL has one after a restore from a backup.
        if seen.revision() > list.revision {
            let above = redis.highest_revision(id).await?;
            let Some(renewed) = db.renew_allow_list(id, above).await? else {
                return Ok(Followed::NoCoupon);
            };
            list = renewed;
        }
        let new = redis.gather_allow_list(id);
        let written = gather(db, redis, id, list, seen.revision(), &new).await;
        if matches!(written, Ok(true)) {
            tracing::info!(coupon = %id, people = list.people, revision = list.revision, "an allow list was written to Redis");
            return Ok(Followed::Written(list.people));
        }
        // Else it would take room until it expires.
        if let Err(error) = redis.drop_gathered(&new).await {
            tracing::debug!(%error, coupon = %id, "an allow list that was not finished expires by itself");
        }
        written?;
    }
    Ok(Followed::Changing)
}

/// Gathers a list and puts it in its place; `false` where another list is MySQL's by then.
async fn gather(
    db: &Db,
    redis: &Redis,
    id: CouponId,
    list: AllowList,
    seen_revision: u64,
    new: &Gathering,
) -> Result<bool, ListError> {
    let (mut after, mut people) = (String::new(), 0_u32);
    loop {
        let page = db.allowed_after(id, after, PAGE).await?;
        redis.add_gathered(new, &page).await?;
        people = people.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
        if db.allow_list(id).await? != Some(list) {
            return Ok(false);
        }
        let Some(last) = page.last().filter(|_| is_full(&page)) else {
            break;
        };
        after = last.to_string();
    }
    if people != list.people {
        // A hand has changed the table: its number is counted anew.
        db.renew_allow_list(id, seen_revision).await?;
        return Ok(false);
    }
    Ok(redis.replace_allow_list(new, list).await? == ListReplaced::Yes)
}

/// Whether there may be more behind a page.
fn is_full(page: &[UserId]) -> bool {
    i64::try_from(page.len()) == Ok(PAGE)
}

/// How the people on a list in Redis differ from MySQL's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// On the list, and not in Redis.
    pub missing: u64,
    /// In Redis, and not on the list.
    pub surplus: u64,
}

/// Compares a list person by person, page by page; `None` where it was changed meanwhile, so that
/// nothing can be said. Redis has nobody else where it has all of them and has as many.
pub async fn difference(
    db: &Db,
    redis: &Redis,
    id: CouponId,
) -> Result<Option<Difference>, ListError> {
    let before = redis.allow_lists(&[id]).await?;
    let list = db.allow_list(id).await?;
    let (mut after, mut missing, mut people) = (String::new(), 0_u64, 0_u64);
    loop {
        let page = db.allowed_after(id, after, PAGE).await?;
        people += page.len() as u64;
        missing += redis
            .are_allowed(id, &page)
            .await?
            .into_iter()
            .filter(|is_there| !is_there)
            .count() as u64;
        let Some(last) = page.last().filter(|_| is_full(&page)) else {
            break;
        };
        after = last.to_string();
    }
    let seen = redis.allow_lists(&[id]).await?;
    if seen != before || db.allow_list(id).await? != list {
        return Ok(None);
    }
    let in_redis = seen.first().and_then(|seen| seen.people).unwrap_or(0);
    Ok(Some(Difference {
        missing,
        surplus: in_redis.saturating_sub(people - missing),
    }))
}
