//! Traffic without faults: rushes, returns, promotions from the waiting list, revocations, changes
//! of settings and of the allow list, with a pass every second. Passes must not take any healthy
//! change for damage, so no coupon may close.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;

use crate::report::ChaosReport;
use crate::schedule::FaultSchedule;
use crate::system::SystemUnderTest;
use crate::wait::pause;
use crate::worker::CampaignWorker;

/// The gates of the coupons that must stay open.
#[derive(Default)]
pub(crate) struct Gates {
    /// The last value of each gate.
    seen: Mutex<HashMap<i64, String>>,
    closings: Mutex<Vec<String>>,
}

impl Gates {
    /// Reads the gates forever. A gate never has the same value twice, so a closing between two
    /// reads is seen, too.
    pub(crate) async fn watch(&self, system: &SystemUnderTest) {
        loop {
            for coupon in system.coupons() {
                let redis = system.redis();
                let key = redis.gate(coupon.id);
                let now = redis.try_command::<Option<String>>(&["GET", &key]).await;
                self.note(coupon.id, &now.ok().flatten().unwrap_or_default());
            }
            pause(50).await;
        }
    }

    fn note(&self, coupon: i64, now: &str) {
        let before = self.seen.lock().insert(coupon, now.to_owned());
        let was_open = before.filter(|before| before.ends_with(" open") && before != now);
        let closing = was_open.map(|open| format!("coupon {coupon}: `{open}` became `{now}`"));
        self.closings.lock().extend(closing);
    }

    pub(crate) fn closings(&self) -> Vec<String> {
        self.closings.lock().clone()
    }
}

/// Runs rounds of traffic for this long. Keeps those in which a coupon closed.
///
/// # Errors
///
/// Fails if the harness fails.
pub async fn calm(lasts: Duration, out: &Path) -> Result<ChaosReport> {
    let mut report = ChaosReport::default();
    let mut worker = CampaignWorker::default();
    let begun = Instant::now();
    while begun.elapsed() < lasts {
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
