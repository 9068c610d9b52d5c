//! Runs many schedules in parallel. Each worker has separate servers.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::vec;

use anyhow::Result;
use clap::Args;

use crate::report::ChaosReport;
use crate::run::{DEADLINE, HISTORY, ScheduleResult};
use crate::schedule::FaultSchedule;
use crate::shrink::shrink;
use crate::worker::CampaignWorker;

/// Schedules that have found a fault of the product, in the order of their seeds, one with faults
/// that few seeds combine, and three without any fault; at most 20. `make test` runs them before
/// fresh ones.
///
/// - 13815: a seek did not move librdkafka past a batch with a wrong checksum.
/// - 13857: a broker that came back listed no brokers, and librdkafka forgot all of them.
/// - 17166: a pass that ended by a clock two hours ahead counted as all passes of the next two
///   hours.
/// - 622485: the topic was missing when its partitions were assigned, and two got no owner.
/// - 900768: MySQL forgot revocations in progress, and passes wrote them again as bans.
/// - uses: shops use codes while MySQL and an API die.
/// - calm: rushes, returns, promotions and changes of settings close no coupon, for each value of
///   `once_per`, and nor does the next day.
const REGRESSIONS: [&str; 9] = [
    include_str!("../regressions/13815.json"),
    include_str!("../regressions/13857.json"),
    include_str!("../regressions/17166.json"),
    include_str!("../regressions/622485.json"),
    include_str!("../regressions/900768.json"),
    include_str!("../regressions/uses.json"),
    include_str!("../regressions/calm-coupon.json"),
    include_str!("../regressions/calm-drop.json"),
    include_str!("../regressions/calm-days.json"),
];
const _: () = assert!(REGRESSIONS.len() <= 20, "drop one");

/// Selects schedules, and defines how to run them.
#[derive(Debug, Clone, Args)]
pub struct Campaign {
    /// Number of seeds.
    #[arg(long, env = "SEEDS", default_value_t = 20)]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, env = "FIRST", default_value_t = 1)]
    pub first: u64,
    /// Run the schedules that once failed, too: all of them, before the others.
    #[arg(long)]
    pub regressions: bool,
    /// Only schedules with a fault whose name contains this (`clock`, `redis wire`).
    #[arg(long, env = "FAULT")]
    pub fault: Option<String>,
    /// Leave the faults out. No coupon may close.
    #[arg(long)]
    pub calm: bool,
    /// Only schedules with shops.
    #[arg(long)]
    pub shops: bool,
    /// Concurrent schedules, each on its own servers (about 1 GB each).
    #[arg(long, env = "WORKERS", default_value_t = 2)]
    pub workers: usize,
    /// Begin no more seeds after this many minutes, such as `1.5`. The report says how many are
    /// left.
    #[arg(long, default_value_t = 10_000.0)]
    pub minutes: f64,
    /// Folder for the history of each schedule that passed without an excuse, for other checkers.
    /// Its previous contents are deleted.
    #[arg(long, env = "HISTORIES")]
    pub histories: Option<PathBuf>,
    /// Folder for failures and the report.
    #[arg(long, default_value = "target/chaos")]
    pub out: PathBuf,
}

/// The schedules that no worker has taken yet.
struct Queue {
    kept: vec::IntoIter<FaultSchedule>,
    drawn: vec::IntoIter<FaultSchedule>,
}

impl Queue {
    /// Takes the next schedule. Once the time is over, only those that once failed are left.
    fn next(&mut self, is_time_over: bool) -> Option<FaultSchedule> {
        let kept = self.kept.next();
        if kept.is_some() || is_time_over {
            return kept;
        }
        self.drawn.next()
    }

    fn len(&self) -> usize {
        self.kept.len() + self.drawn.len()
    }
}

impl Campaign {
    /// Runs the selected schedules, drawn ones until the time is over. Prints the result of each.
    pub async fn run(&self) -> Result<ChaosReport> {
        std::fs::create_dir_all(&self.out)?;
        if let Some(folder) = &self.histories {
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
            std::fs::create_dir_all(folder)?;
        }
        let queue = self.queue()?;
        let all = queue.len();
        let queue = Mutex::new(queue);
        let report = Mutex::new(ChaosReport::default());
        let begun = Instant::now();
        let workers = (0..self.workers).map(|_| self.work(&queue, all, begun, &report));
        futures_util::future::try_join_all(workers).await?;
        let mut report = report.into_inner();
        report.left = queue.into_inner().len();
        report.seconds = begun.elapsed().as_secs();
        Ok(report)
    }

