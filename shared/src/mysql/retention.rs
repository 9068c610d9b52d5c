//! Retention of user ids: replaces them by pseudonyms some time after a coupon has ended.

use std::time::Duration;

use super::{Db, DbResult};
use crate::coupon::Drop;
use crate::domain::{DropId, Slot};
use crate::sql;

/// Replaces a text that may contain a user id.
const GONE: &str = "erased";

/// SQL for a random text per row that replaces an id or code. A code is derived from the id, so an
/// attacker with the key could try ids until one matches.
const RANDOM: &str = "CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10))))";

/// Slots processed per statement.
const SLOTS_AT_ONCE: Slot = 2_000;

/// Condition for rows and revocations that still identify a user: a user id may begin like a
/// pseudonym (`is_pseudonym` in erased.rs).
pub(super) const NAMES_SOMEBODY: &str =
    "NOT (user_id LIKE 'erased-%' AND user_id REGEXP '^erased-[0-9a-f]{20}$')";

impl Db {
    /// Finds drops after `after` that were sealed longer than `kept` ago and still contain user
    /// ids, each with whether a user may hold one coupon per drop. Codes stay until their end, if
    /// they have one.
    pub async fn old_drops_with_people(
        &self,
        kept: Duration,
        after: DropId,
        most: i64,
    ) -> DbResult<Vec<(Drop, bool)>> {
        let old = sql!(
            "SELECT {d.columns}, c.once_per = 'drop' FROM drops d JOIN coupons c ON c.id = d.coupon_id \
                   WHERE d.id > ? AND d.codes_erased_at IS NULL \
                   AND d.sealed_at < UTC_TIMESTAMP(3) - INTERVAL ? SECOND \
                   AND (c.valid_until IS NULL OR c.valid_until < UTC_TIMESTAMP(3)) \
                   AND (c.valid_days IS NULL \
                   OR d.sealed_at + INTERVAL c.valid_days DAY < UTC_TIMESTAMP(3)) \
                   ORDER BY d.id LIMIT ?",
            after,
            kept.as_secs(),
            most
        );
        self.all("old drops with people", old).await
    }

    /// Replaces the user ids in a sealed drop's rows by pseudonyms. Each row gets a different one,
    /// so that rows of the same user cannot be linked. Returns how many rows changed.
    pub async fn erase_holders(&self, drop: DropId) -> DbResult<usize> {
        let last = "SELECT MAX(slot) FROM issued_coupons WHERE drop_id = ?";
        let last: Option<Slot> = self
            .first("last slot of a drop", sql!(last, drop))
            .await?
            .flatten();
        let mut erased = 0;
        for from in (0..last.unwrap_or(0)).step_by(SLOTS_AT_ONCE as usize) {
            // Skip a drop that is no longer sealed, because passes compare it with Redis.
            let erase = sql!(
                format!(
                    "UPDATE issued_coupons i JOIN drops d ON d.id = i.drop_id \
                    SET i.user_id = {RANDOM}, i.code = {RANDOM} WHERE i.drop_id = ? \
                    AND i.slot > ? AND i.slot <= ? AND {NAMES_SOMEBODY} AND d.sealed_at IS NOT NULL"
                ),
                drop,
                from,
                from.saturating_add(SLOTS_AT_ONCE)
            );
            erased += self.execute("erase holders", erase).await?;
        }
        Ok(erased)
    }

    /// Erases the ids in a drop's resolved broken promises and, if the coupon has ended, in its
    /// revocations. Afterwards the drop contains no user ids.
    pub async fn erase_others(&self, drop: DropId, coupon_is_over: bool) -> DbResult<usize> {
        self.transaction("erase people of a drop", async move |conn| {
            let promises = format!(
                "UPDATE broken_promises SET user_id = {RANDOM}, reason = '{GONE}' \
                 WHERE drop_id = ? AND mended_at IS NOT NULL AND {NAMES_SOMEBODY}"
            );
            let mut erased = sql!(promises, drop).run(conn).await?;
            if coupon_is_over {
                let revocations = format!(
                    "UPDATE revoked_coupons SET user_id = {RANDOM}, code = IF(code IS NULL, \
                    NULL, {RANDOM}), reason = '{GONE}', revoked_by = '{GONE}' WHERE drop_id = ? \
                    AND {NAMES_SOMEBODY}"
                );
                erased += sql!(revocations, drop).run(conn).await?;
            }
            let mark = format!(
                "UPDATE drops SET codes_erased_at = UTC_TIMESTAMP(3) WHERE id = ? \
                AND sealed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM revoked_coupons \
                WHERE drop_id = drops.id AND {NAMES_SOMEBODY})"
            );
            sql!(mark, drop).run(conn).await?;
            Ok(erased)
        })
        .await
    }
}
