//! A crowd in which every claim wins.

use anyhow::Result;
use firstcome_load::launch::{InstallationCoupon, Service};
use firstcome_load::workload::Workload;

use crate::cli::BenchSize;

/// The result of a winning crowd.
pub(super) struct Winning {
    pub(super) per_second: f64,
    pub(super) seconds: f64,
    /// CPU seconds of the API, including all its background work.
    pub(super) cpu_seconds: f64,
}

pub(super) async fn everyone_wins(
    api: &Service,
    coupon: InstallationCoupon,
    size: &BenchSize,
) -> Result<Winning> {
    let people = coupon.quantity;
    let crowd = Workload::once_each(api.address()?, coupon.id, people, size.connections);
    let (tally, cpu) = crowd.run_metered(api.pid()).await?;
    tally.everyone_won()?;
    Ok(Winning {
        per_second: tally.per_second,
        seconds: tally.seconds,
        cpu_seconds: cpu * f64::from(people) / 1e6,
    })
}
