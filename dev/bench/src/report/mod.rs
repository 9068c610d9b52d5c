//! The report of a run, for the terminal and as JSON.

mod machine;
mod table;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::baselines::Comparison;

pub use machine::Machine;
pub use table::print;

#[derive(Debug, Serialize, Deserialize)]
pub struct BenchReport {
    pub machine: Machine,
    pub size: crate::cli::BenchSize,
    /// The comparison of the designs, if it was measured.
    pub comparison: Option<Comparison>,
    pub measurements: Vec<Measurement>,
    /// Duration of each part in seconds, in order.
    pub took: Vec<(String, f64)>,
    /// Parts that could not be measured, with the reason.
    pub failed: Vec<(String, String)>,
}

/// One measurement, with all its inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measurement {
    pub section: Cow<'static, str>,
    pub what: String,
    pub value: f64,
    /// The unit: `×`, `ms`, `/s`, ….
    pub unit: Cow<'static, str>,
    /// The target. `None` if there is none.
    pub target: Option<FigureTarget>,
    /// The figures from which it was computed.
    pub measured: BTreeMap<String, f64>,
    /// The limit of the figure, or a note on how to read it.
    pub note: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FigureTarget {
    AtLeast(f64),
    AtMost(f64),
    /// No target. The figure is shown with the resource that limits it.
    Shown,
}

impl FigureTarget {
    pub fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Shown => true,
        }
    }
}

impl Measurement {
    pub fn of(
        section: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        let what = what.into();
        let measured = BTreeMap::new();
        let note = String::new();
        Self {
            section: section.into(),
            what,
            value,
            unit: unit.into(),
            target: None,
            measured,
            note,
        }
    }

    /// Creates a measurement from the ratio of two others, which are both kept.
    pub fn ratio(
        section: &'static str,
        what: impl Into<String>,
        upper: (&str, f64),
        lower: (&str, f64),
    ) -> Self {
        let what = what.into();
        Self::of(section, what, upper.1 / lower.1.max(1e-9), "×")
            .with(upper.0, upper.1)
            .with(lower.0, lower.1)
    }

    /// Adds an input.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.measured.insert(name.to_owned(), value);
        self
    }

    #[must_use]
    pub fn target(mut self, target: FigureTarget) -> Self {
        self.target = Some(target);
        self
    }

    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

impl BenchReport {
    pub fn new(size: crate::cli::BenchSize) -> Self {
        let machine = Machine::describe();
        Self {
            machine,
            size,
            comparison: None,
            measurements: Vec::new(),
            took: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Returns the comparison of the designs, which is empty at first.
    pub fn comparison(&mut self) -> &mut Comparison {
        let size = self.size.rush();
        let cores = self.machine.cores;
        self.comparison.get_or_insert_with(|| Comparison {
            size,
            cores,
            nothing: None,
            runs: Vec::new(),
        })
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::BenchSize;

    #[test]
    fn report_survives_a_json_round_trip() {
        let mut report = BenchReport::new(BenchSize::of(true));
        report
            .measurements
            .push(Measurement::of("x", "a", 1.0, "×").target(FigureTarget::AtLeast(2.0)));
        report.comparison();
        let folder = tempfile::tempdir().unwrap();
        report.write(folder.path()).unwrap();
        let again: BenchReport =
            serde_json::from_slice(&std::fs::read(folder.path().join("report.json")).unwrap())
                .unwrap();
        assert_eq!(
            again.measurements[0].target.map(|target| target.met(1.0)),
            Some(false)
        );
        assert_eq!(
            again.comparison.map(|all| all.size.requests),
            Some(report.size.requests)
        );
    }
}
