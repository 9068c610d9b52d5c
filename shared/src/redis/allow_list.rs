//! Allow lists in Redis (docs/decisions/0012-revisions.md): the users on a coupon's list, and the
//! list's revision. The admission script reads them.

use redis::RedisError;

use super::Redis;
use super::client::Script;
use super::gate::revision_in;
use super::keys;
use super::settings::Written;
use crate::coupon::AllowList;
use crate::domain::{CouponId, UserId};

static ALLOW_LIST: Script = Script::new(include_str!("scripts/allow_list.lua"));

/// Expiry of an unfinished list, in seconds.
const GATHERED_FOR: i64 = 600;

/// Ids added per command. A larger command would delay all other commands.
const ADDED_AT_ONCE: usize = 1_000;

/// The state of a coupon's allow list in Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeenList {
    /// The list's revision and size as stored, or `None` if they are missing.
    pub list: Option<AllowList>,
    /// The number of members, or `None` if the key has another type.
    pub people: Option<u64>,
}

impl SeenList {
    /// Whether this is the given list, compared by revision and size.
    pub fn is(&self, list: AllowList) -> bool {
        self.list == Some(list) && self.people == Some(u64::from(list.people))
    }

    /// The stored revision, or 0 if there is none.
    pub fn revision(&self) -> u64 {
        self.list.map_or(0, |list| list.revision)
    }
}

impl Redis {
    /// Replaces the coupon's list, unless Redis has a later one. The list is gathered under a
    /// temporary key, which then replaces the old list in one step, so that Redis never has an
    /// incomplete list.
    ///
    /// # Errors
    /// Redis has the old list, or perhaps the new one if its answer was lost. What was gathered
    /// expires.
    pub async fn write_allow_list(
        &self,
        coupon: CouponId,
        list: AllowList,
        users: &[UserId],
    ) -> Result<Written, RedisError> {
        let keys = keys::coupon_keys(self.prefix(), coupon);
        let gathered = format!("{}:{:016x}", keys[4], rand::random::<u64>());
        for some in users.chunks(ADDED_AT_ONCE) {
            let names: Vec<&str> = some.iter().map(UserId::as_str).collect();
            let mut pipe = redis::pipe();
            // Use one transaction: a key without an expiry would stay forever.
            pipe.atomic().sadd(&gathered, names).ignore();
            pipe.expire(&gathered, GATHERED_FOR).ignore();
            pipe.query_async::<()>(&mut self.connection()).await?;
        }
        let args = [list.revision.to_string(), list.people.to_string()];
        let mut keys = keys.to_vec();
        keys.push(gathered);
        let reply: String = self.call(&ALLOW_LIST, &keys, &args).await?;
        Written::from_reply(&reply, 0)
    }

    /// Returns the coupon's highest revision in Redis, including its allow list's, or 0 if there is
    /// none. After MySQL is restored from a backup, its revision may be lower.
    pub async fn highest_revision(&self, coupon: CouponId) -> Result<u64, RedisError> {
        let state = self.coupon_state(coupon).await?;
        Ok(state.revision.max(state.list.revision()))
    }
}

/// Parses the value of `allow_list`, `REVISION:PEOPLE`. A revision that is too high (a manual edit)
/// counts as missing: otherwise the coupon's next revision would have to be above it, and scripts
/// cannot compare such numbers exactly.
pub(super) fn parse(text: &str) -> Option<AllowList> {
    let (revision, people) = text.split_once(':')?;
    Some(AllowList {
        revision: revision_in(revision)?,
        people: people.parse().ok()?,
    })
}
