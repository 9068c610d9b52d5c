//! The claimants of coupons that allow one per user: they prevent users from winning a second day.
//! They are one key for all drops of a coupon, and may be lost, or contain users who hold nothing.

use std::collections::{HashMap, HashSet};

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::redis::reads::DropNumbers;

use super::request::Aborted;
use super::steps::Pass;
use crate::execute::{self, LaterDrop};
use crate::report::{ActionKind, Finding, Kind, Outcome};

/// The number of claimants of the coupons in question.
pub(super) type Claimants = HashMap<CouponId, u64>;

impl Pass<'_> {
    /// Reads the numbers of claimants. Before the drops: users admitted in the meantime become
    /// claimants in the same step.
    pub(super) async fn claimants(&self, drops: &[(Coupon, Drop)]) -> Result<Claimants, Aborted> {
        // One drop alone allows no conclusion.
        if self.request.drop.is_some() {
            return Ok(Claimants::new());
        }
        let mut coupons: Vec<CouponId> = drops
            .iter()
            .filter(|(coupon, _)| coupon.once_per == OncePer::Coupon)
            .map(|(coupon, _)| coupon.id)
            .collect();
        coupons.sort_unstable();
        coupons.dedup();
        let keys: Vec<_> = coupons
            .iter()
            .map(|coupon| self.stores.redis.keys(*coupon, DropId(0)))
            .collect();
        let numbers = self.stores.redis.claimants_numbers(&keys).await?;
        let known = coupons.into_iter().zip(numbers);
        Ok(known
            .filter_map(|(coupon, number)| Some((coupon, number?)))
            .collect())
    }

    /// Restores claimants that Redis lost as a whole, if earlier drops have holders: until then
    /// admission to the next drop is closed. Returns the coupons with more claimants than holders,
    /// whose claimants have to be looked up one by one; in a deep pass, all coupons.
    pub(super) async fn compare_claimants(
        &mut self,
        claimants: Claimants,
        drops: &[(Coupon, Drop)],
        numbers: &HashMap<DropId, DropNumbers>,
    ) -> Result<HashSet<CouponId>, Aborted> {
        let sealed = claimants.keys().copied().collect();
        let sealed = self.stores.db.sealed_rows_of(sealed).await?;
        let mut holders = sealed.clone();
        let mut lost: HashMap<CouponId, &Coupon> = HashMap::new();
        let mut in_order: Vec<&(Coupon, Drop)> = drops
            .iter()
            .filter(|(coupon, drop)| drop.sealed_at.is_none() && claimants.contains_key(&coupon.id))
            .collect();
        in_order.sort_by_key(|(_, drop)| drop.opens_at);
        let mut later = Vec::new();
        for (coupon, drop) in in_order {
            let before = holders.entry(coupon.id).or_default();
            later.push(LaterDrop {
                keys: self.stores.redis.keys(coupon.id, drop.id),
                revision: coupon.revision,
                has_earlier_holders: *before > 0,
            });
            *before += numbers.get(&drop.id).map_or(0, |numbers| numbers.users);
            if sealed.contains_key(&coupon.id) && claimants.get(&coupon.id) == Some(&0) {
                lost.insert(coupon.id, coupon);
            }
        }
        for coupon in lost.into_values() {
            self.restore_lost_claimants(coupon).await?;
        }
        if !self.request.dry_run {
            execute::note_earlier_holders(&self.stores.redis, later).await?;
        }
        let too_many = |(coupon, number): &(CouponId, u64)| {
            self.request.deep || *number > holders.get(coupon).copied().unwrap_or(0)
        };
        Ok(claimants
            .into_iter()
            .filter(too_many)
            .map(|(coupon, _)| coupon)
            .collect())
    }

    async fn restore_lost_claimants(&mut self, coupon: &Coupon) -> Result<(), Aborted> {
        let db = &self.stores.db;
        let redis = &self.stores.redis;
        let detail =
            "Redis lost the coupon's list of claimants, by which nobody wins a second time";
        let mut finding = Finding::general(
            Kind::MissingAdmission,
            ActionKind::PutBack,
            detail.to_owned(),
        );
        finding.coupon_id = Some(coupon.id);
        finding.needs_person = false;
        finding.result = if self.request.dry_run {
            Outcome::Planned
        } else {
            execute::restore_claimants(db, redis, coupon, execute::Restored::Missing).await?;
            Outcome::Applied
        };
        self.run.findings.push(finding);
        Ok(())
    }
}
