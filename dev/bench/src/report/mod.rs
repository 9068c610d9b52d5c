//! What a run found.

mod chart;
mod html;
mod machine;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

pub use machine::Machine;
pub use table::print;

use crate::sections::designs::DesignRun;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// How large.
    pub size: crate::cli::Size,
    /// The designs side by side.
    pub designs: Vec<DesignRun>,
    /// Ceilings and targets.
    pub figures: Vec<Figure>,
}

/// One figure, with everything it was worked out from.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which part of the run.
    pub section: &'static str,
    /// What.
    pub what: String,
    /// In the unit below.
    pub value: f64,
    /// `×`, `ms`, `/s`, …
    pub unit: &'static str,
    /// What it is to be, where there is a target.
    pub target: Option<Target>,
    /// What was measured to get it.
    pub measured: BTreeMap<String, f64>,
    /// What limits it, or how it is to be read.
    pub note: String,
}

/// A target.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Target {
    /// Whether a value meets it.
    pub fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl Figure {
    /// A plain figure.
    pub fn of(section: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let (what, measured, note) = (what.into(), BTreeMap::new(), String::new());
        Self { section, what, value, unit, target: None, measured, note }
    }

    /// One figure through another, both kept.
    pub fn ratio(section: &'static str, what: impl Into<String>, upper: (&str, f64), lower: (&str, f64)) -> Self {
        let what = what.into();
        Self::of(section, what, upper.1 / lower.1.max(1e-9), "×").with(upper.0, upper.1).with(lower.0, lower.1)
    }

    /// With something it was worked out from.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.measured.insert(name.to_owned(), value);
        self
    }

    /// With a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// With a remark.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

impl Report {
    /// Writes `report.json` and `report.html`.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.json"), serde_json::to_vec_pretty(self)?)?;
        std::fs::write(folder.join("report.html"), html::page(self))?;
        Ok(())
    }
}
