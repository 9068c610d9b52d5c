//! Sealed drops: passes skip them, unless the backup table asks something of one, or the pass is deep.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::schema::{drops, failed_claims, issued_coupons};

use super::Broken;
use super::findings::told;
use crate::engine::{Engine, Request};
use crate::report::{ActionKind, DropReport, Examined, Kind, Numbers, Run};

/// Sealed drops looked at in one statement.
const AT_ONCE: i64 = 500;

type SealedRow = (i64, i64, u32, Option<u32>);

impl Engine {
    /// Unseals drops that the backup table still asks something of: a promise may be open there after all.
    pub(super) async fn unseal_where_asked(&self) -> Result<(), Broken> {
        let unsealed = self
            .db
            .run("unseal drops", async move |conn| {
                let asked: Vec<Option<i64>> = failed_claims::table
                    .filter(failed_claims::resolved_at.is_null().and(failed_claims::drop_id.is_not_null()))
                    .select(failed_claims::drop_id)
                    .distinct()
                    .load(conn)
                    .await?;
                let asked: Vec<i64> = asked.into_iter().flatten().collect();
                if asked.is_empty() {
                    return Ok(0);
                }
                diesel::update(drops::table.filter(drops::id.eq_any(asked).and(drops::sealed_at.is_not_null())))
                    .set((drops::sealed_at.eq(None::<chrono::NaiveDateTime>), drops::sealed_rows.eq(None::<u32>)))
                    .execute(conn)
                    .await
            })
            .await?;
        if unsealed > 0 {
            tracing::warn!(unsealed, "sealed drops are looked at again, since the backup table asks something of them");
        }
        Ok(())
    }

    /// Sealed drops whose keys Redis still has: a deep pass compares them person by person, like any other.
    pub(super) async fn sealed_with_keys(&self, request: &Request) -> Result<Vec<(Coupon, Drop)>, Broken> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let page = self.sealed_page(request, after).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = last.0;
            let mut pipe = redis::pipe();
            for (id, coupon, ..) in &page {
                pipe.cmd("EXISTS").arg(self.redis.keys(CouponId(*coupon), DropId(*id)).meta);
            }
            let there: Vec<bool> = pipe.query_async(&mut self.redis.connection()).await?;
            for ((id, coupon, ..), _) in page.iter().zip(there).filter(|(_, there)| *there) {
                if let Some((coupon, own)) = self.db.coupon(CouponId(*coupon)).await? {
                    found.extend(own.into_iter().filter(|d| d.id.0 == *id).map(|d| (coupon.clone(), d)));
                }
            }
        }
    }

    /// The other sealed drops: their rows are counted against what they were sealed with.
    pub(super) async fn count_sealed(&self, request: &Request, run: &mut Run) -> Result<(), Broken> {
        let mut after = 0;
        loop {
            let page = self.sealed_page(request, after).await?;
            let Some(last) = page.last() else { break };
            after = last.0;
            let ids: Vec<i64> = page.iter().map(|(id, ..)| *id).collect();
            let counts: Vec<(i64, i64)> = self
                .db
                .run("count sealed rows", async move |conn| {
                    issued_coupons::table
                        .filter(issued_coupons::drop_id.eq_any(ids))
                        .group_by(issued_coupons::drop_id)
                        .select((issued_coupons::drop_id, diesel::dsl::count_star()))
                        .load(conn)
                        .await
                })
                .await?;
            let counts: std::collections::HashMap<i64, i64> = counts.into_iter().collect();
            for row in page {
                if !run.drops.iter().any(|d| d.drop_id.0 == row.0) {
                    run.drops.push(sealed_report(row, counts.get(&row.0).copied().unwrap_or(0)));
                }
            }
        }
        self.restore_all_claimants(request).await
    }

    async fn sealed_page(&self, request: &Request, after: i64) -> Result<Vec<SealedRow>, Broken> {
        let (coupon, drop) = (request.coupon, request.drop);
        let page = self
            .db
            .run("sealed drops", async move |conn| {
                let mut query = drops::table
                    .filter(drops::sealed_at.is_not_null().and(drops::id.gt(after)))
                    .order(drops::id)
                    .limit(AT_ONCE)
                    .select((drops::id, drops::coupon_id, drops::quantity, drops::sealed_rows))
                    .into_boxed();
                if let Some(coupon) = coupon {
                    query = query.filter(drops::coupon_id.eq(coupon.0));
                }
                if let Some(drop) = drop {
                    query = query.filter(drops::id.eq(drop.0));
                }
                query.load(conn).await
            })
            .await?;
        Ok(page)
    }

    /// Who holds one of a coupon in a sealed drop must still be among its claimants, as long as other drops are to come.
    async fn restore_all_claimants(&self, request: &Request) -> Result<(), Broken> {
        if request.dry_run {
            return Ok(());
        }
        for (coupon, own) in self.db.catalogue().await? {
            let wanted = request.coupon.is_none_or(|id| id == coupon.id);
            if wanted && own.iter().any(|d| d.sealed_at.is_none()) {
                self.redis_claimants(&coupon).await?;
            }
        }
        Ok(())
    }

    async fn redis_claimants(&self, coupon: &Coupon) -> Result<(), Broken> {
        crate::execute::restore_claimants(&self.db, &self.redis, coupon).await?;
        Ok(())
    }
}

fn sealed_report((id, coupon, quantity, sealed_rows): SealedRow, rows: i64) -> DropReport {
    let rows = u64::try_from(rows).unwrap_or(0);
    let expected = u64::from(sealed_rows.unwrap_or(0));
    let numbers = Numbers { rows, ..Numbers::default() };
    let mut findings = Vec::new();
    if rows != expected {
        let detail = format!(
            "sealed with {expected} rows, now there are {rows}; its keys have left Redis, so who is missing must come from a \
             copy of the database"
        );
        let mut finding = told(Kind::CountMismatch, ActionKind::Report, detail);
        finding.coupon_id = Some(CouponId(coupon));
        finding.drop_id = Some(DropId(id));
        findings.push(finding);
    }
    DropReport {
        coupon_id: CouponId(coupon),
        coupon_name: String::new(),
        drop_id: DropId(id),
        quantity,
        exact: rows == expected,
        sealed: true,
        before: numbers,
        after: numbers,
        examined: Examined { rows, ..Examined::default() },
        findings,
    }
}
