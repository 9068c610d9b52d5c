//! Traffic without faults: rushes, returns, promotions from the waiting list, revocations, changes
//! of settings and of the allow list, with a pass every second. A pass must not mistake a healthy
//! change for damage, so no coupon may close.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::report::ChaosReport;
use crate::run::DEADLINE_BESIDE_TESTS;
use crate::schedule::FaultSchedule;
use crate::worker::CampaignWorker;

/// How long traffic goes on.
#[derive(Debug, Clone, Copy)]
pub enum CalmLength {
    Rounds(usize),
    /// Until this time is over and the last round has ended.
    Time(Duration),
}

/// Runs rounds of traffic. Keeps the folders of the rounds that failed, for example because a coupon
/// closed.
///
/// # Errors
///
/// Fails if the harness fails.
pub async fn calm(length: CalmLength, out: &Path) -> Result<ChaosReport> {
    let mut report = ChaosReport::default();
    let mut worker = CampaignWorker::new(DEADLINE_BESIDE_TESTS);
    let begun = Instant::now();
    loop {
        let is_over = match length {
            CalmLength::Rounds(rounds) => report.schedules() >= rounds,
            CalmLength::Time(time) => begun.elapsed() >= time,
        };
        if is_over {
            break;
        }
        let seed = report.schedules() as u64;
        let schedule = FaultSchedule {
            seed,
            coupons: 4,
            once_per: ["coupon", "drop"][usize::from(seed % 2 == 1)].to_owned(),
            quantity: 60,
            people: 110,
            waiting_list: 30,
            listed: 90,
            relisted: true,
            revoke_percent: 15,
            operators: 2,
            pollers: 4,
            shops: 2,
            processes: 2,
            crowd_ms: 6_000,
            settings: BTreeMap::new(),
            ..FaultSchedule::of(vec![], vec![])
        };
        let folder = out.join(format!("round-{seed}"));
        let ran = worker.run(&schedule, &folder).await;
        report.add(seed, ran.as_ref());
        if ran?.wrong.is_empty() {
            std::fs::remove_dir_all(&folder)?;
        }
    }
    report.seconds = begun.elapsed().as_secs();
    Ok(report)
}
