//! Runs many schedules in parallel. Each worker has separate servers.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;

use crate::report::ChaosReport;
use crate::run::ScheduleResult;
use crate::schedule::FaultSchedule;
use crate::shrink::shrink;
use crate::worker::CampaignWorker;

/// Seeds that have found a fault of the product, newest last; at most 20. `make test` runs them
/// before fresh ones.
///
/// - 13815, 13820: a seek did not take librdkafka away from a batch with a wrong checksum.
/// - 13857: a broker that came back named no broker, and librdkafka forgot all of them.
const REGRESSIONS: [u64; 3] = [13_815, 13_820, 13_857];

/// Selects schedules, and defines how to run them.
#[derive(Debug, Clone)]
pub struct Campaign {
    pub first: u64,
    pub seeds: u64,
    /// Whether the schedules that once failed run first.
    pub regressions: bool,
    /// Selects only schedules with a fault whose name contains this text.
    pub fault: Option<String>,
    pub workers: usize,
    /// Folder for the results of failed schedules.
    pub out: PathBuf,
}

impl Campaign {
    /// Runs all schedules and prints a line for each.
    pub async fn run(&self) -> Result<ChaosReport> {
        std::fs::create_dir_all(&self.out)?;
        let known = REGRESSIONS.into_iter().filter(|_| self.regressions);
        let seeds = Mutex::new(known.chain(self.first..self.first + self.seeds));
        let report = Mutex::new(ChaosReport::default());
        let begun = Instant::now();
        let workers = (0..self.workers).map(|_| self.work(&seeds, &report));
        futures_util::future::try_join_all(workers).await?;
        let mut report = report.into_inner();
        report.seconds = begun.elapsed().as_secs();
        Ok(report)
    }

    async fn work(
        &self,
        seeds: &Mutex<impl Iterator<Item = u64>>,
        report: &Mutex<ChaosReport>,
    ) -> Result<()> {
        let mut worker = CampaignWorker::default();
        loop {
            let Some(seed) = seeds.lock().next() else {
                return Ok(());
            };
            let schedule = FaultSchedule::draw(seed);
            let wanted = |name: &str| self.fault.as_ref().is_none_or(|part| name.contains(part));
            if !schedule
                .faults
                .iter()
                .any(|timed| wanted(&timed.fault.name()))
            {
                continue;
            }
            let folder = self.out.join(format!("seed-{seed}"));
            let ran = worker.run(&schedule, &folder).await;
            let done = {
                let mut report = report.lock();
                report.add(seed, ran.as_ref());
                report.schedules()
            };
            say(done, self.seeds, &schedule, ran.as_ref(), &folder);
            match ran {
                Ok(ran) if ran.wrong.is_empty() => std::fs::remove_dir_all(&folder)?,
                Ok(_) => shrink(&mut worker, &schedule, &folder).await?,
                Err(_) => {}
            }
        }
    }
}

fn say(
    done: usize,
    all: u64,
    schedule: &FaultSchedule,
    ran: Result<&ScheduleResult, &anyhow::Error>,
    folder: &Path,
) {
    match ran {
        Ok(ran) if ran.wrong.is_empty() => {
            let faults: Vec<String> = ran
                .faults
                .iter()
                .map(|hit| format!("{}{}", hit.name, if hit.took { "" } else { " (no effect)" }))
                .collect();
            println!(
                "[{done}/{all}] seed {:>5} ok: {} promises, {} broken, exact {} ms after healing · {}",
                ran.seed,
                ran.promises,
                ran.listed,
                ran.exact_after_ms.unwrap_or_default(),
                faults.join(", ")
            );
        }
        Ok(ran) => {
            println!(
                "[{done}/{all}] {schedule}\n  FAILED, kept in {}",
                folder.display()
            );
            ran.wrong
                .iter()
                .take(10)
                .for_each(|wrong| println!("    {wrong}"));
        }
        Err(error) => println!(
            "[{done}/{all}] {schedule}\n  FAILED in the harness, kept in {}: {error:#}",
            folder.display()
        ),
    }
}
