//! Compares the claimants of coupons that allow one per user, which prevent users from winning in a
//! second drop. The claimants of a coupon are one key for all its drops. They can be lost, or
//! contain users who hold no coupon.

use std::collections::{HashMap, HashSet};

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::redis::reads::DropNumbers;

use super::request::Aborted;
use super::steps::Pass;
use crate::execute::{self, LaterDrop};
use crate::report::{ActionKind, Finding, Kind, Outcome};

/// Number of claimants by coupon ID.
pub(super) type Claimants = HashMap<CouponId, u64>;

impl Pass<'_> {
    /// Reads the numbers of claimants. Must run before the drops are read, so that a user who is
    /// admitted in between cannot count as a claimant without counting as a holder.
    pub(super) async fn claimants(&self, drops: &[(Coupon, Drop)]) -> Result<Claimants, Aborted> {
        // The claimants cannot be compared with the holders of a single drop.
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
        let numbers = self.stores.redis.claimants_numbers(&coupons).await?;
        let known = coupons.into_iter().zip(numbers);
        Ok(known
            .filter_map(|(coupon, number)| Some((coupon, number?)))
            .collect())
    }

    /// Restores the claimants of coupons with fewer claimants than holders, if earlier drops have
    /// holders. While a coupon has no claimants at all, admission to its next drop is closed.
    /// Returns the coupons with more claimants than holders or, in a deep pass, all coupons. Their
    /// claimants must be looked up one by one.
    pub(super) async fn compare_claimants(
        &mut self,
        claimants: Claimants,
        drops: &[(Coupon, Drop)],
        numbers: &HashMap<DropId, DropNumbers>,
    ) -> Result<HashSet<CouponId>, Aborted> {
        let sealed = claimants.keys().copied().collect();
        let sealed = self.stores.db.sealed_rows_of(sealed).await?;
        let mut holders = sealed.clone();
        let mut in_order: Vec<&(Coupon, Drop)> = drops
            .iter()
            .filter(|(coupon, drop)| drop.sealed_at.is_none() && claimants.contains_key(&coupon.id))
            .collect();
        in_order.sort_by_key(|(_, drop)| drop.opens_at);
        let mut later = Vec::new();
        let mut with_earlier: HashMap<CouponId, &Coupon> = HashMap::new();
        for (coupon, drop) in in_order {
            let before = holders.entry(coupon.id).or_default();
            later.push(LaterDrop {
                keys: self.stores.redis.keys(coupon.id, drop.id),
                revision: coupon.revision,
                has_earlier_holders: *before > 0,
            });
            *before += numbers.get(&drop.id).map_or(0, |numbers| numbers.users);
            // The claimants of a closed coupon are restored before it opens, after the coupons that
            // are more urgent.
            let is_closed = self.context.unverified.contains(&coupon.id);
            if !is_closed && later.last().is_some_and(|later| later.has_earlier_holders) {
                with_earlier.insert(coupon.id, coupon);
            }
        }
        let is_few = |coupon: &CouponId| claimants.get(coupon) < holders.get(coupon);
        // Then Redis's data is not current, although it has the last sealing.
        for coupon in self.context.unverified.iter().filter(|id| is_few(id)) {
            if let Some(history) = self.histories.get_mut(coupon) {
                history.last_sealed = None;
            }
        }
        let known = &mut self.memory.too_few_claimants;
        known.retain(|coupon, _| is_few(coupon));
        let lost = self
            .still_too_few(&with_earlier, &claimants, &holders)
            .await?;
        for (coupon, number) in lost {
            self.restore_lost_claimants(coupon, number).await?;
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

    /// Returns the coupons with fewer claimants than holders, and the number of claimants. Counts
    /// the claimants again, because a user who is admitted during the pass may have counted as a
    /// holder only. Leaves out coupons whose number of claimants an earlier restoration did not
    /// increase.
    async fn still_too_few<'c>(
        &self,
        coupons: &HashMap<CouponId, &'c Coupon>,
        before: &Claimants,
        holders: &HashMap<CouponId, u64>,
    ) -> Result<Vec<(&'c Coupon, u64)>, Aborted> {
        let is_few = |coupon: &CouponId, number: u64| {
            number < holders.get(coupon).copied().unwrap_or(0)
                && self.memory.too_few_claimants.get(coupon) != Some(&number)
        };
        let few: Vec<&Coupon> = coupons
            .iter()
            .filter(|(id, _)| before.get(id).is_some_and(|number| is_few(id, *number)))
            .map(|(_, coupon)| *coupon)
            .collect();
        let ids: Vec<CouponId> = few.iter().map(|coupon| coupon.id).collect();
        let numbers = self.stores.redis.claimants_numbers(&ids).await?;
        let found = few.into_iter().zip(numbers);
        Ok(found
            .filter_map(|(coupon, number)| Some((coupon, number?)))
            .filter(|(coupon, number)| is_few(&coupon.id, *number))
            .collect())
    }

    /// Restores revocations of earlier drops if Redis has fewer than at the last pass of this
    /// process, or if it has none or in a deep pass, fewer than MySQL. Otherwise, revoked users
    /// would be admitted to the next drop. Revocations of the drops that were compared are already
    /// restored.
    pub(super) async fn restore_lost_revocations(
        &mut self,
        coupons: &HashMap<CouponId, Coupon>,
    ) -> Result<(), Aborted> {
        let unverified = &self.context.unverified;
        let mut ids: Vec<CouponId> = coupons.keys().copied().collect();
        ids.retain(|coupon| !unverified.contains(coupon));
        let db = &self.stores.db;
        let redis = &self.stores.redis;
        let numbers = redis.banned_numbers(&ids).await?;
        let numbers = ids.into_iter().zip(numbers);
        let numbers: Vec<_> = numbers
            .filter_map(|(coupon, number)| Some((coupon, number?)))
            .collect();
        // Counting all revocations of a coupon takes long.
        let is_counted = |(_, number): &&(CouponId, u64)| self.request.deep || *number == 0;
        let counted = numbers.iter().filter(is_counted);
        let counted: Vec<_> = counted.map(|(coupon, _)| *coupon).collect();
        let counted = db.count_banned(&counted).await?;
        for (coupon, number) in numbers {
            let before = self.memory.banned.get(&coupon).copied();
            let expected = before.max(counted.get(&coupon).copied());
            let Some(row) = coupons.get(&coupon).filter(|_| expected > Some(number)) else {
                self.memory.banned.insert(coupon, number);
                continue;
            };
            execute::restore_revocations(db, redis, row).await?;
            let now = redis.banned_numbers(&[coupon]).await?.pop().flatten();
            self.memory.banned.extend(now.map(|now| (coupon, now)));
            if now == Some(number) {
                continue;
            }
            let detail =
                "Redis lost some of the coupon's revocations, by which revoked users are refused";
            let mut finding = Finding::general(Kind::RevokedAdmission, ActionKind::Revoke, detail);
            finding.coupon_id = Some(coupon);
            finding.needs_person = false;
            finding.result = Outcome::Applied;
            self.run.findings.push(finding);
        }
        Ok(())
    }

    /// Restores the claimants of a coupon from its rows. `some` is their previous number. Unless it
    /// is 0, a finding is added only if any were missing, because a user on two slots also makes
    /// the number too low.
    async fn restore_lost_claimants(&mut self, coupon: &Coupon, some: u64) -> Result<(), Aborted> {
        let db = &self.stores.db;
        let redis = &self.stores.redis;
        let mut result = Outcome::Planned;
        if !self.request.dry_run {
            execute::restore_claimants(db, redis, coupon, execute::Restored::Missing).await?;
            result = Outcome::Applied;
        }
        let now = redis.claimants_numbers(&[coupon.id]).await?;
        if some > 0 && now == [Some(some)] {
            if !self.request.dry_run {
                self.memory.too_few_claimants.insert(coupon.id, some);
            }
            return Ok(());
        }
        let detail =
            "Redis lost some of the coupon's claimants, by which nobody wins a second time";
        let finding = Finding::general(Kind::MissingAdmission, ActionKind::PutBack, detail);
        self.run.findings.push(Finding {
            coupon_id: Some(coupon.id),
            needs_person: false,
            result,
            ..finding
        });
        Ok(())
    }
}
