//! From the last admission to exact rows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstcome_rush::live::step;
use mysql_async::prelude::Queryable as _;
use tokio::time::{sleep, timeout};

use super::{median, percentile_99};
use crate::cli::Size;
use crate::load::{Plan, crowd};
use crate::report::{Figure, Target};
use crate::world::{Coupon, Site, World, address};

const PART: &str = "claims";
/// Coupons of one rush.
const OFFERED: u32 = 100;
const LIMIT: Duration = Duration::from_secs(60);
/// How often MySQL is asked.
const LOOK: Duration = Duration::from_millis(1);

/// Sells a hundred in one burst, again and again.
pub async fn measure(world: &World, size: &Size) -> Result<Vec<Figure>> {
    step(format!("last admission to exact rows, {} rushes", size.rushes));
    let site = Site::make(world, "exact").await?;
    let (reconciler, api, consumer) = tokio::try_join!(site.reconciler(), site.api(), site.consumer())?;
    let mut took = Vec::new();
    for rush in 0..size.rushes {
        let coupon = site.coupon(&api, OFFERED).await?;
        let plan = Plan::once_each(address(&api)?, coupon.id, OFFERED, 64).named(&format!("x{rush}-"));
        let (seen, exact_at) = tokio::try_join!(crowd(&plan), exact(&site, coupon))?;
        ensure!(seen.yes.len() == OFFERED as usize, "not all were sold: {:?}", seen.answers);
        took.push(exact_at - last_admission(&site, coupon).await?);
    }
    for service in [api, consumer, reconciler] {
        service.stop().await?;
    }
    let worst = took.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Figure::of(PART, "last admission → exact rows, median", median(took.clone()), "ms")
            .target(Target::AtMost(50.0)),
        Figure::of(PART, "last admission → exact rows, p99", percentile_99(took), "ms")
            .target(Target::AtMost(100.0))
            .with("worst ms", worst)
            .note("from Redis's instant of the last admission until MySQL, asked every millisecond, counts all rows"),
    ])
}

/// The instant at which all rows stand, Unix milliseconds.
async fn exact(site: &Site<'_>, coupon: Coupon) -> Result<f64> {
    let mut conn = site.mysql().await?;
    let sql = "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = ?";
    let looking = async {
        while conn.exec_first::<u32, _, _>(sql, (coupon.drop,)).await?.context("no count")? < coupon.quantity {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, looking).await.context("the rows do not come")??;
    #[allow(clippy::cast_precision_loss, reason = "microseconds since 1970 are far below 2^52 ms")]
    let now = chrono::Utc::now().timestamp_micros() as f64 / 1e3;
    conn.disconnect().await?;
    Ok(now)
}

/// When Redis admitted the last one, Unix milliseconds.
async fn last_admission(site: &Site<'_>, coupon: Coupon) -> Result<f64> {
    let mut conn = site.mysql().await?;
    let sql = "SELECT CAST(ROUND(UNIX_TIMESTAMP(CONVERT_TZ(MAX(claimed_at), '+00:00', @@session.time_zone)) * 1000) AS SIGNED)
               FROM issued_coupons WHERE drop_id = ?";
    let at: i64 = conn.exec_first(sql, (coupon.drop,)).await?.context("no rows")?;
    conn.disconnect().await?;
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970")]
    Ok(at as f64)
}