    /// Returns the selected schedules.
    fn queue(&self) -> Result<Queue> {
        let mut kept: Vec<FaultSchedule> = Vec::new();
        for text in REGRESSIONS.into_iter().filter(|_| self.regressions) {
            kept.push(serde_json::from_str(text)?);
        }
        let seeds = self.first..self.first + self.seeds;
        let mut drawn: Vec<FaultSchedule> = seeds.map(FaultSchedule::draw).collect();
        for schedule in drawn.iter_mut().filter(|_| self.calm) {
            schedule.faults.clear();
        }
        kept.retain(|schedule| self.selects(schedule));
        drawn.retain(|schedule| self.selects(schedule));
        Ok(Queue {
            kept: kept.into_iter(),
            drawn: drawn.into_iter(),
        })
    }

    fn selects(&self, schedule: &FaultSchedule) -> bool {
        let wanted = self.fault.as_ref().map(|part| part.to_lowercase());
        let has = |part: String| schedule.has(|fault| fault.name().to_lowercase().contains(&part));
        wanted.is_none_or(has) && (!self.shops || schedule.shops > 0)
    }

    async fn work(
        &self,
        queue: &Mutex<Queue>,
        all: usize,
        begun: Instant,
        report: &Mutex<ChaosReport>,
    ) -> Result<()> {
        let mut worker = CampaignWorker::new(DEADLINE);
        let is_over = || begun.elapsed().as_secs_f64() >= self.minutes * 60.0;
        let next = || queue.lock().next(is_over());
        while let Some(schedule) = next() {
            let seed = schedule.seed;
            let folder = self.out.join(format!("seed-{seed}"));
            let ran = worker.run(&schedule, &folder).await;
            let done = {
                let mut report = report.lock();
                report.add(seed, ran.as_ref());
                report.schedules()
            };
            say(done, all, &schedule, ran.as_ref(), &folder);
            match ran {
                Ok(ran) if ran.wrong.is_empty() => {
                    if let Some(kept) = self.histories.as_ref().filter(|_| ran.excused.is_empty()) {
                        let kept = kept.join(format!("seed-{seed}.jsonl"));
                        std::fs::copy(folder.join(HISTORY), kept)?;
                    }
                    std::fs::remove_dir_all(&folder)?;
                }
                Ok(_) => shrink(&mut worker, &schedule, &folder).await?,
                Err(_) => {}
            }
        }
        Ok(())
    }
}

fn say(
    done: usize,
    all: usize,
    schedule: &FaultSchedule,
    ran: Result<&ScheduleResult, &anyhow::Error>,
    folder: &Path,
) {
    match ran {
        Ok(ran) if ran.wrong.is_empty() => {
            let tried = ran.faults.iter().map(|hit| {
                let effect = if hit.took { "" } else { " (no effect)" };
                format!("{}{effect}", hit.name)
            });
            let faults: Vec<String> = tried.collect();
            println!(
                "[{done}/{all}] seed {:>5} ok: {} promises, {} broken, {} uses, \
                 exact {} ms after healing · {}",
                ran.seed,
                ran.promises,
                ran.listed,
                ran.uses,
                ran.exact_after_ms.unwrap_or_default(),
                faults.join(", ")
            );
        }
        Ok(ran) => {
            println!(
                "[{done}/{all}] {schedule}\n  FAILED, kept in {}",
                folder.display()
            );
            for wrong in ran.wrong.iter().take(10) {
                println!("    {wrong}");
            }
        }
        Err(error) => println!(
            "[{done}/{all}] {schedule}\n  FAILED in the harness, kept in {}: {error:#}",
            folder.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    #[test]
    fn schedules_that_once_failed_run_even_if_the_time_is_over() {
        let campaign = Campaign {
            seeds: 3,
            first: 1,
            regressions: true,
            fault: None,
            calm: false,
            shops: false,
            workers: 1,
            minutes: 0.0,
            histories: None,
            out: PathBuf::new(),
        };
        let mut queue = campaign.queue().unwrap();
        let taken = std::iter::from_fn(|| queue.next(true)).count();
        assert_eq!((taken, queue.len()), (REGRESSIONS.len(), 3));
        assert_eq!(queue.next(false).unwrap().seed, 1);
    }

    #[test]
    fn crash_points_of_kept_schedules_exist() {
        for text in REGRESSIONS {
            let kept: FaultSchedule = serde_json::from_str(text).unwrap();
            let is_unknown = |fault: &Fault| {
                matches!(fault, Fault::Crash { .. }) && fault.crash_point().is_none()
            };
            assert!(!kept.has(is_unknown), "{kept}");
        }
    }
}
