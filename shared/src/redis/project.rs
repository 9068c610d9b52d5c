//! The projection: Redis := MySQL's rows, page by page, under the closed gate of one era
//! (`scripts/project.lua`); and promotion from the waiting list. Everything is fenced, and safe to
//! repeat.

use std::ops::RangeInclusive;

use redis::{FromRedisValue as _, RedisError, RedisResult, ToRedisArgs, Value};

use super::Redis;
use super::client::Script;
use super::gate::Fence;
use super::keys::{self, DropKeys};
use super::revoking::RevokedField;
pub use crate::domain::ClaimOfSlot;
use crate::domain::{CouponId, DropId, OncePer, Slot, UserId};
use crate::model::OwedUser;

static PROJECT: Script = Script::new(include_str!("scripts/project.lua"));
static PROMOTE: Script = Script::new(include_str!("scripts/promote.lua"));

/// Maximum number of slots of a page, and of claims per call. A larger call would block Redis for
/// too long, and Lua limits the arguments of a command.
pub const PROJECTED_AT_ONCE: usize = 2_000;

/// The outcome of a fenced change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Fenced<T> {
    Done(T),
    /// The coupon is in another era or state, or on another server, or has lost data that the
    /// change needs. Nothing was done, or only a part of a change that takes several calls.
    Stale,
}

/// The outcome of promoting users from a waiting list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Promotion {
    /// The promoted users, in order.
    pub given: Vec<ClaimOfSlot>,
    /// Number of users who left the list without a slot: they already hold one, or are revoked.
    pub left_without: u32,
    /// An API answers `sold_out` without Redis until [`LEASE`] has passed at the latest, so no user
    /// was promoted yet.
    ///
    /// [`LEASE`]: super::admission::LEASE
    pub is_leased: bool,
}

impl Redis {
    /// Deletes the coupon's claimants.
    pub async fn clear_claimants(
        &self,
        coupon: CouponId,
        fence: &Fence,
    ) -> RedisResult<Fenced<()>> {
        let keys = keys::coupon_keys(self.prefix(), coupon);
        self.clear(&keys, fence, None, &[3]).await
    }

    /// Begins to rebuild a drop: deletes its settings, users, free slots and times, and sets its
    /// counter to the highest slot with a row. Its waiting list stays. The coupon cannot be opened
    /// until the drop's settings are written again.
    pub async fn project_begin(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        count: Slot,
    ) -> RedisResult<Fenced<()>> {
        self.clear(&keys.of_scripts(), fence, Some(count), &[7, 8, 9, 10, 12])
            .await
    }

    /// Deletes those keys of a drop and its coupon that have another type than Firstcome's. Returns
    /// their number.
    pub async fn unlink_unreadable(
        &self,
        keys: &DropKeys,
        fence: &Fence,
    ) -> RedisResult<Fenced<u32>> {
        let args = arguments("unreadable", fence, DropId(0), OncePer::Drop);
        self.run_project(&keys.of_scripts(), &args).await
    }

    /// Notes that a drop is about to be sealed, or that it was sealed last and the claimants of all
    /// sealed drops are in Redis. A Redis with this note is not older than the sealing.
    pub async fn note_seal(
        &self,
        coupon: CouponId,
        fence: &Fence,
        drop: DropId,
    ) -> RedisResult<Fenced<u32>> {
        let keys = keys::coupon_keys(self.prefix(), coupon);
        let args = arguments("seal", fence, drop, OncePer::Coupon);
        self.run_project(&keys, &args).await
    }

    /// Removes revocations that still have the values that were read. The coupon may be open.
    pub async fn forget_revoked(
        &self,
        coupon: CouponId,
        fence: &Fence,
        fields: &[RevokedField],
    ) -> RedisResult<Fenced<()>> {
        let keys = keys::coupon_keys(self.prefix(), coupon);
        let first = arguments("forget", fence, DropId(0), OncePer::Coupon);
        self.run_parts(&keys, first, fields, |one| {
            [one.field.clone(), one.value.clone()]
        })
        .await
    }

    async fn clear(
        &self,
        keys: &[impl ToRedisArgs],
        fence: &Fence,
        count: Option<Slot>,
        numbers: &[usize],
    ) -> RedisResult<Fenced<()>> {
        let mut args = arguments("clear", fence, DropId(0), OncePer::Drop);
        args.push(count.map(|count| count.to_string()).unwrap_or_default());
        args.extend(numbers.iter().map(ToString::to_string));
        Ok(match self.run_project(keys, &args).await? {
            Fenced::Done(_) => Fenced::Done(()),
            Fenced::Stale => Fenced::Stale,
        })
    }

