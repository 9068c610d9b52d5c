//! Recovers settings from Redis if MySQL was restored to an older state, before anything is
//! compared. Otherwise, users would lose what they were promised under settings that MySQL has
//! lost.

use std::collections::HashMap;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::CouponId;

use super::request::Aborted;
use super::steps::Pass;
use crate::execute::{self, CouponFence, ExecuteError};
use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};

impl Pass<'_> {
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
