//! Drift in the dead-letter table.

use anyhow::Result;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::UserId;
use firstcome_shared::mysql::schema::failed_claims;

use crate::drift::injector::{Injected, Injector, signed};
use crate::drift::kind::Drift;

impl Injector {
    pub(super) async fn failed_claim(&mut self, n: u32) -> Result<Injected> {
        let people = self.pick(n).await?;
        self.add_dead_letters(
            &signed(&people),
            "made by firstcome-drift: the row was refused",
        )
        .await?;
        self.delete_rows(&people).await?;
        Ok(self.injected(
            Drift::FailedClaim,
            &signed(&people),
            "rows moved to the dead-letter table",
        ))
    }

    pub(super) async fn failed_duplicate(&mut self, n: u32) -> Result<Injected> {
        let people = signed(&self.pick(n).await?);
        self.add_dead_letters(&people, "made by firstcome-drift: a duplicate")
            .await?;
        Ok(self.injected(
            Drift::FailedDuplicate,
            &people,
            "dead letters of users who have their row",
        ))
    }

    pub(super) async fn failed_slot_taken(&mut self, n: u32) -> Result<Injected> {
        let people = self.new_people_on_held_slots(n).await?;
        self.add_dead_letters(&people, "made by firstcome-drift: slot_taken")
            .await?;
        Ok(self.injected(
            Drift::FailedSlotTaken,
            &people,
            "dead letters of new users for slots that others hold",
        ))
    }

    pub(super) async fn failed_unrepairable(&mut self, n: u32) -> Result<Injected> {
        let above = i64::from(self.drop.quantity) + 1_000;
        let people: Vec<(i64, UserId)> = (above..).zip(self.make_up(n)).collect();
        self.add_dead_letters(&people, "made by firstcome-drift: slot_out_of_range")
            .await?;
        Ok(self.injected(
            Drift::FailedUnrepairable,
            &people,
            "dead letters for slots that the drop does not have",
        ))
    }

    async fn add_dead_letters(&self, people: &[(i64, UserId)], reason: &'static str) -> Result<()> {
        let coupon = self.coupon.id.0;
        let drop = self.drop.id.0;
        for chunk in people.chunks(500) {
            let chunk = chunk.to_vec();
            self.db
                .run("insert failed claims", async move |conn| {
                    let rows: Vec<_> = chunk
                        .iter()
                        .map(|(slot, user)| {
                            (
                                failed_claims::coupon_id.eq(coupon),
                                failed_claims::drop_id.eq(drop),
                                failed_claims::slot.eq(*slot),
                                failed_claims::user_id.eq(user.as_str()),
                                failed_claims::reason.eq(reason),
                            )
                        })
                        .collect();
                    diesel::insert_into(failed_claims::table)
                        .values(rows)
                        .execute(conn)
                        .await
                })
                .await?;
        }
        Ok(())
    }
}