    /// Writes the slots of one page, at most [`PROJECTED_AT_ONCE`], none above the counter: those
    /// of `rows` with their users, and all others as free. A slot whose claim a revocation voids is
    /// free. Returns the number of such claims.
    pub async fn project_slots(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        once_per: OncePer,
        page: RangeInclusive<Slot>,
        rows: &[ClaimOfSlot],
    ) -> RedisResult<Fenced<u32>> {
        let mut args = arguments("page", fence, keys.drop, once_per);
        args.extend([page.start().to_string(), page.end().to_string()]);
        args.extend(rows.iter().flat_map(triple));
        self.run_project(&keys.of_scripts(), &args).await
    }

    /// Makes the users of a drop's rows claimants of a coupon that allows one claim in total,
    /// unless a revocation voids the claim.
    pub async fn write_claimants(
        &self,
        coupon: CouponId,
        fence: &Fence,
        drop: DropId,
        rows: &[ClaimOfSlot],
    ) -> RedisResult<Fenced<()>> {
        let keys = keys::coupon_keys(self.prefix(), coupon);
        let first = arguments("claimants", fence, drop, OncePer::Coupon);
        self.run_parts(&keys, first, rows, |claim| {
            triple(claim).map(String::into_bytes)
        })
        .await
    }

    /// Puts users whose promise is broken at the head of a drop's waiting list, in the order of the
    /// promised slots, unless they hold a slot or are revoked. Those whose slot is unknown come last.
    /// The coupon may be open.
    pub async fn write_owed(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        once_per: OncePer,
        owed: &[OwedUser],
    ) -> RedisResult<Fenced<()>> {
        let first = arguments("owed", fence, keys.drop, once_per);
        self.run_parts(
            &keys.of_scripts(),
            first,
            owed,
            |OwedUser { user, slot }| {
                let known = slot.and_then(|slot| Slot::try_from(slot).ok());
                let place = known.unwrap_or(Slot::MAX).to_string();
                [place, user.to_string()].map(String::into_bytes)
            },
        )
        .await
    }

    /// Runs an operation for [`PROJECTED_AT_ONCE`] items at a time, each with its words.
    async fn run_parts<T, const N: usize>(
        &self,
        keys: &[impl ToRedisArgs],
        first: Vec<String>,
        items: &[T],
        words: impl Fn(&T) -> [Vec<u8>; N],
    ) -> RedisResult<Fenced<()>> {
        for some in items.chunks(PROJECTED_AT_ONCE) {
            let first = first.iter().map(|word| word.clone().into_bytes());
            let args: Vec<Vec<u8>> = first.chain(some.iter().flat_map(&words)).collect();
            if self.run_project(keys, &args).await? == Fenced::Stale {
                return Ok(Fenced::Stale);
            }
        }
        Ok(Fenced::Done(()))
    }

    async fn run_project(
        &self,
        keys: &[impl ToRedisArgs],
        args: &[impl ToRedisArgs],
    ) -> RedisResult<Fenced<u32>> {
        let left_out: i64 = self.call(&PROJECT, keys, args).await?;
        Ok(u32::try_from(left_out).map_or(Fenced::Stale, Fenced::Done))
    }

    /// Gives free slots, then new ones, to the first users on an open coupon's waiting list, at
    /// most `limit`. Returns `Stale` also if the drop's numbers do not add up, or a key is lost.
    ///
    /// # Errors
    /// If Redis cannot be reached; some users may have been promoted.
    pub async fn promote_waiting(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        limit: u32,
    ) -> RedisResult<Fenced<Promotion>> {
        let args = [fence.to_string(), keys.drop.to_string(), limit.to_string()];
        let reply: Vec<Value> = self.call(&PROMOTE, &keys.of_scripts(), &args).await?;
        let [now, left_without, given @ ..] = reply.as_slice() else {
            if reply == [Value::Int(-2)] {
                return Ok(Fenced::Done(Promotion {
                    is_leased: true,
                    ..Promotion::default()
                }));
            }
            return Ok(Fenced::Stale);
        };
        let now = i64::from_redis_value_ref(now)?;
        let given = given.chunks_exact(2).map(|pair| {
            let user: Vec<u8> = Vec::from_redis_value_ref(&pair[0])?;
            Ok::<_, RedisError>(ClaimOfSlot {
                slot: Slot::from_redis_value_ref(&pair[1])?,
                // An id that was added manually may not be UTF-8.
                user: UserId::from_store(String::from_utf8_lossy(&user).into_owned()),
                at_ms: Some(now),
            })
        });
        Ok(Fenced::Done(Promotion {
            given: given.collect::<Result<_, _>>()?,
            left_without: u32::from_redis_value_ref(left_without)?,
            is_leased: false,
        }))
    }
}

/// The first arguments of the script.
fn arguments(how: &str, fence: &Fence, drop: DropId, once_per: OncePer) -> Vec<String> {
    let once_per = once_per.as_str().to_owned();
    vec![
        how.to_owned(),
        fence.to_string(),
        drop.to_string(),
        once_per,
    ]
}

fn triple(claim: &ClaimOfSlot) -> [String; 3] {
    let at = claim.at_ms.map(|at| at.to_string()).unwrap_or_default();
    [claim.slot.to_string(), claim.user.to_string(), at]
}
