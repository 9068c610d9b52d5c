//! Restores a coupon's settings from Redis after MySQL has lost them, because a lagging replica
//! took over or a backup was restored. Settings are written to MySQL before Redis, so a later
//! revision in Redis is one that MySQL has lost (docs/decisions/0026-mysql-gone-back.md).

use std::collections::HashMap;

use crate::StoreError;
use crate::coupon::{Coupon, Drop};
use crate::domain::{CouponId, DropId};
use crate::mysql::Db;
use crate::mysql::change::difference;
use crate::redis::Redis;
use crate::redis::keys::DropMeta;

/// A coupon's settings that MySQL has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostSettings {
    /// The restored coupon, with the revision from Redis.
    pub coupon: Coupon,
    /// The restored unsealed drops.
    pub drops: Vec<Drop>,
    /// The differences from MySQL's state, for operators.
    pub changes: String,
}

/// Finds a coupon's settings that MySQL has lost, and restores them there unless `dry_run`. Returns
/// `None` if Redis shows no loss, if MySQL does not have the coupon, or if another process restored
/// the settings first.
pub async fn recover(
    db: &Db,
    redis: &Redis,
    id: CouponId,
    dry_run: bool,
) -> Result<Option<LostSettings>, StoreError> {
    // Read Redis before MySQL, so that an operator's concurrent change does not look like a loss.
    let revision = redis.coupon_state(id).await?.revision;
    let Some((coupon, mut drops)) = db
        .coupon(id)
        .await?
        .filter(|(coupon, _)| coupon.revision < revision)
    else {
        return Ok(None);
    };
    drops.retain(|drop| drop.sealed_at.is_none());
    let keys: Vec<_> = drops.iter().map(|drop| redis.keys(id, drop.id)).collect();
    let mut known = HashMap::new();
    for (drop, state) in drops.iter().zip(redis.drop_states(&keys).await) {
        known.extend(state?.meta.map(|meta| (drop.id, meta)));
    }
    let before = (coupon, drops);
    let (coupon, drops) = by_redis(&before.0, &before.1, &known);
    let coupon = Coupon { revision, ..coupon };
    let after = (coupon, drops);
    let changes = difference(&before, &after).to_string();
    let (coupon, drops) = after;
    if !dry_run && !db.recover_settings(coupon.clone(), drops.clone()).await? {
        return Ok(None);
    }
    Ok(Some(LostSettings {
        coupon,
        drops,
        changes,
    }))
}

/// Overrides settings with those in Redis.
fn by_redis(
    before: &Coupon,
    drops: &[Drop],
    known: &HashMap<DropId, DropMeta>,
) -> (Coupon, Vec<Drop>) {
    let mut coupon = before.clone();
    let mut drops = drops.to_vec();
    for drop in &mut drops {
        if let Some(meta) = known.get(&drop.id) {
            meta.restore(&mut coupon.settings, drop);
        }
    }
    if !known.is_empty() {
        coupon.settings.paused = known.values().all(|meta| meta.paused);
    }
    (coupon, drops)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::coupon::AllowList;
    use crate::redis::keys::instant;
    use crate::redis::keys::tests::meta;
    use crate::schedule::{Schedule, Tz};

    #[test]
    fn recovery_uses_every_setting_stored_in_redis() {
        let once = |opens_ms, closes_ms| Schedule::Once {
            time_zone: Some(Tz::utc()),
            opens_at: instant(Some(opens_ms)).unwrap(),
            closes_at: instant(closes_ms),
        };
        let settings = json!({"name": "Winter", "quantity": 10, "once_per": "drop", "schedule": once(5, None)});
        let coupon = Coupon {
            id: CouponId(1),
            settings: serde_json::from_value(settings).unwrap(),
            revision: 1,
            era: 0,
            allow_list: AllowList::default(),
        };
        let drop = Drop {
            id: DropId(1),
            coupon_id: CouponId(1),
            local_date: None,
            opens_at: instant(Some(5)).unwrap(),
            closes_at: None,
            quantity: 10,
            closed_early: false,
            sealed_at: None,
            sealed_rows: None,
        };
        let known = meta();
        let moved = Drop {
            opens_at: instant(Some(6)).unwrap(),
            closes_at: instant(Some(9)),
            ..drop.clone()
        };
        let (restored, _) = by_redis(&coupon, &[moved], &[(DropId(1), known.clone())].into());
        assert_eq!(
            restored.schedule,
            Some(once(6, Some(9))),
            "times of the drop are restored"
        );
        let before = (coupon, vec![drop]);
        let by = |known| by_redis(&before.0, &before.1, &known);
        let (coupon, drops) = by([(DropId(1), known.clone())].into());
        assert_eq!(DropMeta::new(&coupon, &drops[0]), known);
        assert_eq!(coupon.schedule, Some(once(6, Some(9))));
        assert_eq!((coupon.quantity, coupon.name.as_str()), (20, "Winter"));
        assert_eq!(by(HashMap::new()), before, "Redis has none of its drops");
    }
}
