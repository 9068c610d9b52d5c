//! The results of a campaign, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::run::ScheduleResult;

#[derive(Debug, Default, Serialize)]
pub struct ChaosReport {
    /// The result of each schedule.
    pub runs: Vec<ScheduleResult>,
    /// Seeds at which the harness failed, with the error. They count as failed, because a program
    /// that does not start or answer shows itself like this.
    pub harness_errors: Vec<(u64, String)>,
    /// Duration of the campaign.
    pub seconds: u64,
}

impl ChaosReport {
    pub(crate) fn add(&mut self, seed: u64, ran: Result<&ScheduleResult, &anyhow::Error>) {
        match ran {
            Ok(ran) => self.runs.push(ran.clone()),
            Err(error) => self.harness_errors.push((seed, format!("{error:#}"))),
        }
    }

    pub fn schedules(&self) -> usize {
        self.runs.len() + self.harness_errors.len()
    }

    /// Counts the schedules that failed.
    pub fn failed(&self) -> usize {
        let wrong = self.runs.iter().filter(|ran| !ran.wrong.is_empty()).count();
        wrong + self.harness_errors.len()
    }

    /// Whether everything ran without a failure, and at least one promise was checked.
    pub fn passed(&self) -> bool {
        self.failed() == 0 && self.runs.iter().any(|ran| ran.promises > 0)
    }

    fn wrong(&self, beginnings: &[&str]) -> usize {
        let all = self.runs.iter().flat_map(|ran| &ran.wrong);
        all.filter(|wrong| {
            beginnings
                .iter()
                .any(|beginning| wrong.starts_with(beginning))
        })
        .count()
    }

    /// Counts the schedules that needed each excuse.
    fn excused(&self) -> BTreeMap<&str, usize> {
        let mut excused = BTreeMap::new();
        for reason in self.runs.iter().flat_map(|ran| &ran.excused) {
            *excused.entry(*reason).or_default() += 1;
        }
        excused
    }

    /// Counts how often each fault was tried, and how often it had an effect.
    fn faults(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut faults: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for hit in self.runs.iter().flat_map(|ran| &ran.faults) {
            let entry = faults.entry(&hit.name).or_default();
            entry.0 += 1;
            entry.1 += usize::from(hit.took);
        }
        faults
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&ScheduleResult) -> usize| self.runs.iter().map(of).sum::<usize>();
        writeln!(out, "faults (took effect / tried)")?;
        for (name, (tried, took)) in self.faults() {
            writeln!(out, "  {name:<36} {took:>5} / {tried}")?;
        }
        let mut times: Vec<u64> = self
            .runs
            .iter()
            .filter_map(|ran| ran.exact_after_ms)
            .collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied();
        let worst = times.last().copied();
        let single = self.runs.iter().filter(|ran| ran.faults.len() == 1).count();
        writeln!(
            out,
            "schedules run          {} ({single} with a single fault), {} errors of the harness",
            self.schedules(),
            self.harness_errors.len()
        )?;
        writeln!(
            out,
            "requests               {} ({} of unknown outcome)",
            sum(|ran| ran.operations),
            sum(|ran| ran.unknown)
        )?;
        writeln!(
            out,
            "promises checked       {} ({} kept)",
            sum(|ran| ran.promises),
            sum(|ran| ran.kept)
        )?;
        writeln!(out, "listed as broken       {}", sum(|ran| ran.listed))?;
        for (reason, times) in self.excused() {
            writeln!(out, "  excused {times} times: {reason}")?;
        }
        writeln!(
            out,
            "lost and not listed    {}",
            self.wrong(&["lost", "other slot", "contradiction", "promised twice"])
        )?;
        writeln!(
            out,
            "over-issued            {}",
            self.wrong(&["too many", "no such slot"])
        )?;
        writeln!(
            out,
            "doubled                {}",
            self.wrong(&["slot doubled", "person doubled"])
        )?;
        writeln!(
            out,
            "rows without admission {}",
            self.wrong(&["asked for by nobody", "never admitted", "vanished"])
        )?;
        let revoking = self.runs.iter().filter(|ran| ran.revoked > 0).count();
        let held = self.wrong(&["revoked and"]);
        let too_few = self.wrong(&["too few"]);
        writeln!(
            out,
            "given back, revoked    {} in {revoking} schedules; of these still held {held}",
            sum(|ran| ran.revoked)
        )?;
        writeln!(out, "slots left unused      {too_few}")?;
        writeln!(
            out,
            "against allow lists    {}",
            self.wrong(&["turned away", "denied", "not on the list"])
        )?;
        writeln!(
            out,
            "not exact at the end   {}",
            self.runs
                .iter()
                .filter(|ran| ran.exact_after_ms.is_none())
                .count()
        )?;
        writeln!(
            out,
            "healed to exact        median {} ms, worst {} ms",
            median.unwrap_or(0),
            worst.unwrap_or(0)
        )?;
        writeln!(out, "reads of the rows      {}", sum(|ran| ran.reads))?;
        write!(out, "took                   {} s", self.seconds)
    }
}
