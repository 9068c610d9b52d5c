//! A copy of the live coupons, kept by the reconciler. With it, an API that starts while MySQL is
//! unavailable can serve claims, and the reconciler can tell which coupons MySQL has lost. No
//! refusal may rest on the copy alone.

use std::collections::HashSet;

use redis::{AsyncCommands as _, RedisError, RedisResult};

use super::gate::Gate;
use super::{Redis, keys};
use crate::coupon::{Coupon, Drop};

/// Coupons with their drops in order of opening.
pub type CatalogueCopy = Vec<(Coupon, Vec<Drop>)>;

/// The copy as Redis stores it; empty if there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredCopy(String);

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

    /// Returns the coupons of the `stored` copy that are not among the `live` ones and whose gates
    /// Redis has.
    pub async fn copied_beside(
        &self,
        stored: &StoredCopy,
        live: &[(Coupon, Vec<Drop>)],
    ) -> RedisResult<CatalogueCopy> {
        let live: HashSet<_> = live.iter().map(|(coupon, _)| coupon.id).collect();
        let copied = parse(stored).unwrap_or_default();
        let mut others: CatalogueCopy = copied
            .into_iter()
            .filter(|(coupon, _)| !live.contains(&coupon.id))
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
