//! Latency from the last admission to exact rows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use firstcome_load::launch::{Installation, InstallationCoupon, Service};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use mysql_async::prelude::Queryable as _;
use tokio::time::{sleep, timeout};

use super::figures::{median, percentile};
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "claims";
/// Number of coupons per rush.
const OFFERED: u32 = 100;
const LIMIT: Duration = Duration::from_secs(60);
/// Interval at which MySQL is polled.
const POLL: Duration = Duration::from_millis(1);

/// Sells a hundred coupons in one burst, repeatedly.
pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    step(format!(
        "last admission to exact rows, {} rushes",
        size.rushes
    ));
    let installation = bench.install("exact").await?;
    let (reconciler, api, consumer) = tokio::try_join!(
        installation.reconciler(),
        installation.api(),
        installation.consumer()
    )?;
    let first = rush(&installation, &api, "x").await?;
    let mut took = Vec::new();
    for number in 0..size.rushes {
        took.push(rush(&installation, &api, &format!("x{number}-")).await?);
    }
    for service in [api, consumer, reconciler] {
        service.stop().await?;
    }
    let worst = took.iter().copied().fold(0.0, f64::max);
    Ok(vec![
        Measurement::of(PART, "last admission → exact rows, median", median(took.clone()), "ms")
            .target(FigureTarget::AtMost(25.0)),
        Measurement::of(PART, "last admission → exact rows, p90", percentile(90, took.clone()), "ms")
            .target(FigureTarget::AtMost(50.0))
            .with("p99 ms", percentile(99, took))
            .with("worst ms", worst)
            .note("from the last admission by Redis's clock until MySQL, polled every millisecond, counts all rows"),
        Measurement::of(PART, "the same, first rush of a new topic", first, "ms").note(
            "the first fetch of librdkafka waits up to 100 ms for the partitions that it knows by then",
        ),
    ])
}

/// Sells a hundred coupons in one burst. Returns the milliseconds from the last admission until all
/// rows exist.
async fn rush(installation: &Installation, api: &Service, names: &str) -> Result<f64> {
    let coupon = installation.coupon(api, OFFERED).await?;
    let workload = Workload::once_each(api.address()?, coupon.id, OFFERED, 64).named(names);
    let (tally, exact_at) = tokio::join!(workload.run(), exact(installation, coupon));
    // A coupon that was not sold has no row either.
    let tally = tally?;
    ensure!(
        tally.promises.len() == OFFERED as usize,
        "not all were sold: {:?}",
        tally.answers
    );
    Ok(exact_at? - last_admission(installation, coupon).await?)
}

/// Returns the time at which all rows exist, in Unix milliseconds.
async fn exact(installation: &Installation, coupon: InstallationCoupon) -> Result<f64> {
    let mut conn = installation.mysql().await?;
    let sql = "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = ?";
    let counting = async {
        while conn
            .exec_first::<u32, _, _>(sql, (coupon.drop,))
            .await?
            .context("no count")?
            < coupon.quantity
        {
            sleep(POLL).await;
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, counting)
        .await
        .context("some rows are missing")??;
    #[allow(
        clippy::cast_precision_loss,
        reason = "microseconds since 1970 are far below 2^52 ms"
    )]
    let now = chrono::Utc::now().timestamp_micros() as f64 / 1e3;
    conn.disconnect().await?;
    Ok(now)
}

/// Returns Redis's time of the last admission, in Unix milliseconds.
async fn last_admission(installation: &Installation, coupon: InstallationCoupon) -> Result<f64> {
    let mut conn = installation.mysql().await?;
    let sql = "SELECT CAST(ROUND(UNIX_TIMESTAMP(CONVERT_TZ(MAX(claimed_at), '+00:00', @@session.time_zone)) * 1000) AS SIGNED)
               FROM issued_coupons WHERE drop_id = ?";
    let at: i64 = conn
        .exec_first(sql, (coupon.drop,))
        .await?
        .context("no rows")?;
    conn.disconnect().await?;
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970")]
    Ok(at as f64)
}
