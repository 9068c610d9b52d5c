//! Reads one user's status in a drop, and when the user was admitted.

use redis::{Cmd, RedisResult};

use super::Redis;
use super::admission::AdmittedSlot;
use super::keys::{DropKeys, instant};
use super::reads::{Reads, number_of, slot_in};
use super::revoking::{field, id_in};
use super::servers::ServerId;
use crate::domain::{DropId, OncePer, Slot, UserId};

/// One user's status in a drop, and in its coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimStanding {
    pub loaded: bool,
    /// Whether Redis has the drop, its gate is open and, unless the user holds a slot, its numbers
    /// add up and no claimants are lost. If not, data missing from the fields below may have been
    /// lost.
    pub trusted: bool,
    /// The slot held in this drop.
    pub slot: Option<Slot>,
    /// The position in this drop's waiting list; 1 is next.
    pub position: Option<u32>,
    /// The claim held anywhere in the coupon, if one coupon is allowed in total.
    pub claimant: Option<(DropId, Slot)>,
    /// The ID of the user's last revocation.
    pub revocation: Option<i64>,
}

impl ClaimStanding {
    /// Whether the user holds a slot, of this drop or of another one that counts for it.
    pub fn holds(&self) -> bool {
        self.slot.is_some() || self.claimant.is_some()
    }
}

impl Redis {
    /// Reads the status of `user`; `era` is the coupon's era in MySQL.
    pub async fn standing(
        &self,
        keys: &DropKeys,
        once_per: OncePer,
        era: u64,
        user: &UserId,
    ) -> RedisResult<ClaimStanding> {
        let user = user.as_str();
        let revoked = field(once_per, keys.drop, user);
        let mut reads = Reads::new();
        let info = redis::cmd("INFO")
            .arg("server")
            .arg("replication")
            .to_owned();
        reads
            .add("info", info)
            .gate_and_revision(&keys.gate, &keys.revision)
            .add("users", Cmd::zscore(&keys.users, user))
            .add("waiting", Cmd::zrank(&keys.waiting, user))
            .add("claimants", Cmd::hget(&keys.claimants, user))
            .add("revoked", Cmd::hget(&keys.revoked, revoked))
            .add("meta", Cmd::exists(&keys.meta))
            .add("count", Cmd::get(&keys.count))
            .add("meta", Cmd::hget(&keys.meta, "once_per"))
            .add("claimants", Cmd::hexists(&keys.claimants, ""))
            .add("users", Cmd::zcard(&keys.users))
            .add("free", Cmd::zcard(&keys.free));
        // Read at one moment, because the numbers change together.
        let mut replies = self.read_at_once(keys.coupon, reads).await?;
        let server = ServerId::parse(&replies.read::<String>());
        let (gate, _) = replies.gate_and_revision();
        let slot = replies.read::<Option<f64>>().and_then(slot_in);
        let rank: Option<u32> = replies.read();
        let claimant: Option<String> = replies.read();
        let revoked: Option<String> = replies.read();
        let loaded: bool = replies.read();
        let count = replies.number();
        let once_per: Option<String> = replies.read();
        let has_claimants: bool = replies.read();
        let sum = replies.read::<i64>() + replies.read::<i64>();
        // Without the claimants, it is unknown whether the user holds a slot of another day.
        let is_complete = has_claimants || once_per.as_deref() != Some("coupon");
        let claimant = claimant.and_then(|text| {
            let (drop, slot) = text.split_once(':')?;
            Some((DropId(drop.parse().ok()?), slot.parse().ok()?))
        });
        let holds = slot.is_some() || claimant.is_some_and(|(drop, _)| drop != keys.drop);
        let is_open = gate.is_open(server.as_ref(), era) && replies.unreadable.is_empty();
        Ok(ClaimStanding {
            loaded,
            trusted: loaded && is_open && (holds || is_complete && count == Some(sum)),
            // A valid score is a slot number; ignore others.
            slot: slot.and_then(|slot| Slot::try_from(slot).ok()),
            position: rank.map(|r| r + 1),
            claimant,
            revocation: revoked.and_then(|text| id_in(text.as_bytes())),
        })
    }

    /// Reads whether a user holds a slot. Returns `None` if not. A claimant without an entry in
    /// `users` holds the slot only if Redis no longer has the drop's `users`, as after sealing.
    /// Everything is read in one transaction: if the claim were revoked and the slot given again
    /// between two reads, the time would be that of the next holder, and the revoked claim would
    /// look as if it had been made after its revocation.
    pub async fn held_slot(
        &self,
        keys: &DropKeys,
        slot: Slot,
        user: &UserId,
    ) -> RedisResult<Option<AdmittedSlot>> {
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
        let at_ms = at.and_then(number_of).filter(|_| is_in_users);
        let held = AdmittedSlot {
            drop: keys.drop,
            slot,
            claimed_at: instant(at_ms),
        };
        Ok((is_in_users || is_claimant).then_some(held))
    }
}
