//! Drift with more admissions than slots.

use anyhow::{Context, Result, ensure};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::schema::drops;

use crate::drift::injector::{Injected, Injector, signed};
use crate::drift::kind::Drift;

impl Injector {
    pub(super) async fn above_quantity(&mut self, n: u32) -> Result<Injected> {
        let quantity = i64::from(self.drop.quantity);
        let count = self.count().await?;
        let people: Vec<(i64, UserId)> = (quantity + 1..).zip(self.make_up(n)).collect();
        for (slot, user) in &people {
            self.place_on(user, *slot, true).await?;
        }
        // If no slot is left, also raises the counter, as a real over-admission would.
        if count >= quantity {
            self.write_count(count + i64::from(n)).await?;
        }
        Ok(self.injected(
            Drift::OverAdmitted,
            &people,
            "new users were put on slots beyond the quantity",
        ))
    }

    /// Deletes the rows of the last `n` users, because the schema would reject the change
    /// otherwise, then lowers the quantity below their slots.
    pub(super) async fn shrink(&mut self, n: u32) -> Result<Injected> {
        let people = self.pick_last(n).await?;
        let quantity = people
            .as_slice()
            .first()
            .map(|(slot, _)| slot - 1)
            .filter(|q| *q >= 1)
            .context("no user would be left")?;
        self.delete_rows(&people).await?;
        let id = self.drop.id.0;
        self.db
            .run("shrink drop", async move |conn| {
                diesel::update(drops::table.find(id))
                    .set(drops::quantity.eq(quantity))
                    .execute(conn)
                    .await
            })
            .await?;
        self.redis::<i64>(
            redis::cmd("HSET")
                .arg(&self.keys.meta)
                .arg("quantity")
                .arg(quantity),
        )
        .await?;
        self.drop.quantity = quantity;
        Ok(self.injected(
            Drift::OverShrunk,
            &signed(&people),
            &format!("the quantity is now {quantity}, below the slots of"),
        ))
    }

    pub(super) async fn in_two_drops(&mut self, n: u32) -> Result<Injected> {
        ensure!(
            self.once_per_coupon(),
            "this coupon allows one in each drop"
        );
        let (_, drops) = self
            .db
            .coupon(self.coupon.id)
            .await?
            .context("the coupon is gone")?;
        let mut other = None;
        for drop in drops
            .iter()
            .filter(|d| d.id != self.drop.id && d.sealed_at.is_none())
        {
            if !self.db.rows_by_drop(vec![drop.id]).await?.is_empty() {
                other = Some(drop.id);
            }
        }
        let other = other.context(
            "create a coupon with two opened drops, such as a daily one, and rows in the other",
        )?;
        let count = self.needs_room(n).await?;
        let holders: Vec<(String, f64)> = {
            let users = self.redis.keys(self.coupon.id, other).users;
            self.redis(
                redis::cmd("ZRANGE")
                    .arg(users)
                    .arg(0)
                    .arg(i64::from(n) - 1)
                    .arg("WITHSCORES"),
            )
            .await?
        };
        ensure!(
            holders.len() == n as usize,
            "the other drop has only {} users",
            holders.len()
        );
        let people: Vec<(i64, UserId)> = (count + 1..)
            .zip(
                holders
                    .into_iter()
                    .map(|(user, _)| UserId::from_store(user)),
            )
            .collect();
        for (slot, user) in &people {
            self.place_on(user, *slot, false).await?;
        }
        self.write_count(count + i64::from(n)).await?;
        Ok(self.injected(
            Drift::OverTwoDrops,
            &people,
            &format!("users of drop {other} hold a slot here too"),
        ))
    }

    pub(super) fn top(&self) -> Slot {
        self.drop.quantity
    }
}
