//! The results of a campaign, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::run::ScheduleResult;

/// A kind of fault that was tried this many times must have had an effect.
const OFTEN: usize = 10;

#[derive(Debug, Default, Serialize)]
pub struct ChaosReport {
    /// The result of each schedule.
    pub runs: Vec<ScheduleResult>,
    /// Seeds at which the harness failed, with the error. They count as failed, because a program
    /// that does not start or answer also appears as a failure of the harness.
    pub harness_errors: Vec<(u64, String)>,
    /// Schedules that were not begun in time.
    pub left: usize,
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

    /// Whether no schedule that was begun failed, at least one promise was checked, and every kind
    /// of fault works.
    pub fn passed(&self) -> bool {
        let has_promises = self.runs.iter().any(|ran| ran.promises > 0);
        self.failed() == 0 && has_promises && self.without_effect().is_empty()
    }

    /// Returns the kinds of faults that were tried often and never had an effect, whatever their
    /// target: nothing shows that the product survives them.
    fn without_effect(&self) -> Vec<&str> {
        let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (name, (tried, took)) in self.faults() {
            let kind = name.split(' ').next().unwrap_or(name);
            let entry = kinds.entry(kind).or_default();
            entry.0 += tried;
            entry.1 += took;
        }
        let idle = kinds.into_iter();
        let idle = idle.filter(|(_, (tried, took))| *tried >= OFTEN && *took == 0);
        idle.map(|(kind, _)| kind).collect()
    }

    /// Counts how often each crash point was tried at which no process died. Rare points may be
    /// missed, so they do not fail a campaign.
    fn never_reached(&self) -> BTreeMap<&'static str, usize> {
        let hits = self.runs.iter().flat_map(|ran| &ran.faults);
        let mut tried = count(hits.clone().filter_map(|hit| hit.point));
        for reached in hits.filter(|hit| hit.took).filter_map(|hit| hit.point) {
            tried.remove(reached);
        }
        tried
    }

    /// Counts the failures by their first words.
    fn wrong(&self) -> BTreeMap<&str, usize> {
        let lines = self.runs.iter().flat_map(|ran| &ran.wrong);
        count(lines.map(|line| line.split([':', ',']).next().unwrap_or_default()))
    }

    /// Counts the schedules that needed each excuse.
    fn excused(&self) -> BTreeMap<&str, usize> {
        count(self.runs.iter().flat_map(|ran| ran.excused.iter().copied()))
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

fn count<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut times = BTreeMap::new();
    words.for_each(|word| *times.entry(word).or_default() += 1);
    times
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&ScheduleResult) -> usize| self.runs.iter().map(of).sum::<usize>();
        writeln!(out, "faults (took effect / tried)")?;
        for (name, (tried, took)) in self.faults() {
            writeln!(out, "  {name:<36} {took:>5} / {tried}")?;
        }
        let exact = self.runs.iter().filter_map(|ran| ran.exact_after_ms);
        let mut times: Vec<u64> = exact.collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).unwrap_or(&0);
        let worst = times.last().unwrap_or(&0);
        for (name, value) in [
            ("schedules run", self.schedules()),
            ("left, for lack of time", self.left),
            ("errors of the harness", self.harness_errors.len()),
            ("requests", sum(|ran| ran.operations)),
            ("of unknown outcome", sum(|ran| ran.unknown)),
            ("promises checked", sum(|ran| ran.promises)),
            ("promises kept", sum(|ran| ran.kept)),
            ("listed as broken", sum(|ran| ran.listed)),
            ("returned or revoked", sum(|ran| ran.revoked)),
            ("reads of the rows", sum(|ran| ran.reads)),
            ("not exact at the end", self.runs.len() - times.len()),
        ] {
            writeln!(out, "{name:<22} {value}")?;
        }
        for (reason, times) in self.excused() {
            writeln!(out, "excused {times} times: {reason}")?;
        }
        for (point, tried) in self.never_reached() {
            writeln!(out, "never reached: {point}, tried {tried} times")?;
        }
        for kind in self.without_effect() {
            writeln!(out, "WRONG: {kind} never had an effect")?;
        }
        for (what, times) in self.wrong() {
            writeln!(out, "WRONG {times} times: {what}")?;
        }
        writeln!(
            out,
            "healed to exact        median {median} ms, worst {worst} ms"
        )?;
        write!(out, "took                   {} s", self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::inject::TriedFault;

    #[test]
    fn a_campaign_fails_if_a_kind_of_fault_never_has_an_effect() {
        for (tried, took, passes) in [(9, 0, true), (10, 0, false), (10, 1, true)] {
            let fault = |number: usize| TriedFault {
                name: ["KeyLost meta", "KeyLost gate"][number % 2].to_owned(),
                point: None,
                fault: String::new(),
                took: number < took,
                note: String::new(),
                during: Instant::now()..Instant::now(),
            };
            let ran = ScheduleResult {
                promises: 1,
                faults: (0..tried).map(fault).collect(),
                ..ScheduleResult::default()
            };
            let mut report = ChaosReport::default();
            report.add(1, Ok(&ran));
            assert_eq!(report.passed(), passes, "{took} of {tried}: {report}");
        }
    }

    #[test]
    fn crash_points_that_are_never_reached_are_listed_and_fail_no_campaign() {
        let crash = |(point, took): (&'static str, bool)| TriedFault {
            name: format!("Crash Api {point}"),
            point: Some(point),
            fault: String::new(),
            took,
            note: String::new(),
            during: Instant::now()..Instant::now(),
        };
        let mut tried = vec![("claim_kept", false); OFTEN];
        tried.extend([("claim_sent", false), ("claim_sent", true)]);
        let ran = ScheduleResult {
            promises: 1,
            faults: tried.into_iter().map(crash).collect(),
            ..ScheduleResult::default()
        };
        let mut report = ChaosReport::default();
        report.add(1, Ok(&ran));
        assert_eq!(report.never_reached(), [("claim_kept", OFTEN)].into());
        assert!(report.passed(), "{report}");
    }
}
