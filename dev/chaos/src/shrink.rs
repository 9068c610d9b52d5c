//! Finds the faults that a failure needs, by retrying its schedule without each of them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::schedule::FaultSchedule;
use crate::worker::CampaignWorker;

/// Number of attempts per smaller schedule, because a failure may not occur every time.
const TRIES: u32 = 6;

/// Time after which the search ends, and the failure is reported with the faults that are left.
const LIMIT: Duration = Duration::from_mins(4);

/// Removes faults one by one as long as the schedule still fails, and writes the smallest schedule
/// to `shrunk.json`.
pub async fn shrink(
    worker: &mut CampaignWorker,
    failed: &FaultSchedule,
    folder: &Path,
) -> Result<()> {
    let mut smallest = failed.clone();
    let (mut at, begun) = (0, Instant::now());
    while smallest.faults.len() > 1 && at < smallest.faults.len() && begun.elapsed() < LIMIT {
        let mut smaller = smallest.clone();
        let without = smaller.faults.remove(at);
        let fails = fails(worker, &smaller, &folder.join("smaller")).await;
        let ended = if fails { "still fails" } else { "passes" };
        println!("seed {}: {ended} without {}", failed.seed, without.fault);
        if fails {
            smallest = smaller;
        } else {
            at += 1;
        }
    }
    let file = folder.join("shrunk.json");
    std::fs::write(&file, serde_json::to_string_pretty(&smallest)?)?;
    println!(
        "seed {}: the smallest that fails is\n{smallest}\n  replay: make chaos REPLAY={}",
        failed.seed,
        file.display()
    );
    Ok(())
}

async fn fails(worker: &mut CampaignWorker, schedule: &FaultSchedule, folder: &Path) -> bool {
    for _ in 0..TRIES {
        match worker.run(schedule, folder).await {
            Ok(ran) if ran.wrong.is_empty() => {}
            Ok(_) => return true,
            Err(error) => println!("seed {}: not run: {error:#}", schedule.seed),
        }
    }
    false
}
