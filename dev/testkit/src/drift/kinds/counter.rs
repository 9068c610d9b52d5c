//! Drift of the counter.

use anyhow::Result;
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::issued::{IssuedBy, insert};

use crate::drift::injector::{Injected, Injector};
use crate::drift::kind::Drift;

impl Injector {
    pub(super) async fn set_count(&mut self, kind: Drift, by: i64) -> Result<Injected> {
        let count = self.count().await?;
        self.write_count(count + by).await?;
        Ok(self.injected(
            kind,
            &[],
            &format!("the counter was {count} and is {}", count + by),
        ))
    }

    /// Skips `n` slots. A new user with a row gets the slot after them, so that the counter is
    /// correct.
    pub(super) async fn gap(&mut self, n: u32) -> Result<Injected> {
        let count = self.needs_room(n + 1).await?;
        let slot = count + i64::from(n) + 1;
        for user in self.make_up(1) {
            self.place_on(&user, slot, true).await?;
            self.write_row(&user, Slot::try_from(slot)?).await?;
        }
        self.write_count(slot).await?;
        Ok(self.injected(
            Drift::CountGap,
            &[],
            &format!("slots {} to {} were skipped", count + 1, slot - 1),
        ))
    }

    pub(super) async fn write_count(&self, count: i64) -> Result<()> {
        self.redis(redis::cmd("SET").arg(&self.keys.count).arg(count))
            .await
    }

    async fn write_row(&self, user: &UserId, slot: Slot) -> Result<()> {
        let (coupon_id, drop_id) = self.target();
        let claim = Claim {
            coupon_id,
            drop_id,
            slot,
            user_id: user.clone(),
            claimed_at: None,
            trace: None,
        };
        let key = self.db.code_key().await?;
        self.db
            .run("insert row", async move |conn| {
                insert(conn, &[claim], &key, IssuedBy::Consumer).await
            })
            .await?;
        Ok(())
    }
}
