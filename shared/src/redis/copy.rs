//! A copy of the live coupons, kept by the reconciler. With it, an API that starts while MySQL is
//! unavailable can serve claims, and the reconciler can tell which coupons MySQL has lost. No
//! refusal may rest on the copy alone. It also names the drops that an operator has removed since it
//! was written, whose keys have no owner in MySQL.

use std::collections::{HashMap, HashSet};

use redis::{AsyncCommands as _, RedisError, RedisResult};

use super::gate::Gate;
use super::{Redis, keys};
use crate::coupon::{Coupon, Drop};
use crate::domain::{CouponId, DropId};
use crate::schedule::Schedule;

/// Coupons with their drops in order of opening.
pub type CatalogueCopy = Vec<(Coupon, Vec<Drop>)>;

/// The copy as Redis stores it; empty if there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredCopy(String);

impl StoredCopy {
    /// Returns the coupons of the copy; none if another version wrote it.
    pub fn coupons(&self) -> CatalogueCopy {
        parse(self).unwrap_or_default()
    }
}

/// Returns the drops that a later change of their coupon has removed since the copy was written:
/// those of days after the last one. If MySQL has lost a drop instead, the schedule still has its
/// day, or the copy has a later revision.
pub fn removed<'c>(
    copied: &[(Coupon, Vec<Drop>)],
    present: impl IntoIterator<Item = &'c (Coupon, Vec<Drop>)>,
) -> Vec<(&'c Coupon, Vec<DropId>)> {
    let by_id: HashMap<CouponId, _> = copied.iter().map(|it| (it.0.id, it)).collect();
    let mut all = Vec::new();
    for (coupon, drops) in present {
        let Some(Schedule::Daily { last_day, .. }) = coupon.schedule else {
            continue;
        };
        let Some((before, own)) = by_id.get(&coupon.id) else {
            continue;
        };
        let is_removed = |drop: &&Drop| {
            let days = drop.local_date.zip(last_day);
            days.is_some_and(|(day, last)| day > last)
                && drops.iter().all(|present| present.id != drop.id)
        };
        let gone: Vec<DropId> = own.iter().filter(is_removed).map(|it| it.id).collect();
        if before.revision < coupon.revision && !gone.is_empty() {
            all.push((coupon, gone));
        }
    }
    all
}

impl Redis {
    pub async fn stored_copy(&self) -> RedisResult<StoredCopy> {
        let key = keys::catalogue(self.prefix());
        let json: Option<String> = self.connection().get(key).await?;
        Ok(StoredCopy(json.unwrap_or_default()))
    }

    /// Writes the copy, unless it equals the `known` one: with thousands of coupons, it takes
    /// megabytes, and no claim is answered while Redis writes and syncs them. Returns whether it was
    /// written.
    pub async fn write_catalogue_copy(
        &self,
        coupons: &[(Coupon, Vec<Drop>)],
        known: &StoredCopy,
    ) -> RedisResult<bool> {
        let json = serde_json::to_string(coupons).map_err(|error| {
            let what = "the catalogue could not be serialized";
            RedisError::from((redis::ErrorKind::Client, what, error.to_string()))
        })?;
        if json == known.0 {
            return Ok(false);
        }
        let key = keys::catalogue(self.prefix());
        self.connection().set(key, json).await.map(|()| true)
    }

    /// Returns the `copied` coupons that are not among the `live` ones and whose gates Redis has.
    pub async fn copied_beside(
        &self,
        copied: &[(Coupon, Vec<Drop>)],
        live: &[(Coupon, Vec<Drop>)],
    ) -> RedisResult<CatalogueCopy> {
        let live: HashSet<_> = live.iter().map(|(coupon, _)| coupon.id).collect();
        let mut others: CatalogueCopy = copied
            .iter()
            .filter(|(coupon, _)| !live.contains(&coupon.id))
            .cloned()
            .collect();
        let ids: Vec<_> = others.iter().map(|(coupon, _)| coupon.id).collect();
        let mut gates = self.gates(&ids).await?.into_iter();
        // A coupon that was missed stays in the copy.
        others.retain(|_| gates.next().flatten() != Some(Gate::default()));
        Ok(others)
    }

    /// Reads the copy, with the eras of the gates: an era may have begun since it was written.
    /// Returns `None` if there is no copy, or if another version wrote it.
    pub async fn catalogue_copy(&self) -> RedisResult<Option<CatalogueCopy>> {
        let Some(mut copy) = parse(&self.stored_copy().await?) else {
            return Ok(None);
        };
        let ids: Vec<_> = copy.iter().map(|(coupon, _)| coupon.id).collect();
        for ((coupon, _), gate) in copy.iter_mut().zip(self.gates(&ids).await?) {
            let era = gate.and_then(|gate| gate.era());
            coupon.era = coupon.era.max(era.unwrap_or(0));
        }
        Ok(Some(copy))
    }
}

fn parse(StoredCopy(json): &StoredCopy) -> Option<CatalogueCopy> {
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use serde_json::{Value, json};

    use super::*;
    use crate::coupon::AllowList;
    use crate::redis::keys::instant;

    /// A coupon with this last day and revision, and drops of these days of a month.
    fn coupon(last_day: &Value, revision: u64, days: &[u32]) -> (Coupon, Vec<Drop>) {
        let settings = json!({
            "name": "Winter", "quantity": 10, "once_per": "drop",
            "schedule": {
                "type": "daily", "time_zone": "UTC", "opens": "00:00", "closes": "00:00",
                "first_day": "2026-12-01", "last_day": last_day,
            },
        });
        let coupon = Coupon {
            id: CouponId(1),
            settings: serde_json::from_value(settings).unwrap(),
            revision,
            era: 0,
            allow_list: AllowList::default(),
        };
        let drop = |day: &u32| Drop {
            id: DropId((*day).into()),
            coupon_id: CouponId(1),
            local_date: NaiveDate::from_ymd_opt(2026, 12, *day),
            opens_at: instant(Some(5)).unwrap(),
            closes_at: None,
            quantity: 10,
            closed_early: false,
            sealed_at: None,
            sealed_rows: None,
        };
        (coupon, days.iter().map(drop).collect())
    }

    #[test]
    fn drop_is_removed_only_if_a_later_revision_ends_before_its_day() {
        let copied = [coupon(&Value::Null, 4, &[1, 2, 3])];
        let first = || json!("2026-12-01");
        for (present, gone) in [
            (coupon(&first(), 5, &[1]), &[2, 3][..]),
            (coupon(&first(), 5, &[1, 2]), &[3]), // it opens within a minute
            (coupon(&json!("2026-12-02"), 5, &[1]), &[3]), // MySQL has lost one
            (coupon(&Value::Null, 5, &[1]), &[]),
            // MySQL has gone back.
            (coupon(&first(), 4, &[1]), &[]),
            (coupon(&first(), 3, &[1]), &[]),
        ] {
            let present = [present];
            let found = removed(&copied, &present);
            let ids: Vec<i64> = found.iter().flat_map(|it| &it.1).map(|id| id.0).collect();
            assert_eq!(ids, gone, "{present:?}");
        }
        let other = [(
            Coupon {
                id: CouponId(2),
                ..coupon(&first(), 5, &[]).0
            },
            Vec::new(),
        )];
        assert!(removed(&copied, &other).is_empty());
    }
}
