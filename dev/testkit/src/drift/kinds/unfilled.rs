//! Drift with fewer coupons given out than are available.

use anyhow::{Result, ensure};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::schema::drops;

use crate::drift::injector::{Injected, Injector, signed};
use crate::drift::kind::Drift;

impl Injector {
    pub(super) async fn free_while_waiting(&mut self, n: u32) -> Result<Injected> {
        let gone = self.make_room(n).await?;
        let waiting: i64 = self
            .redis(redis::cmd("ZCARD").arg(&self.keys.waiting))
            .await?;
        let mut summary = format!("{n} slots are free ({} users lost theirs)", gone.len());
        if waiting == 0 {
            for (place, user) in (1..).zip(self.make_up(n)) {
                let place: i32 = place;
                self.redis::<i64>(
                    redis::cmd("ZADD")
                        .arg(&self.keys.waiting)
                        .arg(place)
                        .arg(user.as_str()),
                )
                .await?;
            }
            summary.push_str(" and new users wait");
        }
        Ok(self.injected(Drift::Unfilled, &signed(&gone), &summary))
    }

    pub(super) async fn close_below_quantity(&mut self, n: u32) -> Result<Injected> {
        let waiting: i64 = self
            .redis(redis::cmd("ZCARD").arg(&self.keys.waiting))
            .await?;
        ensure!(waiting == 0, "{waiting} users wait: they would be promoted");
        let gone = self.make_room(n).await?;
        let now_ms = self.redis.time_ms().await?;
        let id = self.drop.id.0;
        // Moves the opening to the past if needed, because the schema requires the end to be after
        // the beginning.
        let closed: Option<chrono::NaiveDateTime> = self
            .db
            .run("close drop", async move |conn| {
                let second_ago = diesel::dsl::sql::<
                    diesel::sql_types::Nullable<diesel::sql_types::Datetime>,
                >("UTC_TIMESTAMP(3) - INTERVAL 1 SECOND");
                diesel::update(drops::table.find(id))
                    .set(drops::closes_at.eq(second_ago))
                    .execute(conn)
                    .await?;
                drops::table
                    .find(id)
                    .select(drops::closes_at)
                    .first(conn)
                    .await
            })
            .await?;
        let closed_ms = closed.map_or(now_ms - 1_000, |at| at.and_utc().timestamp_millis());
        self.redis::<i64>(
            redis::cmd("HSET")
                .arg(&self.keys.meta)
                .arg("closes_at_ms")
                .arg(closed_ms),
        )
        .await?;
        Ok(self.injected(
            Drift::UnfilledClosed,
            &signed(&gone),
            &format!("closed with at least {n} slots left; taken from"),
        ))
    }

    /// Ensures that `n` slots are free. If too few are left, takes slots from users without a
    /// record, as a support agent might.
    async fn make_room(&mut self, n: u32) -> Result<Vec<(Slot, UserId)>> {
        let left = i64::from(self.top()) - self.count().await?;
        let wanted = u32::try_from(i64::from(n) - left).unwrap_or(0);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let gone = self.pick(wanted).await?;
        self.delete_rows(&gone).await?;
        for (slot, user) in &gone {
            self.forget(user).await?;
            self.redis::<i64>(redis::cmd("HDEL").arg(&self.keys.times).arg(*slot))
                .await?;
            self.redis::<i64>(
                redis::cmd("ZADD")
                    .arg(&self.keys.free)
                    .arg(*slot)
                    .arg(*slot),
            )
            .await?;
        }
        Ok(gone)
    }
}
