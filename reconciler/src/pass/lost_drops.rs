//! Restores drops that MySQL has lost, because a single table was restored or a row was deleted
//! manually. Other tables and Redis still refer to such a drop. Its day must not be used again, and
//! no reply may state that the drop never existed.

use std::collections::HashMap;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, NamedDrop};
use firstcome_shared::mysql::processes::Work;
use firstcome_shared::recover;

use super::request::Aborted;
use super::steps::{Pass, is_verified};
use crate::execute::{self, CouponFence, ExecuteError, LostDropEnd};
use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};

impl Pass<'_> {
    /// Restores drops and slot limits that MySQL has lost, before anything is compared. Reports
    /// drops that only an operator can restore.
    pub(super) async fn restore_lost_drops(&mut self) -> Result<(), Aborted> {
        if self.request.work != Work::Pass || self.request.drop.is_some() {
            return Ok(());
        }
        let db = &self.stores.db;
        let redis = &self.stores.redis;
        let mut lost = recover::lost_drops(db, redis, self.request.deep)
            .await
            .map_err(ExecuteError::from)?;
        let mut unlimited = db.drops_without_limit(self.request.deep).await?;
        for named in [&mut lost, &mut unlimited] {
            named.retain(|one| self.request.coupon.is_none_or(|id| id == one.coupon));
        }
        for one in lost {
            self.restore_lost_drop(one).await?;
        }
        for one in unlimited {
            if !self.request.dry_run {
                execute::restore_limits(&self.stores.db, one.drop).await?;
            }
            let detail = "MySQL has lost the limit of this drop in `slot_limits`, without which no row of it can be written";
            self.note_restored(one, detail.to_owned());
        }
        Ok(())
    }

    pub(super) async fn restore_lost_drop(&mut self, lost: NamedDrop) -> Result<(), Aborted> {
        match execute::restore_drop(self.stores, lost, self.request.dry_run).await {
            Err(error) => {
                let why = error.about_data().ok_or(error)?;
                let detail = format!(
                    "MySQL has lost drop {} of coupon {}: {why}",
                    lost.drop, lost.coupon
                );
                self.note_lost(lost, FindingCase::DropLost, detail);
                Ok(())
            }
            Ok(end) => self.note_end(lost, end).await,
        }
    }

    /// Leaves out drops whose quantity in `drops` is below a limit in `slot_limits`, and reports
    /// them: comparing them would take slots away. A closed coupon with such a drop stays closed.
    pub(super) async fn leave_out_torn_drops(
        &mut self,
        drops: &mut Vec<(Coupon, Drop)>,
        fences: &HashMap<CouponId, CouponFence>,
    ) -> Result<(), Aborted> {
        let torn = self.stores.db.drops_below_their_limit().await?;
        for (drop, limit) in &torn {
            let detail = format!(
                "the row of drop {} in `drops` has a lower quantity than its limit {limit} in `slot_limits`: one of the tables \
                 was restored alone",
                drop.drop
            );
            if self.request.coupon.is_none_or(|id| id == drop.coupon) {
                self.note_lost(*drop, FindingCase::Plain, detail);
            }
        }
        drops.retain(|(coupon, drop)| {
            let mut of_coupon = torn.iter().filter(|(one, _)| one.coupon == coupon.id);
            let is_open = is_verified(fences, coupon.id);
            of_coupon.all(|(one, _)| is_open && one.drop != drop.id)
        });
        Ok(())
    }

    async fn note_end(&mut self, lost: NamedDrop, end: LostDropEnd) -> Result<(), Aborted> {
        let rows = self.stores.db.rows_by_drop(vec![lost.drop]).await?;
        let rows = rows.get(&lost.drop).copied().unwrap_or(0);
        let (case, why) = match end {
            LostDropEnd::Restored => {
                let detail = format!(
                    "MySQL has lost the row of this drop in `drops`; {rows} rows of it are there, and Redis has its settings"
                );
                self.note_restored(lost, detail);
                return Ok(());
            }
            // Only Redis has data of this drop. The coupon is reported separately, by its ID.
            LostDropEnd::NoCoupon if rows == 0 => return Ok(()),
            LostDropEnd::NoCoupon => (FindingCase::Plain, "MySQL has lost its coupon too"),
            LostDropEnd::NoSettings => (FindingCase::DropLost, "Redis does not have its settings"),
            LostDropEnd::RowAboveQuantity => (
                FindingCase::DropLost,
                "it has a row on a slot above the quantity that Redis has",
            ),
            LostDropEnd::DayTaken => (FindingCase::Plain, "another drop of the coupon has its day"),
        };
        let detail = format!(
            "MySQL has lost drop {} of coupon {}: {rows} rows of it are there, and {why}",
            lost.drop, lost.coupon
        );
        self.note_lost(lost, case, detail);
        Ok(())
    }

    fn note_restored(&mut self, drop: NamedDrop, detail: String) {
        let finding = Finding {
            needs_person: false,
            case: FindingCase::DropLost,
            ..Finding::general(Kind::CountMismatch, ActionKind::WriteMeta, detail)
        };
        let result = if self.request.dry_run {
            Outcome::Planned
        } else {
            Outcome::Applied
        };
        self.note_of(drop, result, finding);
    }

    fn note_lost(&mut self, drop: NamedDrop, case: FindingCase, detail: String) {
        let finding = Finding {
            case,
            ..Finding::general(Kind::Unissued, ActionKind::Report, detail)
        };
        self.note_of(drop, Outcome::Failed, finding);
    }

    fn note_of(&mut self, NamedDrop { coupon, drop }: NamedDrop, result: Outcome, found: Finding) {
        tracing::warn!(
            coupon_id = coupon.0,
            drop_id = drop.0,
            result = result.as_str(),
            detail = found.detail,
            "MySQL has lost a drop or its limits"
        );
        self.run.findings.push(Finding {
            coupon_id: Some(coupon),
            drop_id: Some(drop),
            result,
            ..found
        });
    }
}
