//! A crowd in which everyone wins.

use anyhow::{Result, ensure};
use firstcome_load::answer::AnswerKind;
use firstcome_load::launch::{InstallationCoupon, Service};
use firstcome_load::workload::Workload;

use crate::cli::BenchSize;

/// Claims a second, and how many seconds it took.
pub(super) async fn everyone_wins(api: &Service, coupon: InstallationCoupon, size: &BenchSize) -> Result<(f64, f64)> {
    let people = coupon.quantity;
    let tally = Workload::once_each(api.address()?, coupon.id, people, size.connections).run().await?;
    ensure!(tally.count(AnswerKind::Accepted) == u64::from(people), "not everyone won: {:?}", tally.answers);
    Ok((tally.per_second, tally.seconds))
}
