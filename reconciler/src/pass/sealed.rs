//! Handles sealed drops. Passes skip them, unless a dead letter names one or the pass is deep.

use std::collections::HashSet;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::sealed::SealedDrop;

use super::request::Aborted;
use super::steps::Pass;
use crate::execute;
use crate::report::{ActionKind, DropReport, Examined, Finding, Kind, Numbers, Outcome};

/// Number of sealed drops read per statement.
const AT_ONCE: i64 = 500;

impl Pass<'_> {
    /// Returns the sealed drops whose keys Redis still has. A deep pass compares them user by user,
    /// like other drops.
    pub(super) async fn sealed_with_keys(&self) -> Result<Vec<(Coupon, Drop)>, Aborted> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let page = self.sealed_page(after).await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = last.id;
            let keys = page.iter().map(|drop| {
                self.stores
                    .redis
                    .keys(CouponId(drop.coupon_id), DropId(drop.id))
            });
            let loaded = self
                .stores
                .redis
                .are_loaded(&keys.collect::<Vec<_>>())
                .await?;
            for (sealed, _) in page.iter().zip(loaded).filter(|(_, loaded)| *loaded) {
                if let Some((coupon, own)) =
                    self.stores.db.coupon(CouponId(sealed.coupon_id)).await?
                {
                    found.extend(
                        own.into_iter()
                            .filter(|d| d.id.0 == sealed.id)
                            .map(|d| (coupon.clone(), d)),
                    );
                }
            }
        }
    }

    /// Counts the rows of the other sealed drops and compares the counts with those at sealing.
    /// Exact drops are only counted, unless they have an open alert, which a report must end.
    pub(super) async fn count_sealed(&mut self) -> Result<(), Aborted> {
        let compared: HashSet<DropId> = self.run.drops.iter().map(|drop| drop.drop_id).collect();
        let concerned = self.stores.db.drops_of_open_alerts().await?;
        let live = self
            .stores
            .db
            .catalogue()
            .await?
            .into_iter()
            .map(|(coupon, _)| coupon.id)
            .collect();
        let mut after = 0;
        loop {
            let page = self.sealed_page(after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            // Do not do this while a coupon is closed: Redis may have older keys, which a later
            // step recognizes by their missing expiry.
            if !self.request.dry_run && self.context.unverified.is_empty() {
                let sealed: Vec<_> = page
                    .iter()
                    .map(|drop| (CouponId(drop.coupon_id), DropId(drop.id)))
                    .collect();
                execute::let_expire(self.stores, &sealed, &live, self.settings.sealed_keys_ttl)
                    .await?;
            }
            let counts = self
                .stores
                .db
                .rows_by_drop(page.iter().map(|drop| DropId(drop.id)).collect())
                .await?;
            for drop in page
                .iter()
                .filter(|drop| !compared.contains(&DropId(drop.id)))
            {
                let rows = counts.get(&DropId(drop.id)).copied().unwrap_or(0);
                let mut report = sealed_report(drop, rows);
                if !report.exact {
                    let Some(now) = self.counted_again(DropId(drop.id)).await? else {
                        continue;
                    };
                    report = now;
                }
                if report.exact && !concerned.contains(&report.drop_id) {
                    self.run.unlisted.drops += 1;
                    self.run.unlisted.examined.rows += report.examined.rows;
                } else {
                    let coupon = self
                        .stores
                        .db
                        .coupons_by_id(vec![report.coupon_id])
                        .await?
                        .pop();
                    report.coupon_name = coupon.map(|(coupon, _)| coupon.name).unwrap_or_default();
                    self.run.drops.push(report);
                }
            }
        }
        if !self.request.dry_run {
            self.restore_claimants().await?;
        }
        Ok(())
    }

    /// Counts the rows of a drop, and then reads whether it is still sealed: a revocation or a
    /// failed claim may have unsealed it since it was read.
    async fn counted_again(&self, drop: DropId) -> Result<Option<DropReport>, Aborted> {
        let db = &self.stores.db;
        let rows = db.rows_by_drop(vec![drop]).await?;
        let rows = rows.get(&drop).copied().unwrap_or(0);
        let sealed = db.sealed_drops(drop.0 - 1, None, Some(drop), 1).await?;
        Ok(sealed.first().map(|drop| sealed_report(drop, rows)))
    }

    async fn sealed_page(&self, after: i64) -> Result<Vec<SealedDrop>, Aborted> {
        let Self {
            stores, request, ..
        } = self;
        Ok(stores
            .db
            .sealed_drops(after, request.coupon, request.drop, AT_ONCE)
            .await?)
    }

    /// Restores missing and wrong claimants of coupons with further drops. Users of sealed drops
    /// must remain claimants.
    async fn restore_claimants(&mut self) -> Result<(), Aborted> {
        for (coupon, own) in self.stores.db.catalogue().await? {
            let wanted = self.request.coupon.is_none_or(|id| id == coupon.id);
            if wanted && own.iter().any(|d| d.sealed_at.is_none()) {
                let restored = execute::restore_claimants(
                    &self.stores.db,
                    &self.stores.redis,
                    &coupon,
                    execute::Restored::Different,
                )
                .await;
                if let Err(error) = restored {
                    let why = error.about_data().ok_or(error)?;
                    let mut finding =
                        Finding::general(Kind::MissingAdmission, ActionKind::Report, why);
                    finding.coupon_id = Some(coupon.id);
                    finding.result = Outcome::Failed;
                    self.run.findings.push(finding);
                }
            }
        }
        Ok(())
    }
}

fn sealed_report(drop: &SealedDrop, rows: i64) -> DropReport {
    let coupon_id = CouponId(drop.coupon_id);
    let drop_id = DropId(drop.id);
    let rows = u64::try_from(rows).unwrap_or(0);
    let expected = u64::from(drop.sealed_rows.unwrap_or(0));
    let numbers = Numbers {
        rows,
        ..Numbers::default()
    };
    let mut findings = Vec::new();
    if rows != expected {
        let detail = format!(
            "it was sealed with {expected} rows, now there are {rows}; Redis has forgotten this drop, so restore the rows from a \
             backup of MySQL"
        );
        let mut finding = Finding::general(Kind::CountMismatch, ActionKind::Report, detail);
        finding.coupon_id = Some(coupon_id);
        finding.drop_id = Some(drop_id);
        findings.push(finding);
    }
    DropReport {
        exact: rows == expected,
        sealed: true,
        before: numbers,
        after: numbers,
        examined: Examined {
            rows,
            ..Examined::default()
        },
        findings,
        ..DropReport::begun(coupon_id, drop_id, drop.quantity)
    }
}
