//! A deep pass compares allow lists user by user: a difference that keeps revision and size can
//! only be a manual edit.

use firstcome_shared::StoreError;
use firstcome_shared::allow_list::{Difference, difference};
use firstcome_shared::domain::CouponId;

use super::request::Aborted;
use super::steps::Pass;
use crate::collect::allow_lists::has_list;
use crate::execute::{self, ExecuteError};
use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};

impl Pass<'_> {
    /// Compares the lists of live coupons, and writes those that differ.
    pub(super) async fn compare_allow_lists(&mut self) -> Result<(), Aborted> {
        for (coupon, _) in self.stores.db.catalogue().await? {
            let wanted =
                self.request.coupon.is_none_or(|id| id == coupon.id) && self.request.drop.is_none();
            if !wanted || !has_list(&coupon) {
                continue;
            }
            if self.stop.is_cancelled() {
                return Err(Aborted::Stopped);
            }
            // A list that cannot be read does not affect the others.
            if let Err(error) = self.compare_allow_list(coupon.id).await {
                let why = error.about_data().ok_or(error)?;
                self.note_allow_list(coupon.id, Outcome::Failed, why);
            }
        }
        Ok(())
    }

    async fn compare_allow_list(&mut self, coupon: CouponId) -> Result<(), ExecuteError> {
        let Some(found) = self.look_at_allow_list(coupon).await? else {
            return Ok(());
        };
        let Difference {
            missing,
            surplus,
            torn,
        } = found;
        if let Some(torn) = torn {
            // Redis may have the only complete copy.
            let detail = format!("{torn}; Redis keeps its list");
            self.note_allow_list(coupon, Outcome::Failed, detail);
            return Ok(());
        }
        let detail = format!(
            "the allow list in Redis lacks {missing} people who are on it, and has {surplus} who are not; it was changed by hand"
        );
        if self.request.dry_run {
            self.note_allow_list(coupon, Outcome::Planned, detail);
            return Ok(());
        }
        execute::rewrite_allow_list(self.stores, coupon).await?;
        let is_mended = self.look_at_allow_list(coupon).await?.is_none();
        self.note_allow_list(
            coupon,
            if is_mended {
                Outcome::Applied
            } else {
                Outcome::Failed
            },
            detail,
        );
        Ok(())
    }

    /// Returns the difference, or `None` if there is none or the comparison was inconclusive.
    async fn look_at_allow_list(&self, coupon: CouponId) -> Result<Option<Difference>, StoreError> {
        let found = difference(&self.stores.db, &self.stores.redis, coupon).await?;
        Ok(found.filter(|found| *found != Difference::default()))
    }

    fn note_allow_list(&mut self, coupon: CouponId, result: Outcome, detail: String) {
        let mut finding = Finding::general(Kind::CountMismatch, ActionKind::WriteMeta, detail);
        finding.case = FindingCase::AllowListDiffers;
        finding.coupon_id = Some(coupon);
        finding.result = result;
        finding.needs_person = result == Outcome::Failed;
        self.run.findings.push(finding);
    }
}
