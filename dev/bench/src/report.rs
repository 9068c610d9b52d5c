//! The report of a run: one table for the terminal, and the same as JSON.

use std::fs;
use std::path::Path;

use anyhow::Result;
use firstcome_load::terminal::number;
use serde::Serialize;

use crate::cli::BenchSize;

#[derive(Debug, Serialize)]
pub struct BenchReport {
    pub machine: Machine,
    pub size: BenchSize,
    pub measurements: Vec<Measurement>,
    /// Duration of each part in seconds, in order.
    pub took: Vec<(String, f64)>,
    /// Parts that could not be measured, with the reason.
    pub failed: Vec<(String, String)>,
}

/// The machine of a run. Results from different machines or from a busy machine cannot be compared.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Time at which the run started, UTC.
    at: String,
    cores: usize,
    /// Model name of the processor.
    processor: String,
    /// Load averages before anything was started.
    load: String,
}

impl Machine {
    pub fn describe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        let model = fields.find(|(name, _)| name.starts_with("model name"));
        Self {
            at: chrono::Utc::now().format("%Y-%m-%d %H:%M UTC").to_string(),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            processor: model.map_or("", |(_, model)| model.trim()).to_owned(),
            load: read("/proc/loadavg").trim().to_owned(),
        }
    }
}

/// One measurement, with all its inputs.
#[derive(Debug, Serialize)]
pub struct Measurement {
    section: &'static str,
    what: String,
    value: f64,
    /// The unit: `×`, `ms`, `/s`, ….
    unit: &'static str,
    target: Option<FigureTarget>,
    /// The figures from which it was computed, or that belong to it.
    inputs: Vec<(String, f64)>,
    /// How to read it.
    note: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FigureTarget {
    AtLeast(f64),
    AtMost(f64),
}

impl Measurement {
    pub fn of(
        section: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            section,
            what: what.into(),
            value,
            unit,
            target: None,
            inputs: Vec::new(),
            note: String::new(),
        }
    }

    /// Creates a measurement from the ratio of two figures, which become its inputs.
    pub fn ratio(
        section: &'static str,
        what: impl Into<String>,
        upper: (&str, f64),
        lower: (&str, f64),
    ) -> Self {
        Self::of(section, what, upper.1 / lower.1.max(1e-9), "×")
            .with(upper.0, upper.1)
            .with(lower.0, lower.1)
    }

    /// Adds an input.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.inputs.push((name.to_owned(), value));
        self
    }

    #[must_use]
    pub fn target(self, target: FigureTarget) -> Self {
        let target = Some(target);
        Self { target, ..self }
    }

    #[must_use]
    pub fn note(self, note: impl Into<String>) -> Self {
        let note = note.into();
        Self { note, ..self }
    }

    /// Replaces the note with the range of the turns of which this is the median.
    #[must_use]
    pub fn turns(self, values: &[f64]) -> Self {
        let (least, most) = spread(values);
        let (least, most, turns) = (number(least), number(most), values.len());
        self.note(format!("median of {turns} turns ({least} to {most})"))
    }

    /// Marks a measurement of another build.
    #[must_use]
    pub fn of_other_build(self) -> Self {
        let what = format!("the other build: {}", self.what);
        Self { what, ..self }
    }

    /// Returns the target, and whether it is met.
    fn verdict(&self) -> (String, &'static str) {
        let (target, is_met) = match self.target {
            None => return (String::new(), ""),
            Some(FigureTarget::AtLeast(least)) => {
                (format!("≥ {}", number(least)), self.value >= least)
            }
            Some(FigureTarget::AtMost(most)) => (format!("≤ {}", number(most)), self.value <= most),
        };
        (target, if is_met { "met" } else { "NOT MET" })
    }
}

impl BenchReport {
    pub fn print(&self) {
        println!("\npart: measurement: value (target, verdict) inputs · note");
        for measurement in &self.measurements {
            let inputs = measurement.inputs.iter();
            let inputs = inputs.map(|(name, value)| format!("{name} {}", number(*value)));
            let note = Some(measurement.note.clone()).filter(|note| !note.is_empty());
            let (target, verdict) = measurement.verdict();
            println!(
                "{}: {}: {} {} ({target} {verdict}) {}",
                measurement.section,
                measurement.what,
                number(measurement.value),
                measurement.unit,
                inputs.chain(note).collect::<Vec<_>>().join(" · ")
            );
        }
        for (part, error) in &self.failed {
            println!("NOT MEASURED: {part}: {error}");
        }
        println!("took {:?} s\n{:?}", self.took, self.machine);
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_vec_pretty(self)?;
        Ok(fs::write(folder.join("report.json"), json)?)
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Returns the smallest and the largest value.
fn spread(values: &[f64]) -> (f64, f64) {
    let first = (f64::INFINITY, 0.0);
    values
        .iter()
        .fold(first, |(least, most): (f64, f64), value| {
            (least.min(*value), most.max(*value))
        })
}

/// Returns the ratios of measurements that were taken alternately.
pub fn ratios(own: &[f64], other: &[f64]) -> Vec<f64> {
    own.iter()
        .zip(other)
        .map(|(own, other)| own / other)
        .collect()
}
