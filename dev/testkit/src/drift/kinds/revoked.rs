//! Incomplete revocations.

use anyhow::Result;
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::revoked::{NewRevocation, Revocation};

use crate::drift::injector::{Injected, Injector, signed};
use crate::drift::kind::Drift;

impl Injector {
    pub(super) async fn revoke_in_mysql(&mut self, n: u32) -> Result<Injected> {
        let people = self.pick(n).await?;
        for one in &people {
            self.revoked(one.0, &one.1).await?;
        }
        self.revoked_long_ago().await?;
        Ok(self.injected(
            Drift::RevokedAdmission,
            &signed(&people),
            "revoked only in MySQL",
        ))
    }

    pub(super) async fn forget_revocations(&mut self, n: u32) -> Result<Injected> {
        let people = self.pick(n).await?;
        for one in &people {
            let revocation = self.revoked(one.0, &one.1).await?;
            let once_per = self.coupon.once_per;
            self.redis.revoke(&self.keys, once_per, &revocation).await?;
        }
        self.revoked_long_ago().await?;
        self.redis::<i64>(redis::cmd("DEL").arg(&self.keys.revoked))
            .await?;
        Ok(self.injected(
            Drift::RevokedForgotten,
            &signed(&people),
            "Redis lost the record of revoked claims",
        ))
    }

    pub(super) async fn revoke_without_row(&mut self, n: u32) -> Result<Injected> {
        let people = self.pick(n).await?;
        for (slot, user) in &people {
            let (coupon, drop) = self.target();
            let sql = format!(
                "INSERT INTO revoked_coupons (id, coupon_id, drop_id, slot, user_id, reason, revoked_by) \
                 SELECT COALESCE(MAX(id), 0) + 1, {coupon}, {drop}, {slot}, ?, 'drift', 'drift' FROM revoked_coupons"
            );
            let name = user.as_str().to_owned();
            let insert = async move |conn: &mut firstcome_shared::mysql::Conn| {
                diesel::sql_query(sql)
                    .bind::<diesel::sql_types::Text, _>(name)
                    .execute(conn)
                    .await
            };
            self.db.run("revoke", insert).await?;
        }
        self.revoked_long_ago().await?;
        Ok(self.injected(
            Drift::RevokedRow,
            &signed(&people),
            "revoked, but their rows still exist",
        ))
    }

    async fn revoked(&self, slot: Slot, user: &UserId) -> Result<Revocation> {
        let (coupon, drop) = self.target();
        let slot = Some(slot);
        let user = user.clone();
        let once_per = self.coupon.once_per;
        let reason = "drift".to_owned();
        let by = "drift".to_owned();
        let may_claim_again = false;
        let operator = None;
        let after = 0;
        let new = NewRevocation {
            coupon,
            drop,
            slot,
            user,
            reason,
            by,
            may_claim_again,
            once_per,
            operator,
            after,
        };
        Ok(self.db.revoke(new).await?)
    }

    /// Backdates revocations, because a pass leaves recent ones to the API.
    async fn revoked_long_ago(&self) -> Result<()> {
        let sql = "UPDATE revoked_coupons SET revoked_at = revoked_at - INTERVAL 1 MINUTE";
        Ok(self
            .db
            .run("revoke long ago", async move |conn| {
                conn.batch_execute(sql).await
            })
            .await?)
    }
}
