//! Reads one user's status in a drop, and when the user was admitted.

use redis::RedisResult;

use super::Redis;
use super::keys::DropKeys;
use super::reads::{number_of, slot_in};
use super::servers::ServerId;
use crate::domain::{DropId, Slot, UserId};

/// One user's status in a drop, and in its coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Redis's time, in Unix milliseconds.
    pub now_ms: i64,
    pub loaded: bool,
    /// Whether Redis has the drop, its gate is open and, unless the user holds a slot, its numbers
    /// add up. If not, data missing from the fields below may have been lost.
    pub trusted: bool,
    /// The slot held in this drop.
    pub slot: Option<Slot>,
    /// The position in this drop's waiting list; 1 is next.
    pub position: Option<u32>,
    /// The claim held anywhere in the coupon, if one coupon is allowed in total.
    pub claimant: Option<(DropId, Slot)>,
}

/// A slot that a user holds according to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldSlot {
    /// In Unix milliseconds by Redis's clock, or `None` if unknown.
    pub admitted_at_ms: Option<i64>,
}

impl Redis {
    /// Reads the status of `user`; `era` is the coupon's era in MySQL.
    pub async fn standing(
        &self,
        keys: &DropKeys,
        era: u64,
        user: &UserId,
    ) -> RedisResult<Standing> {
        let mut pipe = redis::pipe();
        pipe.cmd("TIME")
            .cmd("INFO")
            .arg("server")
            .arg("replication");
        pipe.mget(&[&keys.gate, &keys.revision]);
        pipe.zscore(&keys.users, user.as_str());
        pipe.zrank(&keys.waiting, user.as_str());
        pipe.hget(&keys.claimants, user.as_str());
        pipe.exists(&keys.meta).get(&keys.count);
        pipe.hget(&keys.meta, "once_per")
            .hexists(&keys.claimants, "");
        pipe.zcard(&keys.users).zcard(&keys.free);
        // The numbers change together.
        let mut replies = self.read_at_once(keys.coupon, &mut pipe).await?;
        let (seconds, micros): (i64, i64) = replies.next("time");
        let info: String = replies.next("info");
        let (gate, _) = replies.gate_and_revision();
        let score: Option<f64> = replies.next("users");
        let rank: Option<u32> = replies.next("waiting");
        let claimant: Option<String> = replies.next("claimants");
        let loaded: bool = replies.next("meta");
        let count = replies.number("count");
        let once_per: Option<String> = replies.next("meta");
        let has_claimants: bool = replies.next("claimants");
        // Without them, it is unknown whether the user holds a slot of another day.
        let is_complete = has_claimants || once_per.as_deref() != Some("coupon");
        let users: i64 = replies.next("users");
        let free: i64 = replies.next("free");
        let slot = score.and_then(slot_in);
        let claimant = claimant.and_then(|text| {
            let (drop, slot) = text.split_once(':')?;
            Some((DropId(drop.parse().ok()?), slot.parse().ok()?))
        });
        let holds = slot.is_some() || claimant.is_some_and(|(drop, _)| drop != keys.drop);
        let server = ServerId::parse(&info);
        let is_open = gate.is_open(server.as_ref(), era) && replies.unreadable.is_empty();
        Ok(Standing {
            now_ms: seconds * 1_000 + micros / 1_000,
            loaded,
            trusted: loaded && is_open && (holds || is_complete && count == Some(users + free)),
            // A valid score is a slot number; ignore others.
            slot: slot.and_then(|slot| Slot::try_from(slot).ok()),
            position: rank.map(|r| r + 1),
            claimant,
        })
    }

    /// Reads whether a user holds a slot. Returns `None` if not. A claimant without an entry in
    /// `users` holds the slot only if Redis no longer has the drop's `users`, as after sealing.
    /// Everything is read at once. Otherwise, after a revocation, the result could be the admission
    /// time of the slot's next holder, which would not void the old claim.
    pub async fn held_slot(
        &self,
        keys: &DropKeys,
        slot: Slot,
        user: &UserId,
    ) -> RedisResult<Option<HeldSlot>> {
        type Replies = (Option<f64>, bool, Option<String>, Option<Vec<u8>>);
        let mut pipe = redis::pipe();
        pipe.atomic().zscore(&keys.users, user.as_str());
        pipe.exists(&keys.users);
        pipe.hget(&keys.claimants, user.as_str());
        pipe.hget(&keys.times, slot);
        let (score, has_users, claimant, at): Replies =
            pipe.query_async(&mut self.connection()).await?;
        let is_in_users = score == Some(f64::from(slot));
        let is_claimant = !has_users && claimant == Some(format!("{}:{slot}", keys.drop));
        // As in the script, a time that Firstcome did not write is unknown.
        let admitted_at_ms = at.and_then(number_of).filter(|_| is_in_users);
        Ok((is_in_users || is_claimant).then_some(HeldSlot { admitted_at_ms }))
    }
}
