//! Making daily drops days ahead, and no number twice. Every API process and the reconciler do it,
//! so that no single stopped process keeps a drop from opening; the schema keeps one drop a local
//! date, however many do it at once.

use chrono::{DateTime, Utc};

use crate::coupon::{Coupon, Drop};
use crate::domain::DropId;
use crate::mysql::{Db, DbError};
use crate::recover::{RecoverError, lost_drops};
use crate::redis::given::GivenNumbers;
use crate::redis::keys::DropMeta;
use crate::redis::{Redis, RedisError};
use crate::schedule::Schedule;

/// Why drops could not be made or loaded. Whatever was made stands; the next round does the rest.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error(transparent)]
    Db(#[from] DbError),
    /// None was made, or those that were are not known to admission; the reconciler does that too.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// MySQL has lost a drop of the coupon: made again, its day would be given out twice.
    #[error("MySQL has lost drop {0} of the coupon: no drop is made until it is back")]
    Lost(DropId),
}

impl From<RecoverError> for MakeError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Db(error) => Self::Db(error),
            RecoverError::Redis(error) => Self::Redis(error),
        }
    }
}

/// Before a coupon or a drop is made: a MySQL that lost its last ones must not give their numbers
/// to others, who would get the claims of those too. Gives MySQL's highest.
pub async fn skip_given_numbers(db: &Db, redis: &Redis) -> Result<GivenNumbers, RecoverError> {
    Ok(db.skip_numbers(Some(redis.given_numbers().await?)).await?)
}

/// Makes the drops that a daily coupon's schedule asks for and that are not among `drops`, loads
/// them into Redis, and gives how many it made. `drops` must hold every drop whose window has not
/// ended at `now`.
///
/// A coupon without an era in Redis was lost there: who holds one is then not known, so its new
/// drops are left for the reconciler to load after it has rebuilt that.
pub async fn make_ahead(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    drops: &[Drop],
    now: DateTime<Utc>,
) -> Result<usize, MakeError> {
    let Some(schedule @ Schedule::Daily { .. }) = &coupon.schedule else {
        return Ok(0);
    };
    let mut missing = schedule.drops_from(now);
    missing.retain(|planned| {
        drops
            .iter()
            .all(|drop| drop.local_date != Some(planned.local_date))
    });
    if missing.is_empty() {
        return Ok(0);
    }
    // Read before anything is made: if Redis loses data from here on, loading finds another era and
    // does nothing.
    let fence = redis.fence(coupon.id).await?;
    let lost = lost_drops(db, redis, false).await?;
    if let Some(lost) = lost.iter().find(|lost| lost.coupon == coupon.id) {
        return Err(MakeError::Lost(lost.drop));
    }
    skip_given_numbers(db, redis).await?;
    let Some((coupon, made)) = db.make_drops(coupon.id, missing).await? else {
        return Ok(0);
    };
    if let Some(fence) = fence {
        for drop in &made {
            // Refused where the coupon was changed since; the reconciler loads it then.
            let keys = redis.keys(coupon.id, drop.id);
            let meta = DropMeta::of(&coupon, drop);
            redis
                .load_drop(&keys, &fence, coupon.revision, &meta)
                .await?;
        }
    }
    Ok(made.len())
}
