//! Drift of admissions in Redis.

use anyhow::{Result, ensure};
use firstcome_shared::domain::UserId;

use crate::drift::injector::{Injected, Injector, signed};
use crate::drift::kind::Drift;

impl Injector {
    pub(super) async fn forget_people(&mut self, n: u32) -> Result<Injected> {
        let people = signed(&self.pick(n).await?);
        for (_, user) in &people {
            self.forget(user).await?;
        }
        Ok(self.injected(Drift::MissingAdmission, &people, "Redis lost users"))
    }

    pub(super) async fn forget_claimants(&mut self, n: u32) -> Result<Injected> {
        ensure!(
            self.once_per_coupon(),
            "only a coupon with once_per coupon has a list of claimants"
        );
        let people = signed(&self.pick(n).await?);
        for (_, user) in &people {
            self.redis::<i64>(
                redis::cmd("HDEL")
                    .arg(&self.keys.claimants)
                    .arg(user.as_str()),
            )
            .await?;
        }
        Ok(self.injected(
            Drift::MissingClaimants,
            &people,
            "users were deleted from the coupon's list of claimants",
        ))
    }

    pub(super) async fn move_to_new_slots(&mut self, n: u32) -> Result<Injected> {
        let count = self.needs_room(n).await?;
        let people = signed(&self.pick(n).await?);
        for (to, (_, user)) in (count + 1..).zip(&people) {
            self.place_on(user, to, false).await?;
        }
        Ok(self.injected(
            Drift::MissingMoved,
            &people,
            "Redis has users on slots at the end instead of those of their rows",
        ))
    }

    pub(super) async fn share_slots(&mut self, n: u32) -> Result<Injected> {
        let people = self.new_people_on_held_slots(n).await?;
        for (slot, user) in &people {
            self.place_on(user, *slot, true).await?;
        }
        Ok(self.injected(
            Drift::SlotConflict,
            &people,
            "new users were put on slots of users with rows",
        ))
    }

    pub(super) async fn move_onto_others(&mut self, n: u32) -> Result<Injected> {
        let both = self.pick(n * 2).await?;
        let (movers, owners) = both.split_at(n as usize);
        for ((_, user), (slot, _)) in movers.iter().zip(owners) {
            self.place_on(user, i64::from(*slot), false).await?;
        }
        Ok(self.injected(
            Drift::ConflictMoved,
            &signed(movers),
            "Redis has users on the slots of others, together with them",
        ))
    }

    pub(super) async fn exchange(&mut self, n: u32) -> Result<Injected> {
        let both = signed(&self.pick(n * 2).await?);
        let (some, others) = both.split_at(n as usize);
        for ((a_slot, a), (b_slot, b)) in some.iter().zip(others) {
            self.place_on(a, *b_slot, true).await?;
            self.place_on(b, *a_slot, true).await?;
        }
        Ok(self.injected(
            Drift::ConflictExchanged,
            &both,
            "Redis has pairs of users on each other's slots",
        ))
    }

    /// Puts a user on this slot in Redis. With `claims`, also writes the coupon's list of
    /// claimants.
    pub(super) async fn place_on(&self, user: &UserId, slot: i64, claims: bool) -> Result<()> {
        self.redis::<i64>(
            redis::cmd("ZADD")
                .arg(&self.keys.users)
                .arg(slot)
                .arg(user.as_str()),
        )
        .await?;
        if claims && self.once_per_coupon() {
            let held = format!("{}:{slot}", self.drop.id);
            self.redis::<i64>(
                redis::cmd("HSET")
                    .arg(&self.keys.claimants)
                    .arg(user.as_str())
                    .arg(held),
            )
            .await?;
        }
        Ok(())
    }

    /// Deletes a user from Redis.
    pub(super) async fn forget(&self, user: &UserId) -> Result<()> {
        self.redis::<i64>(redis::cmd("ZREM").arg(&self.keys.users).arg(user.as_str()))
            .await?;
        self.redis::<i64>(
            redis::cmd("HDEL")
                .arg(&self.keys.claimants)
                .arg(user.as_str()),
        )
        .await?;
        Ok(())
    }
}
