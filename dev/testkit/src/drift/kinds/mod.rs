//! The kinds of drift, by the place where they are injected.

mod admissions;
mod counter;
mod dead_letters;
mod over;
mod revoked;
mod stores;
mod unfilled;

use anyhow::{Context as _, Result, bail};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::schema::issued_coupons;
use firstcome_shared::redis::admission::Admission;

use crate::drift::injector::{Injected, Injector, signed};
use crate::drift::kind::Drift;

impl Injector {
    /// Injects `n` of a kind: users, messages, or the error of a counter. Some kinds ignore `n`.
    pub async fn make(&mut self, kind: Drift, n: u32) -> Result<Injected> {
        match kind {
            Drift::Unissued => self.unissued(n).await,
            Drift::Unpublished => self.unpublished(n).await,
            Drift::FailedClaim => self.failed_claim(n).await,
            Drift::FailedDuplicate => self.failed_duplicate(n).await,
            Drift::FailedSlotTaken => self.failed_slot_taken(n).await,
            Drift::FailedUnrepairable => self.failed_unrepairable(n).await,
            Drift::MissingAdmission => self.forget_people(n).await,
            Drift::MissingClaimants => self.forget_claimants(n).await,
            Drift::MissingMoved => self.move_to_new_slots(n).await,
            Drift::CountLower => self.set_count(kind, -i64::from(n)).await,
            Drift::CountHigher => self.set_count(kind, i64::from(n)).await,
            Drift::CountGap => self.gap(n).await,
            Drift::SlotConflict => self.share_slots(n).await,
            Drift::ConflictMoved => self.move_onto_others(n).await,
            Drift::ConflictExchanged => self.exchange(n).await,
            Drift::OverAdmitted => self.above_quantity(n).await,
            Drift::OverShrunk => self.shrink(n).await,
            Drift::OverTwoDrops => self.in_two_drops(n).await,
            Drift::RevokedAdmission => self.revoke_in_mysql(n).await,
            Drift::RevokedForgotten => self.forget_revocations(n).await,
            Drift::RevokedRow => self.revoke_without_row(n).await,
            Drift::Unfilled => self.free_while_waiting(n).await,
            Drift::UnfilledClosed => self.close_below_quantity(n).await,
            Drift::RedisLost => self.lose_keys().await,
            Drift::RedisFlushed => self.flush().await,
            Drift::RedisGate => self.lose_gate().await,
            Drift::Stalled => self.stall(n).await,
        }
    }

    async fn unissued(&mut self, n: u32) -> Result<Injected> {
        let people = self.pick(n).await?;
        self.delete_rows(&people).await?;
        Ok(self.injected(Drift::Unissued, &signed(&people), "rows deleted"))
    }

    /// Simulates an API process that dies between Redis and Kafka.
    async fn unpublished(&mut self, n: u32) -> Result<Injected> {
        let mut people = Vec::new();
        let era = self.db.era(self.coupon.id).await?;
        let era = era.context("the coupon is gone")?;
        for user in self.make_up(n) {
            match self.redis.claim(&self.keys, era, &user).await?.admission {
                Admission::Accepted(slot) => people.push((i64::from(slot), user)),
                other => bail!("the claim was not admitted: {other:?}"),
            }
        }
        Ok(self.injected(Drift::Unpublished, &people, "admitted but never published"))
    }

    pub(crate) async fn delete_rows(&self, people: &[(Slot, UserId)]) -> Result<()> {
        let id = self.drop.id.0;
        for chunk in people.chunks(1_000) {
            let slots: Vec<Slot> = chunk.iter().map(|(slot, _)| *slot).collect();
            self.db
                .run("delete rows", async move |conn| {
                    let these = issued_coupons::drop_id
                        .eq(id)
                        .and(issued_coupons::slot.eq_any(slots));
                    diesel::delete(issued_coupons::table.filter(these))
                        .execute(conn)
                        .await
                })
                .await?;
        }
        Ok(())
    }
}
