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
    use serde_json::{Value, json};

    use super::*;
    use crate::coupon::AllowList;
    use crate::redis::keys::tests::meta;
    use crate::redis::keys::{NOT_IN_REDIS, instant};
    use crate::schedule::{Schedule, Tz};

    fn coupon(settings: Value) -> Coupon {
        Coupon {
            id: CouponId(1),
            settings: serde_json::from_value(settings).unwrap(),
            revision: 1,
            era: 0,
            allow_list: AllowList::default(),
        }
    }

    fn drop_of_ten() -> Drop {
        Drop {
            id: DropId(1),
            coupon_id: CouponId(1),
            local_date: None,
            opens_at: instant(Some(5)).unwrap(),
            closes_at: None,
            quantity: 10,
            closed_early: false,
            sealed_at: None,
            sealed_rows: None,
        }
    }

    /// Both coupons differ in each setting that can be changed.
    #[test]
    fn settings_that_are_not_recovered_are_named() {
        let before = coupon(json!({
            "name": "Winter", "quantity": 10, "once_per": "drop", "valid_days": 5,
            "schedule": {
                "type": "daily", "time_zone": "UTC", "opens": "09:00", "closes": "10:00",
                "first_day": "2026-12-01", "last_day": "2026-12-02",
            },
        }));
        let changed = coupon(json!({
            "name": "Spring", "quantity": 20, "once_per": "drop", "waiting_list": 7,
            "paused": true, "allow": "list", "valid_until": "2027-01-01T00:00:00Z",
            "schedule": {
                "type": "daily", "time_zone": "UTC", "opens": "09:00", "closes": "10:00",
                "first_day": "2026-12-01", "last_day": "2026-12-09",
            },
        }));
        let drop = Drop {
            quantity: 20,
            ..drop_of_ten()
        };
        let known = [(drop.id, DropMeta::new(&changed, &drop))].into();
        let (recovered, _) = by_redis(&before, &[drop_of_ten()], &known);
        let recovered = json!(recovered.settings);
        let mut lacking = 0;
        for (setting, wanted) in json!(changed.settings).as_object().unwrap() {
            if recovered[setting] == *wanted {
                continue;
            }
            let words = match setting.as_str() {
                "name" => "its name",
                "schedule" => "the days of a schedule",
                "valid_until" | "valid_days" => "the end of codes",
                other => panic!("{other} is not recovered"),
            };
            assert!(NOT_IN_REDIS.contains(words), "{words}: {NOT_IN_REDIS}");
            lacking += 1;
        }
        assert_eq!(lacking, 4, "{recovered}");
    }

    #[test]
    fn recovery_uses_every_setting_stored_in_redis() {
        let once = |opens_ms, closes_ms| Schedule::Once {
            time_zone: Some(Tz::utc()),
            opens_at: instant(Some(opens_ms)).unwrap(),
            closes_at: instant(closes_ms),
        };
        let settings = json!({"name": "Winter", "quantity": 10, "once_per": "drop", "schedule": once(5, None)});
        let coupon = coupon(settings);
        let drop = drop_of_ten();
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
