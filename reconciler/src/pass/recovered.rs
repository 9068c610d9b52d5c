//! Recovers settings from Redis if MySQL was restored to an older state, before anything is
//! compared. Otherwise, users would lose what they were promised under settings that MySQL has
//! lost.

use std::collections::HashMap;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::numbers::NumbersInDoubt;

use super::request::Aborted;
use super::steps::Pass;
use crate::execute::{self, CouponFence, ExecuteError};
use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};

impl Pass<'_> {
    /// Reports coupons that MySQL has lost and of which Redis still has data. Only an operator can
    /// restore them, because Redis does not have their names.
    pub(super) async fn report_lost_coupons(&mut self) -> Result<(), Aborted> {
        if !self.request.covers_everything() {
            return Ok(());
        }
        if !self.request.dry_run {
            execute::skip_given_numbers(self.stores).await?;
        }
        let mut lost = self.stores.db.lost_coupons(self.request.deep).await?;
        if let Some(in_doubt) = self.stores.db.numbers_in_doubt().await? {
            lost.extend(self.lost_among_the_latest(in_doubt).await?);
        }
        lost.sort_unstable();
        lost.dedup();
        for coupon in lost {
            let detail = format!(
                "MySQL has lost coupon {coupon}, of which Redis may hold what people were promised: put it back, and they get it"
            );
            let finding = Finding::general(Kind::Unissued, ActionKind::Report, detail);
            self.run.findings.push(Finding {
                coupon_id: Some(coupon),
                ..finding
            });
        }
        Ok(())
    }

    /// Returns the coupons above MySQL's highest ID of which Redis has data.
    async fn lost_among_the_latest(
        &mut self,
        in_doubt: NumbersInDoubt,
    ) -> Result<Vec<CouponId>, Aborted> {
        let mut lost = Vec::new();
        for some in in_doubt.without_coupon.chunks(1_000) {
            let keys: Vec<_> = some
                .iter()
                .map(|coupon| self.stores.redis.keys(*coupon, DropId(0)))
                .collect();
            let remembered = self.stores.redis.are_remembered(&keys).await?;
            lost.extend(
                some.iter()
                    .zip(remembered)
                    .filter(|(_, remembered)| *remembered)
                    .map(|(coupon, _)| *coupon),
            );
        }
        if !self.request.dry_run {
            execute::settle_numbers(self.stores, in_doubt, &lost).await?;
        }
        Ok(lost)
    }

    /// Recovers the settings of coupons with a later revision in Redis than in MySQL. A dry run
    /// uses the recovered settings without writing them to MySQL.
    pub(super) async fn recover_settings(
        &mut self,
        drops: &mut Vec<(Coupon, Drop)>,
        fences: &HashMap<CouponId, CouponFence>,
    ) -> Result<(), Aborted> {
        let is_behind = |coupon: &Coupon| {
            fences
                .get(&coupon.id)
                .is_some_and(|seen| seen.revision > coupon.revision)
        };
        let mut behind: Vec<CouponId> = drops
            .iter()
            .map(|(coupon, _)| coupon)
            .filter(|c| is_behind(c))
            .map(|c| c.id)
            .collect();
        behind.dedup();
        for id in behind {
            // If a store rejects the recovery of one coupon, continue with the others. Skip the
            // coupon, since its settings in MySQL are outdated.
            if let Err(error) = self.recover_settings_of(id, drops).await {
                let why = error.about_data().ok_or(error)?;
                self.note_recovered(id, Outcome::Failed, why);
                drops.retain(|(coupon, _)| coupon.id != id);
            }
        }
        Ok(())
    }

    async fn recover_settings_of(
        &mut self,
        id: CouponId,
        drops: &mut [(Coupon, Drop)],
    ) -> Result<(), ExecuteError> {
        let (lost, result) = if self.request.dry_run {
            (
                execute::lost_settings(self.stores, id).await?,
                Outcome::Planned,
            )
        } else {
            (
                execute::recover_settings(self.stores, id).await?,
                Outcome::Applied,
            )
        };
        // `None` means that an operator has just changed the coupon.
        let Some(lost) = lost else { return Ok(()) };
        for (coupon, drop) in drops.iter_mut().filter(|(coupon, _)| coupon.id == id) {
            coupon.clone_from(&lost.coupon);
            if let Some(own) = lost.drops.iter().find(|own| own.id == drop.id) {
                drop.clone_from(own);
            }
        }
        let revision = lost.coupon.revision;
        let detail = format!(
            "MySQL has lost changes of this coupon up to revision {revision}, which Redis has, but for its name and the days \
             of a schedule: {}",
            lost.changes
        );
        self.note_recovered(id, result, detail);
        Ok(())
    }

    fn note_recovered(&mut self, coupon: CouponId, result: Outcome, detail: String) {
        tracing::warn!(
            coupon_id = coupon.0,
            result = result.as_str(),
            detail,
            "MySQL has lost settings of a coupon"
        );
        let mut finding = Finding::general(Kind::CountMismatch, ActionKind::WriteMeta, detail);
        finding.case = FindingCase::SettingsDiffer;
        finding.coupon_id = Some(coupon);
        finding.result = result;
        finding.needs_person = result == Outcome::Failed;
        self.run.findings.push(finding);
    }
}
