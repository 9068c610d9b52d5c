//! Reads one user's status in a drop, and when the user was admitted.

use redis::RedisError;

use super::Redis;
use super::keys::DropKeys;
use super::server::ServerFacts;
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
    /// Whether the drop's `users` contain the user. If `false`, only the coupon's claimants do.
    pub is_in_users: bool,
}

impl Redis {
    /// Reads the status of `user`; `era` is the coupon's era in MySQL.
    pub async fn standing(
        &self,
        keys: &DropKeys,
        era: u64,
        user: &UserId,
    ) -> Result<Standing, RedisError> {
        type Replies = (
            (i64, i64),
            Option<String>,
            bool,
            Option<f64>,
            Option<u32>,
            Option<String>,
            Option<u64>,
            u64,
            u64,
            String,
        );
        let mut pipe = redis::pipe();
        // The numbers change together.
        pipe.atomic();
        pipe.cmd("TIME").cmd("GET").arg(&keys.gate);
        pipe.cmd("EXISTS").arg(&keys.meta);
        pipe.cmd("ZSCORE").arg(&keys.users).arg(user.as_str());
        pipe.cmd("ZRANK").arg(&keys.waiting).arg(user.as_str());
        pipe.cmd("HGET").arg(&keys.claimants).arg(user.as_str());
        pipe.cmd("GET").arg(&keys.count);
        pipe.cmd("ZCARD").arg(&keys.users);
        pipe.cmd("ZCARD").arg(&keys.free);
        pipe.cmd("INFO").arg("server").arg("replication");
        let replies: Replies = pipe.query_async(&mut self.connection()).await?;
        let ((seconds, micros), gate, known, score, rank, claimant, count, users, free, info) =
            replies;
        let server = ServerFacts::of(&info);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // A valid score is a slot number; ignore others.
        let slot = score
            .filter(|s| *s >= 1.0 && *s <= f64::from(Slot::MAX))
            .map(|s| s as Slot);
        let claimant = claimant.as_deref().and_then(|text| text.split_once(':'));
        let claimant = claimant
            .and_then(|(drop, slot)| Some((DropId(drop.parse().ok()?), slot.parse().ok()?)));
        let holds = slot.is_some() || claimant.is_some_and(|(drop, _)| drop != keys.drop);
        Ok(Standing {
            now_ms: seconds * 1_000 + micros / 1_000,
            loaded: known,
            trusted: known
                && server.is_master
                && (holds || count == Some(users + free))
                && gate.as_deref() == Some(&*format!("{} {era} open", server.id())),
            slot,
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
    ) -> Result<Option<HeldSlot>, RedisError> {
        type Replies = (Option<f64>, bool, Option<String>, Option<Vec<u8>>);
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("ZSCORE")
            .arg(&keys.users)
            .arg(user.as_str());
        pipe.cmd("EXISTS").arg(&keys.users);
        pipe.cmd("HGET").arg(&keys.claimants).arg(user.as_str());
        pipe.cmd("HGET").arg(&keys.times).arg(slot);
        let (score, has_users, claimant, at): Replies =
            pipe.query_async(&mut self.connection()).await?;
        let is_in_users = score == Some(f64::from(slot));
        let is_claimant = !has_users && claimant == Some(format!("{}:{slot}", keys.drop));
        // As in the script, a time that Firstcome did not write is unknown.
        let at = at.and_then(|at| str::from_utf8(&at).ok()?.parse().ok());
        let admitted_at_ms = at.filter(|_| is_in_users);
        Ok((is_in_users || is_claimant).then_some(HeldSlot {
            admitted_at_ms,
            is_in_users,
        }))
    }

    /// Whether this user holds a slot or waits in one of these drops of a coupon.
    pub async fn knows(&self, drops: &[DropKeys], user: &UserId) -> Result<bool, RedisError> {
        if drops.is_empty() {
            return Ok(false);
        }
        let mut pipe = redis::pipe();
        for keys in drops {
            pipe.cmd("ZSCORE")
                .arg(&keys.users)
                .arg(user.as_str())
                .cmd("ZSCORE")
                .arg(&keys.waiting)
                .arg(user.as_str());
            pipe.cmd("HGET").arg(&keys.claimants).arg(user.as_str());
        }
        let found: Vec<Option<String>> = pipe.query_async(&mut self.connection()).await?;
        Ok(found.iter().any(Option::is_some))
    }
}
