//! Compares the claimants of coupons that allow one per user, which prevent users from winning in a
//! second drop. The claimants of a coupon are one key for all its drops. They can be lost, or
//! contain users who hold no coupon.

use std::collections::{HashMap, HashSet};

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::redis::claimants::CouponSizes;
use firstcome_shared::redis::reads::DropNumbers;

use super::request::Aborted;
use super::steps::Pass;
use crate::execute;
use crate::report::{ActionKind, Finding, Kind, Outcome};
use crate::stores::Stores;

/// The sizes of the hashes of claimants and revocations by coupon ID.
pub(super) type Sizes = HashMap<CouponId, CouponSizes>;

impl Pass<'_> {
    /// Reads the sizes of the hashes of coupons that allow one per user. Must run before the drops
    /// are read, so that a user who is admitted in between cannot count as a claimant without
    /// counting as a holder.
    pub(super) async fn claimants(&self, drops: &[(Coupon, Drop)]) -> Result<Sizes, Aborted> {
        // The claimants cannot be compared with the holders of a single drop.
        if self.request.drop.is_some() {
            return Ok(Sizes::new());
        }
        let mut coupons: Vec<CouponId> = drops
            .iter()
            .filter(|(coupon, _)| coupon.once_per == OncePer::Coupon)
            .map(|(coupon, _)| coupon.id)
            .collect();
        coupons.sort_unstable();
        coupons.dedup();
        self.sizes(coupons).await
    }

    async fn sizes(&self, coupons: Vec<CouponId>) -> Result<Sizes, Aborted> {
        let sizes = self.stores.redis.coupon_sizes(&coupons).await?;
        let known = coupons.into_iter().zip(sizes);
        Ok(known
            .filter_map(|(coupon, sizes)| Some((coupon, sizes?)))
            .collect())
    }

    /// Restores the claimants of coupons with fewer claimants than holders, or than Redis recorded,
    /// if earlier drops have holders. Until then, admission to the coupon is closed.
    /// Returns the coupons with more claimants than holders or, in a deep pass, all coupons. Their
    /// claimants must be looked up one by one.
    pub(super) async fn compare_claimants(
        &mut self,
        claimants: Sizes,
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
        let mut with_earlier: HashMap<CouponId, &Coupon> = HashMap::new();
        for (coupon, drop) in in_order {
            let before = holders.entry(coupon.id).or_default();
            // The claimants of a closed coupon are restored before it opens, after the coupons that
            // are more urgent.
            if *before > 0 && !self.context.unverified.contains(&coupon.id) {
                with_earlier.insert(coupon.id, coupon);
            }
            *before += numbers.get(&drop.id).map_or(0, |numbers| numbers.users);
        }
        let is_few = |coupon: &CouponId| {
            claimants.get(coupon).is_some_and(|sizes| {
                let held = holders.get(coupon).copied().unwrap_or(0);
                sizes.claimants.fields < held || sizes.lacks_claimants()
            })
        };
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
        let lacking = claimants.iter().filter(|(coupon, sizes)| {
            sizes.lacks_claimants() && !self.context.unverified.contains(coupon)
        });
        self.lacking = lacking
            .map(|(coupon, sizes)| (*coupon, sizes.claimants.lacks()))
            .collect();
        for (coupon, before) in lost {
            let left = self.restore_lost_claimants(coupon, before).await?;
            self.lacking.insert(coupon.id, left.claimants.lacks());
        }
        for (_, drop) in drops
            .iter()
            .filter(|(coupon, _)| self.lacking.contains_key(&coupon.id))
        {
            self.memory.verified.forget(drop.id);
        }
        let too_many = |(coupon, sizes): &(CouponId, CouponSizes)| {
            self.request.deep || sizes.claimants.fields > holders.get(coupon).copied().unwrap_or(0)
        };
        Ok(claimants
            .into_iter()
            .filter(too_many)
            .map(|(coupon, _)| coupon)
            .collect())
    }

    /// Returns the coupons with fewer claimants than holders, or than Redis recorded, with their
    /// sizes. Counts the claimants again, because a user who is admitted during the
    /// pass may have counted as a holder only. Leaves out coupons whose number of claimants an
    /// earlier restoration did not increase.
    async fn still_too_few<'c>(
        &self,
        coupons: &HashMap<CouponId, &'c Coupon>,
        before: &Sizes,
        holders: &HashMap<CouponId, u64>,
    ) -> Result<Vec<(&'c Coupon, CouponSizes)>, Aborted> {
        let is_few = |coupon: &CouponId, sizes: &CouponSizes| {
            let number = sizes.claimants.fields;
            let has_fewer = number < holders.get(coupon).copied().unwrap_or(0);
            let is_futile = self.memory.too_few_claimants.get(coupon) == Some(&number);
            sizes.lacks_claimants() || (has_fewer && !is_futile)
        };
        let few = coupons.keys().copied();
        let few = few.filter(|id| before.get(id).is_some_and(|sizes| is_few(id, sizes)));
        let again = self.sizes(few.collect()).await?;
        Ok(again
            .into_iter()
            .filter(|(id, sizes)| is_few(id, sizes))
            .filter_map(|(id, sizes)| Some((*coupons.get(&id)?, sizes)))
            .collect())
    }

    /// Restores lost revocations, and records the sizes of the hashes of these coupons. Must run
    /// after all drops were repaired: while Redis has fewer fields than recorded, admission is
    /// closed.
    pub(super) async fn settle_sizes(
        &mut self,
        coupons: &HashMap<CouponId, Coupon>,
    ) -> Result<(), Aborted> {
        let unverified = &self.context.unverified;
        let ids = coupons.keys().copied();
        let ids = ids.filter(|coupon| !unverified.contains(coupon)).collect();
        let sizes = self.sizes(ids).await?;
        // Counting all revocations of a coupon takes long.
        let is_counted = |sizes: &CouponSizes| {
            self.request.deep || (sizes.revoked.expected.is_none() && sizes.revoked.fields == 0)
        };
        let counted = sizes.iter().filter(|(_, sizes)| is_counted(sizes));
        let counted: Vec<_> = counted.map(|(coupon, _)| *coupon).collect();
        let counted = self.stores.db.count_banned(&counted).await?;
        let revoked = if self.request.deep {
            let all: Vec<CouponId> = sizes.keys().copied().collect();
            Some(self.stores.db.count_revoked_people(&all).await?)
        } else {
            None
        };
        for (id, mut sizes) in sizes {
            let fields = sizes.revoked.fields;
            let known = revoked
                .as_ref()
                .map(|all| all.get(&id).copied().unwrap_or(0));
            if let Some(known) = known.filter(|known| *known < fields) {
                let detail = format!(
                    "Redis has revocations of {fields} people and `revoked_coupons` of {known}: MySQL lost some, or an entry in Redis was written by hand"
                );
                self.note_lost_revocations(id, detail);
            }
            if let Some(coupon) = coupons.get(&id)
                && self.context.claimants_in_doubt.contains(&id)
                && self.remove_claimants_without_drop(coupon).await?
                && let Some(now) = self.sizes(vec![id]).await?.remove(&id)
            {
                sizes = now;
            }
            let is_few = sizes.lacks_revocations() || counted.get(&id) > Some(&fields);
            if let Some(coupon) = coupons.get(&id).filter(|_| is_few) {
                self.restore_lost_revocations(coupon, &mut sizes).await?;
            }
            if self.may_settle(id, &sizes, coupons) {
                let fence = self.context.fences.get(&id);
                if let Some(fence) = fence.filter(|_| !sizes.are_settled()) {
                    execute::record_sizes(&self.stores.redis, id, fence, &sizes).await?;
                }
            }
        }
        Ok(())
    }

    fn note_lost_revocations(&mut self, coupon: CouponId, detail: String) {
        let finding = Finding::general(Kind::RevokedAdmission, ActionKind::Report, detail);
        self.run.findings.push(Finding {
            coupon_id: Some(coupon),
            ..finding
        });
    }

    /// Removes claimants who name a drop that does not exist, or none. They hold nothing, and could
    /// never claim. Returns whether any were removed.
    async fn remove_claimants_without_drop(&mut self, coupon: &Coupon) -> Result<bool, Aborted> {
        let Stores { db, redis, .. } = self.stores;
        let Some((_, own)) = db.coupon(coupon.id).await? else {
            return Ok(false);
        };
        let own: HashSet<DropId> = own.iter().map(|drop| drop.id).collect();
        let is_known = |drop| own.contains(&drop);
        let mut astray = redis.claimants_without_drop(coupon.id, is_known).await?;
        if astray.is_empty() {
            return Ok(false);
        }
        // A row or a lost drop may still prove what was promised.
        let people: Vec<UserId> = astray.keys().cloned().collect();
        for row in db.rows_of_people(coupon.id, &people).await? {
            astray.remove(&UserId::from_store(row.user_id));
        }
        let drops: HashSet<DropId> = astray.values().flatten().copied().collect();
        let mut removed = false;
        for drop in drops.into_iter().chain([DropId(0)]) {
            let keys = redis.keys(coupon.id, drop);
            let may_be_lost = redis.has_people(&keys).await?;
            let people = astray
                .iter()
                .filter(|(_, of)| of.unwrap_or(DropId(0)) == drop)
                .map(|(user, _)| user.clone());
            let people: Vec<UserId> = people.filter(|_| !may_be_lost).collect();
            let Some(fence) = self.context.fences.get(&coupon.id) else {
                continue;
            };
            if people.is_empty() {
                continue;
            }
            let mut result = Outcome::Planned;
            if !self.request.dry_run {
                execute::forget_claimants(redis, &keys, drop, fence, &people).await?;
                result = Outcome::Applied;
                removed = true;
            }
            for user in people {
                let detail = "the coupon's list of claimants has them in a drop that does not exist; no store says that it was promised to them";
                let finding =
                    Finding::general(Kind::CountMismatch, ActionKind::SetCount, detail.to_owned());
                self.run.findings.push(Finding {
                    coupon_id: Some(coupon.id),
                    user_id: Some(user.to_string()),
                    needs_person: false,
                    result,
                    ..finding
                });
            }
        }
        Ok(removed)
    }

    /// Whether the coupon lacks no claimants except those that this pass looked for in all stores.
    /// Another pass restores claimants that were lost during this one or are held back.
    fn may_settle(
        &self,
        id: CouponId,
        sizes: &CouponSizes,
        coupons: &HashMap<CouponId, Coupon>,
    ) -> bool {
        if self.request.dry_run {
            return false;
        }
        let has_claimants = coupons
            .get(&id)
            .is_some_and(|coupon| coupon.once_per == OncePer::Coupon);
        if !has_claimants || !sizes.lacks_claimants() {
            return true;
        }
        let are_left = self.run.all_findings().any(|found| {
            found.coupon_id == Some(id)
                && found.kind == Kind::MissingAdmission
                && found.result != Outcome::Applied
        });
        let known = self.lacking.get(&id).copied().flatten();
        !are_left && sizes.claimants.lacks() <= known
    }

    /// Restores the revocations of a coupon if Redis has fewer than it recorded or, where they were
    /// counted, fewer than MySQL. Those of the drops that were compared are already restored, or
    /// planned in a dry run. Reads the sizes again.
    async fn restore_lost_revocations(
        &mut self,
        coupon: &Coupon,
        sizes: &mut CouponSizes,
    ) -> Result<(), Aborted> {
        let Stores { db, redis, .. } = self.stores;
        let before = sizes.revoked.fields;
        let mut result = Outcome::Planned;
        if !self.request.dry_run {
            execute::restore_revocations(db, redis, coupon).await?;
            result = Outcome::Applied;
            let now = redis.coupon_sizes(&[coupon.id]).await?;
            let Some(now) = now.into_iter().next().flatten() else {
                return Ok(());
            };
            *sizes = now;
            if sizes.revoked.fields <= before {
                return Ok(());
            }
        } else if self
            .run
            .all_findings()
            .any(|found| found.coupon_id == Some(coupon.id) && found.kind == Kind::RevokedAdmission)
        {
            return Ok(());
        }
        let detail =
            "Redis lost some of the coupon's revocations, by which revoked users are refused";
        let mut finding = Finding::general(Kind::RevokedAdmission, ActionKind::Revoke, detail);
        finding.coupon_id = Some(coupon.id);
        finding.needs_person = false;
        finding.result = result;
        self.run.findings.push(finding);
        Ok(())
    }

    /// Restores the claimants of a coupon from its rows, and returns the sizes after that. `before`
    /// are the previous sizes. If holders are missing according to the rows only, a finding is
    /// added only if any were restored, because a user on two slots also makes the number too low.
    async fn restore_lost_claimants(
        &mut self,
        coupon: &Coupon,
        before: CouponSizes,
    ) -> Result<CouponSizes, Aborted> {
        let Stores { db, redis, .. } = self.stores;
        let some = before.claimants.fields;
        let mut left = before;
        let mut result = Outcome::Planned;
        let mut are_restored = some == 0;
        if !self.request.dry_run {
            let added =
                execute::restore_claimants(db, redis, coupon, execute::Restored::Missing).await?;
            result = Outcome::Applied;
            let now = redis.coupon_sizes(&[coupon.id]).await?;
            left = now.into_iter().flatten().next().unwrap_or(before);
            are_restored |= added > 0;
            if !are_restored {
                self.memory.too_few_claimants.insert(coupon.id, some);
            }
        }
        if !are_restored && !before.lacks_claimants() {
            return Ok(left);
        }
        let detail = if are_restored || self.request.dry_run {
            "Redis lost some of the coupon's claimants, by which nobody wins a second time"
        } else {
            "Redis recorded more claimants than it has, so new claims were refused; no row names a missing one"
        };
        let finding = Finding::general(Kind::MissingAdmission, ActionKind::PutBack, detail);
        self.run.findings.push(Finding {
            coupon_id: Some(coupon.id),
            needs_person: false,
            result,
            ..finding
        });
        Ok(left)
    }
}
